"""Are the poses still the same? Each number's paired interval against a margin, and the worst of the words.

The words are those of ``bench.accuracy``: passed, failed, suspicious (better by more than the margin), undecided. All
numbers must pass, each by its 95 % interval; but one of several is enough to fail, so for ``failed`` and ``suspicious``
the interval is widened by Bonferroni: of 40 pairs of independent errors of equal size on 60 images 7 were called
different without it and 2 with it.

Margins. A share of objects is a recall, so it may lose what AP may (``bench.verdicts.margin_of``). The median of an
error may grow by a part of the reference's, and never by less than the truth of ``shapes`` resolves: turns are drawn in
steps of 0.35 degrees, depths are written in millimetres at about a metre. A smaller change cannot be told from rounding
of the truth.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.numerals import signed
from bench.posing.measuring import MATCH_IOU
from bench.posing.numbers import evaluate, numbers_of
from bench.posing.wording import WORDS, in_unit, joined
from bench.results import PoseNumber, PoseResult
from bench.scoring.bootstrap import MIN_IMAGES, resample_weights
from bench.verdicts import margin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.posing.measuring import Posed
    from bench.posing.numbers import Number
    from bench.types import Array

ERROR_MARGINS = {"fp32": 0.01, "tf32": 0.02, "fp16": 0.02, "bf16": 0.05, "int8": 0.05}
"""Precision -> part of the reference's median error by which a candidate's may be larger. Chosen and not measured: what
a person would still call the same error, and a few times wider than AP's relative margins, as a median of a few
thousand objects scatters more."""
ERROR_FLOORS = {"deg": 0.05, "m": 0.001, "share": 0.001}
"""Unit -> smallest margin of a median: a seventh of a step of the true turns, a millimetre, a millimetre at a metre."""
_RANK = {"failed": 0, "suspicious": 1, "undecided": 2, "passed": 3}


def judge_pose(
    precision: str,
    posed: Posed,
    reference: Posed | None,
    *,
    margins: Mapping[str, float],
    resamples: int,
    seed: int,
) -> PoseResult:
    """Compare a cell's poses with its reference's over the resamples that its AP is judged by.

    Args:
        precision: of the cell; chooses the margins.
        posed: the cell's, measured ``like`` the reference.
        reference: the reference's, on the same set; None marks the reference itself.
        margins: precision -> allowed loss in AP, overriding the rule, for shares too.
        resamples: of the paired bootstrap.
        seed: of the bootstrap.

    Raises:
        InputError: the two were measured on different truths.
    """
    once = [np.ones(len(posed.truth.image_ids), np.int64)]
    values = {name: _number(found[0]) for name, found in evaluate(posed, once).items()}
    broken = {name: int(q.broken.sum()) for name, q in posed.quantities.items() if name not in _SAME_CAUSE}
    wrong = _broken_sentence(broken, int(posed.matched.sum()))
    if reference is None:
        numbers = [_plain(number, values[number.name], "reference") for number in numbers_of(posed)]
        return _result(posed, broken, numbers, "reference" if wrong is None else "failed", wrong)
    _refuse_other(posed, reference)
    theirs = {name: _number(found[0]) for name, found in evaluate(reference, once).items()}
    draws = _draws(posed, reference, resamples, seed)
    several = sum(number.judged for number in numbers_of(posed))
    numbers = [
        _judged(
            number, values[number.name], theirs[number.name], draws.get(number.name), precision, margins, posed, several
        )
        if number.name in theirs
        else _plain(
            number,
            values[number.name],
            "undecided" if number.judged else "not judged",
            "the reference has no such pose.",
        )
        for number in numbers_of(posed)
    ]
    judged = [n for n in numbers if n.verdict in _RANK]
    if wrong is not None:
        return _result(posed, broken, numbers, "failed", wrong)
    if not judged:
        return _result(posed, broken, numbers, "undecided", "No number of the poses could be judged.")
    worst = min(judged, key=lambda n: _RANK[n.verdict])
    reason = None
    if worst.verdict != "passed":
        reason = joined([n.reason for n in judged if n.verdict == worst.verdict and n.reason])
    return _result(posed, broken, numbers, worst.verdict, reason)


_SAME_CAUSE = ("rotation_reversal", "depth_relative", "translation_relative")
"""Quantities that are broken exactly where their plain form is."""


def margin_of_number(number: Number, reference: float, precision: str, margins: Mapping[str, float]) -> float:
    """Allowed change for the worse."""
    if number.higher_is_better:
        return margin_of(precision, reference, margins)
    return max(ERROR_MARGINS.get(precision, ERROR_MARGINS["fp32"]) * reference, ERROR_FLOORS[number.unit])


def _draws(posed: Posed, reference: Posed, resamples: int, seed: int) -> dict[str, Array]:
    """Name -> (B,) differences on the same resamples; empty below ``MIN_IMAGES`` images."""
    images = len(posed.truth.image_ids)
    if images < MIN_IMAGES:
        return {}
    ours = evaluate(posed, resample_weights(images, resamples, seed))
    theirs = evaluate(reference, resample_weights(images, resamples, seed))
    with np.errstate(invalid="ignore"):  # two infinite errors have no difference
        return {name: ours[name] - theirs[name] for name in ours if name in theirs}


def _judged(
    number: Number,
    value: float | None,
    reference: float | None,
    draws: Array | None,
    precision: str,
    margins: Mapping[str, float],
    posed: Posed,
    several: int,
) -> PoseNumber:
    if value is None or reference is None:
        gone = value is None and reference is not None and number.judged
        reason = "Nothing was matched." if gone else None
        return _plain(number, value, "failed" if gone else "not judged", reason, reference)
    delta = value - reference  # NaN of two infinite errors
    ci95 = _interval(draws, 1)
    if not number.judged:
        return _with(number, value, reference, delta, ci95, None, "not judged", None)
    margin = margin_of_number(number, reference, precision, margins)
    if number.higher_is_better and reference <= margin:
        reason = f"the reference's {reference:.4f} is within the margin of {margin:.4f}: a loss could not show."
        return _with(number, value, reference, delta, ci95, margin, "not judged", f"{WORDS[number.name]}: {reason}")
    images = len(posed.truth.image_ids)
    verdict, reason_or_none = _word(number, delta, ci95, _interval(draws, several), margin, images)
    return _with(number, value, reference, delta, ci95, margin, verdict, reason_or_none)


def _interval(draws: Array | None, several: int) -> tuple[float, float] | None:
    """95 % interval of each of ``several`` numbers at once, over the resamples that have an object.

    None when an error of one is infinite, or hardly any has an object.
    """
    if draws is None or np.isinf(draws).any() or np.count_nonzero(~np.isnan(draws)) < 2:
        return None
    low, high = np.percentile(draws[~np.isnan(draws)], [2.5 / several, 100 - 2.5 / several])
    return float(low), float(high)


def _word(
    number: Number,
    delta: float,
    ci95: tuple[float, float] | None,
    wide: tuple[float, float] | None,
    margin: float,
    images: int,
) -> tuple[str, str | None]:
    """Verdict and reason; every comparison that leads to ``passed`` is false for a NaN."""
    told = f"{WORDS[number.name]} {_signed(number, delta)}"
    if not math.isfinite(delta):
        return "failed", f"{told} cannot be judged."
    if ci95 is None or wide is None:
        few = f": {images} images, at least {MIN_IMAGES} are needed" if images < MIN_IMAGES else ""
        return "undecided", f"{told} has no interval{few}."
    gain, surely = (_gain(number, interval) for interval in (ci95, wide))
    low, high = (_signed(number, end) for end in ci95)
    ends = f"{told} [{low}, {high}], margin {_signed(number, margin).lstrip('+')}"
    if surely[0] > margin:
        return "suspicious", f"{ends}: the same model does not get better. Look for other images or another truth."
    if gain[0] >= -margin:
        return "passed", None
    if surely[1] < -margin:
        return "failed", f"{ends}: worse."
    return "undecided", f"{ends}: {images} images cannot decide."


def _gain(number: Number, interval: tuple[float, float]) -> tuple[float, float]:
    """An interval of the difference as one of how much better the candidate is."""
    return interval if number.higher_is_better else (-interval[1], -interval[0])


def _broken_sentence(broken: Mapping[str, int], matched: int) -> str | None:
    found = [f"{count} {name}" for name, count in broken.items() if count]
    if not found:
        return None
    return (
        f"Not finite, or no rotation, in {matched} matched objects: {', '.join(found)}. Each counts as the worst "
        "possible."
    )


def _refuse_other(posed: Posed, reference: Posed) -> None:
    ours, theirs = posed.truth, reference.truth
    same = ours is theirs or all(
        np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True)
        for name in ("image_ids", "image", "category_ids", "boxes_xywh", "rotation", "depth_m")
    )
    if not same:
        raise InputError(f"poses of '{ours.name}' and '{theirs.name}' cannot be paired: their truth differs")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _signed(number: Number, value: float) -> str:
    return in_unit(number.name, number.unit, value, signed)


def _plain(
    number: Number, value: float | None, verdict: str, reason: str | None = None, reference: float | None = None
) -> PoseNumber:
    return _with(number, value, reference, None, None, None, verdict, reason and f"{WORDS[number.name]}: {reason}")


def _with(
    number: Number,
    value: float | None,
    reference: float | None,
    delta: float | None,
    ci95: tuple[float, float] | None,
    margin: float | None,
    verdict: str,
    reason: str | None,
) -> PoseNumber:
    return PoseNumber(
        name=number.name,
        unit=number.unit,
        higher_is_better=number.higher_is_better,
        value=value,
        reference=reference,
        delta=delta,
        ci95=ci95,
        margin=margin,
        verdict=verdict,  # type: ignore[arg-type]
        reason=reason,
    )


def _result(
    posed: Posed, broken: Mapping[str, int], numbers: list[PoseNumber], verdict: str, reason: str | None
) -> PoseResult:
    return PoseResult(
        images=len(posed.truth.image_ids),
        iou=MATCH_IOU,
        objects=int(posed.truth.posed.sum()),
        matched=int(posed.matched.sum()),
        broken=broken,
        numbers=tuple(numbers),
        verdict=verdict,  # type: ignore[arg-type]
        reason=reason,
    )
