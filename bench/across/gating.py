"""A run against a stored baseline: every cell gets a finding when it fell behind, or when that cannot be decided."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.across.accuracy import GroundTruth, PairedAccuracy
from bench.across.baselines import SUITE_NAME, Side, load_side, run_record
from bench.across.comparing import Scope, compare_runs, findings_of, same_artifact, to_document
from bench.files import write_atomic
from bench.schema import dumps, read_json, to_json
from bench.verdicts import exit_code
from bench.waivers import find_waiver

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence
    from pathlib import Path

    from bench.across.comparison import CellComparison, CompareResult
    from bench.events import Events
    from bench.matrix import ModelPlan, Request
    from bench.results import CellResult, Finding, SuiteResult
    from bench.waivers import Waiver

COMPARISON_NAME = "comparison.json"
_JUDGED = ("passed", "failed", "undecided", "waived")


def load_baseline(path: Path) -> Side:
    """Open a baseline and look into its detections, so that nothing is measured against a file that cannot be read.

    Raises:
        InputError: the baseline or one of its predictions files cannot be used.
    """
    side = load_side(path)
    for name in side.cells():
        stored = side.predictions_of(name)
        if stored.is_file():
            read_json(stored)
    return side


def gate(
    suite: SuiteResult,
    folder: Path,
    base: Side,
    plans: Sequence[ModelPlan],
    request: Request,
    *,
    today: datetime.date,
    events: Events,
) -> tuple[SuiteResult, dict[str, Any]]:
    """Compare a finished run with the baseline; ``comparison.json`` is written beside its suite.

    Cells of the baseline that this run was not asked for are listed and not judged: the options chose the cells.

    Returns:
        The suite with findings ``baseline-accuracy`` and ``baseline-speed``, and the comparison as JSON values.

    Raises:
        InputError: a stored file cannot be read, or the comparison cannot be written.
    """
    document = to_json(suite)
    cand = Side(path=folder / SUITE_NAME, suite=document, folder=folder, runs=(run_record(document),))
    accuracy = PairedAccuracy(
        GroundTruth([p.fixtures for p in plans]),
        margins=request.margins,
        resamples=request.resamples,
        seed=request.seed,
    )
    events.stage("Comparing with the baseline")
    result = compare_runs(
        base, cand, accuracy, scope=Scope(lost=False, speed=request.rounds > 0, band=request.band), events=events
    )
    compared = {c.id: c for c in result.cells}
    same = _same_artifacts(base, cand)
    cells = tuple(_gated(c, compared[c.cell.id], c.cell.id in same, request, today) for c in suite.cells)
    for before, after in zip(suite.cells, cells, strict=True):
        if before.status != after.status:
            events.note(f"{after.cell} {before.status} → {after.status}: {after.reason}")
    comparison = to_document(result)
    write_atomic(folder / COMPARISON_NAME, dumps(comparison))
    return replace(suite, cells=cells, exit_code=_worst(exit_code(cells), result)), comparison


def _same_artifacts(base: Side, cand: Side) -> set[str]:
    """Ids of the cells that ran the same file in both runs."""
    old, new = base.cells(), cand.cells()
    return {name for name in old.keys() & new.keys() if same_artifact(old[name], new[name])}


def _gated(
    cell: CellResult, compared: CellComparison, same_file: bool, request: Request, today: datetime.date
) -> CellResult:
    """Append the findings; the status can only become worse, and waivers for each of them hold it."""
    if cell.status not in _JUDGED:
        return cell
    found = findings_of(compared.accuracy, compared.speed, same_artifact=same_file)
    if not found:
        return cell
    cell = replace(cell, findings=(*cell.findings, *found))
    waivers = {f.check: find_waiver(request.waivers, cell.cell.id, f.check, today) for f in found}
    new = [f for f in found if waivers[f.check] is None]
    if not new:
        known = [w for w in waivers.values() if w is not None]
        return _waived(cell, found, known) if cell.status == "passed" else cell
    worst = min(new, key=lambda f: f.status != "failed")
    if cell.status == "failed" or (cell.status == "undecided" and worst.status == "undecided"):
        return cell
    reason = " ".join(f.reason for f in new if f.status == worst.status)
    return replace(cell, status=worst.status, reason=reason, reason_short=worst.short[:22], waiver=None)


def _waived(cell: CellResult, found: Sequence[Finding], known: Sequence[Waiver]) -> CellResult:
    """A cell that passed, but for findings that are all known."""
    expires = min(w.expires for w in known).isoformat()
    return replace(
        cell,
        status="waived",
        reason=f"Waived until {expires}: {known[0].reason} ({' '.join(f.reason for f in found)})",
        reason_short=found[0].short[:22],
        waiver={"check": ", ".join(f.check for f in found), "reason": known[0].reason, "expires": expires},
    )


def _worst(own: int, compared: CompareResult) -> int:
    """The run's exit code, and 3 where a cell of the baseline did not run now, or nothing could be compared."""
    idle = any(c.status == "undecided" and c.cand_status in ("skipped", "unsupported") for c in compared.cells)
    nothing = not any(c.accuracy or c.speed for c in compared.cells)
    return 3 if own == 0 and (idle or nothing) else own
