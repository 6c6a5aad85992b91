"""Write the predictions of a run so that scoring the file gives the run's own numbers, bit for bit.

Floats are written with all digits of their float64 value: a float32 read back from fewer digits is another float64.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from bench.errors import InputError
from bench.files import write_atomic
from bench.geometry import xywh_from_xyxy
from bench.predictions.poses import pose_columns
from bench.schema import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.types import FixtureSet, Prediction, Sample

Form: TypeAlias = Literal["coco", "entries", "wrapped"]


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
    unknown = sorted(set(predictions) - {sample.image_id for sample in fixtures.samples})
    if unknown:
        raise InputError(f"{path}: image_id {unknown[0]} is not in fixture set '{fixtures.name}'; nothing was written")
    form: Form = "wrapped" if wrap else "coco"
    write_atomic(path, predictions_text(predictions, fixtures, category_ids, form=form, meta=meta))


def predictions_text(
    predictions: Mapping[int, Prediction],
    fixtures: FixtureSet,
    category_ids: Sequence[int],
    *,
    form: Form,
    meta: Mapping[str, Any],
    bbox_format: str = "xyxy_abs",
    names: Mapping[int, str] | None = None,
    check: Callable[[Any, Form], None] | None = None,
) -> str:
    """The text of a predictions file.

    Args:
        predictions: image id -> detections in pixels of the original image.
        fixtures: the set that the image ids belong to.
        category_ids: COCO category id of label 0, 1, ...
        form: a COCO results list (boxes ``xywh_abs``), a list of entries, or entries wrapped with their meta.
        meta: what made the predictions; used by the wrapped form only.
        bbox_format: of entries. Boxes ``cxcywh_norm`` and ``cxcywh_abs`` are objects ``{cx, cy, w, h}``, others lists.
            ``xyxy_abs`` are a prediction's own numbers; any other is exact to float64 rounding.
        names: image id -> what an entry calls its image; None: file names.
        check: called with each document in turn: the wrapping without its entries, then lists of one entry or result.

    Raises:
        InputError: a label that is not in the fixture set.
    """
    samples = {sample.image_id: sample for sample in fixtures.samples}
    images = [(samples[image_id], predictions[image_id]) for image_id in sorted(predictions)]
    if form == "coco":
        return _lines(_checked(_results(images, category_ids), check, form)) + "\n"
    entries = _lines(_checked(_entries(images, category_ids, bbox_format, names or {}), check, "entries"))
    if form == "entries":
        return entries + "\n"
    facts = {"schema": "predictions/1", "bbox_format": bbox_format, "fixtures": fixtures.name,
             "fixtures_sha256": fixtures.sha256, "images": len(images), **meta}  # fmt: skip
    plain = to_json(facts)
    if check is not None:
        check({"schema_version": 1, "meta": plain, "predictions": []}, "wrapped")
    return f'{{"schema_version": 1,\n"meta": {json.dumps(plain, allow_nan=False)},\n"predictions": {entries}}}\n'


def _checked(
    items: Iterator[dict[str, Any]], check: Callable[[Any, Form], None] | None, form: Form
) -> Iterator[dict[str, Any]]:
    for item in items:
        if check is not None:
            check([to_json(item)], form)
        yield item


def _results(images: list[tuple[Sample, Prediction]], category_ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    for sample, prediction in images:
        boxes_xywh = xywh_from_xyxy(_boxes_xyxy(prediction))
        for category, score, box, _, found in _rows(sample, prediction, boxes_xywh.tolist(), category_ids):
            yield {"image_id": sample.image_id, "category_id": category, "bbox": box, "score": score, **found}


def _entries(
    images: list[tuple[Sample, Prediction]], category_ids: Sequence[int], bbox_format: str, names: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    for sample, prediction in images:
        boxes = boxes_as(_boxes_xyxy(prediction), bbox_format, (sample.width, sample.height))
        rows = _rows(sample, prediction, boxes, category_ids)
        yield {
            "image": names.get(sample.image_id, sample.path.name),
            "image_id": sample.image_id,
            "detections": [
                {"class_id": label, "category_id": category, "score": score, "bbox": box, **found}
                for category, score, box, label, found in rows
            ],
        }


def boxes_as(boxes_xyxy: Any, bbox_format: str, size_wh: tuple[int, int]) -> list[Any]:
    """(N, 4) corners in pixels -> N boxes as JSON values of a format; ``size_wh`` is the image's, in pixels."""
    boxes_xywh = xywh_from_xyxy(boxes_xyxy)
    if bbox_format in ("xyxy_abs", "xywh_abs"):
        return list((boxes_xyxy if bbox_format == "xyxy_abs" else boxes_xywh).tolist())
    boxes = np.concatenate((boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2, boxes_xywh[:, 2:]), axis=1)
    if bbox_format == "cxcywh_norm":
        boxes = boxes / np.array([*size_wh, *size_wh], np.float64)
    return [dict(zip(("cx", "cy", "w", "h"), box, strict=True)) for box in boxes.tolist()]


def _rows(
    sample: Sample, prediction: Prediction, boxes: list[Any], category_ids: Sequence[int]
) -> Iterator[tuple[int, float, Any, int, dict[str, Any]]]:
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
