"""Scenarios as a table of at most 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report.paper import MAX_COLUMNS, Paper
from bench.report.scenarios import (
    COMPARED,
    exit_sentence,
    finding,
    headline,
    moved_of,
    others_of,
    row_of,
    scored_of,
    tally,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

_STYLES = {"unsupported": "dim", "skipped": "dim", "error": "bold red"}


def print_scenarios(document: Mapping[str, Any], console: Console, *, page: str) -> None:
    """Print answer, table, what was not scored, what to know, and the exit sentence.

    Args:
        document: valid under ``schemas/scenario_result.json``.
        console: where to print; ASCII without UTF-8, 100 columns when it is no terminal.
        page: path of the page.
    """
    paper = Paper(console, min(console.width, MAX_COLUMNS) if console.is_terminal else MAX_COLUMNS)
    paper.wrapped(headline(document), "bold")
    paper.wrapped(tally(document))
    _print_table(document, paper)
    paper.wrapped(finding(document))
    for status, reason, names in others_of(document):
        paper.wrapped(f"{', '.join(names)}: {status}: {reason}", _STYLES[status])
    for scenario in document["scenarios"]:
        for text in scenario["warnings"]:
            paper.wrapped(f"warning: {scenario['name']}: {text}", "yellow")
        if scenario["met"] is not None:
            word = "at least" if scenario["met"] else "below"
            text = f"{scenario['name']}: AP is {word} the {scenario['min_ap']:g} of --min-ap."
            paper.wrapped(text, "cyan" if scenario["met"] else "bold red")
    paper.line(paper.clean(page))
    paper.wrapped(exit_sentence(document))


def _print_table(document: Mapping[str, Any], paper: Paper) -> None:
    rows = [row_of(scenario) for scenario in scored_of(document)]
    if not rows:
        return
    head = ["scenario", "AP", "95 %", "Δ clean", "95 %", "images", "objects", "p50 ms"]
    cells = [
        [
            r.raw["name"],
            r.ap,
            r.interval,
            r.delta,
            r.delta_interval,
            str(r.raw["images"]),
            str(r.raw["objects"]),
            r.latency,
        ]
        for r in rows
    ]
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] for row in cells)]
    widths = {i: max(len(head[i]), *(len(row[i]) for row in cells)) for i in kept}

    def line(values: list[str], style: str = "") -> None:
        text = "  ".join(values[i].ljust(widths[i]) if i == 0 else values[i].rjust(widths[i]) for i in kept)
        paper.line((f"  {text}", style))

    line(head, "dim")
    for row, values in zip(rows, cells, strict=True):
        line(values, {"failed": "red", "passed": "cyan"}.get(row.word, ""))
    for comparison, words in COMPARED.items():
        named = [r.raw["name"] for r in rows if r.raw["comparison"] == comparison]
        if named:
            paper.wrapped(f"{', '.join(named)}: {words}.", "dim", indent=2)
    for row in rows:
        if moved := moved_of(row.raw):
            paper.wrapped(f"{row.raw['name']}: {moved}.", "dim", indent=2)
    reasons = {r.raw["no_interval"] for r in rows if r.raw["no_interval"]}
    for reason in sorted(reasons):
        named = [r.raw["name"] for r in rows if r.raw["no_interval"] == reason]
        paper.wrapped(f"No interval for {', '.join(named)}: {reason}", "dim", indent=2)
