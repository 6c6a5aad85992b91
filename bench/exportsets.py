"""Are they the same selected detections? Files that select are compared as sets, and every flip needs a reason.

Two runtimes differ in the last digits, and a selection turns such a difference into a box that is there or not. The
caller gives the differences that were measured before the selection (`Slack`); only a flip that they can cause is
explained:

* threshold: the score lies within the slack of the score threshold;
* cut: the other list is full, and its last score is within the slack;
* suppressed: the other list keeps a box of the class that overlaps it by more than the threshold, and the two changed
  places (scores within the slack), lie at the threshold, or that box is itself a flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.geometry import box_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.exporting import ExportOptions
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
        for own, other, flips, others, word in (
            (want, have, alone[0], alone[1], "expected, not found"),
            (have, want, alone[1], alone[0], "found, not expected"),
        ):
            for row in flips:
                text = f"image {image}: {_words(own, row)} {word}"
                why = _reason(own, int(row), other, others, options, slack, suppresses=suppresses)
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


def _reason(
    own: Prediction,
    row: int,
    other: Prediction,
    flips: Array,
    options: ExportOptions,
    slack: Slack,
    *,
    suppresses: bool,
) -> str:
    """Why ``other`` may lack this detection; empty when nothing measured explains it."""
    score = float(own.scores[row])
    if suppresses and abs(score - options.conf) <= slack.score:
        return f"score within {slack.score:.1g} of the threshold"
    full = len(other.scores) >= options.max_detections
    if full and score <= float(other.scores.min()) + 2 * slack.score:
        return f"score within {2 * slack.score:.1g} of the cut at {options.max_detections} rows"
    if not suppresses:
        return ""
    box = own.boxes_xyxy[row]
    near = np.flatnonzero(other.labels == own.labels[row])
    overlap = box_iou(box[None], other.boxes_xyxy[near])[0]
    side = float(min(box[2] - box[0], box[3] - box[1]))
    iou_slack = min(8 * slack.box_px / max(side, 1e-6), 1.0)
    for index, share in zip(near.tolist(), overlap.tolist(), strict=True):
        if not share > options.iou - iou_slack:
            continue
        if abs(share - options.iou) <= iou_slack:
            return f"overlap {share:.4f} lies at the threshold"
        if abs(float(other.scores[index]) - score) <= 2 * slack.score:
            return f"changed places with a box of overlap {share:.2f} and the same score"
        if index in flips:
            return "suppressed by a box that is itself a flip"
    return ""


def _words(of: Prediction, row: int) -> str:
    corners = ", ".join(f"{value:.2f}" for value in of.boxes_xyxy[row])
    return f"row {row}: class {int(of.labels[row])}, score {float(of.scores[row]):.5f}, box ({corners})"
