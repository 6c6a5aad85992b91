"""Is the accuracy still the same? From a paired interval and a margin to one of four words (DESIGN 9).

* ``passed``: the interval's lower end is above minus the margin (one-sided non-inferiority);
* ``failed``: its upper end is below minus the margin;
* ``suspicious``: its lower end is above plus the margin. The same model does not gain: leaked ground truth, another
  split or another protocol does;
* ``undecided``: none of these, with a lower bound of the images that would decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from bench.results import AccuracyResult
from bench.scoring import MIN_IMAGES, paired_bootstrap, scorer_name
from bench.verdicts import margin_of, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.results import CrossCheck
    from bench.scoring import Matched

RESOLVED_ERRORS = 2.8
"""z(.975) + z(.80): standard errors that a true difference must measure to be told from none in 80 % of sets."""
HOPELESS_IMAGES = 20_000
"""Above this bound more images are unlikely to decide: the delta sits at the margin."""
_LOSES_LIKE_NONE = 1e-12
"""Deltas are sums of a few hundred doubles; below this two systems are equal."""

Verdict: TypeAlias = Literal["passed", "failed", "suspicious", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict on one AP difference, and what these images could have told."""

    verdict: Verdict
    reason: str | None
    """None when passed."""
    resolvable: float | None
    """Smallest true loss told from none at 80 % power, in AP; None without an interval."""
    images_to_decide: int | None
    """Lower bound for an undecided delta; None when decided, or when more images are unlikely to decide."""


def judge_delta(
    delta: float, ci95: tuple[float, float] | None, margin: float, standard_error: float | None, images: int
) -> Judgement:
    """Judge candidate - reference against the allowed loss.

    Args:
        delta: AP difference of all images, in -1..1.
        ci95: 95 % percentile interval of the paired bootstrap, or None when there is none.
        margin: allowed loss, not negative.
        standard_error: standard deviation of the delta over the resamples, or None.
        images: in the set.

    Returns:
        NaN anywhere never passes: every comparison that leads to ``passed`` is false for it.
    """
    if not math.isfinite(delta) or not margin >= 0:
        reason = f"ΔAP {delta:g} against a margin of {margin:g} cannot be judged."
        return Judgement(verdict="failed", reason=reason, resolvable=None, images_to_decide=None)
    if ci95 is None:
        reason = (
            f"{images} images are too few for an interval; at least {MIN_IMAGES} are needed."
            if images < MIN_IMAGES
            else f"ΔAP {signed(delta)} has no interval."
        )
        return Judgement(verdict="undecided", reason=reason, resolvable=None, images_to_decide=None)
    resolvable = None if standard_error is None else RESOLVED_ERRORS * standard_error
    low, high = ci95
    if low > margin:
        reason = (
            f"Gains {delta:.4f} AP, [{signed(low)}, {signed(high)}], more than the margin of {margin:.4f}: the same "
            "model does not gain. Look for leaked ground truth, other images or another protocol."
        )
        return Judgement(verdict="suspicious", reason=reason, resolvable=resolvable, images_to_decide=None)
    if low >= -margin:
        return Judgement(verdict="passed", reason=None, resolvable=resolvable, images_to_decide=None)
    if high < -margin:
        reason = f"Loses {-delta:.4f} AP, [{signed(low)}, {signed(high)}], against a margin of {margin:.4f}."
        return Judgement(verdict="failed", reason=reason, resolvable=resolvable, images_to_decide=None)
    needed = _images_to_decide(delta, (low, high), margin, images)
    what = (
        f"About {needed:,} would, if the delta holds."
        if needed is not None
        else "The delta sits at the margin; more images are unlikely to decide."
    )
    reason = f"{images} images cannot decide a margin of {margin:.4f}: ΔAP [{signed(low)}, {signed(high)}]. {what}"
    return Judgement(verdict="undecided", reason=reason, resolvable=resolvable, images_to_decide=needed)


def _images_to_decide(delta: float, ci95: tuple[float, float], margin: float, images: int) -> int | None:
    """Images at which the interval's near end would reach minus the margin, were its width to fall with sqrt(images).

    A lower bound: the standard error fell by 1.65 and not by 2 from 32 to 128 images (reference: experiments 3).
    Rounded up to two digits.
    """
    room = delta + margin
    half_width = delta - ci95[0] if room >= 0 else ci95[1] - delta
    if abs(room) <= _LOSES_LIKE_NONE or not half_width > 0:
        return None
    exact = images * (half_width / abs(room)) ** 2
    if not exact <= HOPELESS_IMAGES:
        return None
    step: int = 10 ** max(math.floor(math.log10(exact)) - 1, 0)
    return max(math.ceil(exact / step) * step, images + 1)


def judge_accuracy(
    precision: str,
    matched: Matched,
    reference: Matched | None,
    *,
    margins: Mapping[str, float],
    resamples: int,
    seed: int,
    cross_check: CrossCheck | None = None,
) -> AccuracyResult:
    """Compare a cell with its reference over the same resamples of the images.

    Args:
        precision: of the cell; chooses the margin.
        matched: the cell's detections.
        reference: the reference's, over the same images; None marks the reference itself.
        margins: precision -> allowed AP loss, overriding the default rule.
        resamples: of the paired bootstrap.
        seed: of the bootstrap.
        cross_check: what an independent scorer found for this cell.
    """
    plain = AccuracyResult(
        metric="AP",
        images=len(matched.images),
        stats=matched.stats,
        scorer=scorer_name(),
        verdict="reference",
        cross_check=cross_check,
    )
    if reference is None:
        return plain
    ap, reference_ap = matched.stats["AP"], reference.stats["AP"]
    if ap is None or reference_ap is None:
        return replace(plain, verdict="undecided", reason="AP is undefined: these images hold no ground truth.")
    margin = margin_of(precision, reference_ap, margins)
    if reference_ap <= margin:
        reason = (
            f"The reference's AP of {reference_ap:.4f} is within the margin of {margin:.4f}: a loss could not show. "
            "Score a set that the reference can do."
        )
        return replace(plain, delta=ap - reference_ap, margin=margin, verdict="undecided", reason=reason)
    paired = paired_bootstrap(reference, matched, resamples=resamples, seed=seed)
    delta = paired.deltas["AP"]
    judged = judge_delta(ap - reference_ap, delta.ci95, margin, paired.standard_errors.get("AP"), len(matched.images))
    return replace(
        plain,
        delta=ap - reference_ap,
        ci95=delta.ci95,
        margin=margin,
        resolvable=judged.resolvable,
        images_to_decide=judged.images_to_decide,
        deltas=paired.deltas,
        per_class=paired.per_class,
        verdict=judged.verdict,
        reason=judged.reason,
    )
