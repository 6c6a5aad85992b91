"""How far off the poses are: a table per model for the page, lines for the terminal. Nothing without poses. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.posing.wording import WORDS, in_unit
from bench.report import numbers
from bench.report.numbers import as_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.report.cells import CellView, Group, Run
    from bench.report.paper import Paper

_COLUMNS = (
    "rotation_median_deg",
    "rotation_within_10deg",
    "rotation_reversal_median_deg",
    "depth_median_relative",
    "depth_within_5_percent",
    "translation_median_m",
    "translation_within_5_percent",
    "oks_mean_all",
    "pck_10_percent",
)
"""The others are in suite.json."""
CAPTION = (
    "Medians are of the matched objects; shares, and OKS, are of all objects, found or not. Rotation is up to the "
    "symmetry of the class. “Or tilted the other way”: the better of the rotation and its mirror in depth, which look "
    "the same for a flat object under weak perspective. A value that is not finite counts as the worst possible."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseEntry:
    """One number of one cell."""

    name: str
    value: str
    change: str | None
    """Difference with its interval; None for the reference."""
    word: str
    """Its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseRow:
    """One cell."""

    cell: CellView
    word: str
    matched: str
    broken: str | None
    """How many poses are not finite."""
    entries: tuple[PoseEntry | None, ...]
    """One per column of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseTable:
    """The cells of one model that found poses."""

    group: Group
    columns: tuple[str, ...]
    rows: tuple[PoseRow, ...]


def pose_tables_of(run: Run) -> list[PoseTable]:
    """A table per model with poses."""
    tables = []
    for group in run.groups:
        found = [(cell, pose) for cell in group.cells if (pose := cell.raw.get("pose"))]
        present = {n["name"] for _, pose in found for n in pose["numbers"]}
        columns = [name for name in _COLUMNS if name in present]
        if found:
            rows = tuple(_row(cell, pose, columns) for cell, pose in found)
            tables.append(PoseTable(group=group, columns=tuple(WORDS[name] for name in columns), rows=rows))
    return tables


def print_poses(run: Run, paper: Paper) -> None:
    """Print what every cell matched, all numbers of a reference, and those that moved of a cell that did not pass."""
    for table in pose_tables_of(run):
        paper.line()
        paper.line(f"Poses of {table.group.title}")
        for row in table.rows:
            for index, part in enumerate(paper.fold("; ".join(_told(table, row)), paper.width - 4)):
                paper.line("  " if index == 0 else "    ", part)


def _told(table: PoseTable, row: PoseRow) -> list[str]:
    parts = [f"{row.cell.label} {row.word}: {row.matched}", *([] if row.broken is None else [row.broken])]
    within = 0
    for words, entry in zip(table.columns, row.entries, strict=True):
        if entry is None:
            continue
        if entry.word == "passed":
            within += 1
        elif entry.word != "not judged" or entry.change is None:
            parts.append(f"{words} {entry.value}{f' ({entry.change})' if entry.change else ''}")
    if within:
        parts.append(f"{numbers.plural(within, 'number')} within the margin")
    return parts


def _row(cell: CellView, pose: Mapping[str, Any], columns: list[str]) -> PoseRow:
    by_name = {n["name"]: n for n in pose["numbers"]}
    broken = sum(pose["broken"].values())
    return PoseRow(
        cell=cell,
        word=pose["verdict"],
        matched=f"{pose['matched']:,} of {numbers.plural(pose['objects'], 'object')} matched at IoU {pose['iou']:g}",
        broken=f"{numbers.plural(broken, 'value')} not finite" if broken else None,
        entries=tuple(_entry(by_name.get(name)) for name in columns),
    )


def _entry(number: Mapping[str, Any] | None) -> PoseEntry | None:
    if number is None:
        return None
    delta = as_number(number["delta"])
    change = None
    if delta is not None:
        change = f"Δ {_text(number, delta, sign=True)}"
        if number["ci95"] is not None:
            low, high = (as_number(end) or 0.0 for end in number["ci95"])
            change += f" [{_text(number, low, sign=True)}, {_text(number, high, sign=True)}]"
    value = as_number(number["value"])
    return PoseEntry(
        name=number["name"],
        value="none" if value is None else _text(number, value, sign=False),
        change=change,
        word=number["verdict"],
    )


def _text(number: Mapping[str, Any], value: float, *, sign: bool) -> str:
    return in_unit(number["name"], number["unit"], value, numbers.signed if sign else numbers.fixed)
