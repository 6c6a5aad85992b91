"""Did a cell become slower since the baseline? One interval for the change of its in-run speed ratio (DESIGN 9).

Each run measures a cell against its own reference, so that the host cancels; what is left between runs is a session's
own luck (memory layout, a fresh process), and only repeated runs show how large that is.

With ``b_1 .. b_n`` the log ratios of ``n >= 3`` baseline runs, mean ``b`` and standard deviation ``s`` (``n - 1``
degrees of freedom), and ``c`` the candidate's log ratio with its own in-run interval (half-width ``w``), the change is

    c - b  ±  sqrt(max(t s, w)² + (t s)² / n),    t = t(0.975, n - 1)

For ``w <= t s`` this is the prediction interval for one new observation, ``mean ± t s sqrt(1 + 1/n)`` (Hahn and Meeker,
Statistical Intervals, normal distribution, k = 1 future observation). ``s`` already holds the in-run noise of the
baseline's runs; a candidate that is noisier than they were is given its own half-width instead, on each side.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.across.comparison import SpeedChange

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_RUNS = 3
"""Two runs give a standard deviation with one degree of freedom: t = 12.7, an interval that decides nothing."""
BAND = 0.03
"""A change between 1 / (1 + BAND) and 1 + BAND is no change, unless another band is asked for."""
_MOST_RUNS = 20
"""No more baseline runs than this are ever suggested."""


def judge_speed(
    base_ratios: Sequence[float], cand_ratio: float, cand_ci95: tuple[float, float] | None, *, band: float = BAND
) -> SpeedChange:
    """Judge the candidate's in-run ratio against those of the baseline's runs.

    Args:
        base_ratios: reference p50 / cell p50 of each baseline run, positive; at least one.
        cand_ratio: of the candidate run, positive.
        cand_ci95: its own in-run interval.
        band: change that counts as none, as a share of the base's speed.

    Returns:
        ``same``: the whole interval of the change lies in the band; ``slower`` or ``faster``: wholly outside it;
        else ``undecided``, also with fewer than ``MIN_RUNS`` runs or without an in-run interval.
    """
    logs = [math.log(r) for r in base_ratios]
    runs, mean = len(logs), statistics.fmean(logs)
    shift = math.log(cand_ratio) - mean
    open_ = SpeedChange(
        base_ratio=math.exp(mean),
        cand_ratio=cand_ratio,
        change=math.exp(shift),
        ci95=None,
        runs=runs,
        verdict="undecided",
        reason=None,
    )
    if runs < MIN_RUNS:
        stored = "is 1 stored run" if runs == 1 else f"are {runs} stored runs"
        return replace(open_, reason=f"The spread between runs needs {MIN_RUNS} baseline runs; there {stored}.")
    if cand_ci95 is None:
        return replace(open_, reason="The candidate's ratio has no interval: it was timed for too few rounds.")
    spread = statistics.stdev(logs)
    below, above = (abs(math.log(end) - math.log(cand_ratio)) for end in cand_ci95)
    low, high = shift - _half_width(spread, runs, below), shift + _half_width(spread, runs, above)
    judged = replace(open_, ci95=(math.exp(low), math.exp(high)))
    edge = math.log(1 + band)
    within = f"±{100 * band:g} % band"
    if -edge <= low and high <= edge:
        return replace(judged, verdict="same")
    words = f"Speed {math.exp(shift):.3f} of the base's, [{math.exp(low):.3f}, {math.exp(high):.3f}]"
    if high < -edge:
        return replace(judged, verdict="slower", reason=f"{words}: wholly below the {within}.")
    if low > edge:
        return replace(judged, verdict="faster", reason=f"{words}.")
    remedy = _remedy(abs(edge - abs(shift)), spread, runs, max(below, above))
    return replace(judged, reason=f"{words}, is neither inside nor outside the {within}. {remedy}")


def t_quantile(degrees: int) -> float:
    """0.975 quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def _half_width(spread: float, runs: int, own: float) -> float:
    """Half-width of the change in log units; ``own`` is the candidate's in-run half-width on that side."""
    wide = t_quantile(runs - 1) * spread
    return math.sqrt(max(wide, own) ** 2 + wide**2 / runs)


def _remedy(room: float, spread: float, runs: int, own: float) -> str:
    """What would decide it, if the numbers hold; ``room``: from the change to the band's edge, in log units."""
    for more in range(runs + 1, _MOST_RUNS + 1):
        if _half_width(spread, more, own) < room:
            return f"About {more} baseline runs would decide, if the spread holds."
    words = []
    if own >= room:
        words.append(f"The candidate's own interval of ±{100 * math.expm1(own):.1f} % is too wide: time more rounds.")
    if t_quantile(_MOST_RUNS) * spread >= room:
        words.append(
            f"The baseline's runs differ by {100 * spread:.1f} % (standard deviation): measure on a quieter host."
        )
    return " ".join(words) or "The change sits at the band's edge: more baseline runs are unlikely to decide."
