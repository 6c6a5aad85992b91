"""The verdict on speed and the checks of what was timed: pure functions of the recorded rounds (DESIGN 9).

A round is ``{round, opening, order, samples_ms, repeated_ms, fresh_ms, tags}``: one turn of one lane. Two lanes are
compared in the rounds that both took part in, by the log of the ratio of their medians, so that slow drift of the host
cancels. What a newly opened session changes does not cancel in rounds: it is seen between openings only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from bench.results import TimingCheck

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array

Rounds: TypeAlias = "Sequence[Mapping[str, Any]]"
SpeedWord = Literal["faster", "slower", "same", "undecided"]

BAND = 0.03
"""Ratios within 1 / (1 + BAND) and 1 + BAND are the same speed."""
MIN_ROUNDS = 10
MIN_OPENINGS = 3
OPENING_SD = 0.007
"""Standard deviation of a log ratio between openings that is assumed at least. Creating the sessions anew moved the
ratio of a cell to itself by 0.65 to 0.73 % (reference: experiments, A/A timing); few openings may show less by luck."""
RESAMPLES = 2000
REPEAT_LIMIT = 1.10
"""MLPerf's TEST04: a runtime may not be more than 10 % faster on an input that it has seen."""
MIN_PAIRS = 6
"""Fewer pairs than this have no 95 % interval of their median (2 x 0.5^5 is above 0.05)."""
NOISE_FACTOR = 10.0
RELATIVE_FLOOR = 1e-5
"""Of the rms of an output: relative noise of 1e-5 moves AP by at most 0.00001 (reference: experiments, noise of AP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How fast a candidate is against its reference."""

    verdict: SpeedWord
    ratio: float | None
    """Reference / candidate; above 1 the candidate is faster. None when no round is shared."""
    ci95: tuple[float, float] | None
    reason: str | None
    """Why it is undecided."""
    rounds: int
    openings: int


def judge_speed(reference: Rounds, candidate: Rounds, *, band: float = BAND, seed: int = 0) -> Judged:
    """Inside the band: same; wholly outside: faster or slower; else, or on too little, undecided.

    An interval that excludes 1 decides nothing by itself. NaN latencies give no ratio and no verdict.
    """
    groups = log_ratios(reference, candidate)
    rounds, openings = sum(map(len, groups)), len(groups)
    if rounds == 0:
        return _undecided("No round was shared with the reference.", None, None, 0, 0)
    ratio, interval = median_interval(groups, floor_sd=OPENING_SD, seed=seed)
    if not all(math.isfinite(v) and v > 0 for v in (ratio, *interval)):
        return _undecided("A latency is not a positive finite number.", None, None, rounds, openings)
    if rounds < MIN_ROUNDS:
        reason = f"{rounds} rounds are too few for a verdict; at least {MIN_ROUNDS} are needed."
        return _undecided(reason, ratio, interval, rounds, openings)
    if openings < MIN_OPENINGS:
        reason = (
            f"{openings} opening{'s' if openings > 1 else ''} cannot show what opening the sessions anew changes; "
            f"at least {MIN_OPENINGS} are needed."
        )
        return _undecided(reason, ratio, interval, rounds, openings)
    if (trend := _trend(groups, band)) is not None:
        reason = (
            f"Within an opening the ratio moves by {100 * math.expm1(trend):+.0f} % from the first rounds to the last: "
            "one of the two is still changing while it is timed."
        )
        return _undecided(reason, ratio, interval, rounds, openings)
    low, high = 1 / (1 + band), 1 + band
    word: SpeedWord | None = None
    if low <= interval[0] and interval[1] <= high:
        word = "same"
    elif interval[0] > high:
        word = "faster"
    elif interval[1] < low:
        word = "slower"
    if word is None:
        reason = (
            f"The interval [{interval[0]:.3f}, {interval[1]:.3f}] lies neither inside nor outside the band "
            f"[{low:.3f}, {high:.3f}]."
        )
        return _undecided(reason, ratio, interval, rounds, openings)
    return Judged(verdict=word, ratio=ratio, ci95=interval, reason=None, rounds=rounds, openings=openings)


def log_ratios(reference: Rounds, candidate: Rounds) -> list[Array]:
    """Log of reference median / candidate median of every shared round, one array per opening, in order."""
    theirs = {r["round"]: r for r in reference}
    groups: dict[int, list[float]] = {}
    for mine in candidate:
        other = theirs.get(mine["round"])
        if other is not None and other["samples_ms"] and mine["samples_ms"]:
            pair = _log(np.median(other["samples_ms"])) - _log(np.median(mine["samples_ms"]))
            groups.setdefault(int(mine.get("opening", 1)), []).append(pair)
    return [np.array(groups[key]) for key in sorted(groups)]


def median_interval(
    groups: Sequence[Array], *, floor_sd: float = 0.0, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """The exponential of the median of all log ratios, and its 95 % interval over openings and rounds.

    Two-level bootstrap: openings are drawn with replacement, then rounds within each. With k openings the deviations
    are stretched by sqrt(k / (k - 1)), the part that resampling few groups misses, and are at least those of a normal
    distribution with ``floor_sd`` between openings. Simulated over normal openings (sd 0.7 %) with t(3) rounds (sd 1
    to 3 %), 4 x 5 to 12 x 5: 96 to 98 % of these intervals hold the truth; without stretch and floor 89 to 98 %.

    Args:
        groups: log ratios per opening.
        floor_sd: least standard deviation between openings that is assumed.
        seed: of the resampling.
        resamples: number of bootstrap samples.
    """
    point = float(np.median(np.concatenate(groups)))
    if not np.isfinite(np.concatenate(groups)).all():
        return math.exp(point) if math.isfinite(point) else math.nan, (math.nan, math.nan)
    generator = np.random.default_rng(seed)
    count = len(groups)
    sizes = np.array([g.size for g in groups])
    padded = np.full((count, sizes.max()), np.nan)
    for row, group in zip(padded, groups, strict=True):
        row[: group.size] = group
    openings = generator.integers(count, size=(resamples, count))
    rounds = (generator.random((resamples, count, sizes.max())) * sizes[openings][..., None]).astype(np.intp)
    drawn = padded[openings[..., None], rounds]
    drawn[np.arange(sizes.max()) >= sizes[openings][..., None]] = np.nan  # an opening gives as many rounds as it had
    medians = np.nanmedian(drawn.reshape(resamples, -1), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    stretch = math.sqrt(count / (count - 1)) if count > 1 else 1.0
    least = 1.96 * floor_sd / math.sqrt(count)
    below, above = max(stretch * (point - low), least), max(stretch * (high - point), least)
    return math.exp(point), (math.exp(point - below), math.exp(point + above))


def check_repeated_input(rounds: Rounds, *, limit: float = REPEAT_LIMIT) -> TimingCheck:
    """Is the runtime faster on an input that it has just seen than on one that it never saw?

    Failed when the lower end of the interval of fresh / repeated lies above ``limit``; it could not be checked when the
    interval holds the limit, or on fewer than ``MIN_PAIRS`` pairs.
    """
    groups: dict[int, list[float]] = {}
    for r in rounds:
        if r.get("fresh_ms") and r.get("repeated_ms"):
            pair = _log(np.median(r["fresh_ms"])) - _log(np.median(r["repeated_ms"]))
            groups.setdefault(int(r.get("opening", 1)), []).append(pair)
    pairs = sum(map(len, groups.values()))

    def check(passed: bool | None, value: float | None, explain: str) -> TimingCheck:
        return TimingCheck(name="repeated input", passed=passed, value=value, limit=limit, explain=explain)

    if pairs == 0:
        return check(None, None, "No input was repeated: there were no rounds, or no input that can be varied.")
    ratio, (low, high) = median_interval([np.array(groups[k]) for k in sorted(groups)])
    words = f"{ratio:.2f} times as fast [{low:.2f}, {high:.2f}] on an input seen before, over {pairs} pairs"
    if pairs < MIN_PAIRS:
        return check(None, ratio, f"{pairs} pairs are too few; at least {MIN_PAIRS} are needed ({words}).")
    if math.isnan(low):
        return check(False, ratio, "A latency of the repeated input is not a positive finite number.")
    if low > limit:
        return check(False, ratio, f"Looks like cached results: {words}; at most {limit:g} is allowed.")
    if high > limit:
        return check(None, ratio, f"Too noisy to tell: {words}; the limit is {limit:g}.")
    return check(True, ratio, f"{words[0].upper()}{words[1:]}.")


def output_limits(kept: Sequence[Mapping[str, Array]], repeat_noise: Mapping[str, float]) -> dict[str, float]:
    """Allowed largest difference of each output between the accuracy pass and the timed steps.

    The larger of ten times the backend's own repeat noise and 1e-5 of the output's rms. An infinite limit marks an
    output that differs so much from run to run that nothing could be told: noise above a hundredth of its rms.

    Args:
        kept: raw outputs of the accuracy pass, one per kept batch.
        repeat_noise: output -> largest absolute difference when the same batches are run again.
    """
    limits = {}
    for name, noise in repeat_noise.items():
        flat = np.concatenate([np.asarray(k[name], np.float64).ravel() for k in kept])
        rms = float(np.sqrt(np.mean(flat**2))) if flat.size else 0.0
        limits[name] = math.inf if noise > 0.01 * rms else max(NOISE_FACTOR * noise, RELATIVE_FLOOR * rms)
    return limits


def check_timed_outputs(found: Rounds, limits: Mapping[str, float]) -> TimingCheck:
    """Do outputs fetched between timed steps equal those of the accuracy pass?

    Args:
        found: ``{round, differences}`` of every fetch; ``differences`` maps an output to its largest absolute
            difference, NaN when either side is not finite or the shapes differ. NaN fails.
        limits: of ``output_limits``.
    """

    def check(passed: bool | None, value: float | None, limit: float | None, explain: str) -> TimingCheck:
        return TimingCheck(name="timed outputs", passed=passed, value=value, limit=limit, explain=explain)

    if not limits or not any(f["differences"] for f in found):
        return check(None, None, None, "No outputs of timed steps could be compared with the accuracy pass.")
    loose = sorted(name for name, limit in limits.items() if math.isinf(limit))
    if loose:
        explain = f"Output {loose[0]} differs from run to run by more than 1 % of its rms: nothing could be told."
        return check(None, None, None, explain)
    worst: tuple[float, str, float, Any] = (-1.0, "", 0.0, None)
    for entry in found:
        for name, value in entry["differences"].items():
            limit = limits.get(name, math.nan)
            excess = _excess(value, limit)
            if excess > worst[0]:
                worst = (excess, name, value, entry["round"])
    excess, name, value, number = worst
    where = f"{name} in round {number} of {found[-1]['round']}"
    if excess > 1.0:
        bad = math.isnan(value) or math.isnan(limits[name])
        how = "are not finite or of another shape" if bad else f"differ by {value:.3g}"
        explain = f"Timed outputs are not those of the accuracy pass: {where} {how}, allowed {limits[name]:.3g}."
        return check(False, value, limits[name], explain)
    explain = (
        f"{len(found)} fetches between timed steps gave the outputs of the accuracy pass; worst {value:.3g}, {where}."
    )
    return check(True, value, limits[name], explain)


def max_difference(got: Array | None, expected: Array) -> float:
    """Largest absolute difference; NaN when one is missing, not finite, or of another shape."""
    if got is None or got.shape != expected.shape:
        return math.nan
    if got.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    return float(difference.max()) if np.isfinite(difference).all() else math.nan


def _undecided(
    reason: str, ratio: float | None, ci95: tuple[float, float] | None, rounds: int, openings: int
) -> Judged:
    return Judged(verdict="undecided", ratio=ratio, ci95=ci95, reason=reason, rounds=rounds, openings=openings)


def _trend(groups: Sequence[Array], band: float) -> float | None:
    """How far the log ratio moves from the first to the second half of an opening, when that is beyond the band.

    Beyond it: the 99 % t interval of the movements of at least ``MIN_OPENINGS`` openings lies wholly outside.
    """
    halves = [(g[: g.size // 2], g[g.size - g.size // 2 :]) for g in groups if g.size >= 2]
    if len(halves) < MIN_OPENINGS:
        return None
    from scipy.special import stdtrit

    moved = np.array([float(np.median(late) - np.median(early)) for early, late in halves])
    centre = float(moved.mean())
    half = float(stdtrit(moved.size - 1, 0.995)) * float(moved.std(ddof=1)) / math.sqrt(moved.size)
    return centre if abs(centre) - half > math.log1p(band) else None


def _excess(value: float, limit: float) -> float:
    """How many times the limit; infinite for NaN, and for any difference where none is allowed."""
    if math.isnan(value) or math.isnan(limit):
        return math.inf
    if limit == 0.0:
        return math.inf if value > 0 else 0.0
    return value / limit


def _log(value: Any) -> float:
    number = float(value)
    return math.log(number) if number > 0 else math.nan
