"""``parity report`` and ``parity validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.files import write_atomic
from bench.schema import read_suite, validate_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def report_command(
    suite: Path, *, out: Path | None, quiet: bool, markdown: Path | None, junit: Path | None, strict_undecided: bool
) -> int:
    """Render the page, and the other forms that were asked for, from the file alone."""
    from bench.report.terminal import print_table
    from bench.report.write import write_report

    document = read_suite(suite)
    page = write_report(document, out or suite.resolve().parent)
    write_summaries(document, None, markdown=markdown, junit=junit, strict_undecided=strict_undecided)
    if quiet:
        Console().print(str(page), markup=False, highlight=False, soft_wrap=True)
    else:
        print_table(document, Console(), report_path=str(page))
    return 0


def write_summaries(
    suite: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
    *,
    markdown: Path | None,
    junit: Path | None,
    strict_undecided: bool,
) -> None:
    """Write the Markdown and the JUnit form of a run, where they were asked for.

    Args:
        suite: of the run.
        comparison: with its base, for the Markdown; None when there is none.
        markdown: file, or None.
        junit: file, or None.
        strict_undecided: undecided is a failure in the JUnit file.
    """
    if markdown is not None:
        from bench.report.markdown import markdown_of

        write_atomic(markdown, markdown_of(suite, comparison))
    if junit is not None:
        from bench.report.junit import junit_of_suite

        write_atomic(junit, junit_of_suite(suite, strict_undecided=strict_undecided))


def validate_command(file: Path) -> int:
    """Say which schema a file satisfies."""
    label = validate_file(file)
    Console().print(f"{file}: valid {label}", markup=False, highlight=False, soft_wrap=True)
    return 0
