"""Put the page on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.files import write_atomic
from bench.report.html import render_html

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PAGE_NAME = "index.html"


def write_report(suite: Mapping[str, Any], folder: Path) -> Path:
    """Write ``index.html`` into ``folder``, made if absent, in one step: a reader never sees half a page.

    Args:
        suite: a mapping that is valid under ``schemas/suite_result.json``.
        folder: where the page goes.

    Returns:
        The page's path.

    Raises:
        InputError: the folder is read-only, full or no folder; an older page stays as it was.
    """
    return write_atomic(folder / PAGE_NAME, render_html(suite))
