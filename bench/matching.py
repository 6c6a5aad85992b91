"""Are they the same detections? Optimal one-to-one matching per image and class.

Missing and extra boxes both count. A box may differ for a reason that lies in the arithmetic of a threshold and not in
the model; such explained flips are counted apart and need evidence:

* score floor: the partner exists in the other list, just on the other side of the floor;
* emission floor, detection cut: the box's score is within the tolerance of the lowest score that list could hold;
* class tie: the partner is the same box with the same score under another class. A shifted class table looks the same
  on every box, so ties explain at most one box in a hundred; beyond that none is explained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ContractError
from bench.geometry import box_iou
from bench.results import ParityResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, Prediction

_LARGEST_TIE_SHARE = 0.01
_MOVED_IOU = 0.5
"""Two boxes of one class that overlap less are two boxes, not one that moved."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDifference:
    """How two lists of detections of one image differ."""

    image_id: int
    missing: int = 0
    """Boxes of the reference without a partner."""
    extra: int = 0
    """Boxes of the candidate without a partner."""
    moved: int = 0
    """Pairs of one class whose box or score differs by more than the rules allow."""
    explained: int = 0
    """Explained flips, not among the three above."""
    nonfinite: int = 0
    """Rows with a NaN or an infinity, on either side; not among the others."""
    absent: str | None = None
    """``reference`` or ``candidate`` when that side has no result for the image at all."""
    badness: float = 0.0
    """For sorting: the scores of missing and extra boxes, how far boxes moved, 10 per non-finite row or absent list."""

    @property
    def unexplained(self) -> int:
        """Differences that count: missing, extra, moved, non-finite, an absent list."""
        return self.missing + self.extra + self.moved + self.nonfinite + (self.absent is not None)

    @property
    def kind(self) -> str:
        """For example ``3 missing, 2 extra``."""
        parts = [f"{getattr(self, n)} {n}" for n in ("missing", "extra", "moved", "explained") if getattr(self, n)]
        parts += [f"{self.nonfinite} not finite"] if self.nonfinite else []
        return ", ".join(parts + ([f"no {self.absent} result"] if self.absent else []))


@dataclass(slots=True, kw_only=True)
class _Image:
    """One compared image: the difference, and what its sentence needs."""

    difference: ImageDifference
    matched: int = 0
    ties: int = 0
    tie_score: float = 0.0
    score_gap: float = 0.0
    """Largest score difference of a pair."""
    worst: str | None = None


def compare_predictions(
    reference: Mapping[int, Prediction],
    candidate: Mapping[int, Prediction],
    *,
    class_names: Sequence[str],
    gate: bool,
    score_floor: float = 0.05,
    min_iou: float = 0.99,
    max_score_difference: float = 1e-3,
    max_detections: int | None = None,
    emission_floor: float = 0.0,
) -> tuple[ParityResult, tuple[ImageDifference, ...]]:
    """Compare the detections of all images.

    Args:
        reference: image id -> detections.
        candidate: image id -> detections; an image on one side only is a difference.
        class_names: name of label 0, 1, ...
        gate: judge; otherwise only a non-finite value or an absent image fails.
        score_floor: boxes below count only as partners.
        min_iou: smallest overlap of a pair.
        max_score_difference: largest score difference of a pair, and the width of a threshold's neighbourhood.
        max_detections: the model's cut, ``ModelSpec.max_detections``.
        emission_floor: the model's own floor, ``ModelSpec.score_floor``.

    Returns:
        The result (``total`` pairs and boxes without partner, ``mismatched`` of them unexplained, ``max_abs`` the
        largest score difference of a pair), and the images that differ, worst first.

    Raises:
        ContractError: lists of unequal length, or keypoints, which this comparison would ignore.
    """
    rules = MatchRules(
        score_floor=score_floor,
        min_iou=min_iou,
        max_score_difference=max_score_difference,
        max_detections=max_detections,
        emission_floor=emission_floor,
    )
    images = [
        _compare_image(image_id, reference.get(image_id), candidate.get(image_id), rules, class_names)
        for image_id in sorted(set(reference) | set(candidate))
    ]
    images = _settle_ties(images)
    changed = sorted(
        (image for image in images if image.difference.kind),
        key=lambda image: (-image.difference.badness, image.difference.image_id),
    )
    return _result(images, changed, gate, rules), tuple(image.difference for image in changed)


def _compare_image(
    image_id: int, reference: Prediction | None, candidate: Prediction | None, rules: MatchRules, names: Sequence[str]
) -> _Image:
    empty = _Side.empty()
    ref = empty if reference is None else _Side.of(reference, rules, f"reference, image {image_id}")
    cand = empty if candidate is None else _Side.of(candidate, rules, f"candidate, image {image_id}")
    absent = "reference" if reference is None else "candidate" if candidate is None else None
    image = _Image(difference=ImageDifference(image_id=image_id, absent=absent, nonfinite=ref.nonfinite + cand.nonfinite))
    if ref.nonfinite or cand.nonfinite:
        image.worst = f"image {image_id}: {ref.nonfinite + cand.nonfinite} rows are not finite"
    elif absent:
        image.worst = f"image {image_id}: the {absent} has no result"
    badness = 10.0 * (ref.nonfinite + cand.nonfinite + (absent is not None))
    if ref.same_as(cand):
        image.matched = int(ref.required.sum())
        image.difference = replace(image.difference, badness=badness)
        return image
    iou = box_iou(ref.boxes, cand.boxes)
    gap = np.abs(ref.scores[:, None] - cand.scores[None])
    same = ref.labels[:, None] == cand.labels[None]
    close = (iou >= rules.min_iou) & (gap <= rules.max_score_difference)
    rows, columns = _pair_equal(close & same, iou, ref.required, cand.required)
    both = ref.required[rows] & cand.required[columns]
    image.matched = int(both.sum())
    image.score_gap = float(gap[rows, columns].max(initial=0.0))
    explained = len(rows) - image.matched

    left_r, left_c = _without(ref.required, rows), _without(cand.required, columns)
    at_limit_r = cand.near_limit(ref.scores, rules)
    at_limit_c = ref.near_limit(cand.scores, rules)
    moved_r, moved_c = _pair_best(iou * (same & (iou >= _MOVED_IOU)), left_r, left_c)
    left_r, left_c = _without_these(left_r, moved_r), _without_these(left_c, moved_c)
    tied_r, tied_c = _pair_best(iou * (close & ~same), left_r, left_c)
    left_r, left_c = _without_these(left_r, tied_r), _without_these(left_c, tied_c)
    explained += int(at_limit_r[left_r].sum() + at_limit_c[left_c].sum())
    missing, extra = left_r[~at_limit_r[left_r]], left_c[~at_limit_c[left_c]]

    if len(moved_r):
        image.score_gap = max(image.score_gap, float(gap[moved_r, moved_c].max()))
    image.ties = len(tied_r)
    image.tie_score = float(ref.scores[tied_r].sum() + cand.scores[tied_c].sum())
    badness += float(ref.scores[missing].sum() + cand.scores[extra].sum())
    badness += float(((1 - iou[moved_r, moved_c]) * ref.scores[moved_r] + gap[moved_r, moved_c]).sum())
    image.difference = replace(
        image.difference,
        missing=len(missing),
        extra=len(extra),
        moved=len(moved_r),
        explained=explained,
        badness=badness,
    )
    image.worst = image.worst or _worst(image_id, ref, cand, missing, extra, moved_r, moved_c, iou, names)
    return image
