"""Pixels in, boxes and poses out: numpy and cv2 only, the same for every backend.

Q queries, C classes, N detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bench.geometry import xyxy_from_cxcywh
from bench.types import Prediction

if TYPE_CHECKING:
    from bench.types import Array

QUERY_OUTPUTS = ("logits", "bbox", "log_z", "rot6d", "offsets", "keypoints", "log_sigma_z", "log_sigma_rot")
"""Outputs with one row per query; ``k_delta`` has one per image."""


def preprocess(image_rgb_u8: Array, input_hw: tuple[int, int]) -> tuple[dict[str, Array], dict[str, Any]]:
    """(H, W, 3) uint8 RGB -> ``images`` (1, 3, *input_hw) float32 in 0..1, and ``{"image_hw", "input_hw"}``.

    A plain bilinear resize: the aspect ratio is not kept and nothing is padded.
    """
    image_hw = (int(image_rgb_u8.shape[0]), int(image_rgb_u8.shape[1]))
    if image_hw != input_hw:
        image_rgb_u8 = cv2.resize(image_rgb_u8, (input_hw[1], input_hw[0]), interpolation=cv2.INTER_LINEAR)
    images = np.ascontiguousarray(image_rgb_u8.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    return {"images": images}, {"image_hw": image_hw, "input_hw": input_hw}


def sigmoid(x: Array) -> Array:
    """Logistic function without overflow; NaN stays NaN."""
    positive = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, positive) / (1 + positive)


def class_scores(logits: Array) -> Array:
    """(Q, C + 1) -> (Q, C) softmax without the background, in float32; a row with a non-finite logit is NaN."""
    finite = np.isfinite(logits).all(1, keepdims=True)
    safe = np.where(finite, logits, 0).astype(np.float64)
    raised = np.exp(safe - safe.max(1, keepdims=True))
    shares = raised / raised.sum(1, keepdims=True)
    return np.where(finite, shares, np.nan)[:, :-1].astype(np.float32)


def matrix_from_rot6d(rot6d: Array) -> Array:
    """(N, 6) -> (N, 3, 3) float32: Gram-Schmidt of two vectors and their cross product as rows.

    Vectors that are zero or parallel give NaN: they are no rotation.
    """
    raw = np.asarray(rot6d, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        first = raw[:, :3] / np.linalg.norm(raw[:, :3], axis=1, keepdims=True)
        second = raw[:, 3:] - (first * raw[:, 3:]).sum(1, keepdims=True) * first
        second = second / np.linalg.norm(second, axis=1, keepdims=True)
        return np.stack((first, second, np.cross(first, second)), 1).astype(np.float32)


def translation(centre_px: Array, depth_m: Array, intrinsics: Array) -> Array:
    """(N, 2) px, (N,) m, (4,) fx fy cx cy px -> (N, 3) float32 metres: x right, y down, z forward."""
    xy = (centre_px - intrinsics[2:]) / intrinsics[:2]
    return (np.concatenate((xy, np.ones((len(xy), 1))), 1) * depth_m[:, None]).astype(np.float32)


def select(scores: Array, broken: Array, count: int) -> tuple[Array, Array]:
    """Take the best ``count`` queries by their best class; a broken query counts as the best, so that it cannot hide.

    Args:
        scores: (Q, C) without the background.
        broken: (Q,) bool: the query has a number that is not finite.
        count: number of detections to keep.

    Returns:
        Queries (N,) and labels (N,) int64, best first; ties keep the order of the queries.
    """
    best = np.where(broken, np.inf, scores.max(1))
    queries = np.argsort(-best, kind="stable")[:count]
    return queries, scores[queries].argmax(1).astype(np.int64)


def postprocess(
    outputs: Mapping[str, Array], meta: Mapping[str, Any], *, max_detections: int, score_floor: float
) -> Prediction:
    """Raw outputs of one image -> one detection per query in pixels of the original image, NaN rows kept.

    Boxes are clipped to the image. ``attributes`` holds ``rotation`` (N, 3, 3) camera from object, ``depth_m`` (N,),
    ``center_px`` (N, 2) and, when ``meta["intrinsics"]`` names fx fy cx cy in pixels of the original image,
    ``translation_m`` (N, 3).

    Args:
        outputs: by name, batch of one; ``heads.Outputs`` has the shapes.
        meta: second result of `preprocess`.
        max_detections: at most this many rows.
        score_floor: rows whose score is below are dropped; rows with a non-finite number never are.
    """
    rows = {name: outputs[name][0].astype(np.float32) for name in QUERY_OUTPUTS if name in outputs}
    scores = class_scores(rows["logits"])
    broken = ~np.all([np.isfinite(value).all(1) for value in rows.values()], axis=0)
    queries, labels = select(scores, broken, max_detections)
    keep = broken[queries] | ~(scores[queries, labels] < score_floor)
    queries, labels = queries[keep], labels[keep]
    rows = {name: value[queries] for name, value in rows.items()}

    height, width = meta["image_hw"]
    size = np.array([width, height], np.float32)
    # an infinite raw number would become a harmless 0 or 1 behind a sigmoid or an exponential
    bbox, log_z = (np.where(np.isfinite(rows[name]), rows[name], np.nan) for name in ("bbox", "log_z"))
    shares = sigmoid(bbox)
    corners = (xyxy_from_cxcywh(shares) * np.tile(size, 2)).astype(np.float32)
    corners = np.where(np.isfinite(corners), np.clip(corners, 0, np.tile(size, 2)), corners)
    with np.errstate(over="ignore", invalid="ignore"):
        depth_m = np.exp(log_z[:, 0])
        centre = ((shares[:, :2] + rows["offsets"] * shares[:, 2:]) * size).astype(np.float32)
        attributes = {"rotation": matrix_from_rot6d(rows["rot6d"]), "depth_m": depth_m, "center_px": centre}
        if "intrinsics" in meta:
            delta = outputs["k_delta"][0].astype(np.float64)
            camera = np.asarray(meta["intrinsics"], np.float64)
            camera = np.concatenate((camera[:2] * (1 + delta[:2]), camera[2:] + delta[2:] * size))
            attributes["translation_m"] = translation(centre, depth_m, camera)
    best = scores[queries, labels]
    keypoints = None
    if "keypoints" in rows:
        points = rows["keypoints"].reshape(len(queries), rows["keypoints"].shape[1] // 2, 2) * size
        keypoints = np.concatenate((points, np.broadcast_to(best[:, None, None], (*points.shape[:2], 1))), 2)
    return Prediction(boxes_xyxy=corners, scores=best, labels=labels, keypoints_xys=keypoints, attributes=attributes)
