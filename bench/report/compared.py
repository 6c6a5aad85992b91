"""A comparison of two runs in the terminal: the answer, what needs a person, every cell, what changed, the exit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from bench.report import numbers
from bench.report.paper import MAX_COLUMNS, Paper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

_GLYPHS = {
    "passed": "✓",
    "failed": "✕",
    "error": "!",
    "undecided": "?",
    "waived": "⚑",
    "skipped": "–",
    "unsupported": "∅",
}
_STYLES = {"passed": "cyan", "failed": "bold red", "undecided": "yellow", "waived": "yellow", "skipped": "dim",
           "unsupported": "dim"}  # fmt: skip
_EXIT = {
    0: "no cell is worse than the base",
    1: "something is worse than the base, or failed in its own run",
    3: "nothing failed, but something is undecided or nothing was compared",
}


def headline(document: Mapping[str, Any]) -> str:
    """``Not worse than the base in 6 of 8 cells. 1 failed, 1 undecided.``."""
    words = [c["status"] for c in document["cells"]]
    judged = [w for w in words if w not in ("skipped", "unsupported")]
    rest = [f"{words.count(w)} {w}" for w in ("failed", "undecided", "waived") if w in words]
    idle = len(words) - len(judged)
    if idle:
        rest.append(f"{idle} did not run")
    counted = f" {', '.join(rest)}." if rest else ""
    return f"Not worse than the base in {words.count('passed')} of {numbers.plural(len(judged), 'cell')}.{counted}"


def exit_sentence(document: Mapping[str, Any]) -> str:
    """``Exit 3: nothing failed, but ...``."""
    return f"Exit {document['exit_code']}: {_EXIT[document['exit_code']]}."


def print_comparison(document: Mapping[str, Any], console: Console, *, quiet: bool = False) -> None:
    """Print a comparison within 100 columns.

    Args:
        document: valid under ``schemas/compare_result.json``.
        console: where to print; ASCII without UTF-8, 100 columns when it is no terminal.
        quiet: leave out the table and what changed.
    """
    paper = Paper(console, min(console.width, MAX_COLUMNS) if console.is_terminal else MAX_COLUMNS)
    paper.wrapped(headline(document), "bold")
    for name in ("base", "cand"):
        paper.wrapped(_side(document, name), "dim")
    _print_attention(document, paper)
    if not quiet:
        _print_table(document, paper)
        _print_notes(document, paper)
    code = document["exit_code"]
    paper.line()
    paper.line((exit_sentence(document), "bold red" if code == 1 else "yellow" if code else "bold"))


def print_changes(document: Mapping[str, Any], console: Console) -> None:
    """Print a comparison above the run's own table: its answer, its cells and what changed, without an exit line."""
    paper = Paper(console, min(console.width, MAX_COLUMNS) if console.is_terminal else MAX_COLUMNS)
    paper.wrapped(headline(document), "bold")
    paper.wrapped(_side(document, "base"), "dim")
    _print_table(document, paper)
    _print_notes(document, paper)
    paper.line()


def labels_of(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """``onnxrt int8``; model, device, fixtures and batch only where the comparison has several."""
    several = {f: len({c["cell"][f] for c in cells}) > 1 for f in ("model", "device", "fixtures", "batch")}
    labels = []
    for cell in cells:
        c = cell["cell"]
        parts = [c["model"]] if several["model"] else []
        parts += [c["backend"]] + ([c["device"]] if several["device"] else []) + [c["precision"]]
        parts += ([f"on {c['fixtures']}"] if several["fixtures"] else []) + (
            [f"b{c['batch']}"] if several["batch"] else []
        )
        labels.append(" ".join(parts))
    return labels


def _side(document: Mapping[str, Any], name: str) -> str:
    side = document[name]
    runs = f", {numbers.plural(side['runs'], 'stored run')}" if name == "base" else ""
    commit = f", commit {side['commit'][:7]}" if side["commit"] else ""
    word = "Base     " if name == "base" else "Candidate"
    return f"{word} {side['run_id']}{commit}, host {side['host']}, {numbers.stamp(side['finished_at'])}{runs}"


def _print_attention(document: Mapping[str, Any], paper: Paper) -> None:
    cells = document["cells"]
    items: dict[tuple[str, str], list[str]] = {}
    for status in ("failed", "undecided"):
        for cell, label in zip(cells, labels_of(cells), strict=True):
            if cell["status"] == status:
                items.setdefault((status, cell["reason"] or "No reason was recorded."), []).append(label)
    if not items:
        return
    paper.line()
    paper.line("Needs a person")
    for (status, reason), labels in items.items():
        head = f"{_GLYPHS[status]} {status}"
        for row, names in enumerate(paper.fold(", ".join(labels), paper.width - len(head) - 4)):
            paper.line("  ", (head if row == 0 else " " * len(head), _STYLES[status]), "  ", names)
        paper.wrapped(reason, indent=4)


def _print_table(document: Mapping[str, Any], paper: Paper) -> None:
    cells = document["cells"]
    heads = ["Cell", "Verdict", "ΔAP to base [95 %]", "Speed to base [95 %]"]
    rows = [
        [label, _verdict(cell), _delta(cell["accuracy"]), _speed(cell["speed"])]
        for cell, label in zip(cells, labels_of(cells), strict=True)
    ]
    widths = [max(cell_len(paper.clean(row[i])) for row in [heads, *rows]) for i in range(len(heads))]
    widths[0] = max(min(widths[0], paper.width - sum(widths[1:]) - 6), 8)
    paper.line()
    paper.line("  ".join(_fit(paper.clean(h), w) for h, w in zip(heads, widths, strict=True)))
    paper.line(("─" * min(sum(widths) + 6, paper.width), "dim"))
    for cell, row in zip(cells, rows, strict=True):
        parts: list[tuple[str, str] | str] = []
        for i, (text, width) in enumerate(zip(row, widths, strict=True)):
            parts += [(_fit(paper.clean(text), width), _STYLES[cell["status"]] if i == 1 else ""), "  "]
        paper.line(*parts)


def _print_notes(document: Mapping[str, Any], paper: Paper) -> None:
    if not document["notes"]:
        return
    paper.line()
    paper.line("Changed since the base")
    for note in document["notes"]:
        paper.wrapped(f"{note['kind']}: {note['text']}", indent=2)


def _verdict(cell: Mapping[str, Any]) -> str:
    """``✓ → ✕ failed``: the status in both runs, then the comparison's."""
    old, new = (_GLYPHS.get(cell[f"{side}_status"], "∙") for side in ("base", "cand"))
    arrow = f"{old} → {new} " if cell["base_status"] != cell["cand_status"] else ""
    word = cell["change"] if cell["change"] in ("added", "lost") else cell["status"]
    return f"{arrow}{word}" if arrow else f"{_GLYPHS[cell['status']]} {word}"


def _delta(accuracy: Mapping[str, Any] | None) -> str:
    if accuracy is None or accuracy["delta"] is None:
        return "" if accuracy is None else accuracy["verdict"]
    ends = f" {numbers.interval(accuracy['ci95'], 4, sign=True)}" if accuracy["ci95"] else ""
    return f"{numbers.delta(float(accuracy['delta']))}{ends}"


def _speed(speed: Mapping[str, Any] | None) -> str:
    if speed is None or speed["change"] is None:
        return "" if speed is None else speed["verdict"]
    ends = f" {numbers.interval(speed['ci95'], 2, sign=False)}" if speed["ci95"] else ""
    return f"{numbers.fixed(float(speed['change']), 2)}{ends} {speed['verdict']}"


def _fit(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text + " " * (width - cell_len(text))
    while text and cell_len(text) > width - 1:
        text = text[:-1]
    return text + numbers.ELLIPSIS
