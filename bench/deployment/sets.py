"""Are they the same selected detections? Files that select are compared as sets, and every flip needs a reason.

Two runtimes differ in the last digits, and a selection turns such a difference into a box that is there or not. The
caller gives the differences that were measured before the selection (`Slack`); only a flip that they can cause is
explained:

* threshold: the score lies within the slack of the score threshold;
* cut: the other list is full, and its last score is within the slack;
* suppressed: the other list keeps a box of the class with no worse score that overlaps it by more than the threshold,
  and the two have the same score, or lie at the threshold, or that box is itself an explained flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.geometry import box_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.deployment.options import ExportOptions
    from bench.types import Array, Prediction

_APART = 1e6
"""Cost of a pair that is no pair: above any sum of real ones."""
_LISTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """Largest differences before the selection."""

    box_px: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDifference:
    """How the detections of a batch differ."""

    pairs: int
    max_box_px: float
    """Largest difference of a corner of a pair."""
    max_score: float
    explained: tuple[str, ...]
    """Flips and their reasons."""
    unexplained: tuple[str, ...]
    """The first is what a person should look at."""


def compare_sets(
    expected: Sequence[Prediction],
    found: Sequence[Prediction],
    *,
    options: ExportOptions,
    suppresses: bool,
    slack: Slack,
    tolerance_px: float,
    tolerance_score: float,
) -> SetDifference:
    """Pair the detections of each image by class, and explain the rest.

    Args:
        expected: per image, in input pixels.
        found: as many.
        options: thresholds of the file.
        suppresses: the file thresholds scores and suppresses overlaps; otherwise it only cuts the list.
        slack: measured before the selection.
        tolerance_px: largest difference of a corner of a pair.
        tolerance_score: the same for its score.
    """
    pairs, boxes, scores = 0, 0.0, 0.0
    explained: list[str] = []
    unexplained: list[str] = []
    if len(expected) != len(found):
        unexplained.append(f"{len(found)} images instead of {len(expected)}")
    for image, (want, have) in enumerate(zip(expected, found, strict=False)):
        rows, columns = _pair(want, have, tolerance_px, tolerance_score)
        pairs += len(rows)
        if len(rows):
            boxes = max(boxes, float(np.abs(want.boxes_xyxy[rows] - have.boxes_xyxy[columns]).max()))
            scores = max(scores, float(np.abs(want.scores[rows] - have.scores[columns]).max()))
        alone = np.setdiff1d(np.arange(len(want.scores)), rows), np.setdiff1d(np.arange(len(have.scores)), columns)
        reasons = _reasons(want, have, alone, options, slack, suppresses=suppresses)
        for side, (of, word) in enumerate(((want, "expected, not found"), (have, "found, not expected"))):
            for row in alone[side].tolist():
                text, why = f"image {image}: {_words(of, row)} {word}", reasons.get((side, row))
                (explained if why else unexplained).append(f"{text} ({why})" if why else text)
    return SetDifference(
        pairs=pairs,
        max_box_px=boxes,
        max_score=scores,
        explained=tuple(explained),
        unexplained=tuple(unexplained),
    )


def shortened(texts: Sequence[str]) -> list[str]:
    """The first texts, and how many more there are."""
    more = [f"and {len(texts) - _LISTED} more"] if len(texts) > _LISTED else []
    return [*texts[:_LISTED], *more]


def _pair(want: Prediction, have: Prediction, tolerance_px: float, tolerance_score: float) -> tuple[Array, Array]:
    """Rows of pairs: one class, corners and scores within the tolerances; NaN has no partner."""
    if not len(want.scores) or not len(have.scores):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    corners = np.abs(want.boxes_xyxy[:, None] - have.boxes_xyxy[None]).max(2) / tolerance_px
    gaps = np.abs(want.scores[:, None] - have.scores[None]) / tolerance_score
    fits = (want.labels[:, None] == have.labels[None]) & (corners <= 1) & (gaps <= 1)
    cost = np.where(fits, np.where(fits, corners + gaps, 0), _APART)
    rows, columns = linear_sum_assignment(cost)
    real = fits[rows, columns]
    return rows[real], columns[real]


def _reasons(
    want: Prediction,
    have: Prediction,
    alone: tuple[Array, Array],
    options: ExportOptions,
    slack: Slack,
    *,
    suppresses: bool,
) -> dict[tuple[int, int], str]:
    """Reasons of the flips that have one, by side (0 ``want``, 1 ``have``) and row.

    A chain of suppressed boxes needs a beginning: two flips never explain each other.
    """
    sides = want, have
    flips = [(side, row) for side in (0, 1) for row in alone[side].tolist()]
    found: dict[tuple[int, int], str] = {}
    for side, row in flips:
        why = _own_reason(sides[side], row, sides[1 - side], options, slack, suppresses=suppresses)
        if why:
            found[side, row] = why
    while suppresses:
        more = {
            (side, row): "suppressed by a box that is itself an explained flip"
            for side, row in flips
            if (side, row) not in found
            and any(
                (1 - side, better) in found
                for better, _ in _suppressors(sides[side], row, sides[1 - side], options, slack)
            )
        }
        if not more:
            break
        found |= more
    return found


def _own_reason(
    own: Prediction, row: int, other: Prediction, options: ExportOptions, slack: Slack, *, suppresses: bool
) -> str:
    """Why ``other`` may lack this detection, whatever else flipped; empty when nothing measured explains it."""
    score = float(own.scores[row])
    if suppresses and abs(score - options.conf) <= slack.score:
        return f"score within {slack.score:.1g} of the threshold"
    full = len(other.scores) >= options.max_detections
    if full and score <= float(other.scores.min()) + 2 * slack.score:
        return f"score within {2 * slack.score:.1g} of the cut at {options.max_detections} rows"
    if not suppresses:
        return ""
    for better, overlap in _suppressors(own, row, other, options, slack):
        if abs(overlap - options.iou) <= _overlap_slack(own, row, slack):
            return f"overlap {overlap:.4f} lies at the threshold"
        if float(other.scores[better]) - score <= 2 * slack.score:
            return f"changed places with a box of overlap {overlap:.2f} and the same score"
    return ""


def _suppressors(
    own: Prediction, row: int, other: Prediction, options: ExportOptions, slack: Slack
) -> list[tuple[int, float]]:
    """Rows of ``other`` that can have suppressed this detection there, and their overlap with it."""
    score = float(own.scores[row])
    rows = np.flatnonzero((other.labels == own.labels[row]) & (other.scores >= score - 2 * slack.score))
    overlaps = box_iou(own.boxes_xyxy[row][None], other.boxes_xyxy[rows])[0]
    least = options.iou - _overlap_slack(own, row, slack)
    return [(i, share) for i, share in zip(rows.tolist(), overlaps.tolist(), strict=True) if share > least]


def _overlap_slack(own: Prediction, row: int, slack: Slack) -> float:
    """How far an overlap with this box moves when corners move by the slack."""
    width, height = own.boxes_xyxy[row, 2:] - own.boxes_xyxy[row, :2]
    return min(8 * slack.box_px / max(float(min(width, height)), 1e-6), 1.0)


def _words(of: Prediction, row: int) -> str:
    corners = ", ".join(f"{value:.2f}" for value in of.boxes_xyxy[row])
    return f"row {row}: class {int(of.labels[row])}, score {float(of.scores[row]):.5f}, box ({corners})"
