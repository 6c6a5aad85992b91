"""The 12 COCO numbers for boxes, computed by pycocotools: the oracle of the field.

Three habits of pycocotools are kept away from its callers: it prints, it reads ground-truth id 0 as "no match",
and it says -1 where a number is undefined.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.results import STAT_NAMES

if TYPE_CHECKING:
    from bench.scoring.table import Detections
    from bench.types import FixtureSet


def scorer_name() -> str:
    """Name and version of the engine, for example ``pycocotools 2.0.11``."""
    return f"pycocotools {importlib.metadata.version('pycocotools')}"


def score(fixtures: FixtureSet, detections: Detections) -> dict[str, float | None]:
    """Score boxes against the ground truth of all images of a fixture set.

    Args:
        fixtures: images, categories and annotations; an image without detections counts.
        detections: what a model found; may be empty, then every defined number is 0.

    Returns:
        ``STAT_NAMES`` -> value in 0..1, or None where no ground truth defines it.

    Raises:
        InputError: a detection or an annotation of an unknown image or category, or two annotations with one id.
    """
    images = {sample.image_id for sample in fixtures.samples}
    categories = {int(category["id"]) for category in fixtures.categories}
    _check_detections(fixtures, images, categories, detections)
    truth = _ground_truth(fixtures, images, categories)
    return _evaluate(sorted(images), sorted(categories), truth, _detection_rows(detections))


def _check_detections(fixtures: FixtureSet, images: set[int], categories: set[int], detections: Detections) -> None:
    columns = [("image_id", detections.image_ids, images)]
    if fixtures.named_categories:
        # a set without names shows only the classes it uses; a detection of another one belongs to a class without
        # ground truth, which enters no mean
        columns.append(("category_id", detections.category_ids, categories))
    for field, column, known in columns:
        unknown = ~np.isin(column, np.fromiter(known, np.int64, len(known)))
        if unknown.any():
            row = int(np.argmax(unknown))
            raise InputError(
                f"detection {row}: {field} {column[row]} is not in fixture set '{fixtures.name}' "
                f"({len(known)} known, {min(known, default='-')} to {max(known, default='-')}); "
                "score against the set that the detections were made for"
            )


def _ground_truth(fixtures: FixtureSet, images: set[int], categories: set[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for number, annotation in enumerate(fixtures.annotations):
        where = f"fixture set '{fixtures.name}': annotation {annotation.get('id', f'number {number}')}"
        if annotation.get("id") in seen:
            raise InputError(f"{where}: the id is used twice; ground-truth ids must be unique")
        if annotation.get("id") is not None:
            seen.add(annotation["id"])
        for field, known in (("image_id", images), ("category_id", categories)):
            if annotation[field] not in known:
                raise InputError(f"{where}: {field} {annotation[field]} is not listed in the set")
        if "area" not in annotation:
            raise InputError(f"{where}: field 'area' is missing; small, medium and large are told apart by it")
        rows.append(
            {
                "id": number + 1,  # pycocotools reads a match with id 0 as no match
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": [float(value) for value in annotation["bbox"]],
                "area": float(annotation["area"]),
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
        )
    return rows


def _detection_rows(detections: Detections) -> list[dict[str, Any]]:
    columns = zip(
        detections.image_ids.tolist(),
        detections.category_ids.tolist(),
        detections.boxes_xywh.tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "score": value,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (image_id, category_id, box, value) in enumerate(columns, start=1)
    ]


def _evaluate(
    image_ids: list[int],
    category_ids: list[int],
    truth: list[dict[str, Any]],
    found: list[dict[str, Any]],
) -> dict[str, float | None]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, found):
            side = COCO()
            side.dataset = {
                "images": [{"id": image_id} for image_id in image_ids],
                "categories": [{"id": category_id} for category_id in category_ids],
                "annotations": annotations,
            }
            side.createIndex()
            sides.append(side)
        engine = COCOeval(*sides, iouType="bbox")
        engine.params.imgIds = image_ids
        engine.params.catIds = category_ids
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return {name: None if value < 0 else float(value) for name, value in zip(STAT_NAMES, engine.stats, strict=True)}
