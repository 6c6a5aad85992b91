"""Lists of detections as the matcher sees them, and optimal one-to-one pairing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ContractError
from bench.geometry import box_iou, oks

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
    min_oks: float = 0.99
    """For keypoints, beside the IoU of their boxes."""
    max_score_difference: float = 1e-3
    """Of boxes and of keypoints."""
    oks_sigmas: tuple[float, ...] = ()
    """One per keypoint; empty when the model finds none."""
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
    keypoints_xys: Array
    """(N, K, 3) float64; K is 0 when the model finds none."""

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
        keypoints = _keypoints(prediction, len(scores), len(rules.oks_sigmas), where)
        finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1) & np.isfinite(keypoints).all(axis=(1, 2))
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
            keypoints_xys=keypoints[keep],
        )

    def equals(self, other: Side) -> bool:
        """Whether both hold the same rows in the same order, bit for bit."""
        return (
            np.array_equal(self.boxes_xyxy, other.boxes_xyxy)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.keypoints_xys, other.keypoints_xys)
        )

    def may_lack(self, scores: Array, rules: MatchRules) -> Array:
        """(M,) scores -> (M,) bool: this list may hold no such box, because the score lies at one of its limits."""
        near: Array = np.zeros(len(scores), bool)
        for limit in self.limits:
            near |= np.abs(scores - limit) <= rules.max_score_difference
        return near


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Likeness:
    """How alike N rows of the reference and M rows of the candidate are; all (N, M) float64."""

    iou: Array
    oks: Array
    """1 everywhere without keypoints."""
    score_gap: Array
    """Largest difference of the scores, those of keypoints included."""

    @classmethod
    def of(cls, reference: Side, candidate: Side, rules: MatchRules) -> Likeness:
        """Compare every row with every other; OKS takes the area of the reference's box."""
        iou = overlap(reference, candidate)
        gap: Array = np.abs(reference.scores[:, None] - candidate.scores[None])
        if not rules.oks_sigmas:
            return cls(iou=iou, oks=np.ones_like(iou), score_gap=gap)
        ours, theirs = reference.keypoints_xys, candidate.keypoints_xys
        area_px2 = np.prod(reference.boxes_xyxy[:, 2:] - reference.boxes_xyxy[:, :2], axis=1)
        similarity = oks(ours[..., :2], theirs[..., :2], area_px2, np.array(rules.oks_sigmas))
        gap = np.maximum(gap, np.abs(ours[:, None, :, 2] - theirs[None, :, :, 2]).max(axis=2, initial=0.0))
        return cls(iou=iou, oks=similarity, score_gap=gap)

    @property
    def least(self) -> Array:
        """The smaller of IoU and OKS."""
        return np.minimum(self.iou, self.oks)

    def equal(self, rules: MatchRules) -> Array:
        """(N, M) bool: the same box with the same keypoints and scores, whatever its class."""
        return (
            (self.iou >= rules.min_iou) & (self.oks >= rules.min_oks) & (self.score_gap <= rules.max_score_difference)
        )


def _keypoints(prediction: Prediction, rows: int, expected: int, where: str) -> Array:
    """(N, K, 3) float64 of a prediction; a list without rows needs none."""
    points = prediction.keypoints_xys
    if points is None or not rows:
        if expected and rows:
            raise ContractError(f"{where}: has no keypoints; the model declares sigmas for {expected}")
        return np.zeros((rows, expected, 3))
    if not expected:
        raise ContractError(
            f"{where}: has keypoints, which cannot be compared without sigmas: set oks_sigmas in the spec"
        )
    if points.shape != (rows, expected, 3):
        raise ContractError(f"{where}: keypoints {points.shape} must be ({rows}, {expected}, 3)")
    return np.asarray(points, np.float64)


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
