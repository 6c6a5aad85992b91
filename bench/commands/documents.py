"""``parity report`` and ``parity validate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.files import write_atomic
from bench.schema import dumps, read_suite, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bench.violations import Explanation

_NOTES = 10


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


def validate_command(file: Path, *, fixtures: str | None, bbox_format: str | None, limit: int, as_json: bool) -> int:
    """Explain every violation of a file; 0 when there is none, else 2.

    Args:
        file: JSON.
        fixtures: set whose images and classes predictions must mean, or None.
        bbox_format: of predictions, or None.
        limit: violations that are explained; further ones are counted.
        as_json: write the violations as JSON instead of lines.
    """
    from bench.fixtures import resolve
    from bench.violations import explain_file

    known = resolve(fixtures) if fixtures else None
    explained = explain_file(file, fixtures=known, bbox_format=bbox_format, limit=limit)
    if as_json:
        sys.stdout.write(
            dumps({"file": str(file), "valid": not explained.total, "total": explained.total} | to_json(explained))
        )
        return 2 if explained.total else 0
    for line in explanation_lines(file, explained):
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 2 if explained.total else 0


def explanation_lines(file: Path, explained: Explanation) -> Iterator[str]:
    """The violations for a person.

    Args:
        file: that was checked.
        explained: what is wrong with it.

    Yields:
        Lines: what the file is, each violation on three of them, the notes.
    """
    what = explained.label or "not a file of this project"
    if explained.form is not None:
        what += f" ({explained.form}, boxes {explained.bbox_format})"
    if not explained.total:
        yield f"{file}: valid {what}"
    else:
        yield f"{file}: {what}, {explained.total} violation{'s' if explained.total > 1 else ''}"
    for violation in explained.violations:
        yield f"  {violation.path}"
        yield f"      {violation.problem}" + (f"; found {violation.found}" if violation.found else "")
        yield f"      fix: {violation.fix}"
    if explained.more:
        yield f"  and {explained.more} more; --limit {explained.total} explains them all"
    for note in explained.notes[:_NOTES]:
        yield f"  note: {note}"
    if len(explained.notes) > _NOTES:
        yield f"  note: and {len(explained.notes) - _NOTES} more notes"
