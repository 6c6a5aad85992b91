"""``parity run``."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench.commands.documents import write_summaries
from bench.console import ConsoleEvents
from bench.options import make_request, read_config
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.matrix import ModelPlan, Request

# Measured on the development machine (2 shared cores): what a plan costs beside its inferences, in seconds.
_LANE_S = 2.5
_IMAGE_S = 0.03


def run_command(
    options: Mapping[str, Any],
    *,
    config: Path | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    markdown: Path | None = None,
    junit: Path | None = None,
    strict_undecided: bool = False,
) -> int:
    """Run, print the table, the comparison with the baseline and the page's path; returns the exit code."""
    values = {**(read_config(config) if config else {}), **{k: v for k, v in options.items() if v is not None}}
    request = make_request(values, command=command_line())
    out = Console()
    watch = Console(stderr=True)
    if dry_run:
        return _print_plan(request, out, as_json=as_json)
    from bench.report.terminal import print_table
    from bench.running import run_and_report
    from bench.schema import dumps

    with ConsoleEvents(watch, quiet=quiet or as_json) as events:
        outcome = run_and_report(request, events=events)
    write_summaries(
        outcome.suite, outcome.comparison, markdown=markdown, junit=junit, strict_undecided=strict_undecided
    )
    if as_json:
        sys.stdout.write(dumps(outcome.suite))
    else:
        if outcome.comparison is not None:
            from bench.report.compared import print_changes

            print_changes(outcome.comparison, out)
        print_table(outcome.suite, out, report_path=str(outcome.page))
    if outcome.suite["aborted"]:
        watch.print(f"parity: {outcome.suite['aborted']}", markup=False, highlight=False, soft_wrap=True)
    return outcome.exit_code


def command_line() -> str:
    """The command as it was typed, with the program's short name."""
    return shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "parity"), *sys.argv[1:]])


def _print_plan(request: Request, console: Console, *, as_json: bool) -> int:
    from bench.planning import make_plans
    from bench.schema import dumps

    with tempfile.TemporaryDirectory() as logs:
        plans = make_plans(request, logs=Path(logs))
    if as_json:
        sys.stdout.write(
            dumps(
                [
                    {"id": c.cell.id, "role": c.role, "mode": c.mode, "blocked": c.blocked[1] if c.blocked else None}
                    for p in plans
                    for c in p.cells
                ]
            )
        )
        return 0
    for plan in plans:
        table = Table(
            title=f"{plan.spec.name} on {plan.fixtures.name}, {len(plan.fixtures.samples)} images",
            title_justify="left",
            box=None,
        )
        for column in ("Cell", "Will", "Why"):
            table.add_column(column, no_wrap=column != "Why")
        for cell in plan.cells:
            will = "reference" if cell.role == "reference" else "run"
            table.add_row(
                cell.cell.id,
                cell.blocked[0] if cell.blocked else will,
                cell.blocked[1] if cell.blocked else ("emulated here" if cell.mode == "emulated" else ""),
            )
        console.print(table)
        console.print(f"Artefacts: {', '.join(_artifacts(plan))}.", markup=False, highlight=False, soft_wrap=True)
    seconds = _estimate_s(plans, request)
    length = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    console.print(f"About {length} on a host like the development machine, artefacts not counted.", highlight=False)
    return 0


def _artifacts(plan: ModelPlan) -> list[str]:
    kept = {c.cell.precision for c in plan.cells if c.blocked is None and c.artifact_kind in ("onnx", "engine")}
    made = []
    for precision in sorted(kept, key=PRECISIONS.index):
        note = ""
        if precision == "int8" and plan.calibration is not None:
            note = f" (calibrated on {len(plan.calibration.samples)} images of {plan.calibration_label})"
        made.append(f"{plan.spec.name} {precision} onnx{note}")
    return made or ["none"]


def _estimate_s(plans: Sequence[ModelPlan], request: Request) -> float:
    total = 0.0
    for plan in plans:
        cells = [c for c in plan.cells if c.blocked is None]
        total += len(cells) * (_LANE_S + _IMAGE_S * (len(plan.fixtures.samples) + 6 * request.rounds))
    return total
