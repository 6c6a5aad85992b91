"""From resampled differences to an interval, a p value, and p values of many classes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Spread of resampled differences."""

    ci95: tuple[float, float]
    standard_error: float


def percentile_interval(draws: Array) -> Interval | None:
    """95 % percentile interval of (B,) differences, NaN left out; None when fewer than two remain."""
    valid = draws[~np.isnan(draws)]
    if len(valid) < 2:
        return None
    low, high = np.percentile(valid, [2.5, 97.5])
    return Interval(ci95=(float(low), float(high)), standard_error=float(valid.std(ddof=1)))


def two_sided_p(draws: Array, value: float, images: int) -> float:
    """Two-sided p value of "no difference" from (B,) resampled differences, NaN left out.

    The larger of two: twice the smaller share of draws on either side of zero, each count raised by one (Davison and
    Hinkley, Bootstrap Methods, 4.2), and Student's t of the difference over the draws' standard deviation. The first
    alone called some class of 8 different in 8.7 % of 400 simulated pairs of equal systems on 200 images, after Holm at
    5 %; both together in 5.0 % (classes on 10 to 150 images).

    When no draw lies beyond zero the share says only "at most 2 / (B + 1)": with 1,000 resamples and 80 classes no
    class could ever be significant after Holm. Then t decides alone, but never below 2^(1 - images): what exchanging
    the two systems image by image could reach.

    Args:
        draws: resampled differences.
        value: the difference of all images.
        images: with objects of the class.
    """
    from scipy.special import stdtr

    valid = draws[~np.isnan(draws)]
    beyond = int(min(np.count_nonzero(valid <= 0), np.count_nonzero(valid >= 0)))
    spread = float(valid.std(ddof=1))
    student = 2.0 * float(stdtr(images - 1, -abs(value) / spread)) if spread > 0 else 0.0
    counted = min(2.0 * (beyond + 1) / (len(valid) + 1), 1.0) if beyond else 2.0 ** (1 - images)
    return max(counted, student)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values for how many there are (Holm 1979); None stays None and does not count."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, index) in enumerate(known):
        highest = max(highest, min(p * (len(known) - place), 1.0))
        adjusted[index] = highest
    return adjusted
