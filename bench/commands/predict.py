"""``parity predict`` and ``parity export``: one cell, or one file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.console import ConsoleEvents
from bench.engine import prediction_meta
from bench.errors import InputError, UsageError
from bench.lanes import Lane
from bench.making import Maker
from bench.options import make_request
from bench.planning import make_plans
from bench.predictions import write_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.matrix import Request


def predict_command(options: Mapping[str, Any], *, out: Path, wrap: bool, record: Path | None, quiet: bool) -> int:
    """Run one cell and write its detections."""
    request = make_request(options, command="parity predict")
    if len(request.backends) != 1 or len(request.precisions) != 1 or len(request.devices) != 1:
        raise UsageError("parity predict runs one cell: one --backend, one --precision, one --device.")
    with tempfile.TemporaryDirectory() as scratch, ConsoleEvents(Console(stderr=True), quiet=quiet) as events:
        logs = Path(scratch)
        plan = make_plans(request, logs=logs, events=events)[0]
        wanted = (request.precisions[0], request.devices[0])
        planned = next(
            c
            for c in plan.cells
            if (c.cell.precision, c.cell.device) == wanted and request.backends[0] in (c.backend.name, c.backend.target)
        )
        if planned.blocked is not None or planned.mode is None:
            raise UsageError(f"{planned.cell}: {planned.blocked[1] if planned.blocked else 'cannot run'}")
        artifact = Maker(
            plan,
            logs=logs,
            limits=request.limits,
            recording=request.recording,
            options=request.conversion,
            progress=events.progress,
        ).artifact(planned.artifact_kind, planned.cell.precision)
        with Lane(name=str(planned.cell), log=logs / "predict.log", limits=request.limits) as lane:
            loaded = lane.call(
                "load",
                adapter=plan.adapter.target,
                backend=planned.backend.target,
                cell=planned.cell,
                artifact=artifact,
                weights=plan.weights,
                seed=request.seed,
                threads=request.threads,
                first=plan.fixtures.samples[0],
            )
            done = lane.call(
                "predict",
                samples=plan.fixtures.samples,
                batch=1,
                progress=lambda at, total: events.progress(str(planned.cell), at, total),
            )
            if record is not None:
                lane.call("record", samples=plan.fixtures.samples, out=record)
    write_predictions(
        out,
        done.predictions,
        plan.fixtures,
        plan.labels_to_categories,
        wrap=wrap,
        meta=prediction_meta(plan, planned.cell, loaded["version"], artifact.sha256),
    )
    count = sum(len(p.scores) for p in done.predictions.values())
    Console().print(
        f"{out}: {count} detections on {len(done.predictions)} images of {plan.fixtures.name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def export_command(options: Mapping[str, Any], *, out: Path) -> int:
    """Make the ONNX file of one precision and copy it out of the store."""
    request: Request = make_request({**options, "backends": None, "max_images": 1}, command="parity export")
    if len(request.precisions) != 1:
        raise UsageError("parity export makes one file: one --precision.")
    with tempfile.TemporaryDirectory() as scratch, ConsoleEvents(Console(stderr=True)) as events:
        plan = make_plans(request, logs=Path(scratch), events=events)[0]
        artifact = Maker(
            plan,
            logs=Path(scratch),
            limits=request.limits,
            options=request.conversion,
            progress=events.progress,
        ).artifact("onnx", request.precisions[0])
        for reason in artifact.recipe.get("gates", {}).get("refused_by_trt", ()):
            events.note(f"TensorRT would refuse this file: {reason}.")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path, out)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror}).") from error
    Console().print(
        f"{out}: {artifact.precision} onnx, sha256 {artifact.sha256}", markup=False, highlight=False, soft_wrap=True
    )
    return 0
