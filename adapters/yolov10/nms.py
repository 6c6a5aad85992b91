"""What a file that selects detections must return, in plain numpy: the yardstick for its graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.geometry import box_iou
from bench.types import Prediction

if TYPE_CHECKING:
    from bench.types import Array


def nms(boxes_xyxy: Array, scores: Array, *, conf: float, iou: float, max_detections: int) -> Prediction:
    """Class-wise greedy non-maximum suppression of one image.

    A box goes when a better box of its class that stays overlaps it by more than ``iou``. Of equal scores the lower
    anchor comes first, and in the result the lower class.

    Args:
        boxes_xyxy: (A, 4) corners.
        scores: (nc, A).
        conf: scores must be above it, as float32 numbers.
        iou: largest overlap that is allowed.
        max_detections: the best of all classes that are kept.

    Returns:
        Corners (N, 4), scores (N,), labels (N,) int64; best first.
    """
    labels, anchors = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label, of_class in enumerate(scores):
        kept = _suppress(boxes_xyxy, of_class, np.flatnonzero(of_class > np.float32(conf)), iou, max_detections)
        anchors.append(kept)
        labels.append(np.full(len(kept), label, np.int64))
    all_labels, all_anchors = np.concatenate(labels), np.concatenate(anchors)
    values = scores[all_labels, all_anchors]
    best = np.argsort(-values, kind="stable")[:max_detections]
    return Prediction(boxes_xyxy=boxes_xyxy[all_anchors[best]], scores=values[best], labels=all_labels[best])


def _suppress(boxes_xyxy: Array, scores: Array, candidates: Array, iou: float, limit: int) -> Array:
    """Anchors of one class that stay, best first, at most ``limit``."""
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        kept.append(int(order[0]))
        overlap = box_iou(boxes_xyxy[order[:1]], boxes_xyxy[order[1:]])[0]
        order = order[1:][~(overlap > iou)]
    return np.array(kept, np.int64)
