"""The result of a run of scenarios as frozen values: field for field ``schemas/scenario_result.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.results import Box, StatDelta

Status = Literal["scored", "unsupported", "error", "skipped"]
Comparison = Literal["same_truth", "moved_truth", "other_objects", "part_of_images"]
"""What a difference to clean means, see ``bench.scenarios.deltas``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image of a scenario with what was found and what is there."""

    image: str
    """File name."""
    width: int
    """Pixels; boxes are in these, the thumbnail is smaller."""
    height: int
    truth: tuple[Box, ...]
    """Objects that count, with score 1."""
    detections: tuple[Box, ...]
    thumb: str | None
    """JPEG as base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """One scenario."""

    name: str
    description: str
    kind: Literal["selecting", "altering"]
    definition: Mapping[str, Any]
    sha256: str
    """Of the definition."""
    status: Status
    reason: str | None = None
    """Why it was not scored."""
    images: int | None = None
    objects: int | None = None
    """That count."""
    ignored: int | None = None
    """Annotations that do not: crowd regions, and objects that the scenario leaves out."""
    moved: Mapping[str, int] | None = None
    """Of scenarios that move boxes: clipped, ignored, gone, loose; see ``bench.scenarios.moves``."""
    detections: int | None = None
    stats: Mapping[str, float | None] | None = None
    ap_ci95: tuple[float, float] | None = None
    comparison: Comparison | None = None
    """None for clean itself."""
    deltas: Mapping[str, StatDelta] | None = None
    """Scenario - clean; None for clean itself."""
    no_interval: str | None = None
    """Why there is none."""
    latency_ms: Mapping[str, float] | None = None
    """Per image: p50, p90 and the medians of the stages."""
    no_latency: str | None = None
    min_ap: float | None = None
    """Asked for by ``--min-ap``."""
    met: bool | None = None
    """Whether AP is at least ``min_ap``; None without one, or where the scenario was not scored."""
    warnings: tuple[str, ...] = ()
    predictions: Mapping[str, Any] | None = None
    """Of given predictions: file name, sha256 and form."""
    example: Example | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioRun:
    """Everything that ``scenarios.json`` holds."""

    started_at: str
    finished_at: str
    command: str
    host: Mapping[str, Any]
    git: Mapping[str, Any] | None
    model: Mapping[str, Any]
    """What was run, or ``adapter: precomputed``."""
    fixtures: Mapping[str, Any]
    protocol: Mapping[str, str] | None
    definitions: Mapping[str, Any]
    """Hash over all that were asked for, and the file that was given."""
    task: Literal["detect", "pose"]
    scorer: str
    seed: int
    resamples: int
    latency_includes: str | None
    scenarios: tuple[ScenarioResult, ...]
    exit_code: int
    warnings: tuple[str, ...] = ()
    schema: str = field(default="scenario_result/1")
