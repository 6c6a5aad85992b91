"""How sure a scenario's AP and its difference to clean are: one bootstrap over the images of the clean set.

Every resample draws the clean images with replacement, and each scenario is scored on its own version of the drawn
images: a selecting scenario on those of them that it has, an altering one on the altered ones, each with its own truth.
So whatever an image does to both sides is in both, and nothing is paired that does not belong together:

* altered pixels, same truth: the paired bootstrap of ``bench.scoring``, number for number;
* moved truth: the same images, each AP by its own truth;
* other objects, or a part of the images: the difference of a part and the whole that it is part of. It says how much
  harder that part is, not what anything did to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.ids import positions
from bench.results import StatDelta
from bench.scoring.bootstrap import MIN_IMAGES, resample_weights
from bench.scoring.protocol import RECALL_POINTS, THRESHOLDS
from bench.scoring.significance import percentile_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.scoring import Matched
    from bench.types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """A scenario's AP and its differences to clean, with 95 % percentile intervals."""

    ap_ci95: tuple[float, float] | None
    deltas: Mapping[str, StatDelta]
    """By name of the number; scenario - clean. Numbers of area ranges have no interval."""
    reason: str | None
    """Why there is no interval."""


def uncertainties(
    clean: Matched,
    scenarios: Mapping[str, Matched],
    *,
    resamples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Uncertain]:
    """Intervals of clean and of every scenario, from the same draws.

    Args:
        clean: all images and objects as they are.
        scenarios: by name; each on images of clean, by id.
        resamples: draws of the images; 0: no intervals.
        seed: of the draws.
        progress: called with (resamples done, resamples).

    Returns:
        By name, ``clean`` itself under its own name, with deltas of zero.

    Raises:
        InputError: a scenario has an image that clean does not have.
    """
    matched = {"clean": clean, **{name: m for name, m in scenarios.items() if name != "clean"}}
    reasons = {name: _too_few(clean, of, resamples) for name, of in matched.items()}
    sides = {name: _Side(of, clean.images) for name, of in matched.items()}  # images are checked for all of them
    drawn = {name: side for name, side in sides.items() if reasons[name] is None or name == "clean"}
    draws: dict[str, dict[str, Array]] = {}
    if reasons["clean"] is None:
        draws = _draw(drawn, len(clean.images), resamples=resamples, seed=seed, progress=progress)
    return {
        name: _uncertain(clean, of, draws.get("clean"), draws.get(name), reasons[name]) for name, of in matched.items()
    }


def _too_few(clean: Matched, of: Matched, resamples: int) -> str | None:
    """Why there can be no interval; AP rests on the images that hold an object that counts."""
    if not resamples:
        return "No resamples were asked for."
    held = len(np.unique(of.tables["all"].object_image))
    for count, what in ((len(clean.images), "images"), (held, "images with an object that counts")):
        if count < MIN_IMAGES:
            return f"{count} {what} are too few for an interval; at least {MIN_IMAGES} are needed."
    return None


class _Side:
    """One scenario in the area range of all objects."""

    def __init__(self, matched: Matched, clean_images: Array) -> None:
        from bench.scoring.events import Resampler, compile_events

        self.at = positions(clean_images, matched.images)
        if (self.at < 0).any():
            raise InputError(f"image {matched.images[int(np.argmin(self.at))]} of a scenario is not in the clean set.")
        self.stats = tuple(stat for stat in matched.protocol.stats if stat.area == "all")
        recalls = tuple(stat for stat in self.stats if stat.recall)
        self._resampler = Resampler(compile_events(matched.tables["all"], recalls))
        self._needed = np.zeros((len(matched.class_ap), len(RECALL_POINTS)), np.int64)

    def numbers(self, weights: Array) -> dict[str, float]:
        """Numbers on one draw; weights (I,) int32 of the clean images. NaN where no object that counts was drawn."""
        from bench.scoring.events import needed_points

        own = np.ascontiguousarray(weights[self.at])
        self._resampler.weigh(own)
        totals = self._resampler.totals
        needed_points(totals[:, 0], self._needed)
        self._resampler.precision(own, self._needed)
        present = totals[:, 0] > 0
        if not present.any():
            return {stat.name: float("nan") for stat in self.stats}
        ap, totals = self._resampler.ap[present], totals[present]
        found: dict[str, float] = {}
        column = 1
        for stat in self.stats:
            if stat.recall:
                passes = len(THRESHOLDS) if stat.threshold is None else 1
                found[stat.name] = float((totals[:, column] / (totals[:, 0] * passes)).mean())
                column += 1
            else:
                found[stat.name] = float((ap if stat.threshold is None else ap[:, stat.threshold]).mean())
        return found


def _draw(
    sides: Mapping[str, _Side],
    images: int,
    *,
    resamples: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, dict[str, Array]]:
    """Side -> number -> (B,) float64."""
    found = {name: {stat.name: np.full(resamples, np.nan) for stat in side.stats} for name, side in sides.items()}
    step = max(resamples // 100, 1)
    for b, weights in enumerate(resample_weights(images, resamples, seed)):
        for name, side in sides.items():
            for number, value in side.numbers(weights).items():
                found[name][number][b] = value
        if progress is not None and ((b + 1) % step == 0 or b + 1 == resamples):
            progress(b + 1, resamples)
    return found


def _uncertain(
    clean: Matched,
    of: Matched,
    clean_draws: Mapping[str, Array] | None,
    draws: Mapping[str, Array] | None,
    reason: str | None,
) -> Uncertain:
    deltas = {}
    for name, value in of.stats.items():
        base = clean.stats[name]
        interval = None
        if reason is None and clean_draws is not None and draws is not None and name in draws and of is not clean:
            interval = percentile_interval(draws[name] - clean_draws[name])
        deltas[name] = StatDelta(
            value=None if value is None or base is None else value - base,
            ci95=None if interval is None else interval.ci95,
        )
    own = None if reason is not None or draws is None else percentile_interval(draws["AP"])
    return Uncertain(ap_ci95=None if own is None else own.ci95, deltas=deltas, reason=reason)
