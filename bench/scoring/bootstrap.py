"""Paired bootstrap over images: how sure the difference of two systems on the same images is.

A resample draws as many images as the set has, with replacement; an image that is drawn twice counts twice. Both
systems are scored on the same draw, so what the images share cancels: on one synthetic pair of 5,000 images the
difference's standard error was a sixth of a single AP's (reference: scoring 4.6). Images without ground truth take
part.

In a resample the difference of a number is the difference of its means over the categories that the resample has
objects of; they are the same for both systems. Where a resample has no object of a class (or an area range) at all it
is left out of that interval.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.results import ClassDelta, StatDelta
from bench.scoring.protocol import RECALL_POINTS, THRESHOLDS
from bench.scoring.significance import holm, percentile_interval, two_sided_p

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.scoring.events import Resampler
    from bench.scoring.matched import Matched
    from bench.types import Array

MIN_IMAGES = 30
"""Fewer images give no interval."""
MIN_CLASS_IMAGES = 30
"""A class (or small, medium, large) with objects in fewer images gets no interval: simulated, the interval of a class
on 10 to 14 images held a small true loss in 77 % of sets, on 30 to 49 in 92 % (benchmarks/COVERAGE.md)."""
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Differences candidate - reference over the same resamples of the same images."""

    images: int
    resamples: int
    seed: int
    deltas: Mapping[str, StatDelta]
    """By name of the number, all of the task's."""
    standard_errors: Mapping[str, float]
    """Of the numbers that have an interval: standard deviation over the resamples."""
    per_class: tuple[ClassDelta, ...]
    """Classes of the set by category id; p values Holm-adjusted over those that have one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """Differences per resample; NaN where the resample has no object that counts."""

    stats: Mapping[str, Array]
    """(B,) float64 by name."""
    classes: Array
    """(B, C) float64."""


def paired_bootstrap(
    reference: Matched,
    candidate: Matched,
    *,
    resamples: int = 1000,
    seed: int = 0,
    area_ranges: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Paired:
    """Compare two systems on the images of one set.

    Args:
        reference: what is compared against.
        candidate: the system under test.
        resamples: how often the images are drawn.
        seed: of the draws; the same seed and images give the same draws for any pair.
        area_ranges: False leaves out the intervals of APs, APm, APl and their recalls, which take most of the time.
        progress: called with (resamples done, resamples).

    Returns:
        Differences of all numbers; 95 % percentile intervals from ``MIN_IMAGES`` images on.

    Raises:
        InputError: the two were not matched with the same ground truth.
    """
    different = reference.truth.differs_from(candidate.truth)
    if different is not None:
        raise InputError(f"'{reference.truth.name}' and '{candidate.truth.name}' cannot be paired: {different}")
    images = len(reference.images)
    draws = None
    if images >= MIN_IMAGES:
        draws = draw_deltas(
            reference, candidate, resamples=resamples, seed=seed, area_ranges=area_ranges, progress=progress
        )
    deltas, errors = {}, {}
    for stat in reference.protocol.stats:
        value = _difference(reference.stats[stat.name], candidate.stats[stat.name])
        held = len(np.unique(reference.tables[stat.area].object_image))
        enough = held >= (1 if stat.area == "all" else MIN_CLASS_IMAGES)
        interval = None
        if draws is not None and stat.name in draws.stats and enough:
            interval = percentile_interval(draws.stats[stat.name])
        if interval is not None:
            errors[stat.name] = interval.standard_error
        deltas[stat.name] = StatDelta(value=value, ci95=None if interval is None else interval.ci95)
    return Paired(
        images=images,
        resamples=resamples,
        seed=seed,
        deltas=deltas,
        standard_errors=errors,
        per_class=_per_class(reference, candidate, draws),
    )


def resample_weights(images: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield (I,) int32 of each resample: how often an image was drawn. One seed gives one sequence, for every number.

    Images are in ascending order of their ids.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, images, images), minlength=images).astype(np.int32)


def draw_deltas(
    reference: Matched,
    candidate: Matched,
    *,
    resamples: int,
    seed: int,
    area_ranges: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Draws:
    """Draw the differences themselves; arguments of ``paired_bootstrap``."""
    areas = [_AreaPair(reference, candidate, name) for name in _areas(reference, area_ranges=area_ranges)]
    images, categories = len(reference.images), len(reference.class_ap)
    found = {stat.name: np.full(resamples, np.nan) for area in areas for stat in area.stats}
    classes = np.full((resamples, categories), np.nan)
    step = max(resamples // 100, 1)
    for b, weights in enumerate(resample_weights(images, resamples, seed)):
        for area in areas:
            area.weigh(weights)
            for name, value in area.differences().items():
                found[name][b] = value
        classes[b] = areas[0].class_differences()
        if progress is not None and ((b + 1) % step == 0 or b + 1 == resamples):
            progress(b + 1, resamples)
    return Draws(stats=found, classes=classes)


def _areas(matched: Matched, *, area_ranges: bool) -> tuple[str, ...]:
    return matched.protocol.areas if area_ranges else ("all",)


class _AreaPair:
    """Both systems in one area range."""

    def __init__(self, reference: Matched, candidate: Matched, area: str) -> None:
        from bench.scoring.events import Resampler, compile_events

        self.stats = tuple(stat for stat in reference.protocol.stats if stat.area == area)
        self._recalls = tuple(stat for stat in self.stats if stat.recall)
        self._sides: tuple[Resampler, ...] = tuple(
            Resampler(compile_events(side.tables[area], self._recalls)) for side in (reference, candidate)
        )
        self._needed = np.zeros((len(reference.class_ap), len(RECALL_POINTS)), np.int64)
        self._present = np.zeros(len(reference.class_ap), bool)

    def weigh(self, weights: Array) -> None:
        """Score both systems; weights (I,) int32."""
        from bench.scoring.events import needed_points

        for side in self._sides:
            side.weigh(weights)
        objects = self._sides[0].totals[:, 0]
        needed_points(objects, self._needed)
        for side in self._sides:
            side.precision(weights, self._needed)
        self._present = objects > 0

    def differences(self) -> dict[str, float]:
        """Candidate - reference of each number of this area range; NaN when no category is present."""
        if not self._present.any():
            return {stat.name: float("nan") for stat in self.stats}
        first, second = (self._numbers(side) for side in self._sides)
        return {name: second[name] - first[name] for name in first}

    def class_differences(self) -> Array:
        """(C,) AP differences; NaN where the category is absent."""
        first, second = (side.ap.mean(axis=1) for side in self._sides)
        return np.where(self._present, second - first, np.nan)

    def _numbers(self, side: Resampler) -> dict[str, float]:
        ap, totals = side.ap[self._present], side.totals[self._present]
        numbers = {}
        column = 1
        for stat in self.stats:
            if stat.recall:
                passes = len(THRESHOLDS) if stat.threshold is None else 1
                numbers[stat.name] = float((totals[:, column] / (totals[:, 0] * passes)).mean())
                column += 1
            else:
                numbers[stat.name] = float((ap if stat.threshold is None else ap[:, stat.threshold]).mean())
        return numbers


def _difference(reference: float | None, candidate: float | None) -> float | None:
    return None if reference is None or candidate is None else candidate - reference


def _per_class(reference: Matched, candidate: Matched, draws: Draws | None) -> tuple[ClassDelta, ...]:
    table = reference.tables["all"]
    rows: list[ClassDelta] = []
    for k, category_id in enumerate(reference.truth.category_ids.tolist()):
        first, last = table.object_starts[k], table.object_starts[k + 1]
        ap, reference_ap = candidate.class_ap[category_id], reference.class_ap[category_id]
        delta, interval, p_value = _difference(reference_ap, ap), None, None
        if draws is not None and delta is not None and last - first >= MIN_CLASS_IMAGES:
            interval = percentile_interval(draws.classes[:, k])
            p_value = None if interval is None else two_sided_p(draws.classes[:, k], delta, int(last - first))
        rows.append(
            ClassDelta(
                name=reference.truth.category_names[k],
                objects=int(table.object_count[first:last].sum()),
                ap=ap,
                reference_ap=reference_ap,
                delta=delta,
                ci95=None if interval is None else interval.ci95,
                p_value=p_value,
                significant=False,
            )
        )
    adjusted = holm([row.p_value for row in rows])
    return tuple(
        replace(row, p_value=p, significant=p is not None and p <= _SIGNIFICANT)
        for row, p in zip(rows, adjusted, strict=True)
    )
