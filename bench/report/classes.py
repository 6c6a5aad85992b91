"""Section 8: which classes moved, per cell; many classes are folded. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.report.numbers import as_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Run

WIDTH = 400.0
SHOWN, SHOWN_AT_LEAST = 12, 4
"""Rows of a cell that stand open: at most, and filled up with the largest differences to at least, where one moved."""
BARS_WHEN_FOLDED = 12
"""A longer folded table has numbers only: 80 bars per cell are a tenth of the page's budget."""
PAGE_ROWS = 800
"""Rows of the whole page."""
ROW_BYTES = 170
"""Of a folded row, as rendered for class names of 15 characters."""
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class."""

    name: str
    objects: str
    delta: str
    """``−0.0710 [−0.0890, −0.0530]``."""
    p: str
    word: str
    """Colour: ``failed`` for a significant loss, ``passed`` for a significant gain, ``skipped`` otherwise."""
    significant: bool
    ends: tuple[float, float] | None
    """Pixels of 0..``WIDTH``."""
    dot: float | None
    """None where the difference is not finite: then nothing is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """One cell."""

    name: str
    anchor: str
    moved: int
    shown: tuple[ClassRow, ...]
    folded: tuple[ClassRow, ...]
    left_out: int
    """Rows beyond the page's budget."""
    empty: int
    """Classes without a difference: no object of theirs is in the set."""
    zero: float
    axis: str
    """``−0.10 to +0.02``."""
    summary: str
    """Of a cell in which nothing moved: its largest difference."""

    @property
    def folded_bars(self) -> bool:
        """True when the folded table is short enough for bars."""
        return len(self.folded) <= BARS_WHEN_FOLDED


def class_tables_of(run: Run) -> list[ClassTable]:
    """Cells with classes: those in which one moved first, then the others, each in reading order."""
    cells = [cell for cell in run.candidates if _records(cell)]
    room = PAGE_ROWS
    tables = []
    for cell in sorted(cells, key=lambda c: not _moved(c)):
        table = _table(cell, run, room)
        room -= len(table.shown) + len(table.folded)
        tables.append(table)
    return tables


def classes_finding(run: Run) -> str:
    """Which classes carry the loss, or that none moved."""
    cells = [cell for cell in run.candidates if _records(cell)]
    moved = [cell for cell in cells if _moved(cell)]
    if not moved:
        where = f"in any of {numbers.plural(len(cells), 'cell')}" if len(cells) > 1 else f"in {run.name(cells[0])}"
        return f"No class moved significantly {where}."
    if len(moved) == 1:
        text = _one(moved[0], run)
        return f"{text} No other cell has a significant class." if len(cells) > 1 else text
    parts = [f"{run.name(c)} ({len(_moved(c))} of {len(_records(c))})" for c in moved[:_NAMED]]
    more = f" and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
    names = ", ".join(parts) + more if more else numbers.in_words(parts)
    return f"Classes moved significantly in {len(moved)} of {numbers.plural(len(cells), 'cell')}: {names}."


def empty_lines(tables: Sequence[ClassTable]) -> list[str]:
    """How many classes have no difference, told once for cells of one set."""
    counts = sorted({table.empty for table in tables if table.empty})
    if not counts:
        return []
    many = numbers.plural(counts[-1], "class", "classes")
    text = many if len(counts) == 1 else f"{counts[0]} to {many}"
    has, is_ = ("has", "is") if text == "1 class" else ("have", "are")
    return [f"{text} of a set {has} no object in it and {is_} not listed."]


def absent_line(run: Run) -> str:
    """Why the section is not drawn."""
    if not run.has_intervals:
        return "Left out: this file has no differences by class."
    return "Left out: no candidate has differences by class; they need an interval over at least 30 images."


def _one(cell: CellView, run: Run) -> str:
    """``Three of eight classes carry 92 % of the loss of yolov10n onnxrt int8; no other class ...``."""
    moved, records = _moved(cell), _records(cell)
    who = numbers.count_word(len(moved)).capitalize()
    of = f"of {numbers.count_word(len(records))} {'class' if len(records) == 1 else 'classes'}"
    names = f" ({numbers.in_words([str(r['name']) for r in moved])})" if len(moved) <= _NAMED else ""
    share = _share_of_loss(moved, records)
    rest = "; no other class has a significant difference" if len(moved) < len(records) else ""
    if share is not None:
        carry = "carries" if len(moved) == 1 else "carry"
        return f"{who} {of} {carry} {numbers.percent(share)} of the loss of {run.name(cell)}{names}{rest}."
    return f"{who} {of} moved significantly in {run.name(cell)}{names}{rest}."


def _share_of_loss(moved: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> float | None:
    """Part of the summed class loss that the moved classes carry; None where that is no share of 0 to 1."""
    part, whole = (sum(float(r["delta"]) for r in rows) for rows in (moved, records))
    share = part / whole if whole < 0 and math.isfinite(part) else math.nan
    return share if 0 < share <= 1 and all(float(r["delta"]) < 0 for r in moved) else None


def _records(cell: CellView) -> list[Mapping[str, Any]]:
    """Classes with a difference."""
    return [r for r in (cell.raw["accuracy"] or {}).get("per_class") or [] if r["delta"] is not None]


def _moved(cell: CellView) -> list[Mapping[str, Any]]:
    found = [r for r in _records(cell) if r["significant"]]
    return sorted(found, key=_size)


def _size(record: Mapping[str, Any]) -> tuple[float, str]:
    """Sort key: largest difference first, what is not finite before it."""
    value = abs(float(record["delta"]))
    return -value if math.isfinite(value) else -math.inf, record["name"]


def _table(cell: CellView, run: Run, room: int) -> ClassTable:
    records, moved = _records(cell), _moved(cell)
    rest = sorted((r for r in records if not r["significant"]), key=_size)
    low, high = _axis(records)
    open_count = min(max(len(moved), SHOWN_AT_LEAST), SHOWN) if moved else 0
    rows = [_row(record, low, high) for record in [*moved, *rest]]
    kept = rows[: max(room, open_count)]
    largest = (rest or moved)[0]
    return ClassTable(
        name=run.name(cell), anchor=cell.anchor, moved=len(moved), shown=tuple(kept[:open_count]),
        folded=tuple(kept[open_count:]), left_out=len(rows) - len(kept),
        empty=len(cell.raw["accuracy"]["per_class"]) - len(records), zero=round(_x(0.0, low, high), 1),
        axis=f"{numbers.signed(low, 2)} to {numbers.signed(high, 2)}",
        summary=f"largest {numbers.delta(float(largest['delta']))} ({largest['name']})",
    )  # fmt: skip


def _axis(records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Ends in hundredths around everything finite, zero included."""
    ends = [0.0, *(float(v) for r in records for v in (r["delta"], *(r["ci95"] or ())))]
    ends = [v for v in ends if math.isfinite(v)]
    low, high = math.floor(min(ends) * 100) / 100, math.ceil(max(ends) * 100) / 100
    return (low, high) if low < high else (-0.01, 0.01)


def _x(value: float, low: float, high: float) -> float:
    return 6 + (value - low) / (high - low) * (WIDTH - 12)


def _row(record: Mapping[str, Any], low: float, high: float) -> ClassRow:
    value, p_value = float(record["delta"]), as_number(record["p_value"])
    ci95 = [float(end) for end in record["ci95"]] if record["ci95"] else None
    drawn = math.isfinite(value)
    text = numbers.delta(value)
    word = "skipped"
    if record["significant"]:
        word = "passed" if value > 0 else "failed"
    return ClassRow(
        name=record["name"], objects=f"{record['objects']:,}", word=word, significant=record["significant"],
        delta=f"{text} {numbers.interval(ci95, 4, sign=True)}" if ci95 else f"{text}, no interval",
        p="\N{EN DASH}" if p_value is None else "< 0.001" if p_value < 0.001 else numbers.fixed(p_value, 3),
        ends=(round(_x(ci95[0], low, high), 1), round(_x(ci95[1], low, high), 1))
        if drawn and ci95 and all(map(math.isfinite, ci95)) else None,
        dot=round(_x(value, low, high), 1) if drawn else None,
    )  # fmt: skip
