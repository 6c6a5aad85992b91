"""Joining images: four around a meeting point, and two blended. Pure functions; the caller draws the numbers.

Pixel edges throughout. S is the side of the square canvas, N boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from adapters._shared.training.examples import PLACEMENT, Example

if TYPE_CHECKING:
    from bench.types import Array

PAD_VALUE = 114
"""Grey of everything that no image covers, the same as in the letterbox of inference."""
MIN_SIDE_PX = 2.0
"""Boxes that come out smaller are dropped: below a quarter of the finest stride (8 px) nothing tells classes apart."""
MIN_VISIBLE = 0.15
"""Boxes that keep less than this share of their area are dropped: the rest of an object rarely names it, and a
detector that learns to report slivers does so on every image edge."""


def mosaic(
    parts: Sequence[Example],
    side_px: int,
    *,
    zoom: float,
    meet_xy: tuple[int, int],
    sizes_hw: Sequence[tuple[int, int]] | None = None,
) -> Example:
    """Join four images whose inner corners meet in one point.

    Args:
        parts: upper left, upper right, lower left, lower right.
        side_px: S.
        zoom: of all parts.
        meet_xy: where they meet, canvas pixels.
        sizes_hw: of the parts before the zoom; None: those of their images.

    Returns:
        An example of (S, S, 3); boxes are cut at the canvas, `MIN_SIDE_PX` and `MIN_VISIBLE` hold.
    """
    canvas = np.full((side_px, side_px, 3), PAD_VALUE, np.uint8)
    placed = []
    for number, part in enumerate(parts):
        height, width = part.image_rgb_u8.shape[:2]
        # whole pixels, so that seams are sharp: the gain of each axis is what the rounded size says
        nominal_h, nominal_w = sizes_hw[number] if sizes_hw else (height, width)
        size_wh = (max(round(nominal_w * zoom), 1), max(round(nominal_h * zoom), 1))
        image = part.image_rgb_u8
        if size_wh != (width, height):
            image = cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR)
        left = meet_xy[0] - (size_wh[0] if number % 2 == 0 else 0)
        top = meet_xy[1] - (size_wh[1] if number < 2 else 0)
        _paste(canvas, image, left, top)
        placed.append(_moved(part, (size_wh[0] / width, size_wh[1] / height), (left, top), side_px))
    return Example(
        image_rgb_u8=canvas,
        boxes_xyxy=np.concatenate([boxes for boxes, _, _ in placed]),
        labels=np.concatenate([labels for _, labels, _ in placed]),
        attributes=joined_attributes([attributes for _, _, attributes in placed]),
        image_id=parts[0].image_id,
    )


def mixup(a: Example, b: Example, share: float) -> Example:
    """Blend two images of one size, ``share`` of the first; the boxes of both count whole.

    Args:
        a: gives the image id.
        b: the other.
        share: 0 to 1.
    """
    return Example(
        image_rgb_u8=cv2.addWeighted(a.image_rgb_u8, share, b.image_rgb_u8, 1 - share, 0),
        boxes_xyxy=np.concatenate((a.boxes_xyxy, b.boxes_xyxy)),
        labels=np.concatenate((a.labels, b.labels)),
        attributes=joined_attributes([a.attributes, b.attributes]),
        image_id=a.image_id,
    )


def visible_rows(moved_xyxy: Array, cut_xyxy: Array) -> Array:
    """Indices of the boxes that stay: large enough, and enough of them left.

    Args:
        moved_xyxy: (N, 4) before the cut at the canvas.
        cut_xyxy: (N, 4) after it.
    """
    size, whole = cut_xyxy[:, 2:] - cut_xyxy[:, :2], moved_xyxy[:, 2:] - moved_xyxy[:, :2]
    return np.flatnonzero((size >= MIN_SIDE_PX).all(axis=1) & (size.prod(axis=1) >= MIN_VISIBLE * whole.prod(axis=1)))


def joined_attributes(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Concatenate the rows of every attribute; all parts come from one source and have the same names."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _paste(canvas: Array, image: Array, left: int, top: int) -> None:
    """Copy the part of ``image`` that lies on the canvas."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + image.shape[0], canvas.shape[0]), min(left + image.shape[1], canvas.shape[1])
    canvas[y0:y1, x0:x1] = image[y0 - top : y1 - top, x0 - left : x1 - left]


def _moved(
    part: Example, gain_xy: tuple[float, float], shift_xy: tuple[int, int], side_px: int
) -> tuple[Array, Array, dict[str, Array]]:
    """Return boxes, labels and attributes of the objects of ``part`` that stay visible on the canvas."""
    moved = part.boxes_xyxy * np.tile(gain_xy, 2) + np.tile(shift_xy, 2)
    cut = np.clip(moved, 0, side_px)
    rows = visible_rows(moved, cut)
    attributes = {name: values[rows] for name, values in part.attributes.items()}
    if PLACEMENT in attributes:
        step = np.array([[gain_xy[0], 0, shift_xy[0]], [0, gain_xy[1], shift_xy[1]]])
        attributes[PLACEMENT] = chained(step, attributes[PLACEMENT])
    return cut[rows].astype(np.float32), part.labels[rows], attributes


def chained(after_2x3: Array, before: Array) -> Array:
    """(2, 3) and (N, 2, 3) maps -> (N, 2, 3): first ``before``, then ``after_2x3``."""
    maps = after_2x3[:, :2] @ before
    maps[:, :, 2] += after_2x3[:, 2]
    return maps
