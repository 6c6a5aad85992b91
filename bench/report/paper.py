"""Lines on a terminal as they are meant: no markup, no cursor tricks, ASCII where the encoding needs it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

MAX_COLUMNS = 100
_ASCII = str.maketrans({
    "✓": "+", "✕": "x", "⚑": "w", "–": "-", "—": "-", "∅": "0", "·": ".", "Δ": "d", "−": "-", "×": "x", "─": "-",
    "…": "~", "≤": "<=", "≥": ">=", "’": "'", "“": '"', "”": '"', "→": "->", "±": "+-",
})  # fmt: skip


class Paper:
    """Prints lines as they are: no markup, no wrapping, no control characters, ASCII where it must be."""

    def __init__(self, console: Console, width: int) -> None:
        self.console, self.width = console, width
        self.ascii = console.encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig")

    def clean(self, text: str) -> str:
        """Drop what would move the cursor; translate where the encoding needs it."""
        text = "".join(c if c.isprintable() else " " for c in text)
        return text.translate(_ASCII).encode("ascii", "replace").decode() if self.ascii else text

    def line(self, *parts: tuple[str, str] | str) -> None:
        """Print ``text`` or ``(text, style)`` parts as one line."""
        text = Text()
        for part in parts:
            words, style = (part, "") if isinstance(part, str) else part
            text.append(self.clean(words), style=style)
        text.rstrip()
        self.console.print(text, soft_wrap=True, highlight=False)

    def wrapped(self, text: str, style: str = "", indent: int = 0) -> None:
        """Print prose within the width."""
        for row in self.fold(text, self.width - indent):
            self.line(" " * indent, (row, style))

    def fold(self, text: str, width: int) -> list[str]:
        """Break prose into lines; runs of spaces inside a line stay."""
        return textwrap.wrap(self.clean(text), max(width, 20), break_on_hyphens=False) or [""]
