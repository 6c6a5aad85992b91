"""Progress for a person at a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from types import TracebackType

    from bench.results import CellResult

_GLYPHS = {
    "passed": "+",
    "failed": "x",
    "error": "!",
    "undecided": "?",
    "skipped": "-",
    "unsupported": "-",
    "waived": "~",
}


class ConsoleEvents:
    """A progress bar on a terminal; one line per stage and per finished cell elsewhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, int] = {}
        if console.is_terminal and not quiet:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )

    def stage(self, text: str) -> None:
        """Show the phase."""
        if self._bar is not None:
            self._clear()
            self._tasks[text] = self._bar.add_task(_safe(text), total=None)
        elif not self._quiet:
            self._console.print(f"  {text}", markup=False, highlight=False)

    def progress(self, text: str, done: int, total: int) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        if text not in self._tasks:
            self._clear()
            self._tasks[text] = self._bar.add_task(_safe(text), total=None)
        self._bar.update(self._tasks[text], completed=done, total=total or None)  # type: ignore[arg-type]

    def finished(self, result: CellResult) -> None:
        """Say how a cell ended."""
        if not self._quiet and self._bar is None:
            reason = f": {result.reason}" if result.reason else ""
            self._console.print(
                f"  {_GLYPHS[result.status]} {result.cell} {result.status}{reason}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def note(self, text: str) -> None:
        """Say it on a line of its own."""
        if not self._quiet:
            self._console.print(f"  note: {text}", markup=False, highlight=False, soft_wrap=True)

    def _clear(self) -> None:
        if self._bar is not None:
            for task in self._tasks.values():
                self._bar.remove_task(task)  # type: ignore[arg-type]
        self._tasks.clear()

    def __enter__(self) -> ConsoleEvents:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _safe(text: str) -> str:
    return text.replace("[", "\\[")
