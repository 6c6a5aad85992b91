"""The verdict matrix and the big table: what stands in each box and row, already in words. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.report import numbers
from bench.report.answer import best, sentence_of
from bench.report.cells import DID_NOT_RUN, backend_rank
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.cells import CellView, Group, Run

_Column: TypeAlias = "tuple[tuple[int, str], str, int, int]"
"""Backend's rank, runtime, precision's rank, batch (0 where all are equal): sorts in reading order."""
BAR_WIDTH, BAR_HEIGHT = 142.0, 15.0
_BAR_LOW, _BAR_HIGH = -3.6, 1.9
"""Drawn range of the AP bar, in units of the cell's own margin: one picture serves 0.1 % and 1 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One box of the verdict matrix."""

    cell: CellView
    label: str
    delta: str | None
    """``−0.0005``; the reference shows its AP."""
    delta_ends: str | None
    """``[−0.0019, +0.0009]``."""
    speed: str | None
    """``1.21×``, ``emulated``."""
    speed_ends: str | None
    bar: Bar | None
    """Drawn in place of ``delta_ends`` where columns are narrow."""
    doubt: bool
    """True when an interval exists and does not decide the speed."""
    note: str | None
    """Why it failed or did not run, at most 22 characters."""
    fastest: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Models x (runtime, precision)."""

    heads: tuple[tuple[str, int], ...]
    """Runtime and how many columns it spans."""
    columns: tuple[str, ...]
    """Precision per column, several where columns are merged."""
    rows: tuple[tuple[Group, tuple[Box | None, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """AP difference in units of the cell's margin, in pixels of the bar."""

    band: tuple[float, float]
    zero: float
    dot: float
    ends: tuple[float, float] | None
    beyond: tuple[bool, bool]
    """Whether each end of the interval lies beyond the drawn range: it then has an arrow and no cap."""
    clipped: bool
    """True when the dot lies beyond the drawn range and stands on its edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the big table; ``None`` is drawn as a dash and sorted last."""

    cell: CellView
    why: str | None
    """Reason of a row without measurements."""
    ap: str | None
    delta: str | None
    delta_note: str | None
    way_out: str | None
    """Of an undecided difference: what would decide. Of a suspicious one: that it is."""
    bar: Bar | None
    latency: tuple[str | None, ...]
    """p50, p90 and p99 in ms, as many as the table has columns."""
    end_to_end: str | None
    fps: str | None
    ratio: str | None
    ratio_note: str | None
    memory: str | None
    startup: str | None
    startup_s: float | None
    file: str | None
    ran: str
    """Precision that ran, ``none`` when nothing did."""
    precision_note: str | None
    mismatch: bool


def matrix_of(run: Run) -> Matrix:
    """Build the matrix; a combination that a model does not have is an empty place.

    Neighbouring columns of one runtime in which no cell ran, and for the same reason, are one column.
    """
    keys = sorted({_column(cell) for cell in run.cells})
    found = []
    for group in run.groups:
        fastest = best(group).cell
        found.append({_column(cell): _box(cell, cell is fastest) for cell in group.cells})
    merged: list[list[_Column]] = []
    for key in keys:
        if merged and merged[-1][0][1] == key[1] and all(_alike(row.get(merged[-1][0]), row.get(key)) for row in found):
            merged[-1].append(key)
        else:
            merged.append([key])
    heads: list[tuple[str, int]] = []
    for (_, runtime, _, _), *_ in merged:
        if heads and heads[-1][0] == runtime:
            heads[-1] = (runtime, heads[-1][1] + 1)
        else:
            heads.append((runtime, 1))
    names = [", ".join(PRECISIONS[rank] + (f" b{batch}" if batch else "") for _, _, rank, batch in m) for m in merged]
    rows = []
    for group, places in zip(run.groups, found, strict=True):
        boxes = [places.get(keys[0]) for keys in merged]
        labelled = [
            replace(box, label=f"{box.cell.runtime} {name}") if box and len(keys) > 1 else box
            for box, name, keys in zip(boxes, names, merged, strict=True)
        ]
        rows.append((group, tuple(labelled)))
    return Matrix(heads=tuple(heads), columns=tuple(names), rows=tuple(rows))


def _alike(first: Box | None, second: Box | None) -> bool:
    """True when neither cell ran, for one reason, or neither exists."""
    if first is None or second is None:
        return first is second
    idle = first.cell.status in DID_NOT_RUN and first.cell.status == second.cell.status
    return idle and first.cell.reason == second.cell.reason


def _column(cell: CellView) -> _Column:
    batch = cell.raw["cell"]["batch"] if cell.label.endswith(f" b{cell.raw['cell']['batch']}") else 0
    return backend_rank(cell.backend), cell.runtime, PRECISIONS.index(cell.precision), batch


def _box(cell: CellView, fastest: bool) -> Box:
    delta = speed = None
    if cell.role == "reference":
        delta = None if cell.ap is None else numbers.fixed(cell.ap, 4)
        speed = f"1{numbers.TIMES}" if cell.ran else None
    elif cell.ran:
        delta = None if cell.delta is None else numbers.delta(cell.delta)
        speed = "emulated" if cell.emulated else None if cell.ratio is None else numbers.ratio(cell.ratio)
    return Box(
        cell=cell, label=cell.label, delta=delta, speed=speed, doubt=cell.speed_verdict == "undecided", fastest=fastest,
        delta_ends=numbers.interval(cell.delta_ci95, 4, sign=True) if delta and cell.delta_ci95 else None,
        speed_ends=numbers.interval(cell.ratio_ci95, 2, sign=False) if speed and cell.ratio_ci95 else None,
        bar=_bar(cell) if delta and cell.delta_ci95 else None, note=_box_note(cell),
    )  # fmt: skip


def _box_note(cell: CellView) -> str | None:
    """Why a cell is not simply passed, at most 22 characters."""
    if cell.status == "undecided" and cell.would_decide:
        count = cell.images_to_decide
        return "delta at the margin" if count is None else f"needs ≈ {numbers.about(count)} images"
    if cell.status == "failed" and cell.suspicious:
        return "suspicious gain"
    note = cell.raw["reason_short"] or (short_reason(cell.reason) if cell.word not in ("passed", "reference") else None)
    return note or ("not judged" if cell.open_question else None)


def short_reason(reason: str | None) -> str | None:
    """The first words of a reason, at most 22 characters."""
    if not reason:
        return None
    if len(reason) <= 22:
        return reason.rstrip(".")
    kept = reason[:22].rsplit(" ", 1)[0].rstrip(" ,.:;")
    return f"{kept[:21]}{numbers.ELLIPSIS}"


def percentiles_of(run: Run) -> tuple[str, ...]:
    """The latency columns that have a value somewhere: p50 always, p90 and p99 only with enough samples."""
    kept = ["p50"]
    for name in ("p90", "p99"):
        timed = [c.raw["speed"]["latency_ms"] for c in run.cells if c.raw["speed"] and not c.emulated]
        if any(latency.get(name) is not None for latency in timed):
            kept.append(name)
    return tuple(kept)


def rows_of(group: Group, run: Run, percentiles: Sequence[str]) -> list[Row]:
    """The rows of one model."""
    return [_row(cell, run, percentiles) for cell in group.cells]


def _row(cell: CellView, run: Run, percentiles: Sequence[str]) -> Row:
    raw = cell.raw
    speed = None if cell.emulated else raw["speed"]
    latency = tuple(_three((speed or {}).get("latency_ms", {}).get(name)) for name in percentiles)
    startup, startup_s = _startup(raw["startup"])
    requested, observed = cell.precision, cell.observed
    return Row(
        cell=cell,
        why=None if cell.ran else sentence_of(cell),
        ap=None if cell.ap is None else numbers.fixed(cell.ap, 4),
        delta=None if cell.delta is None or cell.role == "reference" else numbers.delta(cell.delta),
        delta_note=_delta_note(cell, run),
        way_out="suspicious gain" if cell.suspicious else cell.would_decide,
        bar=_bar(cell),
        latency=latency,
        end_to_end=_three((speed["end_to_end_ms"] or {}).get("p50")) if speed else None,
        fps=_three(speed["fps"]) if speed else None,
        ratio=_ratio(cell),
        ratio_note=_ratio_note(cell),
        memory=_three((raw["memory"] or {}).get("peak_rss_mb")),
        startup=startup,
        startup_s=startup_s,
        file=numbers.megabytes(raw["artifact"]["bytes"] / 1e6) if raw["artifact"] else None,
        ran=observed or "none",
        precision_note="emulated" if cell.emulated else None,
        mismatch=observed is not None and observed != requested and not cell.emulated,
    )


def _three(value: Any) -> str | None:
    return None if value is None else numbers.three_digits(float(value))


def _delta_note(cell: CellView, run: Run) -> str | None:
    if cell.delta is None or cell.role == "reference":
        return None
    if cell.delta_ci95:
        return numbers.interval(cell.delta_ci95, 4, sign=True)
    if cell.accuracy_verdict == "not judged":
        return "shown, not judged"
    return run.no_interval if run.has_intervals else None


def _ratio(cell: CellView) -> str | None:
    if cell.role == "reference":
        return "1" if cell.raw["speed"] else None
    return None if cell.ratio is None else numbers.fixed(cell.ratio, 2)


def _ratio_note(cell: CellView) -> str | None:
    """Word under the ratio; ``emulated`` and verdicts only, so that an unjudged ratio claims nothing."""
    if cell.emulated:
        return "emulated"
    return cell.speed_verdict if cell.speed_verdict in ("faster", "slower", "same", "undecided") else None


def _startup(startup: Any) -> tuple[str | None, float | None]:
    """``0.24 + 0.06``: load and first inference, seconds."""
    if not startup or startup.get("load_s") is None:
        return None, None
    load = float(startup["load_s"])
    if startup.get("first_inference_ms") is None:
        return numbers.fixed(load, 2), load
    first = float(startup["first_inference_ms"]) / 1000
    return f"{numbers.fixed(load, 2)} + {numbers.fixed(first, 2)}", load + first


def _bar(cell: CellView) -> Bar | None:
    """None for the reference and for what is not finite or has no margin."""
    if cell.role == "reference" or cell.delta is None or not cell.margin or not math.isfinite(cell.delta):
        return None
    margin = cell.margin

    def place(value: float) -> float:
        share = (min(max(value / margin, _BAR_LOW), _BAR_HIGH) - _BAR_LOW) / (_BAR_HIGH - _BAR_LOW)
        return round(4 + share * (BAR_WIDTH - 8), 1)

    def is_beyond(value: float) -> bool:
        return not _BAR_LOW <= value / margin <= _BAR_HIGH

    low, high = cell.delta_ci95 or (cell.delta, cell.delta)
    return Bar(
        band=(place(-margin), place(margin)), zero=place(0), dot=place(cell.delta), clipped=is_beyond(cell.delta),
        ends=(place(low), place(high)) if cell.delta_ci95 else None, beyond=(is_beyond(low), is_beyond(high)),
    )  # fmt: skip
