"""Section 7: samples by round and their distribution, as paths of one stretchable picture each. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import numbers
from bench.report.evidence import flat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Group, Run

STRIP_WIDTH, STRIP_HEIGHT = 600.0, 100.0
DENSITY_WIDTH = 300.0
_LOW, _HIGH = 0.9, 1.4
"""Smallest vertical range of a strip: latency over the cell's own median."""
_LOWEST, _HIGHEST = 0.3, 3.0
STEADY, MOVED = 0.05, 0.15
"""Spread of round medians up to which timing is called clean, and from which it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One cell's timing."""

    label: str
    note: str
    """``41.8 ms, p99 48.9``."""
    dots: str
    """Path of points of kept rounds."""
    tagged_dots: str
    """Path of points of tagged rounds."""
    bands: tuple[tuple[float, float, str], ...]
    """Left edge, width and tag of tagged rounds."""
    median_y: float
    density: str
    p50_x: float
    ticks: str
    """Path of short ticks at p90 and p99."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One model's timing."""

    title: str
    rounds: int
    round_ticks: tuple[tuple[float, str, bool], ...]
    """Left in percent, text, and whether a phone leaves it out."""
    ms_ticks: tuple[tuple[float, str, bool], ...]
    low: float
    """Vertical range of the strips."""
    high: float
    strips: tuple[Strip, ...]


def timings_of(run: Run) -> list[Timing]:
    """One block per model that has samples."""
    found = []
    for group in run.groups:
        cells = [cell for cell in group.cells if _rounds(cell)]
        if cells:
            found.append(_timing(group, cells))
    return found


def timing_finding(run: Run) -> str:
    """Was the timing clean: by tags where rounds carry them, and by how far round medians moved within a cell."""
    spreads = [(spread, cell) for cell in run.cells if (spread := _spread(cell)) is not None]
    if not any(cell.raw["speed"] for cell in run.cells):
        return "Nothing was timed."
    if not spreads:
        return "Unknown: this file keeps no samples by round."
    worst, cell = max(spreads, key=lambda item: item[0])
    tags = sorted({tag for c in run.cells for r in _rounds(c) for tag in _tags(r)})
    word = "Yes" if worst <= STEADY and not tags else "Mostly" if worst <= MOVED else "No"
    where = f"{numbers.percent(worst)} ({run.name(cell)})"
    text = f"{word}: between the calmest and the slowest tenth of rounds, a cell’s median moved by at most {where}."
    if word == "No":
        moved = f"the median of {run.name(cell)} moved by {numbers.percent(worst)} between rounds"
        text = f"No: {moved}. Small ratios are not safe."
    return text + (f" Tagged rounds: {numbers.in_words(tags)}." if tags else "")


def noise_of(run: Run) -> tuple[list[str], tuple[str, ...], list[tuple[CellView, tuple[str, ...]]]]:
    """Noise facts: those equal for all timed cells as lines, the others as column names and a row per cell."""
    rows: list[tuple[CellView, dict[str, str]]] = []
    for cell in run.cells:
        noise = (cell.raw["speed"] or {}).get("noise")
        if noise:
            rows.append((cell, dict(line.split(": ", 1) for line in flat(noise) if ": " in line)))
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    values = {name: {row.get(name) for _, row in rows} for name in names}
    common = [f"{name.replace('_', ' ')} {rows[0][1][name]}" for name in names if len(values[name]) == 1]
    shown = [name for name in names if len(values[name]) > 1][:7]
    heads = tuple(name.replace("_", " ") for name in shown)
    dash = "\N{EN DASH}"
    return common, heads, [(cell, tuple(row.get(name, dash) for name in shown)) for cell, row in rows] if shown else []


def _rounds(cell: CellView) -> Sequence[Mapping[str, Any]]:
    """Rounds with at least one finite sample; an emulated cell's latency is shown nowhere."""
    speed = None if cell.emulated else cell.raw["speed"]
    return [r for r in (speed or {}).get("rounds", []) if len(_samples(r))]


def _samples(one_round: Mapping[str, Any]) -> list[float]:
    return [float(s) for s in one_round.get("samples_ms", []) if math.isfinite(float(s)) and float(s) > 0]


def _tags(one_round: Mapping[str, Any]) -> list[str]:
    return [str(tag) for tag in one_round.get("tags") or []]


def _spread(cell: CellView) -> float | None:
    """90th over 10th percentile of round medians, minus one; None below five rounds."""
    medians = [float(np.median(_samples(r))) for r in _rounds(cell)]
    if len(medians) < 5:
        return None
    low, high = (float(end) for end in np.percentile(medians, [10, 90]))
    return high / low - 1


def _timing(group: Group, cells: Sequence[CellView]) -> Timing:
    count = max(len(_rounds(cell)) for cell in cells)
    tops = [np.percentile([s for r in _rounds(cell) for s in _samples(r)], 98) for cell in cells]
    step = _nice_step(float(max(tops)) * 1.06 / 4)
    axis_ms = step * 4
    every = max(1, math.ceil(count / 12))
    round_ticks = tuple(
        ((i + 0.5) / count * 100, str(i + 1), (i // every) % 2 == 1) for i in range(0, count, every)
    )  # fmt: skip
    ms_ticks = tuple((i * 25.0, f"{step * i:g}" + (" ms" if i == 4 else ""), i % 2 == 1) for i in range(5))
    low, high = _vertical_range(cells)
    strips = tuple(_strip(cell, count, axis_ms, low, high) for cell in cells)
    return Timing(
        title=group.title, rounds=count, round_ticks=round_ticks, ms_ticks=ms_ticks, low=low, high=high, strips=strips
    )


def _vertical_range(cells: Sequence[CellView]) -> tuple[float, float]:
    """Wide enough for nine samples in ten of every cell, to one decimal."""
    low, high = _LOW, _HIGH
    for cell in cells:
        samples = [s for r in _rounds(cell) for s in _samples(r)]
        ends = np.percentile(samples, [5, 95]) / np.median(samples)
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return max(math.floor(low * 10) / 10, _LOWEST), min(math.ceil(high * 10) / 10, _HIGHEST)


def _nice_step(raw: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10 times a power of ten."""
    scale = 10.0 ** math.floor(math.log10(raw))
    return next(float(f) * scale for f in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if f * scale >= raw * 0.999)


def _strip(cell: CellView, count: int, axis_ms: float, low: float, high: float) -> Strip:
    rounds = _rounds(cell)
    samples = [s for r in rounds for s in _samples(r)]
    median = float(np.median(samples))
    latency = cell.raw["speed"]["latency_ms"]
    width = STRIP_WIDTH / count
    dots: list[str] = []
    tagged: list[str] = []
    bands = []
    for index, one_round in enumerate(rounds):
        values, tags = _samples(one_round), _tags(one_round)
        target = tagged if tags else dots
        for place, value in enumerate(values):
            x = index * width + width * (0.16 + 0.68 * (place + 0.5) / len(values))
            target.append(f"M{x:.1f} {_y(value / median, low, high):.0f}h0")
        if tags:
            bands.append((round(index * width, 1), round(width, 1), tags[0]))
    ticks = [latency.get(name) for name in ("p90", "p99")]
    marks = [f"M{min(float(t) / axis_ms, 1) * DENSITY_WIDTH:.1f} 55V100" for t in ticks if t is not None]
    p50 = float(latency["p50"])
    note = f"{numbers.three_digits(p50)} ms"
    if latency.get("p99") is not None:
        note += f", p99 {numbers.three_digits(float(latency['p99']))}"
    return Strip(
        label=cell.label,  note=note, dots="".join(dots), tagged_dots="".join(tagged),
        bands=tuple(bands), median_y=round(_y(1.0, low, high), 1), density=_density(samples, axis_ms),
        p50_x=round(min(p50 / axis_ms, 1) * DENSITY_WIDTH, 1), ticks="".join(marks),
    )  # fmt: skip


def _y(relative: float, low: float, high: float) -> float:
    share = (min(max(relative, low), high) - low) / (high - low)
    return 96 - share * 92


def _density(samples: Sequence[float], axis_ms: float) -> str:
    """Closed path of a Gaussian kernel estimate, Silverman's width, at least one step of the drawing."""
    values = np.asarray(samples, np.float64)
    grid = np.linspace(0, axis_ms, 121)
    quartiles = np.percentile(values, [25, 75])
    spread = min(float(values.std()), float(quartiles[1] - quartiles[0]) / 1.34 or float(values.std()))
    width = max(0.9 * spread * len(values) ** -0.2, axis_ms / 150)
    heights = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
    heights = heights / max(float(heights.max()), 1e-12) * 92
    inside = np.flatnonzero(heights > 0.4)
    if not len(inside):
        return ""
    first, last = max(inside[0] - 1, 0), min(inside[-1] + 1, len(grid) - 1)
    x = grid / axis_ms * DENSITY_WIDTH
    line = "".join(f"L{x[i]:.0f} {100 - heights[i]:.0f}" for i in range(first, last + 1))
    return f"M{x[first]:.0f} 100{line}L{x[last]:.0f} 100z"
