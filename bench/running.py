"""A run with its files: plan, measure, write ``suite.json``, compare, draw. Shared by the command line and pytest."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.across.gating import gate, load_baseline
from bench.across.pins import check_pins
from bench.engine import open_folder, reopen_folder, run
from bench.events import Silent
from bench.planning import make_plans
from bench.protocols import evaluate
from bench.report.write import write_report
from bench.schema import write_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.across.baselines import Side
    from bench.engine import RunFolder
    from bench.events import Events
    from bench.matrix import ModelPlan, Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run's files lie, and its result as JSON values."""

    suite: dict[str, Any]
    folder: Path
    page: Path
    comparison: dict[str, Any] | None = None
    """With the baseline, where one was given and the run was finished."""

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
    base = None if request.baseline is None else load_baseline(request.baseline)
    folder = open_folder(request.out) if request.resume is None else reopen_folder(request.out, request.resume)
    plans = make_plans(request, logs=folder.path / "logs", events=events)
    if base is not None:
        # refused before anything is measured
        pins = {p.spec.name: evaluate(p.spec, p.fixtures, request.protocol) for p in plans}
        models = pins.keys() & {record["cell"]["model"] for record in base.suite["cells"]}
        stored = base.suite.get("evaluation", {})
        for warning in check_pins(stored, pins, models, request.protocol, allow=request.allow_protocol_mismatch):
            (events or Silent()).note(warning)
    if keep is not None:
        plans = [kept for p in plans if (kept := keep(p)) is not None]
    return conclude(plans, request, folder, events=events, base=base)


def conclude(
    plans: Sequence[ModelPlan],
    request: Request,
    folder: RunFolder,
    *,
    events: Events | None = None,
    base: Side | None = None,
) -> Outcome:
    """Measure existing plans, validate and write the result, compare it with ``base``, draw the page."""
    path = folder.path / "suite.json"
    result = run(plans, request, folder, events=events)
    suite = write_suite(result, path)  # before the comparison: what was measured survives whatever happens next
    comparison = None
    if base is not None and not result.interrupted and result.aborted is None:
        today = datetime.datetime.now(datetime.UTC).date()
        try:
            result, comparison = gate(result, folder.path, base, plans, request, today=today, events=events or Silent())
        except KeyboardInterrupt:
            result = replace(result, interrupted=True, exit_code=130)
        suite = write_suite(result, path)
    return Outcome(suite=suite, folder=folder.path, page=write_report(suite, folder.path), comparison=comparison)
