"""What all boxes of a predictions file say together: whether they have the format that they are read in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.predictions.boxes import LARGEST_NORMALISED, TOO_LARGE_FOR_NORMALISED
from bench.predictions.fields import BOX_KEYS
from bench.violations.detections import negative_extent
from bench.violations.violation import Violation, json_path

if TYPE_CHECKING:
    from bench.types import Array
    from bench.violations.predictions import Walked
    from bench.violations.violation import Collected

_MOST = 0.95


def check_boxes(walked: Walked, found: Collected) -> None:
    """Report boxes of negative extent one by one, and a unit that contradicts the format once."""
    if not walked.boxes:
        return
    boxes = np.array(walked.boxes, np.float64).reshape(-1, 4)
    keys, corners = BOX_KEYS[walked.bbox_format], walked.bbox_format == "xyxy_abs"
    with np.errstate(over="ignore"):
        sizes = boxes[:, 2:] - boxes[:, :2] if corners else boxes[:, 2:]
    for row, axis in np.argwhere(sizes < 0).tolist():
        name = keys[axis + 2] if walked.objects[row] else axis + 2
        found.add(negative_extent(boxes[row].tolist(), axis, keys, (*walked.place(row), "bbox", name)))
    _check_unit(walked, boxes, found)


def _check_unit(walked: Walked, boxes: Array, found: Collected) -> None:
    largest = np.abs(boxes).max(axis=1)
    if walked.bbox_format == "cxcywh_norm":
        if np.median(largest) <= TOO_LARGE_FOR_NORMALISED:
            return
        rows = np.flatnonzero(largest > TOO_LARGE_FOR_NORMALISED)
        row = int(rows[0])
        found.add(
            Violation(
                path=_value_path(walked, row, int(np.abs(boxes[row]).argmax())),
                problem="must be within 0 and 1: the boxes are read as cxcywh_norm",
                found=f"the number {largest[row]:g}, and so in {len(rows)} of {len(boxes)} boxes",
                fix=f"looks like pixels: {_say(walked, _pixel_formats(walked, boxes))}",
            )
        )
        return
    extent = (boxes[:, 2:] != boxes[:, :2]) if walked.bbox_format == "xyxy_abs" else boxes[:, 2:] != 0
    if extent.any() and largest.max() <= LARGEST_NORMALISED:
        found.add(
            Violation(
                path=_value_path(walked, 0, None),
                problem=f"must be in pixels: the boxes are read as {walked.bbox_format}",
                found=f"no number above {largest.max():g} in {len(boxes)} boxes",
                fix=f"looks normalised: {_say(walked, ['cxcywh_norm'])}, or write pixels",
            )
        )


def _pixel_formats(walked: Walked, boxes: Array) -> list[str]:
    """Formats in pixels that the boxes may be in, the likeliest first."""
    if walked.objects[0]:
        return ["cxcywh_abs"]
    ordered = float((boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean())
    return ["xyxy_abs", "cxcywh_abs", "xywh_abs"] if ordered >= _MOST else ["cxcywh_abs", "xywh_abs"]


def _say(walked: Walked, formats: list[str]) -> str:
    option = f"--bbox-format {formats[0]}" + (f" (or {', '.join(formats[1:])})" if len(formats) > 1 else "")
    return option + (f', or write "bbox_format": "{formats[0]}" in meta' if walked.form == "wrapped" else "")


def _value_path(walked: Walked, row: int, column: int | None) -> str:
    parts = (*walked.place(row), "bbox")
    if column is None:
        return json_path(parts)
    return json_path((*parts, BOX_KEYS[walked.bbox_format][column] if walked.objects[row] else column))
