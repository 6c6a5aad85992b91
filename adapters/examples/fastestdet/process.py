"""Pre- and post-processing in numpy and OpenCV: the same code for every backend.

H, W image size in pixels; G grid cells per side; C classes; N detections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from bench.geometry import xywh_from_xyxy, xyxy_from_cxcywh
from bench.types import Prediction

if TYPE_CHECKING:
    from bench.types import Array

INPUT_SIZE = 352
NMS_IOU = 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The choices around the network that move its AP; the defaults are those of the upstream evaluation."""

    resize: Literal["cv2-linear", "pil-bilinear"] = "cv2-linear"
    """``pil-bilinear`` averages over the pixels that a shrunk one covers, ``cv2-linear`` does not."""
    channel_order: Literal["bgr", "rgb"] = "bgr"
    clip_boxes: bool = False
    """Cut boxes at the image border, and drop those outside of it, before suppression."""
    class_agnostic_nms: bool = False
    score_floor: float = 0.001
    """Only detections with a higher score are kept."""
    max_detections: int = 100


def to_input(image_rgb_u8: Array, recipe: Recipe) -> Array:
    """(H, W, 3) uint8 RGB -> (1, 3, 352, 352) float32 in 0..1; the aspect ratio is not kept."""
    size = (INPUT_SIZE, INPUT_SIZE)
    if recipe.resize == "pil-bilinear":
        from PIL import Image

        resized = np.asarray(Image.fromarray(image_rgb_u8).resize(size, Image.Resampling.BILINEAR))
    else:
        resized = cv2.resize(image_rgb_u8, size, interpolation=cv2.INTER_LINEAR)
    ordered = resized[..., ::-1] if recipe.channel_order == "bgr" else resized
    return np.ascontiguousarray(ordered.transpose(2, 0, 1)[None], np.float32) / np.float32(255)


def decode(output: Array, image_hw: tuple[int, int]) -> tuple[Array, Array, Array]:
    """(1, 5 + C, G, G) objectness, tx ty tw th, class probabilities -> one box per cell in image pixels.

    Returns:
        (G * G, 4) float64 xyxy, (G * G,) float64 scores ``objectness^0.6 * class^0.4``, (G * G,) int64 labels.
    """
    grid_h, grid_w = output.shape[2:]
    cells = output[0].reshape(output.shape[1], -1).astype(np.float64)
    row, column = np.divmod(np.arange(grid_h * grid_w), grid_w)
    objectness, (tx, ty, tw, th), classes = cells[0], cells[1:5], cells[5:]
    with np.errstate(over="ignore", invalid="ignore"):
        centre_x, centre_y = (column + np.tanh(tx)) / grid_w, (row + np.tanh(ty)) / grid_h
        width, height = 1 / (1 + np.exp(-tw)), 1 / (1 + np.exp(-th))
        scores = objectness**0.6 * classes.max(axis=0) ** 0.4
    boxes_cxcywh = np.stack((centre_x, centre_y, width, height), axis=1) * np.tile(image_hw[::-1], 2)
    return xyxy_from_cxcywh(boxes_cxcywh), scores, classes.argmax(axis=0)


def select(boxes_xyxy: Array, scores: Array, labels: Array, image_hw: tuple[int, int], recipe: Recipe) -> Prediction:
    """Score floor, suppression per class, best ``max_detections``; non-finite rows come first, never hidden."""
    finite = np.isfinite(scores) & np.isfinite(boxes_xyxy).all(axis=1)
    broken = np.flatnonzero(~finite)
    if recipe.clip_boxes:
        boxes_xyxy = np.clip(boxes_xyxy, 0, np.tile(image_hw[::-1], 2))
        finite &= (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1)
    sound = np.flatnonzero(finite & (scores > recipe.score_floor))
    groups = np.zeros_like(labels) if recipe.class_agnostic_nms else labels
    boxes_xywh = xywh_from_xyxy(boxes_xyxy[sound]).tolist()
    kept = cv2.dnn.NMSBoxesBatched(boxes_xywh, scores[sound].tolist(), groups[sound].tolist(), 0.0, NMS_IOU)
    rows = np.concatenate((broken, sound[np.asarray(kept, np.int64)]))[: recipe.max_detections]
    return Prediction(boxes_xyxy[rows].astype(np.float32), scores[rows].astype(np.float32), labels[rows])
