"""Options and specs to planned cells, the declared unsupported and the unavailable ones included."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.across.speed import BAND
from bench.errors import UsageError, did_you_mean
from bench.lanes import Limits
from bench.precision.options import Conversion
from bench.types import PRECISIONS, Cell, FixtureSet, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.probe import BackendFacts, Support
    from bench.protocols import Protocol
    from bench.registry import Reference
    from bench.results import Role, Status
    from bench.types import Mode
    from bench.waivers import Waiver

DEFAULT_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for, after the command line, the pytest options and the config file were read."""

    models: tuple[str, ...] = ()
    """Names, paths or ``module:attribute``; empty: every registered model that ships weights."""
    backends: tuple[str, ...] = ()
    """Empty: every registered backend that this host can run."""
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = DEFAULT_PRECISIONS
    fixtures: str | None = None
    records: Path | None = None
    """Manifest of records instead of a fixture set; see ``bench.records``."""
    calibration: str | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Model name, or ``*`` for the only model, -> weights or .onnx."""
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    """Of the only model, kind (``onnx``, ``engine``) -> the file that runs in place of one made from the weights."""
    recording: Path | None = None
    max_images: int | None = None
    batch: int = 1
    threads: int = 1
    reference: tuple[str, str, str] = ("torch", "fp32", "cpu")
    """Backend, precision, device."""
    require_backends: tuple[str, ...] = ()
    min_ap: float | None = None
    max_latency_ms: float | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    """Precision -> allowed AP loss, overriding the default rule."""
    time_budget_s: float | None = None
    rounds: int = 20
    """At least; rounds go on to ``max_rounds`` while the speed of a cell is undecided."""
    max_rounds: int = 60
    openings: int = 4
    """How often every lane is opened anew during the timing."""
    rebuilds: int = 1
    """Files that a backend builds of one artefact; the openings of a lane take turns with them."""
    conversion: Conversion = field(default_factory=Conversion)
    resamples: int = 1000
    """Of the paired bootstrap; 0 measures no intervals."""
    cross_check: str = "one"
    """Cells whose numbers an independent scorer computes again: ``all``, ``one`` or ``none``."""
    band: float = BAND
    """Change of speed to the baseline that counts as none, as a share."""
    baseline: Path | None = None
    """Stored baseline that every cell is compared with."""
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    out: Path = Path("reports")
    resume: str | None = None
    """Run id under ``out`` whose finished cells are taken over."""
    command: str = ""
    waivers: tuple[Waiver, ...] = ()
    protocol: Protocol | None = None
    """What every model must be evaluated by; None: each run is pinned to its own settings."""
    allow_protocol_mismatch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """One cell of the plan, with the reason when it will not run."""

    cell: Cell
    role: Role
    backend: Reference
    artifact_kind: str
    measures_speed: bool
    mode: Mode | None
    """How the host runs the precision; None when blocked."""
    blocked: tuple[Status, str, str] | None = None
    """(``skipped``, ``unsupported`` or ``failed``, reason, short reason)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelPlan:
    """One model with its images and its cells; the reference cell comes first."""

    adapter: Reference
    spec: ModelSpec
    weights: Path
    """What was given, or what ships with the model; an .onnx file holds no torch module."""
    fixtures: FixtureSet
    labels_to_categories: tuple[int, ...]
    calibration: FixtureSet | None
    calibration_label: str | None
    cells: tuple[PlannedCell, ...]
    golden: PlannedCell | None
    """The fp64 cell that scales the tolerances, or None when the weights hold no torch module."""
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    """Kind -> file that was given beside the weights and runs as it is: nothing is exported or built in its place."""

    @property
    def reference(self) -> PlannedCell:
        """The cell every candidate is compared with."""
        return next(c for c in self.cells if c.role == "reference")

    @property
    def has_module(self) -> bool:
        """False when the weights are an ONNX file."""
        return self.weights.suffix.lower() != ".onnx"


def plan_cells(
    spec: ModelSpec,
    *,
    fixtures_name: str,
    has_module: bool,
    request: Request,
    backends: Sequence[BackendFacts],
) -> tuple[tuple[PlannedCell, ...], PlannedCell | None]:
    """Cross backends, devices and precisions for one model.

    Args:
        spec: of the model.
        fixtures_name: of the fixture set.
        has_module: False when the weights are an ONNX file: nothing for a backend that takes weights.
        request: what was asked for.
        backends: the backends asked for, then any that only the reference or the golden needs.

    Returns:
        The cells, reference first, and the golden cell or None.

    Raises:
        UsageError: unknown precision; no backend can be the reference.
    """
    for precision in request.precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}.{did_you_mean(precision, PRECISIONS)}")
    asked = [b for b in backends if b.asked]
    reference = _reference_identity(request, backends, has_module)
    made: dict[Cell, PlannedCell] = {}

    def add(facts: BackendFacts, device: str, precision: str, role: Role) -> PlannedCell:
        cell = Cell(
            model=spec.name,
            backend=facts.reference.name,
            device=device,
            precision=precision,
            fixtures=fixtures_name,
            batch=request.batch,
        )
        return made.setdefault(cell, _planned(cell, role, spec, facts, has_module, request))

    add(*reference, "reference")
    for device in request.devices:
        for facts in asked:
            for precision in sorted(request.precisions, key=PRECISIONS.index):
                add(facts, device, precision, "candidate")
    golden = None
    by_preference = sorted(backends, key=lambda b: b.reference.name != request.reference[0])
    weights_backend = next((b for b in by_preference if b.artifact_kind == "weights"), None)
    if has_module and weights_backend is not None:
        cell = Cell(
            model=spec.name,
            backend=weights_backend.reference.name,
            device="cpu",
            precision="fp64",
            fixtures=fixtures_name,
            batch=1,
        )
        planned = _planned(cell, "reference", spec, weights_backend, has_module, request)
        golden = planned if planned.blocked is None else None
    return tuple(made.values()), golden


def _reference_identity(
    request: Request, backends: Sequence[BackendFacts], has_module: bool
) -> tuple[BackendFacts, str, str]:
    """The asked reference, or the first ONNX backend at fp32 when the weights hold no torch module."""
    name, precision, device = request.reference
    facts = next((b for b in backends if b.reference.name == name), None)
    if facts is not None and (has_module or facts.artifact_kind != "weights") and not _blocks(facts, device, precision):
        return facts, device, precision
    if facts is not None and has_module and (why := _blocks(facts, device, precision)):
        raise UsageError(
            f"the reference {name}:{precision}:{device} cannot run: {why} Choose another with --reference."
        )
    for other in sorted(backends, key=lambda b: not b.asked):
        if other.artifact_kind == "onnx" and not _blocks(other, device, "fp32"):
            return other, device, "fp32"
    raise UsageError(
        "no backend here can be the reference: weights given as .onnx need one that runs ONNX files. "
        "Type: pip install 'backend-parity[onnxrt]'"
    )


def _blocks(facts: BackendFacts, device: str, precision: str) -> str | None:
    support = facts.support.get((device, precision))
    return None if support is not None and support.mode else (support.reason if support else "it was not probed.")


def _planned(
    cell: Cell, role: Role, spec: ModelSpec, facts: BackendFacts, has_module: bool, request: Request
) -> PlannedCell:
    support: Support = facts.support[(cell.device, cell.precision)]
    blocked: tuple[Status, str, str] | None = None
    declared = spec.unsupported.get((facts.reference.name, cell.precision)) or spec.unsupported.get(
        ("*", cell.precision)
    )
    if declared:
        blocked = ("unsupported", declared, "declared by the model")
    elif support.mode is None:
        blocked = (support.status, support.reason, support.short)
    elif facts.artifact_kind == "weights" and not has_module:
        blocked = ("unsupported", "The weights are an .onnx file: there is no torch module to run.", "no torch module")
    elif facts.artifact_kind == "recording" and request.recording is None:
        blocked = ("skipped", "Recorded outputs need --recording DIR.", "no --recording")
    if blocked and blocked[0] == "skipped" and facts.reference.name in request.require_backends:
        blocked = ("failed", f"Required by --require-backends, but did not run: {blocked[1]}", blocked[2])
    return PlannedCell(
        cell=cell,
        role=role,
        backend=facts.reference,
        artifact_kind=facts.artifact_kind,
        measures_speed=facts.measures_speed,
        mode=None if blocked else support.mode,
        blocked=blocked,
    )
