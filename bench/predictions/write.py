"""Write the predictions of a run so that scoring the file gives the run's own numbers, bit for bit.

Floats are written with all digits of their float64 value: a float32 read back from fewer digits is another float64.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.files import write_atomic
from bench.geometry import xywh_from_xyxy
from bench.predictions.poses import pose_columns
from bench.schema import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.types import FixtureSet, Prediction, Sample


def write_predictions(
    path: Path,
    predictions: Mapping[int, Prediction],
    fixtures: FixtureSet,
    category_ids: Sequence[int],
    *,
    wrap: bool,
    meta: Mapping[str, Any],
) -> None:
    """Write a COCO results list, or the wrapped form with its meta; a reader never sees half a file.

    Args:
        path: file to write; its folder is made.
        predictions: image id -> detections in pixels of the original image.
        fixtures: the set that the image ids belong to.
        category_ids: COCO category id of label 0, 1, ...
        wrap: write the wrapped form (boxes ``xyxy_abs``), else a COCO results list (boxes ``xywh_abs``).
        meta: what made the predictions (model, backend, precision, hash of the artefact, score floor, cut,
            pre-processing); used by the wrapped form only.

    Raises:
        InputError: the file cannot be written, or an image or label is not in the fixture set.
    """
    samples = {sample.image_id: sample for sample in fixtures.samples}
    unknown = sorted(set(predictions) - set(samples))
    if unknown:
        raise InputError(f"{path}: image_id {unknown[0]} is not in fixture set '{fixtures.name}'; nothing was written")
    images = [(samples[image_id], predictions[image_id]) for image_id in sorted(predictions)]
    if wrap:
        facts = {"schema": "predictions/1", "bbox_format": "xyxy_abs", "fixtures": fixtures.name,
                 "fixtures_sha256": fixtures.sha256, "images": len(images), **meta}  # fmt: skip
        head = f'{{"schema_version": 1,\n"meta": {json.dumps(to_json(facts), allow_nan=False)},\n"predictions": '
        write_atomic(path, head + _lines(_entries(images, category_ids)) + "}\n")
    else:
        write_atomic(path, _lines(_results(images, category_ids)) + "\n")


def _results(images: list[tuple[Sample, Prediction]], category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    for sample, prediction in images:
        boxes_xywh = xywh_from_xyxy(_boxes_xyxy(prediction))
        for category, score, box, _, found in _rows(sample, prediction, boxes_xywh.tolist(), category_ids):
            yield {"image_id": sample.image_id, "category_id": category, "bbox": box, "score": score, **found}


def _entries(images: list[tuple[Sample, Prediction]], category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    for sample, prediction in images:
        rows = _rows(sample, prediction, _boxes_xyxy(prediction).tolist(), category_ids)
        yield {
            "image": sample.path.name,
            "image_id": sample.image_id,
            "detections": [
                {"class_id": label, "category_id": category, "score": score, "bbox": box, **found}
                for category, score, box, label, found in rows
            ],
        }


def _rows(
    sample: Sample, prediction: Prediction, boxes: list[list[float]], category_ids: Sequence[int]
) -> Iterator[tuple[int, float, list[float], int, dict[str, Any]]]:
    """Yield category, score, box, label, and keypoints and pose of each detection."""
    scores = np.asarray(prediction.scores, np.float64).tolist()
    keypoints = prediction.keypoints_xys
    poses = pose_columns(prediction, f"image {sample.image_id}")
    for number, (label, score, box) in enumerate(zip(prediction.labels.tolist(), scores, boxes, strict=True)):
        if not 0 <= label < len(category_ids):
            raise InputError(
                f"image {sample.image_id}, detection {number}: label {label} has no category; "
                f"labels 0 to {len(category_ids) - 1} are mapped"
            )
        found = {} if keypoints is None else {"keypoints": keypoints[number].astype(np.float64).reshape(-1).tolist()}
        found |= {field: rows[number] for field, rows in poses.items()}
        yield int(category_ids[label]), score, box, label, found


def _boxes_xyxy(prediction: Prediction) -> Any:
    return np.asarray(prediction.boxes_xyxy, np.float64).reshape(-1, 4)


def _lines(items: Iterator[dict[str, Any]]) -> str:
    """JSON list with one item per line."""
    return "[" + ",\n".join(_text(item) for item in items) + "]"


def _text(item: dict[str, Any]) -> str:
    try:
        return json.dumps(item, allow_nan=False)
    except ValueError:  # a NaN or an infinity: they travel as words
        return json.dumps(to_json(item), allow_nan=False)
