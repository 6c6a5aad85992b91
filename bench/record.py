"""What is known about one planned cell while it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bench.results import ArtifactRecord, Observed

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
    builds_apart: list[dict[str, float]] = field(default_factory=list)
    """Of every other build that was timed: output -> largest absolute difference to the build that was scored."""
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


def artifact_record(record: Record) -> ArtifactRecord | None:
    """Identity of the file that ran; None when there was none."""
    made = record.prepared or record.artifact
    if made is None:
        return None
    size = made.path.stat().st_size if made.path.is_file() else sum(p.stat().st_size for p in made.path.glob("*"))
    return ArtifactRecord(
        kind=made.kind, sha256=made.sha256, bytes=size, made_from=made.made_from, recipe=dict(made.recipe)
    )


def observed(record: Record) -> Observed | None:
    """What really ran; None when nothing was opened."""
    seen = record.evidence
    if seen is None:
        return None
    return Observed(
        precision=seen.precision,
        provider=seen.provider,
        emulated=seen.emulated,
        evidence={**seen.details, "runtime": record.version, **_builds(record)},
    )


def _builds(record: Record) -> dict[str, Any]:
    """How far other builds of the same graph are from the one that was scored."""
    if not record.builds_apart:
        return {}
    names = record.builds_apart[0]
    largest = {name: float(np.max([apart[name] for apart in record.builds_apart])) for name in names}
    return {"builds_max_abs_difference": largest, "other_builds_timed": len(record.builds_apart)}
