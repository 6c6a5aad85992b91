"""Section 7: samples by round and their distribution, as paths of one stretchable picture each. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.report import numbers
from bench.report.rounds import kind_of, rounds_of, slows_the_clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.cells import CellView, Group, Run
    from bench.report.rounds import Round

STRIP_WIDTH, STRIP_HEIGHT = 600.0, 100.0
DENSITY_WIDTH = 300.0
_LOW, _HIGH = 0.9, 1.4
"""Smallest vertical range of a strip: latency over the cell's own median."""
_LOWEST, _HIGHEST = 0.3, 3.0
_NAMED_ROUNDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One cell's timing."""

    label: str
    note: str
    """``41.8 ms, p99 48.9``."""
    dots: str
    """Path of points of kept rounds."""
    tagged_dots: str
    """Path of points of rounds in which the clock was low."""
    bands: tuple[tuple[float, float, str, bool], ...]
    """Left edge, width, tags and "the clock was low" of tagged rounds."""
    openings: str
    """Path of lines where the lane was opened anew."""
    median_y: float
    density: str
    p50_x: float
    ticks: str
    """Path of short ticks at p90 and p99."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagLine:
    """One kind of tag in one model."""

    kind: str
    clock: bool
    text: str
    """``round 3 (31 %)``."""

    @property
    def title(self) -> str:
        """The kind at the start of a line."""
        spelled = re.sub(r"\b(cpu|gpu)\b", lambda found: found.group().upper(), self.kind)
        return spelled[:1].upper() + spelled[1:]


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
    tags: tuple[TagLine, ...]
    of_rounds: int | None
    """How many rounds there were, where the file keeps fewer."""


def timings_of(run: Run) -> list[Timing]:
    """One block per model that has samples."""
    found = []
    for group in run.groups:
        cells = [cell for cell in group.cells if rounds_of(cell)]
        if cells:
            found.append(_timing(group, cells))
    return found


def _timing(group: Group, cells: Sequence[CellView]) -> Timing:
    rounds = {cell.anchor: rounds_of(cell) for cell in cells}
    columns = sorted({r.number for found in rounds.values() for r in found})
    count = len(columns)
    tops = [np.percentile([s for r in found for s in r.samples_ms], 98) for found in rounds.values()]
    step = _nice_step(float(max(tops)) * 1.06 / 4)
    axis_ms = step * 4
    every = max(1, math.ceil(count / 12))
    round_ticks = tuple(
        ((i + 0.5) / count * 100, str(columns[i]), (i // every) % 2 == 1) for i in range(0, count, every)
    )  # fmt: skip
    ms_ticks = tuple((i * 25.0, f"{step * i:g}" + (" ms" if i == 4 else ""), i % 2 == 1) for i in range(5))
    low, high = _vertical_range(list(rounds.values()))
    run_in_all = max(int(cell.raw["speed"].get("rounds_run") or 0) for cell in cells)
    return Timing(
        title=group.title, rounds=count, round_ticks=round_ticks, ms_ticks=ms_ticks, low=low, high=high,
        strips=tuple(_strip(cell, rounds[cell.anchor], columns, axis_ms, low, high) for cell in cells),
        tags=_tag_lines(list(rounds.values())), of_rounds=run_in_all if run_in_all > count else None,
    )  # fmt: skip


def _tag_lines(rounds: Sequence[Sequence[Round]]) -> tuple[TagLine, ...]:
    """What each kind of tag says, and of which rounds; the clock's first."""
    found: dict[str, dict[int, list[str]]] = {}
    for one_round in (r for cell in rounds for r in cell):
        for tag in one_round.tags:
            found.setdefault(kind_of(tag), {}).setdefault(one_round.number, []).append(tag)
    lines = []
    for kind, by_round in found.items():
        if len(by_round) > _NAMED_ROUNDS:
            text = f"{len(by_round)} rounds"
        else:
            parts = [_with_details(number, kind, tags) for number, tags in sorted(by_round.items())]
            text = f"{'round' if len(parts) == 1 else 'rounds'} {numbers.in_words(parts)}"
        lines.append(TagLine(kind=kind, clock=slows_the_clock(kind), text=text))
    return tuple(sorted(lines, key=lambda line: (not line.clock, line.kind)))


def _with_details(number: int, kind: str, tags: Sequence[str]) -> str:
    """``3 (31 %)``, ``3 (12 % to 31 %)``: the tags of one round differ by cell."""
    details = [tag[len(kind) :].strip() for tag in dict.fromkeys(tags)]
    details = sorted((d for d in details if d), key=lambda d: (len(d), d))
    if not details:
        return str(number)
    return f"{number} ({details[0]})" if len(details) == 1 else f"{number} ({details[0]} to {details[-1]})"


def _vertical_range(rounds: Sequence[Sequence[Round]]) -> tuple[float, float]:
    """Wide enough for nine samples in ten of every cell, to one decimal."""
    low, high = _LOW, _HIGH
    for found in rounds:
        samples = [s for r in found for s in r.samples_ms]
        ends = np.percentile(samples, [5, 95]) / np.median(samples)
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return max(math.floor(low * 10) / 10, _LOWEST), min(math.ceil(high * 10) / 10, _HIGHEST)


def _nice_step(raw: float) -> float:
    """The next of 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10 times a power of ten."""
    scale = 10.0 ** math.floor(math.log10(raw))
    return next(float(f) * scale for f in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if f * scale >= raw * 0.999)


def _strip(
    cell: CellView, rounds: Sequence[Round], columns: Sequence[int], axis_ms: float, low: float, high: float
) -> Strip:
    samples = [s for r in rounds for s in r.samples_ms]
    median = float(np.median(samples))
    latency = cell.raw["speed"]["latency_ms"]
    width = STRIP_WIDTH / len(columns)
    dots: list[str] = []
    slowed: list[str] = []
    bands: list[tuple[float, float, str, bool]] = []
    openings = []
    for before, one_round in zip([None, *rounds], rounds, strict=False):
        left = columns.index(one_round.number) * width
        clock = any(slows_the_clock(tag) for tag in one_round.tags)
        for place, value in enumerate(one_round.samples_ms):
            x = left + width * (0.16 + 0.68 * (place + 0.5) / len(one_round.samples_ms))
            (slowed if clock else dots).append(f"M{x:.1f} {_y(value / median, low, high):.0f}h0")
        if one_round.tags:
            bands.append((round(left, 1), round(width, 1), ", ".join(one_round.tags), clock))
        if before and before.opening != one_round.opening:
            openings.append(f"M{left:.1f} 0V100")
    ticks = [latency.get(name) for name in ("p90", "p99")]
    marks = [f"M{min(float(t) / axis_ms, 1) * DENSITY_WIDTH:.1f} 55V100" for t in ticks if t is not None]
    p50 = float(latency["p50"])
    note = f"{numbers.three_digits(p50)} ms"
    if latency.get("p99") is not None:
        note += f", p99 {numbers.three_digits(float(latency['p99']))}"
    return Strip(
        label=cell.label, note=note, dots="".join(dots), tagged_dots="".join(slowed),
        bands=tuple(bands), openings="".join(openings),
        median_y=round(_y(1.0, low, high), 1), density=_density(samples, axis_ms),
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
