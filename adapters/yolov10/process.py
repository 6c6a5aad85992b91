"""Pixels in, boxes out: numpy and cv2 only, the same for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bench.geometry import Letterbox, xyxy_from_cxcywh
from bench.types import Prediction

if TYPE_CHECKING:
    from bench.types import Array

PAD_VALUE = 114


def letterbox(image_u8: Array, input_hw: tuple[int, int]) -> tuple[Array, Letterbox]:
    """(H, W, 3) uint8 -> (input_hw, 3) uint8, bilinear, centred on grey 114, and the geometry."""
    box = Letterbox.fit((image_u8.shape[0], image_u8.shape[1]), input_hw)
    height, width = box.resized_hw
    if (height, width) != image_u8.shape[:2]:
        image_u8 = cv2.resize(image_u8, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((*input_hw, 3), PAD_VALUE, np.uint8)
    canvas[box.top : box.top + height, box.left : box.left + width] = image_u8
    return canvas, box


def preprocess(image_rgb_u8: Array, input_hw: tuple[int, int]) -> tuple[dict[str, Array], dict[str, Any]]:
    """(H, W, 3) uint8 RGB -> ``images`` (1, 3, *input_hw) float32 in 0..1, and ``{"letterbox": Letterbox}``."""
    canvas, box = letterbox(image_rgb_u8, input_hw)
    images = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    return {"images": images}, {"letterbox": box}


def select(boxes_cxcywh: Array, class_scores: Array, count: int) -> tuple[Array, Array, Array]:
    """Take the best ``count`` anchors by their best class, then the best ``count`` (anchor, class) pairs among them.

    No NMS: the one-to-one head needs none, and one box may appear twice with two classes. Ties keep the order of
    anchors. A pair with a NaN or an infinity counts as the best, so that it cannot hide behind the selection.

    Args:
        boxes_cxcywh: (4, A) in input pixels.
        class_scores: (nc, A).
        count: number of detections to keep.

    Returns:
        Boxes (N, 4) cx cy w h, scores (N,), labels (N,) int64; best first.
    """
    boxes, scores = boxes_cxcywh.T, class_scores.T
    broken = ~np.isfinite(boxes).all(1, keepdims=True) | ~np.isfinite(scores)
    ranks = np.where(broken, np.inf, scores)
    anchors = np.argsort(-ranks.max(1), kind="stable")[:count]
    pairs = ranks[anchors]
    flat = np.argsort(-pairs.reshape(-1), kind="stable")[:count]
    rows, labels = anchors[flat // scores.shape[1]], flat % scores.shape[1]
    return boxes[rows], scores[rows, labels], labels.astype(np.int64)


def postprocess(
    outputs: Mapping[str, Array], meta: Mapping[str, Any], *, max_detections: int, score_floor: float
) -> Prediction:
    """Raw outputs of one image -> detections in pixels of the original image, clipped to it, NaN rows kept.

    Args:
        outputs: ``boxes_cxcywh`` (1, 4, A) in input pixels and ``scores`` (1, nc, A).
        meta: second result of `preprocess`.
        max_detections: at most this many rows.
        score_floor: rows whose score is below are dropped; rows with a non-finite number never are.
    """
    raw_boxes, raw_scores = (outputs[name][0].astype(np.float32) for name in ("boxes_cxcywh", "scores"))
    boxes, scores, labels = select(raw_boxes, raw_scores, max_detections)
    with np.errstate(invalid="ignore"):  # an infinite centre minus an infinite size
        corners = xyxy_from_cxcywh(boxes)
    return to_image(Prediction(boxes_xyxy=corners, scores=scores, labels=labels), meta, score_floor=score_floor)


def to_image(found: Prediction, meta: Mapping[str, Any], *, score_floor: float) -> Prediction:
    """Detections in input pixels -> in pixels of the original image, clipped to it, NaN rows kept.

    Args:
        found: corners in input pixels.
        meta: second result of `preprocess`.
        score_floor: as in `postprocess`.
    """
    box: Letterbox = meta["letterbox"]
    height, width = box.image_hw
    limits = np.array([width, height, width, height], np.float32)
    with np.errstate(invalid="ignore"):
        corners = box.to_image(found.boxes_xyxy).astype(np.float32)
    finite = np.isfinite(found.scores) & np.isfinite(found.boxes_xyxy).all(1)
    keep = ~(found.scores < score_floor) | ~finite
    corners = np.where(np.isfinite(corners), np.clip(corners, 0, limits), corners)
    return Prediction(boxes_xyxy=corners[keep], scores=found.scores[keep], labels=found.labels[keep])
