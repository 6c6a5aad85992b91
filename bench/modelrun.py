"""Everything that is measured of one model: lanes, raw samples, accuracy passes, interleaved timing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench import checkpoints
from bench.attest import mismatch
from bench.errors import ArtifactError, BenchError, InputError, OtherModelError, Unsupported
from bench.examine import profile_cells, simulate_files
from bench.lanes import Lane, LaneFailure
from bench.making import Maker
from bench.record import Record as Record
from bench.timing import clock
from bench.timingrun import TimingRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.events import Events
    from bench.matrix import ModelPlan, PlannedCell, Request
    from bench.record import OwnArithmetic
    from bench.types import Array

GOLDEN_IMAGES = 4


class ModelRun:
    """Measures the cells of one plan; ``records`` can be read at any time, also after an interruption."""

    def __init__(
        self, plan: ModelPlan, request: Request, *, folder: Path, events: Events, deadline: float | None = None
    ) -> None:
        self.plan = plan
        self.records = [Record(planned=p, blocked=p.blocked) for p in plan.cells]
        self.golden_raw: list[dict[str, Array]] | None = None
        self.yardsticks: dict[str, list[dict[str, Array]]] = {}
        """Precision -> raw outputs of the weights' own framework at that precision."""
        self.own_arithmetic: dict[str, OwnArithmetic] = {}
        """sha256 of an ONNX file -> what it says should come out; see ``bench.examine``."""
        self.noise: dict[str, Any] = {}
        """Of the timing; see ``bench.noise.NoiseMeter.summary``."""
        self._request = request
        self._folder = folder
        self._events = events
        self._deadline = deadline
        self._lanes: dict[str, Lane] = {}
        self._maker = Maker(
            plan,
            logs=folder / "logs",
            limits=request.limits,
            recording=request.recording,
            options=request.conversion,
            progress=events.progress,
        )
        self._samples = plan.fixtures.samples

    def measure(self, write_predictions: Callable[[Record], None]) -> None:
        """Run everything; ``write_predictions`` is called as soon as a cell has its detections."""
        try:
            self._check_given()
            for record in self.records:
                if record.blocked is None:
                    self._attempt(record, write_predictions)
            self._goldens()
            timing = TimingRun(
                self.records,
                self._lanes,
                open_lane=self._open,
                fail=self._fail,
                samples=self._samples,
                request=self._request,
                events=self._events,
                deadline=self._deadline,
            )
            self.noise = timing.run()
            timing.read_memory()
            self._examine()
        except BaseException:
            self._end(Lane.kill)  # interrupted: a lane may be in the middle of a command
            raise
        self._end(Lane.close)

    def _check_given(self) -> None:
        """Refuse a given ONNX file that cannot be read before anything is measured."""
        if "onnx" in self.plan.artifacts:
            with suppress(OtherModelError):  # the verdict of its cells
                self._maker.artifact("onnx", "fp32")

    def _examine(self) -> None:
        """What explains results and changes none: node times, and the files in their own arithmetic."""
        profile_cells(
            self.records,
            self._lanes,
            open_lane=self._open,
            sample=self._samples[0],
            events=self._events,
            time_left=self._time_left,
        )
        self.own_arithmetic = simulate_files(
            self.records,
            adapter=self.plan.adapter.target,
            samples=self._samples[:GOLDEN_IMAGES],
            log=self._folder / "logs" / f"simulate-{self.plan.spec.name}.log",
            limits=self._request.limits,
            events=self._events,
            time_left=self._time_left,
        )

    def _time_left(self) -> bool:
        return self._deadline is None or clock() < self._deadline

    def _attempt(self, record: Record, write_predictions: Callable[[Record], None]) -> None:
        """One cell up to its predictions. Its failure stays its own."""
        if not self._time_left():
            record.blocked = (
                "skipped",
                f"The time budget of {self._request.time_budget_s:g} s was used up.",
                "no time left",
            )
            return
        start = clock()
        self._events.stage(str(record.cell))
        try:
            self._open_and_run(record)
        except InputError as error:
            self._fail(record, error)
            if isinstance(error, OtherModelError) and self.plan.artifacts:
                return  # whether the given file is still the model is the question of this run: the answer is no
            raise  # a bad image or bad weights: every other cell would fail in the same way
        except BenchError as error:
            self._fail(record, error)
        finally:
            record.duration_s += clock() - start
        if record.accuracy is not None:
            write_predictions(record)

    def _open_and_run(self, record: Record) -> None:
        planned = record.planned
        record.artifact = self._maker.artifact(planned.artifact_kind, planned.cell.precision)
        fixed = record.artifact.static_batch
        if fixed is not None and fixed != planned.cell.batch:
            raise Unsupported(
                f"The file fixes batch {fixed}; batch {planned.cell.batch} needs one with a dynamic batch axis."
            )
        lane = self._open(record)
        if not self._restored(record):
            record.raw = lane.call("sample", samples=self._samples[:GOLDEN_IMAGES])
            record.accuracy = lane.call(
                "predict",
                samples=self._samples,
                batch=planned.cell.batch,
                progress=lambda done, total: self._events.progress(str(planned.cell), done, total),
            )
            record.peak_rss_mb = lane.call("peak")
            self._checkpoint(record)
        if not planned.measures_speed:
            self._lanes.pop(str(planned.cell)).close()

    def _identity(self, record: Record) -> dict[str, Any]:
        """Everything that a cell's predictions depend on."""
        return {
            "artifact": record.artifact.sha256 if record.artifact else None,
            "adapter": self._maker.adapter_sha256(),
            "fixtures": self.plan.fixtures.sha256,
            "images": len(self._samples),
            "runtime": record.version,
            "threads": self._request.threads,
            "seed": self._request.seed,
        }

    def _checkpoint(self, record: Record) -> None:
        if record.accuracy is not None and record.raw is not None:
            facts = {"peak_rss_mb": record.peak_rss_mb}
            checkpoints.save(self._folder, record.cell, self._identity(record), facts, record.accuracy, record.raw)

    def _restored(self, record: Record) -> bool:
        """Take the passes of an earlier start of this run, when they are of the same artefact, images and settings."""
        if self._request.resume is None:
            return False
        found = checkpoints.restore(self._folder, record.cell, self._identity(record))
        if isinstance(found, str):
            self._events.note(f"{record.cell} is measured again: {found}.")
            return False
        facts, record.accuracy, record.raw = found
        record.peak_rss_mb = facts["peak_rss_mb"]
        return True

    def _open(self, record: Record) -> Lane:
        planned, artifact = record.planned, record.artifact
        if artifact is None or planned.mode is None:
            raise ArtifactError(f"{planned.cell}: nothing to open.")
        lane = Lane(
            name=str(planned.cell), log=self._folder / "logs" / f"{planned.cell}.log", limits=self._request.limits
        )
        self._lanes[str(planned.cell)] = lane
        loaded = lane.call(
            "load",
            adapter=self.plan.adapter.target,
            backend=planned.backend.target,
            cell=planned.cell,
            artifact=artifact,
            weights=self.plan.weights,
            seed=self._request.seed,
            threads=self._request.threads,
            first=self._samples[0],
            build=record.opened % self._request.rebuilds,
        )
        record.opened += 1
        record.profiles = loaded["profiles"]
        wrong = mismatch(planned.cell, planned.mode, loaded["evidence"])
        if record.evidence is None:
            record.evidence, record.version, record.attestation = loaded["evidence"], loaded["version"], wrong
            record.prepared = loaded["prepared"]
            record.startup = {
                "load_s": loaded["load_s"],
                "build_s": loaded["build_s"],
                "first_inference_ms": loaded["first_inference_ms"],
            }
        elif wrong and not record.attestation:  # opened again for the timing
            record.evidence, record.attestation = loaded["evidence"], wrong
        return lane

    def _fail(self, record: Record, error: BenchError) -> None:
        if isinstance(error, Unsupported):
            record.blocked = ("unsupported", str(error), "not supported")
        elif isinstance(error, OtherModelError):
            record.blocked = ("failed", str(error), "another model's file")
        else:
            short = error.short if isinstance(error, LaneFailure) else _short(error)
            record.blocked = ("error", f"{error}{self._others_kept()}", short)
        if isinstance(error, LaneFailure):
            record.failure = error.failure
        lane = self._lanes.pop(str(record.cell), None)
        if lane is not None:
            lane.kill()

    def _others_kept(self) -> str:
        return " Every other cell keeps its result." if len(self.records) > 1 else ""

    def _goldens(self) -> None:
        """fp64 outputs of a few images, and the framework's own error at each precision it computes natively."""
        golden = self.plan.golden
        if golden is None or not any(r.raw is not None for r in self.records):
            return
        self._events.stage("Golden: fp64 outputs of a few images")
        try:
            self.golden_raw = self._raw_of(golden)
            for precision in ("fp32", "tf32", "fp16", "bf16"):
                own = next(
                    (
                        r
                        for r in self.records
                        if r.cell.precision == precision
                        and r.raw is not None
                        and r.planned.artifact_kind == "weights"
                        and r.planned.mode == "native"
                    ),
                    None,
                )
                if own is not None and own.raw is not None:
                    self.yardsticks[precision] = own.raw
            if "fp32" not in self.yardsticks:
                self.yardsticks["fp32"] = self._raw_of(_at(golden, "fp32"))
        except BenchError as error:
            self._events.note(f"No golden for {self.plan.spec.name}: {error} The reference replaces it.")
            self.golden_raw = None

    def _raw_of(self, planned: PlannedCell) -> list[dict[str, Array]]:
        record = Record(planned=planned, artifact=self._maker.artifact("weights", planned.cell.precision))
        try:
            lane = self._open(record)
            raw: list[dict[str, Array]] = lane.call("sample", samples=self._samples[:GOLDEN_IMAGES])
            return raw
        finally:
            lane_or_none = self._lanes.pop(str(planned.cell), None)
            if lane_or_none is not None:
                lane_or_none.close()

    def _end(self, how: Callable[[Lane], None]) -> None:
        for lane in self._lanes.values():
            how(lane)
        self._lanes.clear()


def _at(planned: PlannedCell, precision: str) -> PlannedCell:
    return replace(planned, cell=replace(planned.cell, precision=precision))


def _short(error: BenchError) -> str:
    words = {"ArtifactError": "no artefact", "InputError": "bad input", "ContractError": "broken protocol"}
    return words.get(type(error).__name__, "error")
