"""``parity history``: the runs of a folder over time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

from bench.across.history import read_history
from bench.console import ConsoleEvents
from bench.files import write_atomic
from bench.report import numbers
from bench.report.trend import PAGE_NAME, finding, headline, render_history
from bench.schema import dumps

if TYPE_CHECKING:
    from pathlib import Path


def history_command(folder: Path, *, out: Path | None, as_json: bool, quiet: bool) -> int:
    """Draw the trend page of every suite below a folder; broken suites are named, and do not end it."""
    with ConsoleEvents(Console(stderr=True), quiet=quiet or as_json) as events:
        history = read_history(folder, progress=lambda done, total: events.progress("Reading suites", done, total))
    page = write_atomic((out or folder) / PAGE_NAME, render_history(history))
    if as_json:
        sys.stdout.write(dumps(history))
        return 0
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if not quiet:
        say(headline(history))
        say(finding(history))
        for item in history["broken"]:
            say(f"Not read: {item['path']}: {item['reason']}")
        say(f"{numbers.plural(len(history['runs']), 'run')}, {numbers.plural(len(history['cells']), 'cell')}.")
    say(str(page))
    return 0
