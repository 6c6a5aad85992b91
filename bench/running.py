"""A run with its files: plan, measure, write ``suite.json``, draw the page. Shared by the command line and pytest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.engine import open_folder, reopen_folder, run
from bench.planning import make_plans
from bench.report.write import write_report
from bench.schema import write_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.engine import RunFolder
    from bench.events import Events
    from bench.matrix import ModelPlan, Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run's files lie, and its result as JSON values."""

    suite: dict[str, Any]
    folder: Path
    page: Path

    @property
    def exit_code(self) -> int:
        """0, 1, 3 or 130; see the command line's help."""
        return int(self.suite["exit_code"])


def run_and_report(
    request: Request, *, events: Events | None = None, keep: Callable[[ModelPlan], ModelPlan | None] | None = None
) -> Outcome:
    """Plan and run a request; ``keep`` may narrow each plan (pytest's selection).

    Raises:
        UsageError, InputError, ContractError: before anything is measured, or when files cannot be written.
    """
    folder = open_folder(request.out) if request.resume is None else reopen_folder(request.out, request.resume)
    plans = make_plans(request, logs=folder.path / "logs", events=events)
    if keep is not None:
        plans = [kept for p in plans if (kept := keep(p)) is not None]
    return conclude(plans, request, folder, events=events)


def conclude(
    plans: Sequence[ModelPlan], request: Request, folder: RunFolder, *, events: Events | None = None
) -> Outcome:
    """Measure existing plans, validate and write the result, draw the page."""
    suite = write_suite(run(plans, request, folder, events=events), folder.path / "suite.json")
    return Outcome(suite=suite, folder=folder.path, page=write_report(suite, folder.path))
