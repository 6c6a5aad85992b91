"""Lists of detections as the matcher sees them, and optimal one-to-one pairing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ContractError
from bench.geometry import box_iou

if TYPE_CHECKING:
    from bench.types import Array, Prediction

_FLAT_BOX_PX = 1e-3
"""Boxes without area overlap nothing; two of them are one when their corners agree this well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRules:
    """What counts as the same box."""

    score_floor: float = 0.05
    """Boxes below are compared only as partners of boxes above."""
    min_iou: float = 0.99
    max_score_difference: float = 1e-3
    max_detections: int | None = None
    """Cut of the model's list; None when it has none."""
    emission_floor: float = 0.0
    """The model's own score floor: lists hold nothing below."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """The N rows of one list that take part: finite, and not clearly below the score floor."""

    boxes_xyxy: Array
    """(N, 4) float64."""
    scores: Array
    """(N,) float64."""
    labels: Array
    """(N,) int64."""
    required: Array
    """(N,) bool: at or above the score floor, so it needs a partner."""
    nonfinite: int
    """Rows that were left out because a value is NaN or infinite."""
    limits: tuple[float, ...]
    """Scores at which this list stops for a reason of its own: the emission floor, the detection cut."""

    @classmethod
    def of(cls, prediction: Prediction, rules: MatchRules, where: str) -> Side:
        """Take the rows of a prediction; ContractError when its columns do not fit."""
        boxes = np.asarray(prediction.boxes_xyxy, np.float64)
        scores = np.asarray(prediction.scores, np.float64)
        labels = np.asarray(prediction.labels, np.int64)
        if scores.ndim != 1 or boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
            raise ContractError(
                f"{where}: boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape} must be "
                "(N, 4), (N,) and (N,)"
            )
        if prediction.keypoints_xys is not None:
            raise ContractError(f"{where}: has keypoints, which the box comparison would ignore")
        finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
        limits = [rules.emission_floor]
        if rules.max_detections is not None and len(scores) >= rules.max_detections and finite.any():
            limits.append(float(scores[finite].min()))
        keep = finite & (scores >= rules.score_floor - rules.max_score_difference)
        return cls(
            boxes_xyxy=boxes[keep],
            scores=scores[keep],
            labels=labels[keep],
            required=scores[keep] >= rules.score_floor,
            nonfinite=len(scores) - int(np.count_nonzero(finite)),
            limits=tuple(limits),
        )

    def equals(self, other: Side) -> bool:
        """Whether both hold the same rows in the same order, bit for bit."""
        return (
            np.array_equal(self.boxes_xyxy, other.boxes_xyxy)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.labels, other.labels)
        )

    def may_lack(self, scores: Array, rules: MatchRules) -> Array:
        """(M,) scores -> (M,) bool: this list may hold no such box, because the score lies at one of its limits."""
        near: Array = np.zeros(len(scores), bool)
        for limit in self.limits:
            near |= np.abs(scores - limit) <= rules.max_score_difference
        return near


def overlap(reference: Side, candidate: Side) -> Array:
    """(N, M) IoU; 1 for two boxes without area at the same place."""
    iou = box_iou(reference.boxes_xyxy, candidate.boxes_xyxy)
    flat_n, flat_m = (np.any(s.boxes_xyxy[:, 2:] <= s.boxes_xyxy[:, :2], axis=1) for s in (reference, candidate))
    rows, columns = np.nonzero(flat_n[:, None] & flat_m[None])
    if len(rows):
        distance = np.abs(reference.boxes_xyxy[rows] - candidate.boxes_xyxy[columns]).max(axis=1)
        iou[rows, columns] = distance <= _FLAT_BOX_PX
    return iou


def pair(allowed: Array, iou: Array, required_n: Array, required_m: Array) -> tuple[Array, Array]:
    """Pair N rows with M columns one to one.

    Args:
        allowed: (N, M) bool.
        iou: (N, M), prefers one pairing among equally good ones.
        required_n: (N,) bool, rows that need a partner.
        required_m: (M,) bool, columns that need a partner.

    Returns:
        Row and column indices of the pairs. As many required boxes as possible have a partner; of such pairings the one
        with most pairs of two required boxes and the largest sum of IoU. No pair of two boxes that need none.
    """
    need = required_n[:, None].astype(np.int64) + required_m[None]
    allowed = allowed & (need > 0)
    if allowed.sum(axis=0).max(initial=0) <= 1 and allowed.sum(axis=1).max(initial=0) <= 1:
        return np.nonzero(allowed)  # type: ignore[return-value]
    from scipy.optimize import linear_sum_assignment

    preference = 1 / (4 * (1 + min(allowed.shape)))
    value = np.where(allowed, need + preference * ((need == 2) + iou), 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    real = allowed[rows, columns]
    return rows[real], columns[real]


def pair_left(allowed: Array, iou: Array, rows: Array, columns: Array) -> tuple[Array, Array, Array, Array]:
    """Pair only the given rows and columns; return the pairs and what is left of ``rows`` and ``columns``."""
    if not (len(rows) and len(columns)):
        return rows[:0], columns[:0], rows, columns
    part = np.ix_(rows, columns)
    r, c = pair(allowed[part], iou[part], np.ones(len(rows), bool), np.ones(len(columns), bool))
    return rows[r], columns[c], np.delete(rows, r), np.delete(columns, c)
