"""Text from a file as it may stand in a Markdown comment: nothing in it acts. Pure."""

from __future__ import annotations

import re


def escape(text: str) -> str:
    """Text that shows as it is inside a Markdown table: nothing in it is read as Markdown, HTML or a mention."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    # Entities do not help against these three: GitHub links names, issues and addresses after decoding them.
    text = re.sub(r"@(?=\w)", "@\N{ZERO WIDTH SPACE}", text)
    text = re.sub(r"#(?=\d)", "#\N{ZERO WIDTH SPACE}", text)
    text = re.sub(r"(?i)\b(https?|ftp):(?=//)", "\\1:\N{ZERO WIDTH SPACE}", text)
    return re.sub(r"(?i)\b(www)\.", "\\1\N{ZERO WIDTH SPACE}.", text)


def code(text: str) -> str:
    """Inline code, with a fence longer than any run of backticks inside."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:2000]
    runs = [len(found) for found in re.findall(r"`+", text)]
    fence = "`" * (max(runs, default=0) + 1)
    pad = " " if runs else ""
    return f"{fence}{pad}{text}{pad}{fence}"
