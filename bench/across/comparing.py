"""Is a run worse than a base? Cell by cell: stored detections paired, in-run speed ratios judged, both or neither.

A cell's status is the first that holds of: failed (it failed or errored in its own run, its AP fell below the base's
margin, its speed fell wholly below the band, or it ran in the base and is gone); undecided; passed. A cell that did not
run in either run keeps its word. Lost is failed because a gate that shrinks in silence is no gate; a cell that is still
there and says why it did not run (``skipped``, ``unsupported``) is undecided, because nothing was shown either way.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.across.baselines import cell_id
from bench.across.comparison import CellComparison, CompareResult, Note, RunRecord, SpeedChange
from bench.across.notes import notes_of, speed_blocks
from bench.across.speed import BAND, MIN_RUNS, judge_speed
from bench.errors import UsageError
from bench.events import Silent
from bench.results import Finding
from bench.schema import to_json, validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.across.accuracy import PairedAccuracy
    from bench.across.baselines import Side
    from bench.across.comparison import AccuracyChange, Change, Status
    from bench.events import Events

_RAN = ("passed", "failed", "undecided", "error", "waived")
_DID_NOT_RUN = ("skipped", "unsupported")
_RANK = {"passed": 0, "waived": 1, "undecided": 2, "skipped": 3, "unsupported": 3, "failed": 4, "error": 5}
_SHORT = 22
BASELINE_CHECK = "baseline-"
"""Checks of a run's findings that come from comparing it with a baseline."""
_NOT_OF_THE_PLAN = ("--out", "--output", "--baseline", "--runs", "--resume", "--junit", "--markdown", "--add")
_FLAGS = ("--json", "--quiet", "-q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a comparison judges."""

    lost: bool = True
    """False: the candidate was asked for fewer cells on purpose; what is gone is listed and not judged."""
    speed: bool = True
    """False: the candidate was not timed on purpose (under xdist)."""
    band: float = BAND
    """Change of speed that counts as none."""


def compare_runs(
    base: Side,
    cand: Side,
    accuracy: PairedAccuracy,
    *,
    scope: Scope | None = None,
    events: Events | None = None,
) -> CompareResult:
    """Compare every cell of two runs.

    Raises:
        UsageError: both are the same run, or the candidate is one of the baseline's own runs.
        InputError: a stored file cannot be read.
    """
    scope, watcher = scope or Scope(), events or Silent()
    own = cand.suite["run_id"]
    if own in [r["run_id"] for r in base.runs] or own == base.suite["run_id"]:
        raise UsageError(f"run {own} is on both sides: a run compared with itself cannot fail. Give another run.")
    old, new = base.cells(), cand.cells()
    cells = []
    names = [*new, *(name for name in old if name not in new)]
    for done, name in enumerate(names):
        watcher.progress("Comparing with the base", done, len(names))
        both = name in old and name in new
        paired = accuracy.compare(base, cand, name) if both else None
        speed = _speed(base, cand, old[name], new[name], scope.band) if both and scope.speed else None
        cells.append(_conclude(name, old.get(name), new.get(name), paired, speed, scope))
    notes = [*notes_of(base.suite, cand.suite), *accuracy.notes.values(), *_baseline_notes(base, cand, cells)]
    return CompareResult(
        base=_record(base, len(base.runs)),
        cand=_record(cand, 1),
        notes=tuple(notes),
        cells=tuple(cells),
        exit_code=exit_code(cells),
        speed_band=scope.band,
    )


def exit_code(cells: list[CellComparison]) -> int:
    """1 something failed; 3 nothing failed, but something is undecided or nothing was compared; else 0."""
    words = [c.status for c in cells]
    if "failed" in words:
        return 1
    compared = any(c.status in ("passed", "waived") and (c.accuracy or c.speed) for c in cells)
    return 3 if "undecided" in words or not compared else 0


def to_document(result: CompareResult) -> dict[str, Any]:
    """The comparison as JSON values, validated."""
    document: dict[str, Any] = to_json(result)
    validate(document, "compare_result", where="comparison")
    return document


def _speed(base: Side, cand: Side, old: Mapping[str, Any], new: Mapping[str, Any], band: float) -> SpeedChange | None:
    """Compare the in-run ratios of a cell that is in both runs."""
    if "reference" in (old["role"], new["role"]) or new["status"] in ("failed", "error", *_DID_NOT_RUN):
        return None  # the reference's ratio is 1 by definition; wrong answers have no speed
    before, after = old["speed"], new["speed"]
    if any(s is not None and s["verdict"] == "emulated" for s in (before, after)):
        return None
    name = cell_id(new)
    stored = [c["ratio"] for r in base.runs for c in r["cells"] if c["id"] == name and c["ratio"] is not None]
    ratio = None if after is None else after["ratio"]
    if not stored and ratio is None:
        return None
    blocks = speed_blocks(base.suite, cand.suite, new["cell"]["model"])
    reason = None
    if blocks:
        reason = f"not comparable: {', '.join(blocks)}."
    elif not stored:
        reason = "The base has no speed ratio of this cell."
    elif ratio is None:
        reason = "The candidate has no speed ratio of this cell: it was not timed, or its outputs were wrong."
    if reason is not None or ratio is None:
        return SpeedChange(
            base_ratio=None if len(stored) != 1 else stored[0],
            cand_ratio=ratio,
            change=None,
            ci95=None,
            runs=len(stored),
            verdict="undecided",
            reason=reason,
        )
    ci95 = after["ratio_ci95"]
    return judge_speed(stored, ratio, None if ci95 is None else (ci95[0], ci95[1]), band=band)


def _conclude(
    name: str,
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    accuracy: AccuracyChange | None,
    speed: SpeedChange | None,
    scope: Scope,
) -> CellComparison:
    status, reason, short = _verdict(old, new, accuracy, speed, scope)
    record = new or old or {}
    return CellComparison(
        cell=record["cell"],
        id=name,
        base_status=_own_status(old) if old else None,
        cand_status=_own_status(new) if new else None,
        change=_change(old, new),
        accuracy=accuracy,
        speed=speed,
        status=status,
        reason=reason,
        reason_short=None if short is None else short[:_SHORT],
    )


def _verdict(
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    accuracy: AccuracyChange | None,
    speed: SpeedChange | None,
    scope: Scope,
) -> tuple[Status, str | None, str | None]:
    """Status, reason and short reason; the first that holds."""
    ran_before = old is not None and old["status"] in _RAN
    if new is None:
        if not ran_before:
            return "skipped", "It did not run in the base and is not in the candidate.", "did not run"
        if not scope.lost:
            return "skipped", "Not among the cells that this run was asked for.", "not asked for"
        return "failed", "It ran in the base and is gone: the candidate run does not have this cell.", "lost"
    status, why = _own_status(new), new["reason"] or ""
    if status in ("failed", "error"):
        return "failed", f"{status} in its own run: {why}".rstrip(": "), new["reason_short"] or status
    if status in _DID_NOT_RUN:
        if ran_before:
            return "undecided", f"It ran in the base and did not run now: {why}".rstrip(": "), "did not run"
        return status, why or None, new["reason_short"]
    found = findings_of(accuracy, speed, same_artifact=old is not None and same_artifact(old, new))
    failed = [f for f in found if f.status == "failed"]
    if failed:
        return "failed", " ".join(f.reason for f in failed), failed[0].short
    reasons = [(f.reason, f.short) for f in found]
    if status == "undecided":
        reasons.insert(0, (f"undecided in its own run: {why}".rstrip(": "), new["reason_short"] or "undecided"))
    if reasons:
        return "undecided", " ".join(text for text, _ in reasons), reasons[0][1]
    return status, (why or None) if status == "waived" else None, None


def _own_status(record: Mapping[str, Any]) -> Any:
    """Status of a cell in its own run, without what an earlier comparison with a baseline added to it."""
    findings = record.get("findings", ())
    own = [f for f in findings if not f["check"].startswith(BASELINE_CHECK)]
    if len(own) == len(findings) or record["status"] not in ("failed", "undecided"):
        return record["status"]
    return "failed" if any(f["status"] == "failed" for f in own) else "undecided" if own else "passed"


def findings_of(accuracy: AccuracyChange | None, speed: SpeedChange | None, *, same_artifact: bool) -> list[Finding]:
    """What a comparison found wrong or open in one cell.

    A gain beyond the margin is a defect of the measurement when the same file ran; another file may be a better model,
    which a person has to say.
    """
    found: list[Finding] = []

    def add(check: str, status: Literal["failed", "undecided"], reason: str, short: str) -> None:
        found.append(Finding(check=f"{BASELINE_CHECK}{check}", status=status, reason=reason, short=short))

    if accuracy is not None and accuracy.verdict == "failed":
        add("accuracy", "failed", f"AP to the base: {accuracy.reason}", f"loses {-(accuracy.delta or 0.0):.3f} AP")
    elif accuracy is not None and accuracy.verdict == "suspicious":
        gain = f"gains {accuracy.delta or 0.0:.3f} AP"
        if same_artifact:
            add("accuracy", "failed", f"AP to the base: {accuracy.reason}", gain)
        else:
            remedy = "Its artefact changed: if it is a better model, store a new baseline."
            add("accuracy", "undecided", f"AP to the base: {accuracy.reason} {remedy}", gain)
    elif accuracy is not None and accuracy.verdict == "undecided":
        add("accuracy", "undecided", f"AP to the base: {accuracy.reason}", "ΔAP undecided")
    if speed is not None and speed.verdict == "slower":
        add("speed", "failed", f"Slower than the base: {speed.reason}", f"speed × {speed.change or 0.0:.2f}")
    elif speed is not None and speed.verdict == "undecided":
        add("speed", "undecided", f"Speed to the base: {speed.reason}", "speed undecided")
    return found


def same_artifact(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """True when both runs of a cell state the hash of their file and the hashes agree."""
    files = [record["artifact"] for record in (old, new)]
    return all(files) and files[0]["sha256"] == files[1]["sha256"]


def _change(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Change:
    if old is None:
        return "added"
    if new is None:
        return "lost"
    before, after = _RANK[_own_status(old)], _RANK[_own_status(new)]
    return "same" if before == after else "worse" if after > before else "better"


def _baseline_notes(base: Side, cand: Side, cells: list[CellComparison]) -> list[Note]:
    notes = []
    if base.note:
        notes.append(Note(kind="baseline", text=base.note))
    few = [c.speed.runs for c in cells if c.speed is not None and 0 < c.speed.runs < MIN_RUNS]
    if few:
        notes.append(
            Note(
                kind="baseline",
                text=f"Speed is judged against at least {MIN_RUNS} stored runs; the base has {min(few)}. Type, at the "
                f"base's commit: {baseline_command(cand.suite['command'])}",
            )
        )
    return notes


def baseline_command(command: str) -> str:
    """The command that measures a baseline of the same plan as ``command`` did."""
    words = shlex.split(command)
    if words[:2] not in (["parity", "run"], ["parity", "baseline"]):
        return f"parity baseline [the options of this run] --runs {MIN_RUNS} --out DIR"
    kept: list[str] = []
    rest = iter(words[2:])
    for word in rest:
        if word in _NOT_OF_THE_PLAN:
            next(rest, None)
        elif word.partition("=")[0] not in _NOT_OF_THE_PLAN and word not in _FLAGS:
            kept.append(word)
    return f"parity baseline {shlex.join([*kept, '--runs', str(MIN_RUNS), '--out'])} DIR"


def _record(side: Side, runs: int) -> RunRecord:
    suite = side.suite
    return RunRecord(
        run_id=suite["run_id"],
        path=str(side.path),
        commit=(suite["git"] or {}).get("commit"),
        host=suite["host"]["name"],
        finished_at=suite["finished_at"],
        runs=runs,
    )
