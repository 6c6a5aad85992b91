"""One run into one suite file that the user names: ``parity suite``, and ``parity baseline`` with a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.console import ConsoleEvents
from bench.errors import InputError, UsageError
from bench.files import write_atomic
from bench.schema import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.matrix import Request


def run_into_file(request: Request, output: Path, *, quiet: bool, as_json: bool) -> Mapping[str, Any]:
    """Run, write the suite to ``output`` and print the table; the run's folder lies beside the file.

    The folder ``RUN_ID`` keeps what a later comparison pairs (the detections), the logs and the page.

    Raises:
        UsageError: ``output`` is no file of JSON.
        InputError: it cannot be written, or another file stands there.
        BenchError: before anything is measured.
    """
    import sys

    from bench.report.terminal import print_table
    from bench.running import run_and_report

    _check_output(output)
    with ConsoleEvents(Console(stderr=True), quiet=quiet or as_json) as events:
        outcome = run_and_report(replace(request, out=output.parent, resume=None, baseline=None), events=events)
    write_atomic(output, dumps(outcome.suite))
    if as_json:
        sys.stdout.write(dumps(outcome.suite))
    else:
        console = Console()
        print_table(outcome.suite, console, report_path=str(outcome.page))
        console.print(f"Suite {output}", markup=False, highlight=False, soft_wrap=True)
    if outcome.suite["aborted"]:
        Console(stderr=True).print(f"parity: {outcome.suite['aborted']}", markup=False, highlight=False, soft_wrap=True)
    return outcome.suite


def _check_output(output: Path) -> None:
    """Refuse a place where the file would not be written, or would replace what is no suite, before measuring."""
    from bench.schema import read_json, schema_of

    if output.suffix.lower() != ".json":
        raise UsageError(f"--output {output}: name a file that ends in .json.")
    if output.is_dir():
        raise UsageError(f"--output {output}: is a folder; name a file in it.")
    if output.is_file() and output.stat().st_size and schema_of(read_json(output)) != "suite_result/1":
        raise InputError(f"--output {output}: holds something else than a suite; choose another name.")
