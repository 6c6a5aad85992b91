"""Boxes of any format to pixels, after the checks that a whole column allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.geometry import xywh_from_xyxy
from bench.predictions.fields import BOX_KEYS
from bench.scoring.table import find_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.types import Array

LARGEST_NORMALISED = 1.5
TOO_LARGE_FOR_NORMALISED = 4.0
_SMALLEST_IMAGE_PX = 8


def to_xywh_abs(boxes: Array, scores: Array, sizes_wh: Array, bbox_format: str, place: Callable[[int], str]) -> Array:
    """Check N boxes as they stand in the file, then convert them.

    Args:
        boxes: (N, 4) float64 in ``bbox_format``.
        scores: (N,) float64.
        sizes_wh: (N, 2) float64, width and height of each box's image in pixels.
        bbox_format: one of ``BOX_KEYS``.
        place: row -> where in the file it stands, for messages.

    Returns:
        (N, 4) float64 top-left corner and size, pixels.

    Raises:
        InputError: a non-finite value, a negative size, or values that contradict the declared unit.
    """
    _refuse_values(boxes, scores, bbox_format, place)
    _refuse_unit(boxes, sizes_wh, bbox_format, place)
    if bbox_format == "xywh_abs":
        return boxes
    with np.errstate(over="ignore", invalid="ignore"):
        boxes_xywh = _convert(boxes, sizes_wh, bbox_format)
    fault = find_fault(boxes_xywh, scores)
    if fault is not None:
        raise InputError(f"{place(fault.index)}: {fault.problem} once in pixels; the numbers are too large")
    return boxes_xywh


def count_outside(boxes_xywh: Array, sizes_wh: Array) -> int:
    """How many boxes end clearly outside their image, as corners read as sizes do."""
    with np.errstate(over="ignore"):
        ends = boxes_xywh[:, :2] + boxes_xywh[:, 2:] > 1.05 * sizes_wh + 1
    return int(np.count_nonzero(ends[:, 0] | ends[:, 1]))


def _refuse_values(boxes: Array, scores: Array, bbox_format: str, place: Callable[[int], str]) -> None:
    keys = BOX_KEYS[bbox_format]
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        values = np.concatenate((scores[:, None], boxes), axis=1)
        finite = np.isfinite(values)
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        name = ("score", *(f"bbox {key}" for key in keys))[column]
        raise InputError(
            f"{place(row)}: field '{name}' is {values[row, column]:g}, not finite; "
            "repair the model or the export that made it"
        )
    with np.errstate(over="ignore"):
        sizes = boxes[:, 2:] - boxes[:, :2] if bbox_format == "xyxy_abs" else boxes[:, 2:]
    if (sizes < 0).any():
        row, axis = (int(i) for i in np.argwhere(sizes < 0)[0])
        numbers = ", ".join(f"{value:g}" for value in boxes[row])
        if bbox_format == "xyxy_abs":
            raise InputError(
                f"{place(row)}: bbox ({numbers}) has {keys[axis + 2]} < {keys[axis]}; "
                "if these are x, y, width, height, say --bbox-format xywh_abs"
            )
        raise InputError(f"{place(row)}: bbox ({numbers}) has negative {('width', 'height')[axis]}")


def _refuse_unit(boxes: Array, sizes_wh: Array, bbox_format: str, place: Callable[[int], str]) -> None:
    if not len(boxes):
        return
    if bbox_format == "cxcywh_norm":
        largest = np.abs(boxes).max(axis=1)
        # The median: a box that is not clipped may lie far outside its image, half of all boxes cannot.
        if np.median(largest) > TOO_LARGE_FOR_NORMALISED:
            row = int(np.argmax(largest > TOO_LARGE_FOR_NORMALISED))
            raise InputError(
                f"{place(row)}: bbox has the value {largest[row]:g}, but the boxes are read as cxcywh_norm (0 to 1); "
                "say --bbox-format cxcywh_abs, xywh_abs or xyxy_abs"
            )
        return
    # boxes without any extent say nothing about the unit
    told = bool((boxes[:, 2:] != (boxes[:, :2] if bbox_format == "xyxy_abs" else 0)).any())
    most = max(float(boxes.max()), -float(boxes.min()))
    if told and most <= LARGEST_NORMALISED and sizes_wh.max() > _SMALLEST_IMAGE_PX:
        raise InputError(
            f"all {len(boxes)} boxes lie within {most:g}, but they are read as {bbox_format}, in pixels; "
            "normalised boxes are read with --bbox-format cxcywh_norm"
        )


def _convert(boxes: Array, sizes_wh: Array, bbox_format: str) -> Array:
    if bbox_format == "xyxy_abs":
        return xywh_from_xyxy(boxes)
    if bbox_format == "cxcywh_norm":
        boxes = boxes * np.concatenate((sizes_wh, sizes_wh), axis=1)
    return np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]), axis=1)
