"""Boxes and class names drawn on an image, for people to look at."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.types import Array

_GOLDEN = 0.61803398875
"""Steps of the golden ratio around the colour circle: neighbours in the list of classes are far apart in hue."""
_SHADES = ((0.72, 0.95), (0.95, 0.72), (0.45, 1.0))
"""Saturation and value; they change when the circle has been filled with seven hues."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour_of(label: int) -> tuple[int, int, int]:
    """RGB of a class, 0 to 255; neighbours in the list differ clearly."""
    saturation, value = _SHADES[label // 7 % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(colour_rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast on ``colour_rgb`` (WCAG's relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour_rgb]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def draw_boxes(
    image_rgb_u8: Array,
    boxes_xyxy: Array,
    labels: Array,
    class_names: Sequence[str],
    scores: Array | None = None,
) -> Array:
    """Draw boxes with their class names; large boxes first, so that small ones lie on top.

    Args:
        image_rgb_u8: (H, W, 3), not written to.
        boxes_xyxy: (N, 4) pixel edges of this image.
        labels: (N,) indices into ``class_names``; beyond the list the number is written.
        class_names: by label; what is not ASCII is written as question marks (OpenCV's letters).
        scores: (N,) written behind the name.

    Returns:
        A new (H, W, 3) uint8.
    """
    canvas = image_rgb_u8.copy()
    line_px = max(round(max(canvas.shape[:2]) / 250), 2)
    sizes = np.asarray(boxes_xyxy)[:, 2:] - np.asarray(boxes_xyxy)[:, :2]
    for row in np.argsort(-sizes.prod(axis=1), kind="stable"):
        label = int(labels[row])
        words = class_names[label] if 0 <= label < len(class_names) else f"class {label}"
        if scores is not None:
            words += f" {float(scores[row]):.2f}"
        # the outline covers the outermost pixels of the box: edge x1 is the right side of pixel x1 - 1
        x0, y0, x1, y1 = np.rint(boxes_xyxy[row]).astype(int).tolist()
        corners = (x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0))
        # a dark rim keeps the line visible on a ground of its own colour
        cv2.rectangle(canvas, *corners, (0, 0, 0), line_px + 2)
        cv2.rectangle(canvas, *corners, colour_of(label), line_px)
        _write(canvas, words.encode("ascii", "replace").decode(), (x0, y0), colour_of(label))
    return canvas


def _write(canvas: Array, words: str, corner_xy: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write on a filled ground above the corner, or below it where the canvas ends."""
    scale = max(max(canvas.shape[:2]) / 900, 0.38)  # below 0.38 the letters run together
    (width, height), base = cv2.getTextSize(words, _FONT, scale, 1)
    width, height = width + 4, height + base + 2
    left = max(min(corner_xy[0], canvas.shape[1] - width), 0)
    top = corner_xy[1] - height if corner_xy[1] >= height else corner_xy[1]
    top = max(min(top, canvas.shape[0] - height), 0)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
    cv2.putText(canvas, words, (left + 2, top + height - base), _FONT, scale, ink_on(colour), 1, cv2.LINE_AA)
