"""What is known about one planned cell while it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from bench.matrix import PlannedCell
    from bench.passes import Pass
    from bench.results import Failure
    from bench.types import Array, Artifact, Cell, Evidence, NodeTime

OwnArithmetic: TypeAlias = "tuple[str, list[dict[str, Array]] | None]"
"""What ran an ONNX file in its own arithmetic, or why nothing did; and its raw outputs of the golden images."""


@dataclass(slots=True)
class Record:
    """What is known about one planned cell so far."""

    planned: PlannedCell
    artifact: Artifact | None = None
    prepared: Artifact | None = None
    """The file that its backend made of the shared one (an engine), or None when it runs the shared one."""
    opened: int = 0
    """How often its lane was opened."""
    evidence: Evidence | None = None
    attestation: str | None = None
    """Why the evidence does not bear out the label."""
    version: str = ""
    startup: dict[str, float | None] | None = None
    raw: list[dict[str, Array]] | None = None
    """Raw outputs of the golden images."""
    accuracy: Pass | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """``{round, opening, order, samples_ms, fresh_ms, repeated_ms, tags}``."""
    fetched: list[dict[str, Any]] = field(default_factory=list)
    """``{round, differences}`` between outputs of timed steps and those of the accuracy pass."""
    stopped: str = ""
    """Why its rounds ended, in words."""
    profiles: bool = False
    """Whether its runtime can say which of its nodes take the time."""
    node_times: tuple[NodeTime, ...] = ()
    peak_rss_mb: float | None = None
    blocked: tuple[str, str, str] | None = None
    """(status, reason, short) when it did not finish. What was measured before stays."""
    failure: Failure | None = None
    duration_s: float = 0.0

    @property
    def cell(self) -> Cell:
        """Its identity."""
        return self.planned.cell
