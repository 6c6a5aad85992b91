"""Does the harness catch what it should? One fault at a time is planted in a cell that otherwise passes.

Every row is a whole run of the engine: lanes, accuracy pass, timing, comparison, verdict. A fault counts as caught when
the cell fails and each check that is expected to see it does; that another one noticed by chance is not enough.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.engine import open_folder, run
from bench.lanes import Limits
from bench.matrix import ModelPlan, Request, plan_cells
from bench.registry import Reference, load_adapter, load_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.probe import BackendFacts
    from bench.results import CellResult
    from bench.types import FixtureSet, ModelSpec

HONEST = "marked"
ROUNDS = 2
TIMED_ROUNDS = 12
"""Six honest rounds before ``slow, then fast`` begins, and enough pairs for the check of repeated inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault and where it goes."""

    name: str
    planted: str
    """How, in words."""
    expected: tuple[str, ...]
    """Checks that must see it, all of them; empty for a change that is none."""
    stage: str = "detector"
    backend: str = HONEST
    """Attribute of the stage's module without ``_backend``, or ``module:attribute``."""
    adapter: str | None = None
    """``module:attribute``; None: the stage's own."""
    precision: str = "fp32"
    requires: str | None = None
    """Backend that must run here, beside the stage's own."""
    timed: bool = False
    """Time more rounds."""
    limits: Limits = field(default_factory=lambda: Limits(silence_s=120))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catch:
    """A check that failed."""

    check: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What came of one planted fault."""

    fault: Fault
    status: str
    """Of the cell; ``not shown`` when the fault cannot be planted on this host."""
    caught: tuple[Catch, ...] = ()
    reason: str | None = None
    """Why it was not shown, or what the cell said."""

    @property
    def shown(self) -> bool:
        """False when it could not be planted."""
        return self.status != "not shown"

    @property
    def ok(self) -> bool:
        """A fault: every expected check saw it. A change that is none: the cell passed."""
        if not self.fault.expected:
            return self.status == "passed"
        return self.shown and set(self.fault.expected) <= {c.check for c in self.caught}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """A model, its images and a backend pair in which the honest candidate passes."""

    name: str
    adapter: str
    """``module:attribute`` or a registered name."""
    spec: ModelSpec
    weights: Path
    fixtures: FixtureSet
    labels_to_categories: tuple[int, ...]
    reference: BackendFacts
    candidates: str
    """Module with the sabotaged backends."""
    calibration: FixtureSet | None = None
    calibration_label: str | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    other_images: Callable[[int], FixtureSet] | None = None
    """Number of a run, from 1 -> other images; run 0 and None take ``fixtures``."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Backend that some faults require -> why it does not run here."""


class Elsewhere(Protocol):
    """A place for faults that no lane sees."""

    name: str

    def show(self, fault: Fault) -> Shown:
        """Plant one there."""


class Watcher(Protocol):
    """Told of every run."""

    def __call__(self, text: str, done: int, total: int) -> None:
        """``done`` of ``total`` runs are finished; ``text`` says what comes next."""


class Prover:
    """Plants faults on stages.

    Args:
        stages: by name; a text in the place of a stage is the reason why it is not there.
        folder: for reports of the runs; removed by whoever made it.
    """

    def __init__(self, stages: Mapping[str, Stage | Elsewhere | str], folder: Path) -> None:
        self._stages = stages
        self._folder = folder

    def honest(self, faults: Sequence[Fault]) -> list[Shown]:
        """Run the cells that the faults go into, without any: nothing is proven unless they pass."""
        cells = dict.fromkeys((f.stage, f.precision) for f in faults)
        return [
            self.show(
                Fault(
                    name=f"honest {stage.name}, {precision}",
                    planted="nothing",
                    expected=(),
                    stage=key,
                    precision=precision,
                    timed=any(f.timed for f in faults if (f.stage, f.precision) == (key, precision)),
                )
            )
            for key, precision in cells
            if not isinstance(stage := self._stages[key], str)
        ]

    def show(self, fault: Fault, *, seed: int = 0) -> Shown:
        """Run one fault through the engine; another ``seed`` takes other images where the stage has some."""
        stage = self._stages[fault.stage]
        if isinstance(stage, str):
            return Shown(fault=fault, status="not shown", reason=stage)
        if not isinstance(stage, Stage):
            return stage.show(fault)
        if fault.requires is not None and fault.requires in stage.absent:
            return Shown(fault=fault, status="not shown", reason=stage.absent[fault.requires])
        if seed and stage.other_images is not None:
            stage = replace(stage, fixtures=stage.other_images(seed))
        result = self._measure(stage, fault, seed)
        return Shown(fault=fault, status=result.status, caught=caught_by(result), reason=result.reason)

    def _measure(self, stage: Stage, fault: Fault, seed: int) -> CellResult:
        target = fault.backend if ":" in fault.backend else f"{stage.candidates}:{fault.backend}_backend"
        candidate = load_backend(target)
        rounds = TIMED_ROUNDS if fault.timed else ROUNDS
        request = Request(
            reference=(stage.reference.reference.name, "fp32", "cpu"),
            precisions=(fault.precision,),
            rounds=rounds,
            max_rounds=rounds,
            openings=1,
            cross_check="none",
            margins=stage.margins,
            seed=seed,
            limits=fault.limits,
            out=self._folder,
        )
        facts = replace(stage.reference, reference=Reference(name=candidate.name, target=target), asked=True)
        cells, golden = plan_cells(
            stage.spec,
            fixtures_name=stage.fixtures.name,
            has_module=stage.weights.suffix != ".onnx",
            request=request,
            backends=[replace(stage.reference, asked=False), facts],
        )
        adapter = fault.adapter or stage.adapter
        plan = ModelPlan(
            adapter=Reference(name=stage.spec.name, target=adapter),
            spec=load_adapter(adapter).spec,
            weights=stage.weights,
            fixtures=stage.fixtures,
            labels_to_categories=stage.labels_to_categories,
            calibration=stage.calibration,
            calibration_label=stage.calibration_label,
            cells=cells,
            golden=golden,
        )
        suite = run([plan], request, open_folder(self._folder))
        return next(c for c in suite.cells if c.role == "candidate" and c.cell.backend == candidate.name)


def caught_by(result: CellResult) -> tuple[Catch, ...]:
    """Every check that failed a cell; nothing when the cell did not fail."""
    if result.status not in ("failed", "error"):
        return ()
    found: list[Catch] = []
    if result.status == "error":
        found.append(Catch(check="lane" if result.failure else "contract", sentence=result.reason or ""))
    found += [Catch(check=f.check, sentence=f.reason) for f in result.findings if f.check == "attestation"]
    for row in result.parity:
        if row.passed is False:
            found.append(Catch(check=_PARITY.get(row.name, _LEVELS[row.level]), sentence=row.explain or ""))
    if result.accuracy is not None and result.accuracy.verdict in ("failed", "suspicious"):
        found.append(Catch(check="accuracy", sentence=result.accuracy.reason or ""))
    for check in result.speed.checks if result.speed is not None else ():
        if check.passed is False:
            found.append(Catch(check=check.name, sentence=check.explain))
    return tuple(found)


_PARITY = {"committed tensor hashes": "committed hashes", "scoring": "scoring"}
_LEVELS = {"preprocess": "input hashes", "tensor": "tensors", "prediction": "predictions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Everything that was run."""

    honest: tuple[Shown, ...]
    faults: tuple[Shown, ...] = ()
    """Empty when an honest cell did not pass."""
    benign: tuple[Shown, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: all caught, no alarm. 1: a fault escaped, a false alarm, an honest cell failed. 3: some were not shown."""
        planted = (*self.faults, *self.benign)
        if not all(s.ok for s in self.honest) or any(s.shown and not s.ok for s in planted):
            return 1
        return 0 if planted and all(s.shown for s in planted) else 3


def prove(
    stages: Callable[[Path, set[str]], Mapping[str, Stage | Elsewhere | str]],
    faults: Sequence[Fault],
    benign: Sequence[Fault],
    *,
    benign_runs: int,
    watch: Watcher,
) -> Proof:
    """Show the honest cells, then every fault, then ``benign_runs`` changes that are none, taking turns.

    Args:
        stages: makes the named stages in a folder that is removed at the end.
        faults: to plant.
        benign: changes that must raise nothing.
        benign_runs: in all.
        watch: told of every run.
    """
    harmless = [benign[n % len(benign)] for n in range(benign_runs)] if benign else []
    with tempfile.TemporaryDirectory(prefix="parity-prove-") as scratch:
        total = len(faults) + len(harmless)
        watch("Making the cells", 0, total)
        made = stages(Path(scratch), {f.stage for f in (*faults, *harmless)})
        prover = Prover(made, Path(scratch) / "runs")
        watch("Running the cells without any fault", 0, total)
        honest = tuple(prover.honest([*faults, *harmless]))
        if not all(s.ok for s in honest):
            return Proof(honest=honest)
        shown: list[Shown] = []
        for number, fault in enumerate([*faults, *harmless]):
            watch(f"Planting {number + 1} of {total}: {fault.name}", number, total)
            shown.append(prover.show(fault, seed=max(number - len(faults), 0)))
    return Proof(honest=honest, faults=tuple(shown[: len(faults)]), benign=tuple(shown[len(faults) :]))
