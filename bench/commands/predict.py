"""``parity predict``: one cell."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.console import ConsoleEvents
from bench.engine import prediction_meta
from bench.errors import UsageError
from bench.lanes import Lane
from bench.making import Maker
from bench.options import make_request
from bench.planning import make_plans
from bench.predictions import write_predictions

if TYPE_CHECKING:
    from collections.abc import Mapping


def predict_command(options: Mapping[str, Any], *, out: Path, wrap: bool, record: Path | None, quiet: bool) -> int:
    """Run one cell and write its detections."""
    request = make_request(options, command="parity predict")
    if len(request.backends) != 1 or len(request.precisions) != 1 or len(request.devices) != 1:
        raise UsageError("parity predict runs one cell: one --backend, one --precision, one --device.")
    if request.protocol is not None and not wrap:
        raise UsageError("--protocol: a results list cannot state its protocol; add --wrap.")
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
        meta=prediction_meta(plan, planned.cell, loaded["version"], artifact.sha256, protocol=request.protocol),
    )
    count = sum(len(p.scores) for p in done.predictions.values())
    Console().print(
        f"{out}: {count} detections on {len(done.predictions)} images of {plan.fixtures.name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0
