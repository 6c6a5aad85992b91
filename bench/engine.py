"""One run: plans, lanes, comparison, verdicts, result."""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.cores import shareable_cores
from bench.errors import InputError, UsageError, did_you_mean
from bench.events import Silent
from bench.host import describe_git, describe_host
from bench.judging import INCLUDES, judge_model
from bench.modelrun import GOLDEN_IMAGES, ModelRun
from bench.predictions import write_predictions
from bench.protocols import FILE_FORMAT, evaluate
from bench.results import SuiteResult
from bench.scoring import scorer_name
from bench.speed import BAND
from bench.timing import LANE_ROUND_MS, MAX_STEPS_PER_ROUND, STEPS_PER_ROUND, STEPS_PER_TURN, clock
from bench.timingrun import WARMUP_STEPS, openings_of
from bench.verdicts import DEFAULT_MARGINS, exit_code

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.events import Events
    from bench.matrix import ModelPlan, Request
    from bench.modelrun import Record
    from bench.protocols import Protocol
    from bench.results import CellResult
    from bench.types import Cell


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``reports/<run_id>/`` of one run."""

    run_id: str
    path: Path


def open_folder(out: Path, *, now: datetime.datetime | None = None) -> RunFolder:
    """Create a fresh run folder; two runs that start in the same second get different ones.

    Raises:
        InputError: the report folder cannot be written, said before anything is measured.
    """
    moment = now or datetime.datetime.now(datetime.UTC)
    run_id = f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = out / run_id
    try:
        folder.mkdir(parents=True)
        (folder / "predictions").mkdir()
        (folder / "logs").mkdir()
    except OSError as error:
        raise InputError(
            f"{folder}: the report folder cannot be created ({error.strerror}). Choose another with --out DIR."
        ) from error
    return RunFolder(run_id, folder)


def reopen_folder(out: Path, run_id: str) -> RunFolder:
    """Find the folder of an earlier run; UsageError suggests the nearest run id."""
    runs = {p.name: p for p in out.iterdir() if (p / "predictions").is_dir()} if out.is_dir() else {}
    if run_id not in runs:
        raise UsageError(f"--resume {run_id}: no such run in {out}.{did_you_mean(run_id, runs)}")
    return RunFolder(run_id, runs[run_id])


def run(
    plans: Sequence[ModelPlan], request: Request, folder: RunFolder, *, events: Events | None = None
) -> SuiteResult:
    """Measure and judge every plan.

    Ctrl-C ends the lanes and returns what is finished, with ``interrupted`` set and exit code 130. Input that cannot
    be used (an image, weights) ends the run too: what is finished is returned, ``aborted`` says why, exit code 2.

    Raises:
        InputError: predictions cannot be written.
    """
    watcher: Events = events or Silent()
    started = datetime.datetime.now(datetime.UTC)
    deadline = None if request.time_budget_s is None else clock() + request.time_budget_s
    results: list[CellResult] = []
    interrupted, aborted = False, None
    runs = [ModelRun(p, request, folder=folder.path, events=watcher, deadline=deadline) for p in plans]
    for model in runs:
        if not interrupted and aborted is None:
            try:
                model.measure(lambda record, model=model: _keep(record, model, folder, request.protocol))  # type: ignore[misc]
            except KeyboardInterrupt:
                interrupted = True
            except InputError as error:
                aborted = str(error)
        watcher.stage(f"Judging {model.plan.spec.name}")
        judged = judge_model(model, request, today=started.date())
        for cell in judged:
            watcher.finished(cell)
        results.extend(judged)
    return SuiteResult(
        run_id=folder.run_id,
        started_at=_utc(started),
        finished_at=_utc(datetime.datetime.now(datetime.UTC)),
        command=request.command,
        host=describe_host(),
        git=describe_git(),
        protocol=protocol_of(request, plans),
        reference={"asked": ":".join(request.reference), "cells": {p.spec.name: p.reference.cell.id for p in plans}},
        cells=tuple(results),
        exit_code=130 if interrupted else 2 if aborted else exit_code(results),
        interrupted=interrupted,
        aborted=aborted,
        evaluation={p.spec.name: evaluate(p.spec, p.fixtures, request.protocol) for p in plans},
    )


def protocol_of(request: Request, plans: Sequence[ModelPlan]) -> dict[str, Any]:
    """Every setting that a number of the run depends on."""
    margins = {
        p: f"{100 * relative:g} % of the reference AP, at least {floor:g}"
        for p, (relative, floor) in DEFAULT_MARGINS.items()
    }
    margins.update({p: f"{value:g} AP (given)" for p, value in request.margins.items()})
    return {
        "harness": f"backend-parity {__version__}",
        "latency_includes": INCLUDES,
        "rounds": f"{_range(request.rounds, request.max_rounds)} shuffled rounds of {STEPS_PER_ROUND} steps per cell "
        f"(up to {MAX_STEPS_PER_ROUND} while they have not lasted {LANE_ROUND_MS:g} ms), in turns of {STEPS_PER_TURN}, "
        f"in at least {openings_of(request)} openings, until every interval lies inside or outside the "
        f"±{100 * BAND:g} % band, seed {request.seed}",
        "warmup": f"{WARMUP_STEPS} steps, and one unmeasured step in every turn",
        "threads": request.threads,
        "cores": "all lanes on the CPU on one core in a round where the kernel lets us, drawn anew for the next"
        if shareable_cores(request.threads)
        else "as the kernel places the lanes",
        "batch": request.batch,
        "accuracy": "COCO AP at IoU .50:.95, at most 100 detections per image",
        "scorer": scorer_name(),
        "intervals": f"95 % percentile of a paired bootstrap over images, {request.resamples} resamples, "
        f"seed {request.seed}",
        "cross_check": {"all": "every cell", "one": "one cell of each model", "none": "none"}[request.cross_check],
        "margins": margins,
        "evaluation": {p.spec.name: _evaluation(p, request) for p in plans},
        "golden": f"fp64 of the weights' own framework on the first {GOLDEN_IMAGES} images",
        "fixtures": {p.fixtures.name: {"sha256": p.fixtures.sha256, "images": len(p.fixtures.samples)} for p in plans},
        "calibration": {p.spec.name: p.calibration_label for p in plans if p.calibration_label},
        "time_budget_s": request.time_budget_s,
    }


def _evaluation(plan: ModelPlan, request: Request) -> str:
    """``shapes_eval 0123456789ab``, and what of it was not followed."""
    pinned = evaluate(plan.spec, plan.fixtures, request.protocol)
    but = f", but {'; '.join(map(str, pinned.mismatches))}" if pinned.mismatches else ""
    return f"{pinned.id} {pinned.hash[:12]}{but}"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _keep(record: Record, model: ModelRun, folder: RunFolder, protocol: Protocol | None) -> None:
    """Write a cell's detections at once: what is finished survives whatever happens next."""
    if record.accuracy is None:
        return
    plan = model.plan
    write_predictions(
        folder.path / "predictions" / f"{record.cell.id}.json",
        record.accuracy.predictions,
        plan.fixtures,
        plan.labels_to_categories,
        wrap=True,
        meta=prediction_meta(
            plan,
            record.cell,
            record.version,
            record.artifact.sha256 if record.artifact else None,
            protocol=protocol,
        ),
    )


def prediction_meta(
    plan: ModelPlan,
    cell: Cell,
    runtime: str,
    artifact_sha256: str | None,
    *,
    protocol: Protocol | None = None,
    bbox_format: str = FILE_FORMAT,
) -> dict[str, Any]:
    """What a predictions file says about its origin: model, runtime, artefact, images, and every setting in between."""
    pinned = evaluate(plan.spec, plan.fixtures, protocol, bbox_format=bbox_format)
    differs = {"protocol_mismatches": [str(m) for m in pinned.mismatches]} if pinned.mismatches else {}
    return {
        "model": plan.spec.name,
        "backend": cell.backend,
        "device": cell.device,
        "precision": cell.precision,
        "runtime": runtime,
        "artifact_sha256": artifact_sha256,
        "fixtures": plan.fixtures.name,
        "fixtures_sha256": plan.fixtures.sha256,
        "score_floor": plan.spec.score_floor,
        "max_detections": plan.spec.max_detections,
        "nms_iou": plan.spec.nms_iou,
        "task": plan.spec.task,
        "image_hw": list(plan.spec.image_hw),
        "preprocess": dict(plan.spec.preprocessing),
        "protocol_id": pinned.id,
        "protocol_hash": pinned.hash,
        **differs,
    }


def _utc(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
