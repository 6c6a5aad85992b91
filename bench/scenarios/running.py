"""A model under scenarios: one cell, one lane, opened once and again when it died; any adapter on any backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.attest import mismatch
from bench.errors import ContractError, UsageError
from bench.lanes import Lane
from bench.making import Maker
from bench.planning import make_plans
from bench.protocols import evaluate
from bench.scoring import from_predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from bench.events import Events
    from bench.matrix import ModelPlan, PlannedCell, Request
    from bench.passes import Pass
    from bench.scoring import Detections
    from bench.types import Artifact, Sample

INCLUDES = (
    "Median over images of pre-processing + inference + post-processing, batch 1, one image after the other in the "
    "accuracy pass, whose stages overlap on other threads; decoding and disk are left out. parity run measures speed."
)


class ModelUnderTest:
    """Predicts sets of images with one cell of a plan; a context manager that ends its lane.

    Args:
        request: one model, backend, precision and device.
        logs: folder of the lane's log.
        events: told about progress.

    Raises:
        UsageError: more than one of anything, or a cell that cannot run here.
        InputError: images or weights that cannot be used.
    """

    def __init__(self, request: Request, *, logs: Path, events: Events) -> None:
        if len(request.models) != 1:
            raise UsageError("parity scenarios runs one model: one --adapter.")
        if not len(request.backends) == len(request.precisions) == len(request.devices) == 1:
            raise UsageError("parity scenarios runs one cell: one --backend, one --precision, one --device.")
        # its own reference: another one would have to be able to run here
        own = (_plain_name(request.backends[0]), request.precisions[0], request.devices[0])
        request = replace(request, reference=own)
        self._request, self._logs = request, logs
        self.plan: ModelPlan = make_plans(request, logs=logs, events=events)[0]
        self._planned = _planned(self.plan, request)
        maker = Maker(
            self.plan,
            logs=logs,
            limits=request.limits,
            recording=request.recording,
            options=request.conversion,
            progress=events.progress,
        )
        self._artifact: Artifact = maker.artifact(self._planned.artifact_kind, self._planned.cell.precision)
        self._lane: Lane | None = None
        self._loaded: Mapping[str, Any] = {}

    def predict(
        self, samples: Sequence[Sample], *, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Detections, dict[int, tuple[float, float, float]]]:
        """Detections on images, and image id -> milliseconds of pre-processing, inference and post-processing.

        Raises:
            LaneFailure: the lane died; the next call opens another one.
            ContractError: what ran is not what was asked for.
            InputError: an image cannot be read.
        """
        lane = self._opened()
        try:
            done: Pass = lane.call("predict", samples=list(samples), batch=1, progress=progress)
        except BaseException:
            self._lane = None
            lane.kill()
            raise
        stages = zip(done.pre_ms, done.run_ms, done.post_ms, strict=True)
        times = {sample.image_id: stage for sample, stage in zip(samples, stages, strict=True)}
        return from_predictions(done.predictions, self.plan.labels_to_categories), times

    @property
    def no_latency(self) -> str | None:
        """Why its times say nothing about this precision; None when they do."""
        if self._planned.mode == "emulated":
            return f"Emulated: {self._planned.cell.precision} is computed in a higher precision here."
        return None if self._planned.measures_speed else "Recorded outputs: nothing is computed."

    def facts(self) -> dict[str, Any]:
        """What ran, for the result; after the first prediction with the evidence."""
        cell, evidence = self._planned.cell, self._loaded.get("evidence")
        return {
            "adapter": self.plan.spec.name,
            "backend": cell.backend,
            "device": cell.device,
            "precision": cell.precision,
            "threads": self._request.threads,
            "runtime": self._loaded.get("version"),
            "artifact": {"kind": self._artifact.kind, "sha256": self._artifact.sha256},
            "observed": None
            if evidence is None
            else {"precision": evidence.precision, "provider": evidence.provider, "emulated": evidence.emulated},
        }

    def protocol(self) -> dict[str, str]:
        """What the run is pinned to."""
        pinned = evaluate(self.plan.spec, self.plan.fixtures, self._request.protocol)
        return {"id": pinned.id, "hash": pinned.hash}

    def _opened(self) -> Lane:
        if self._lane is not None:
            return self._lane
        planned = self._planned
        lane = Lane(name=str(planned.cell), log=self._logs / "scenarios.log", limits=self._request.limits)
        try:
            self._loaded = lane.call(
                "load",
                adapter=self.plan.adapter.target,
                backend=planned.backend.target,
                cell=planned.cell,
                artifact=self._artifact,
                weights=self.plan.weights,
                seed=self._request.seed,
                threads=self._request.threads,
                first=self.plan.fixtures.samples[0],
            )
            wrong = mismatch(planned.cell, planned.mode or "native", self._loaded["evidence"])
            if wrong is not None:
                raise ContractError(f"{planned.cell}: {wrong} No number of this cell would be what it says.")
        except BaseException:
            lane.kill()
            raise
        self._lane = lane
        return lane

    def __enter__(self) -> ModelUnderTest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lane is not None:
            (self._lane.close if kind is None else self._lane.kill)()
            self._lane = None


def latency_of(times_ms: Mapping[int, tuple[float, float, float]], image_ids: Sequence[int]) -> dict[str, float]:
    """Percentiles over the given images: of the sum, and the medians of its parts, in milliseconds."""
    rows = np.array([times_ms[i] for i in image_ids], np.float64).reshape(-1, 3)
    whole = rows.sum(axis=1)
    return {
        "p50": float(np.median(whole)),
        "p90": float(np.percentile(whole, 90)),
        "preprocess_p50": float(np.median(rows[:, 0])),
        "inference_p50": float(np.median(rows[:, 1])),
        "postprocess_p50": float(np.median(rows[:, 2])),
    }


def _planned(plan: ModelPlan, request: Request) -> PlannedCell:
    wanted = (_plain_name(request.backends[0]), request.precisions[0], request.devices[0])
    found = next(c for c in plan.cells if (c.backend.name, c.cell.precision, c.cell.device) == wanted)
    if found.blocked is not None or found.mode is None:
        raise UsageError(f"{found.cell}: {found.blocked[1] if found.blocked else 'cannot run here.'}")
    return found


def _plain_name(target: str) -> str:
    from bench.registry import backend_reference

    return backend_reference(target).name
