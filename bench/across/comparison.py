"""Two runs beside each other as frozen values; field for field what ``schemas/compare_result.json`` describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Change = Literal["same", "worse", "better", "added", "lost"]
Status = Literal["passed", "failed", "undecided", "skipped", "unsupported", "waived"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One of the two runs."""

    run_id: str
    path: str
    """As it was given."""
    commit: str | None
    host: str
    finished_at: str
    runs: int
    """Stored runs behind it: of a baseline, how many its between-run spread comes from; else 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that is not the same in both runs, or that a reader of the verdicts must know."""

    kind: str
    """``cpu``, ``gpu``, ``host``, ``version``, ``artifact``, ``fixtures``, ``protocol``, ``reference``, ``baseline``,
    ``suite`` or ``speed``."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyChange:
    """AP of the candidate's stored detections against the base's, over the same resamples of the images."""

    base_ap: float | None
    cand_ap: float | None
    delta: float | None
    """Candidate - base, of the detections as they were scored here; None where they could not be."""
    ci95: tuple[float, float] | None
    margin: float | None
    """Allowed loss in AP, positive."""
    verdict: Literal["passed", "failed", "suspicious", "undecided"]
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedChange:
    """In-run speed ratio of the candidate over that of the base; above 1 the candidate is faster."""

    base_ratio: float | None
    """Geometric mean over the baseline's runs."""
    cand_ratio: float | None
    change: float | None
    """``cand_ratio / base_ratio``."""
    ci95: tuple[float, float] | None
    """Of ``change``; None with fewer than 3 baseline runs or where the two cannot be compared."""
    runs: int
    """Baseline runs that have a ratio for this cell."""
    verdict: Literal["same", "faster", "slower", "undecided"]
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellComparison:
    """One cell in both runs."""

    cell: Mapping[str, Any]
    """``model backend device precision fixtures batch``."""
    id: str
    base_status: str | None
    """None: not in the base."""
    cand_status: str | None
    """None: not in the candidate."""
    change: Change
    accuracy: AccuracyChange | None
    """None: there is nothing to pair, because one side did not run."""
    speed: SpeedChange | None
    """None: the cell has no speed to compare (reference, emulated, not timed in either run)."""
    status: Status
    reason: str | None
    reason_short: str | None
    """At most 22 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResult:
    """A candidate run against a base."""

    base: RunRecord
    cand: RunRecord
    notes: tuple[Note, ...]
    cells: tuple[CellComparison, ...]
    exit_code: int
    speed_band: float
    """Change of speed that counted as none, as a share of the base's."""
    schema: str = "compare_result/1"
