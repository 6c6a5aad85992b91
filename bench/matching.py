"""Are they the same detections? Optimal one-to-one matching per image and class.

Missing and extra boxes both count. Keypoints are compared by OKS, beside their boxes and scores. A box may differ for a
reason that lies in the arithmetic of a threshold and not in the model; such explained flips are counted apart and need
evidence:

* score floor: the partner exists in the other list, just on the other side of the floor;
* a limit of the list: the box's score is that of the model's own floor, or of the last detection in a full list;
* class tie: the partner is the same box with the same score under another class. A shifted class table looks the same
  on every box, so ties explain at most one pair in a hundred; beyond that none is explained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.matching_pairs import Likeness, MatchRules, Side, pair, pair_left
from bench.matching_words import Moved, describe_worst, explain
from bench.results import ParityResult
from bench.types import Prediction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array

_LARGEST_TIE_SHARE = 0.01
_MOVED_IOU = 0.5
"""Two boxes of one class that overlap less are two boxes, not one that moved."""
_BROKEN = 10.0
"""Badness of a non-finite row or an absent list: above that of any honest difference."""


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
    """For sorting: scores of missing and extra boxes, how far boxes moved, 10 per non-finite row or absent list."""

    @property
    def unexplained(self) -> int:
        """Differences that count: missing, extra, moved, non-finite, an absent list."""
        return self.missing + self.extra + self.moved + self.nonfinite + (self.absent is not None)

    @property
    def kind(self) -> str:
        """For example ``3 missing, 2 extra``; empty when nothing differs."""
        parts = [f"{getattr(self, n)} {n}" for n in ("missing", "extra", "moved", "explained") if getattr(self, n)]
        if self.nonfinite:
            parts.append(f"{self.nonfinite} not finite")
        if self.absent:
            parts.append(f"no {self.absent} result")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """One compared image: the difference, and what the sentence about all of them needs."""

    difference: ImageDifference
    matched: int = 0
    """Pairs of two boxes above the floor."""
    ties: int = 0
    """Possible class ties, not counted in the difference yet."""
    tie_badness: float = 0.0
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
    min_oks: float = 0.99,
    oks_sigmas: Sequence[float] = (),
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
        min_oks: smallest keypoint similarity of a pair, over the area of the reference's box.
        oks_sigmas: one per keypoint; empty when the model finds none.
        max_score_difference: largest difference of the scores of a pair and of its keypoints, and the width of a
            threshold's neighbourhood.
        max_detections: the model's cut, ``ModelSpec.max_detections``.
        emission_floor: the model's own floor, ``ModelSpec.score_floor``.

    Returns:
        The result (``total`` pairs and boxes without partner, ``mismatched`` of them unexplained, ``max_abs`` the
        largest score difference of a pair), and the images that differ, worst first.

    Raises:
        ContractError: lists of unequal length, or keypoints that do not agree with the sigmas.
    """
    rules = MatchRules(
        score_floor=score_floor,
        min_iou=min_iou,
        min_oks=min_oks,
        oks_sigmas=tuple(oks_sigmas),
        max_score_difference=max_score_difference,
        max_detections=max_detections,
        emission_floor=emission_floor,
    )
    images = []
    for image_id in sorted(set(reference) | set(candidate)):
        sides = reference.get(image_id), candidate.get(image_id)
        images.append(_compare_image(image_id, *sides, rules, class_names))
    images = _settle_ties(images)
    changed = sorted(
        (image for image in images if image.difference.kind),
        key=lambda image: (image.difference.unexplained == 0, -image.difference.badness, image.difference.image_id),
    )
    return _result(images, changed, gate, rules), tuple(image.difference for image in changed)


def _compare_image(
    image_id: int, reference: Prediction | None, candidate: Prediction | None, rules: MatchRules, names: Sequence[str]
) -> _Image:
    nothing = Prediction(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    ref = Side.of(reference or nothing, rules, f"reference, image {image_id}")
    cand = Side.of(candidate or nothing, rules, f"candidate, image {image_id}")
    absent = "reference" if reference is None else "candidate" if candidate is None else None
    nonfinite = ref.nonfinite + cand.nonfinite
    difference = ImageDifference(
        image_id=image_id, absent=absent, nonfinite=nonfinite, badness=_BROKEN * (nonfinite + (absent is not None))
    )
    worst = f"{nonfinite} rows are not finite" if nonfinite else f"the {absent} has no result" if absent else None
    if ref.equals(cand):
        return _Image(difference=difference, matched=int(np.count_nonzero(ref.required)), worst=worst)
    return _match(_Image(difference=difference, worst=worst), ref, cand, rules, names)


def _match(image: _Image, ref: Side, cand: Side, rules: MatchRules, names: Sequence[str]) -> _Image:
    """Pair equal boxes, then boxes that moved, then class ties; what is left is explained, missing or extra."""
    like = Likeness.of(ref, cand, rules)
    gap, least = like.score_gap, like.least
    same_class = ref.labels[:, None] == cand.labels[None]
    equal = like.equal(rules)

    rows, columns = pair(equal & same_class, least, ref.required, cand.required)
    matched = int(np.count_nonzero(ref.required[rows] & cand.required[columns]))
    left_r, left_c = _left(ref.required, rows), _left(cand.required, columns)
    moved_r, moved_c, left_r, left_c = pair_left(same_class & (like.iou >= _MOVED_IOU), least, left_r, left_c)
    tied_r, tied_c, left_r, left_c = pair_left(equal & ~same_class, least, left_r, left_c)
    lacking_r, lacking_c = cand.may_lack(ref.scores[left_r], rules), ref.may_lack(cand.scores[left_c], rules)
    missing, extra = left_r[~lacking_r], left_c[~lacking_c]

    strayed = (1 - least[moved_r, moved_c]) * ref.scores[moved_r] + gap[moved_r, moved_c]
    alone = float(ref.scores[missing].sum() + cand.scores[extra].sum())
    difference = replace(
        image.difference,
        missing=len(missing),
        extra=len(extra),
        moved=len(moved_r),
        explained=len(rows) - matched + int(lacking_r.sum() + lacking_c.sum()),
        badness=image.difference.badness + alone + float(strayed.sum()),
    )
    return _Image(
        difference=difference,
        matched=matched,
        ties=len(tied_r),
        tie_badness=float(ref.scores[tied_r].sum() + cand.scores[tied_c].sum()),
        score_gap=max(float(gap[r, c].max(initial=0.0)) for r, c in ((rows, columns), (moved_r, moved_c))),
        worst=image.worst or describe_worst(ref, cand, missing, extra, Moved(moved_r, moved_c, strayed, like), names),
    )


def _settle_ties(images: list[_Image]) -> list[_Image]:
    """Explain class ties while they are rare, else count each as one box missing and one extra."""
    rare = sum(image.ties for image in images) <= _LARGEST_TIE_SHARE * sum(image.matched for image in images)
    settled = []
    for image in images:
        old = image.difference
        if rare:
            new = replace(old, explained=old.explained + image.ties)
        else:
            new = replace(
                old,
                missing=old.missing + image.ties,
                extra=old.extra + image.ties,
                badness=old.badness + image.tie_badness,
            )
        worst = image.worst or (f"{image.ties} boxes have another class" if image.ties and not rare else None)
        settled.append(replace(image, difference=new, worst=worst))
    return settled


def _result(images: list[_Image], changed: list[_Image], gate: bool, rules: MatchRules) -> ParityResult:
    differences = [image.difference for image in changed]
    count = {
        name: sum(getattr(d, name) for d in differences)
        for name in ("missing", "extra", "moved", "explained", "nonfinite", "unexplained")
    }
    total = sum(image.matched for image in images) + count["explained"] + count["unexplained"]
    broken = not images or count["nonfinite"] > 0 or any(d.absent for d in differences)
    passed = False if broken else count["unexplained"] == 0 if gate else None
    worst = None
    if changed and changed[0].worst:
        worst = f"image {changed[0].difference.image_id}: {changed[0].worst}"
    return ParityResult(
        level="prediction",
        name="detections",
        total=total,
        mismatched=count["unexplained"],
        max_abs=max((image.score_gap for image in images), default=None),
        nonfinite=count["nonfinite"],
        worst=worst,
        passed=passed,
        explain=explain(len(images), total, count, [d for d in differences if d.unexplained], worst, rules),
    )


def _left(required: Array, paired: Array) -> Array:
    """Indices of required boxes that have no partner."""
    open_ = required.copy()
    open_[paired] = False
    return np.flatnonzero(open_)
