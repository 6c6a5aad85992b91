"""Boxes, keypoints and letterbox arithmetic. Pure numpy; pixel edges, so a box from 0 to W covers the whole width.

Conventions: ``xyxy`` corners, ``xywh`` top-left corner and size, ``cxcywh`` centre and size.
N, M boxes, K keypoints. Converters read right to left: ``boxes_xyxy = xyxy_from_cxcywh(boxes_cxcywh)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.types import Array


def xyxy_from_cxcywh(boxes_cxcywh: Array) -> Array:
    """(..., 4) centre and size -> (..., 4) corners, same unit and dtype."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return np.concatenate((centre - half, centre + half), axis=-1)


def cxcywh_from_xyxy(boxes_xyxy: Array) -> Array:
    """(..., 4) corners -> (..., 4) centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return np.concatenate(((low + high) / 2, high - low), axis=-1)


def xyxy_from_xywh(boxes_xywh: Array) -> Array:
    """(..., 4) top-left corner and size -> (..., 4) corners."""
    low, size = boxes_xywh[..., :2], boxes_xywh[..., 2:]
    return np.concatenate((low, low + size), axis=-1)


def xywh_from_xyxy(boxes_xyxy: Array) -> Array:
    """(..., 4) corners -> (..., 4) top-left corner and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return np.concatenate((low, high - low), axis=-1)


def box_iou(a_xyxy: Array, b_xyxy: Array) -> Array:
    """(N, 4), (M, 4) corners -> (N, M) intersection over union in float64.

    An empty union gives 0, a NaN coordinate gives NaN.
    """
    a, b = np.asarray(a_xyxy, np.float64)[:, None], np.asarray(b_xyxy, np.float64)[None]
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    inter = size[..., 0] * size[..., 1]
    area_a = np.prod(a[..., 2:] - a[..., :2], axis=-1)
    area_b = np.prod(b[..., 2:] - b[..., :2], axis=-1)
    union = area_a + area_b - inter
    empty: Array = np.where(np.isnan(union), np.nan, 0.0)
    np.divide(inter, union, out=empty, where=union > 0)
    return empty


def oks(a_xy: Array, b_xy: Array, areas_px2: Array, sigmas: Array) -> Array:
    """(N, K, 2), (M, K, 2) keypoints -> (N, M) object keypoint similarity in float64.

    COCO's: the mean over keypoints of exp(-d^2 / (2 area (2 sigma)^2)). Every keypoint counts.

    Args:
        a_xy: keypoints that the areas belong to, pixels.
        b_xy: keypoints compared with them.
        areas_px2: (N,) of the objects ``a_xy``.
        sigmas: (K,) how far off an annotator puts each keypoint, relative to the root of the area.
    """
    a, b = np.asarray(a_xy, np.float64)[:, None], np.asarray(b_xy, np.float64)[None]
    squared = np.square(a - b).sum(axis=-1)
    # an object without area is similar to its own place only; the constant is the one of the reference scorer
    scale = 2 * (np.asarray(areas_px2, np.float64) + np.spacing(1))[:, None, None]
    similarity: Array = np.exp(-squared / (scale * np.square(2 * np.asarray(sigmas, np.float64)))).mean(axis=-1)
    return similarity


@dataclass(frozen=True, slots=True, kw_only=True)
class Letterbox:
    """How an image was fitted into the network input: resized by ``scale``, then padded on the top and left."""

    scale: float
    resized_hw: tuple[int, int]
    top: int
    left: int
    image_hw: tuple[int, int]
    """Height and width of the original image, pixels."""

    @classmethod
    def fit(cls, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Letterbox:
        """Keep the aspect ratio, centre, pad the rest; an odd pixel goes to the bottom and right."""
        scale = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
        height = min(max(round(image_hw[0] * scale), 1), input_hw[0])
        width = min(max(round(image_hw[1] * scale), 1), input_hw[1])
        top = round((input_hw[0] - height) / 2 - 0.1)
        left = round((input_hw[1] - width) / 2 - 0.1)
        return cls(scale=scale, resized_hw=(height, width), top=max(top, 0), left=max(left, 0), image_hw=image_hw)

    def to_input(self, boxes_xyxy: Array) -> Array:
        """(N, 4) corners in image pixels -> network input pixels."""
        return boxes_xyxy * self._gain + self._offset

    def to_image(self, boxes_xyxy: Array) -> Array:
        """(N, 4) corners in network input pixels -> image pixels, not clipped."""
        return (boxes_xyxy - self._offset) / self._gain

    @property
    def _gain(self) -> Array:
        gain_y, gain_x = self.resized_hw[0] / self.image_hw[0], self.resized_hw[1] / self.image_hw[1]
        return np.array([gain_x, gain_y, gain_x, gain_y], np.float32)

    @property
    def _offset(self) -> Array:
        return np.array([self.left, self.top, self.left, self.top], np.float32)
