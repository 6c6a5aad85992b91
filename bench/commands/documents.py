"""``parity report`` and ``parity validate``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bench.schema import read_suite, validate_file


def report_command(suite: Path, *, out: Path | None, quiet: bool) -> int:
    """Render the page from the file alone."""
    from bench.report.terminal import print_table
    from bench.report.write import write_report

    document = read_suite(suite)
    page = write_report(document, out or suite.resolve().parent)
    if quiet:
        Console().print(str(page), markup=False, highlight=False, soft_wrap=True)
    else:
        print_table(document, Console(), report_path=str(page))
    return 0


def validate_command(file: Path) -> int:
    """Say which schema a file satisfies."""
    label = validate_file(file)
    Console().print(f"{file}: valid {label}", markup=False, highlight=False, soft_wrap=True)
    return 0
