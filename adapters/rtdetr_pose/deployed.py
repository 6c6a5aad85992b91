"""Files for deployment: what their outputs are, and in which unit a difference to torch is judged. numpy only.

There is one head, ``dense``: the raw outputs per query, without a selection. Q queries, C classes, K keypoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.rtdetr_pose.config import STRIDES_PX
from adapters.rtdetr_pose.process import class_scores, matrix_from_rot6d, sigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array, ModelSpec

HEADS: Mapping[str, tuple[str, ...]] = {"dense": ()}
"""Head -> thresholds inside the file."""
IMAGE_MULTIPLE = STRIDES_PX[-1]
CONVENTIONS = {
    "logits": "per query and class, background last; softmax gives scores",
    "bbox": "per query, before the sigmoid: centre x, centre y, width, height as shares of the resized image",
    "log_z": "per query: natural log of the depth in metres",
    "rot6d": "per query: two vectors whose orthonormal form are the first two rows of the rotation, camera from object",
    "offsets": "per query: from the box centre to the projected object centre, in box widths and heights",
    "k_delta": "per image: corrections of fx, fy (relative) and cx, cy (shares of width, height)",
    "keypoints": "per query: x y x y ... as shares of the resized image",
    "log_sigma_z": "per query: log standard deviation of log_z",
    "log_sigma_rot": "per query: log standard deviation of the rotation angle in radians",
}
MEANT_SCORE = 0.05
"""Smallest score, by torch, of a query whose box and pose are compared value by value."""
UNITS = {
    "logits": "score",
    "bbox": "share of the image side",
    "log_z": "share of the depth",
    "rot6d": "entry of the rotation matrix",
    "offsets": "box size",
    "k_delta": "share of the focal length or the image side",
    "keypoints": "share of the image side",
    "log_sigma_z": "log",
    "log_sigma_rot": "log",
}
"""Output -> unit of `in_units`."""


def describe_outputs(spec: ModelSpec) -> list[dict[str, Any]]:
    """Name, shape, dtype and convention of every output."""
    return [
        {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "convention": CONVENTIONS[t.name]}
        for t in spec.outputs
    ]


def in_units(outputs: Mapping[str, Array]) -> dict[str, tuple[str, Array]]:
    """Raw outputs -> unit and values that a person can judge; a number that is not finite stays so.

    ``log_z`` stays as it is: a difference of natural logs is the relative difference of the depth.

    Args:
        outputs: of a batch, ``logits`` (B, Q, C + 1), ``rot6d`` (B, Q, 6), the others of any shape.

    Returns:
        The same names, every value at the index of its raw number: ``logits`` as scores (B, Q, C), ``bbox`` as
        shares, ``rot6d`` as the first two rows of the rotation matrix (B, Q, 6), which give the third.
    """
    values = dict(outputs)
    logits, rot6d = outputs["logits"], outputs["rot6d"]
    values["logits"] = class_scores(logits.reshape(-1, logits.shape[-1])).reshape(*logits.shape[:-1], -1)
    values["rot6d"] = matrix_from_rot6d(rot6d.reshape(-1, 6))[:, :2].reshape(rot6d.shape)
    raw = outputs["bbox"]
    values["bbox"] = sigmoid(np.where(np.isfinite(raw), raw, np.nan))  # an infinite one would become a harmless 0 or 1
    return {name: (UNITS[name], value) for name, value in values.items()}


def meant(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Which values say something: scores everywhere, boxes and poses of queries that may have an object.

    The box and pose of a query that surely has none are learnt from nothing. The fp16 file of the trained tiny moved
    some of them by up to .09, and none of a query with a score of `MEANT_SCORE` by more than .0025.

    Args:
        outputs: raw, of torch, of a batch.

    Returns:
        Name -> bool of the output's shape, for outputs per query; all True where no query of the batch may have one.
    """
    logits = outputs["logits"]
    scores = class_scores(logits.reshape(-1, logits.shape[-1])).reshape(*logits.shape[:-1], -1)
    likely = ~(scores.max(-1) < MEANT_SCORE)  # a NaN says something
    if not likely.any():
        likely[:] = True
    return {
        name: np.broadcast_to(likely[..., None], value.shape)
        for name, value in outputs.items()
        if name not in ("logits", "k_delta")
    }
