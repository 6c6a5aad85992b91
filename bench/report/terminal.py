"""The run as a table of at most 100 columns, with the reasons below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from rich.cells import cell_len

from bench.report import answer, numbers, tables
from bench.report.cells import read_run
from bench.report.noise import rounds_sentence
from bench.report.paper import MAX_COLUMNS, Paper
from bench.report.poses import print_poses
from bench.report.precision_text import print_lower
from bench.report.provenance import reference_of
from bench.report.resolution import checks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from bench.report.cells import CellView, Group, Run

_GLYPHS = {"passed": "✓", "failed": "✕", "error": "!", "undecided": "?", "waived": "⚑", "skipped": "–",
           "unsupported": "∅", "reference": "·"}  # fmt: skip
_STYLES = {"passed": "cyan", "failed": "bold red", "error": "bold red", "undecided": "yellow", "waived": "yellow",
           "skipped": "dim", "unsupported": "dim", "reference": "dim"}  # fmt: skip
_RIGHT = ("p50", "p90", "p99")
_Row: TypeAlias = "tuple[Group, CellView, list[str]]"


def print_table(suite: Mapping[str, Any], console: Console, report_path: str | None = None) -> None:
    """Print the answer, a table per model, what needs a person, and the exit sentence.

    Args:
        suite: a mapping that is valid under ``schemas/suite_result.json``.
        console: where to print. Without UTF-8 everything is written in ASCII; output that is no terminal gets 100
            columns whatever its width, because a pipe has none.
        report_path: path of the page, printed before the last line.
    """
    run = read_run(suite)
    width = min(console.width, MAX_COLUMNS) if console.is_terminal else MAX_COLUMNS
    paper = Paper(console, width)
    _print_answer(run, paper)
    _print_tables(run, paper)
    _print_attention(run, paper)
    print_lower(run, paper)
    print_poses(run, paper)
    _print_tail(run, paper, report_path)


def _print_answer(run: Run, paper: Paper) -> None:
    counted = ", ".join(str(count) for count in answer.tally(run))
    paper.wrapped(f"{answer.headline(run)}{f' {counted}.' if counted else ''}", "bold")
    if run.suite["interrupted"]:
        paper.wrapped("The run was interrupted; finished cells are shown.", "yellow")
    if run.suite.get("aborted"):
        paper.wrapped(f"The run ended early: {run.suite['aborted']} Finished cells are shown.", "bold red")
    found = [answer.best(group) for group in run.groups if group.candidates]
    if not found:
        return
    paper.line("Fastest that is still the same:")
    names = min(max(cell_len(best.group.title) for best in found), 28)
    labels = max([cell_len(best.cell.label) for best in found if best.cell], default=0)
    for best in found:
        row = (
            _best_row(best, labels, run.no_interval) if best.cell else "none: no candidate is both the same and faster"
        )
        name = _pad(_shorten(paper.clean(best.group.title), names), names)
        for index, part in enumerate(paper.fold(row, paper.width - names - 4)):
            paper.line("  ", name if index == 0 else " " * names, "  ", part)
        nearest = answer.nearest_facts(best)
        if nearest:
            paper.wrapped(nearest, "dim", indent=names + 4)


def _best_row(best: answer.Best, width: int, no_interval: str) -> str:
    """``openvino int8  2.31× torch fp32  AP −0.002 [−0.006, +0.001]``."""
    cell = best.cell
    if cell is None:
        return ""
    parts = [_pad(cell.label, width), f"{numbers.ratio(cell.ratio or 0.0)} {best.group.reference_label}"]
    if cell.delta is not None:
        ends = f" {numbers.interval(cell.delta_ci95, 3, sign=True)}" if cell.delta_ci95 else f", {no_interval}"
        parts.append(f"AP {numbers.delta_short(cell.delta):>6}{ends}")
    return "  ".join(parts)


def _print_tables(run: Run, paper: Paper) -> None:
    """One table per model, all with the same columns and widths."""
    heads = _heads(run)
    rows = [(group, cell, texts) for group in run.groups for cell, texts in _rows(group, run)]
    heads, rows = _fit(heads, rows, paper)
    widths = _widths(heads, rows, paper)
    for group in run.groups:
        images = "" if group.images is None else f", {numbers.plural(group.images, 'image')}"
        ap = group.reference.ap if group.reference else None
        reference = "" if ap is None else f", reference AP {numbers.fixed(ap, 4)}"
        paper.line()
        paper.wrapped(f"{group.model} on {group.fixtures}{images}{reference}, latency in ms")
        paper.line("  ".join(_align(paper.clean(h), w, h) for h, w in zip(heads, widths, strict=True)))
        paper.line(("─" * (sum(widths) + 2 * (len(widths) - 1)), "dim"))
        for owner, cell, texts in rows:
            if owner is group:
                paper.line(*_row_parts(cell, texts, heads, widths, paper))


def _row_parts(
    cell: CellView, texts: Sequence[str], heads: Sequence[str], widths: Sequence[int], paper: Paper
) -> list[tuple[str, str] | str]:
    """The pieces of one line; the reason of a cell that did not run reaches over its empty columns."""
    parts: list[tuple[str, str] | str] = []
    spill = 0
    for head, text, width in zip(heads, map(paper.clean, texts), widths, strict=True):
        mismatch = text.endswith(paper.clean(" ✕"))
        style = _STYLES[cell.word] if head == "Verdict" or mismatch else ""
        room = max(width - spill, 0)
        parts += [(_align(text, room, head), style), "  "]
        spill = max(spill - width, 0) + max(cell_len(text) - room, 0)
    return parts


def _heads(run: Run) -> list[str]:
    delta = "ΔAP [95 %]" if run.has_intervals else "ΔAP"
    speed = "Speed [95 %]" if run.has_ratio_intervals else "Speed"
    return ["Cell", "Verdict", delta, speed, *_percentiles(run), "Ran"]


def _percentiles(run: Run) -> tuple[str, ...]:
    """The median and the highest percentile that any cell has enough samples for."""
    found = tables.percentiles_of(run)
    return found if len(found) < 3 else (found[0], found[-1])


def _rows(group: Group, run: Run) -> list[tuple[CellView, list[str]]]:
    percentiles = _percentiles(run)
    rows = []
    for cell, row in zip(group.cells, tables.rows_of(group, run, percentiles), strict=True):
        verdict = f"{_GLYPHS[cell.word]} {cell.word}"
        ran = f"{row.ran} ✕" if row.mismatch else "emulated" if cell.emulated else row.ran
        if cell.ran:
            latency = [text or "" for text in row.latency]
            rows.append((cell, [cell.label, verdict, _delta(cell), _speed(cell), *latency, ran]))
        else:
            short = cell.raw["reason_short"] or tables.short_reason(cell.reason) or ""
            rows.append((cell, [cell.label, verdict, short, "", *[""] * len(percentiles), ran]))
    return rows


def _delta(cell: CellView) -> str:
    if cell.role == "reference":
        return " 0"
    if cell.delta is None:
        return ""
    text = numbers.delta(cell.delta)
    text = text if text[0] in f"+{numbers.MINUS}" else f" {text}"
    return f"{text} {numbers.interval(cell.delta_ci95, 4, sign=True)}" if cell.delta_ci95 else text


def _speed(cell: CellView) -> str:
    if cell.role == "reference":
        return f"1{numbers.TIMES}"
    if cell.emulated:
        return "emulated"
    if cell.ratio is None:
        return ""
    text = numbers.ratio(cell.ratio)
    return f"{text} {numbers.interval(cell.ratio_ci95, 2, sign=False)}" if cell.ratio_ci95 else text


def _fit(heads: list[str], rows: list[_Row], paper: Paper) -> tuple[list[str], list[_Row]]:
    """Leave columns out, the least needed first, and shorten the first column, until a line fits."""
    for name in ("p99", "p90", "Ran", "p50"):
        if _excess(heads, rows, paper) <= 0:
            break
        if name in heads:
            at = heads.index(name)
            heads = heads[:at] + heads[at + 1 :]
            rows = [(group, cell, texts[:at] + texts[at + 1 :]) for group, cell, texts in rows]
    excess = _excess(heads, rows, paper)
    if excess > 0:
        room = max(max(cell_len(texts[0]) for _, _, texts in rows) - excess, 8)
        rows = [(group, cell, [_shorten(texts[0], room), *texts[1:]]) for group, cell, texts in rows]
    return heads, rows


def _excess(heads: Sequence[str], rows: Sequence[_Row], paper: Paper) -> int:
    """Columns by which a line is too long."""
    return sum(_widths(heads, rows, paper)) + 2 * (len(heads) - 1) - paper.width


def _widths(heads: Sequence[str], rows: Sequence[_Row], paper: Paper) -> list[int]:
    """Width of each column; reasons of cells that did not run (third column) do not widen theirs."""
    widths = []
    for index, head in enumerate(heads):
        texts = [texts[index] for _, cell, texts in rows if index != 2 or cell.ran]
        widths.append(max(cell_len(paper.clean(text)) for text in [head, *texts]))
    # Without latency columns there may be no room to reach over: the last columns then hold the reason.
    reason = max([cell_len(paper.clean(texts[2])) for _, cell, texts in rows if not cell.ran], default=0)
    last = len(heads) - (1 if heads[-1] == "Ran" else 0)
    room = sum(widths[2:last]) + 2 * (last - 3)
    widths[2] += max(reason - room, 0)
    return widths


def _print_attention(run: Run, paper: Paper) -> None:
    items = answer.needs_person(run)
    if not items:
        return
    paper.line()
    paper.line("Needs a person")
    rows = []
    for item in items:
        labels = ", ".join(cell.label for cell in item.cells)
        rows.append((item, f"{item.cells[0].model} {labels}" if len(run.groups) > 1 else labels))
    status_width = max(len(item.status) for item, _ in rows)
    name_width = min(max(cell_len(name) for _, name in rows), 26)
    text_width = paper.width - status_width - name_width - 8
    for item, name in rows:
        names, words = _fold_names(name, name_width, paper), paper.fold(item.sentence, text_width)
        for index in range(max(len(names), len(words))):
            status = f"{_GLYPHS[item.status]} {item.status}" if index == 0 else ""
            left = names[index] if index < len(names) else ""
            right = words[index] if index < len(words) else ""
            style = _STYLES[item.status]
            paper.line("  ", (_pad(status, status_width + 2), style), "  ", _pad(left, name_width), "  ", right)


def _fold_names(names: str, width: int, paper: Paper) -> list[str]:
    """Break a list of cells between cells where they fit, else between words."""
    lines: list[str] = []
    for name in names.split(", "):
        if lines and cell_len(lines[-1]) + cell_len(name) + 3 <= width:
            lines[-1] += f", {name}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(name)
    return [part for line in lines for part in paper.fold(line, width)]


def _print_tail(run: Run, paper: Paper, report_path: str | None) -> None:
    suite = run.suite
    includes = sorted({cell.raw["speed"]["includes"] for cell in run.cells if cell.raw["speed"]})
    length = numbers.took(suite["started_at"], suite["finished_at"])
    paper.line()
    parts = [*_timing(run), *(f"Latency is {text}." for text in includes)]
    if not run.has_ratio_intervals and includes:
        parts.append("Speeds have no interval yet and are not judged.")
    if run.has_intervals:
        checks = checks_of(run)
        parts += [check.text for check in checks] or ["No cell was scored again by an independent scorer."]
    parts.append(f"Reference {reference_of(run)}. Run {suite['run_id']}{f', {length}' if length else ''}.")
    paper.wrapped(" ".join(parts), "dim")
    if report_path is not None:
        paper.line(f"Report {report_path}")
    code = suite["exit_code"]
    paper.line((answer.exit_sentence(run), "bold red" if code == 1 else "yellow" if code else "bold"))


def _timing(run: Run) -> list[str]:
    """How long was timed and what was tagged, once where models agree; and which speeds stay undecided."""
    told: dict[str, list[str]] = {}
    for group in run.groups:
        sentence = rounds_sentence(group)
        if sentence:
            told.setdefault(sentence, []).append(group.title)
    parts = [f"{text}{f' ({numbers.in_words(names)})' if len(told) > 1 else ''}" for text, names in told.items()]
    found = [f"Timing: {'; '.join(parts)}."] if parts else []
    open_ = [run.name(cell) for cell in run.candidates if cell.speed_verdict == "undecided"]
    if open_:
        found.append(f"Speed undecided: {', '.join(open_) if len(open_) <= 4 else f'{len(open_)} cells'}.")
    return found


def _align(text: str, width: int, head: str) -> str:
    return " " * (width - cell_len(text)) + text if head in _RIGHT else _pad(text, width)


def _pad(text: str, width: int) -> str:
    return text + " " * max(width - cell_len(text), 0)


def _shorten(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[:-1]
    return text + numbers.ELLIPSIS
