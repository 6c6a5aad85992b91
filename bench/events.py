"""What a run tells whoever watches it; the default watches in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bench.results import CellResult


class Events(Protocol):
    """Receiver of progress. Calls come from the parent process, in order."""

    def stage(self, text: str) -> None:
        """A new phase begins."""

    def progress(self, text: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of a task; ``total`` 0 means unknown."""

    def finished(self, result: CellResult) -> None:
        """A cell has its result."""

    def note(self, text: str) -> None:
        """Something a person should know that is no failure."""


class Silent:
    """Watches nothing."""

    def stage(self, text: str) -> None:
        """Ignore."""

    def progress(self, text: str, done: int, total: int) -> None:
        """Ignore."""

    def finished(self, result: CellResult) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
