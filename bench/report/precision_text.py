"""Lower precisions in words: lines for the terminal, and a list and tables for a pull request. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import numbers
from bench.report.mdtext import escape
from bench.report.precision import notes_of, precision_tables_of

if TYPE_CHECKING:
    from bench.report.cells import Run
    from bench.report.paper import Paper
    from bench.report.precision import PrecisionRow, PrecisionTable

MOST_NOTES, MOST_CHARACTERS = 8, 600
_DASH = "\N{EN DASH}"


def print_lower(run: Run, paper: Paper) -> None:
    """Print what is slower than fp32 in its own runtime, or computes a part only; nothing when there is none."""
    notes = [text for group in run.groups for _, text in notes_of(group, run)]
    if not notes:
        return
    paper.line()
    paper.line("Lower precisions")
    for text in notes[:MOST_NOTES]:
        for index, part in enumerate(paper.fold(text, paper.width - 4)):
            paper.line("  " if index == 0 else "    ", part)
    if len(notes) > MOST_NOTES:
        paper.line(f"  and {len(notes) - MOST_NOTES} more, on the page")


def lower_block(run: Run) -> list[str]:
    """The same as a Markdown list."""
    notes = [text for group in run.groups for _, text in notes_of(group, run)]
    if not notes:
        return []
    shown = [f"* {escape(_cut(text, MOST_CHARACTERS))}" for text in notes[:MOST_NOTES]]
    more = len(notes) - len(shown)
    return ["**Lower precisions**", "", *shown, *([f"* and {more} more, below"] if more else [])]


def precision_blocks(run: Run) -> list[list[str]]:
    """A Markdown table per model that was asked for in a lower precision."""
    return [_block(table) for table in precision_tables_of(run)]


def _block(table: PrecisionTable) -> list[str]:
    group = table.group
    return [
        f"**Precisions of {escape(group.model)} on {escape(group.fixtures)}**",
        "",
        f"| Cell | Asked → ran | Evidence | Share computed in it | MB | AP | p50 ms | {numbers.TIMES} own fp32 |",
        "|---|---|---|--:|--:|--:|--:|--:|",
        *(_line(row) for row in table.rows),
    ]


def _line(row: PrecisionRow) -> str:
    cell = row.cell
    ran = f"{cell.precision} → {escape(row.ran)}{' ✕' if row.mismatch else ''}{', emulated' if cell.emulated else ''}"
    head = f"| {escape(cell.label)} | {ran} |"
    if row.why is not None:
        return f"{head} {escape(_cut(row.why, 60))} | | | | | |"
    pace = " ".join(part for part in (row.pace, row.pace_ends) if part)
    word = "not decided" if row.pace_word == "undecided" else row.pace_word
    file = f"{row.file}{f' ({row.file_share})' if row.file_share else ''}" if row.file else _DASH
    columns = (
        escape(row.evidence),
        f"{row.share} {row.share_note}" if row.share else _DASH,
        file,
        row.ap or _DASH,
        row.latency or _DASH,
        ", ".join(part for part in (pace, word) if part) or _DASH,
    )
    return f"{head} {' | '.join(columns)} |"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + numbers.ELLIPSIS
