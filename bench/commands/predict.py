"""``parity predict``: one cell over the images, its detections in a file."""

from __future__ import annotations

import datetime
import hashlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from bench import __version__
from bench.attest import mismatch
from bench.commands.run import command_line
from bench.console import ConsoleEvents
from bench.engine import prediction_meta
from bench.errors import ContractError, UsageError, did_you_mean
from bench.files import sha256_file, write_atomic
from bench.inputprobe import recorded
from bench.lanes import Lane
from bench.making import Maker
from bench.options import make_request
from bench.planning import make_plans
from bench.posing.truth import back_project
from bench.predictions import BOX_FORMATS
from bench.predictions.write import predictions_text
from bench.records import record_names
from bench.schema import canonical
from bench.violations.detections import is_plain
from bench.violations.schemas import schema_violations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.matrix import ModelPlan, PlannedCell, Request
    from bench.predictions.write import Form
    from bench.types import Artifact, Evidence, Prediction, Sample

CONTRACT_FORMAT = "cxcywh_norm"
"""Boxes of entries, unless a protocol or the command line wants others."""
_BROKEN_EXIT = 1


def predict_command(
    options: Mapping[str, Any],
    *,
    out: Path,
    wrap: bool,
    records: Path | None,
    bbox_format: str | None,
    record: Path | None,
    quiet: bool,
) -> int:
    """Run one cell and write its detections.

    Args:
        options: of one cell, as typed.
        out: file, or ``-`` for standard output.
        wrap: write the wrapped form with its meta; else a COCO results list, of records a list of entries.
        records: manifest of records, instead of a set.
        bbox_format: of entries; None: the protocol's, else ``CONTRACT_FORMAT``.
        record: folder for raw outputs.
        quiet: print the result only.

    Returns:
        0; 1 when a detection is not finite, or when something else ran than was asked for: then nothing is written.

    Raises:
        UsageError, InputError: options or files that cannot be used.
        ContractError: detections that no predictions file may hold, or a pre-processing that is not the stated one.
    """
    form: Form = "wrapped" if wrap else "coco" if records is None else "entries"
    request = replace(make_request(options, command="parity predict"), records=records)
    boxes = _check(request, form, bbox_format)
    with tempfile.TemporaryDirectory() as scratch, ConsoleEvents(Console(stderr=True), quiet=quiet) as events:
        logs = Path(scratch)
        plan = make_plans(request, logs=logs, events=events)[0]
        planned = _one_cell(plan, request)
        maker = Maker(
            plan,
            logs=logs,
            limits=request.limits,
            recording=request.recording,
            options=request.conversion,
            progress=events.progress,
        )
        artifact = maker.artifact(planned.artifact_kind, planned.cell.precision)
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
            if planned.mode is not None and (wrong := mismatch(planned.cell, planned.mode, loaded["evidence"])):
                events.note("nothing was written")
                Console(stderr=True).print(f"parity: {wrong}", markup=False, highlight=False, soft_wrap=True)
                return _BROKEN_EXIT
            preprocess = recorded(plan.spec.preprocessing, lane.call("observe_input"), plan.spec.name)
            done = lane.call(
                "predict",
                samples=plan.fixtures.samples,
                batch=1,
                progress=lambda at, total: events.progress(str(planned.cell), at, total),
            )
            if record is not None:
                lane.call("record", samples=plan.fixtures.samples, out=record)
        adapter_sha256 = maker.adapter_sha256()
    meta = {
        **prediction_meta(
            plan, planned.cell, loaded["version"], artifact.sha256, protocol=request.protocol, bbox_format=boxes
        ),
        **_origin(plan, artifact, loaded, preprocess, adapter_sha256, done.feed_hashes),
    }
    found = {s.image_id: _placed(done.predictions[s.image_id], s) for s in plan.fixtures.samples}
    text = predictions_text(
        found,
        plan.fixtures,
        plan.labels_to_categories,
        form=form,
        meta=meta,
        bbox_format=boxes,
        names=None if records is None else record_names(records),
        check=refuse_violations,
    )
    if str(out) == "-":
        sys.stdout.write(text)
    else:
        write_atomic(out, text)
    return _tell(out, found, plan)


def _check(request: Request, form: Form, bbox_format: str | None) -> str:
    """Refuse options that do not fit together; return the format of the boxes."""
    if len(request.backends) != 1 or len(request.precisions) != 1 or len(request.devices) != 1:
        raise UsageError("parity predict runs one cell: one --backend, one --precision, one --device.")
    if request.protocol is not None and form != "wrapped":
        raise UsageError("--protocol: a results list cannot state its protocol; add --wrap.")
    if request.records is not None and request.fixtures is not None:
        raise UsageError("--records and --dataset both name the images; give one.")
    if bbox_format is not None and bbox_format not in BOX_FORMATS:
        raise UsageError(f"--bbox-format {bbox_format!r} does not exist.{did_you_mean(bbox_format, BOX_FORMATS)}")
    if form == "coco":
        if bbox_format not in (None, "xywh_abs"):
            raise UsageError(f"--bbox-format {bbox_format}: a COCO results list has xywh_abs; add --wrap.")
        return "xywh_abs"
    pinned = {} if request.protocol is None else request.protocol.conditions
    return str(bbox_format or pinned.get("bbox_format", CONTRACT_FORMAT))


def _one_cell(plan: ModelPlan, request: Request) -> PlannedCell:
    wanted = (request.precisions[0], request.devices[0])
    planned = next(
        c
        for c in plan.cells
        if (c.cell.precision, c.cell.device) == wanted and request.backends[0] in (c.backend.name, c.backend.target)
    )
    if planned.blocked is not None or planned.mode is None:
        raise UsageError(f"{planned.cell}: {planned.blocked[1] if planned.blocked else 'cannot run'}")
    return planned


def _origin(
    plan: ModelPlan,
    artifact: Artifact,
    loaded: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    adapter_sha256: str,
    feed_hashes: Mapping[int, str],
) -> dict[str, Any]:
    """What really ran, and the settings of the export in the words of the contract."""
    evidence: Evidence = loaded["evidence"]
    prepared: Artifact = loaded["prepared"] or artifact
    spec = plan.spec
    height, width = preprocess.get("input_size", spec.image_hw)
    settings = {
        "imgsz": height if height == width else [height, width],
        "image_size": {"width": width, "height": height},
        "score_threshold": spec.score_floor,
        "iou_threshold": spec.nms_iou,
        "max_detections": spec.max_detections,
        "preprocess": dict(preprocess),
    }
    tensors = "\n".join(f"{image_id} {feed_hashes[image_id]}" for image_id in sorted(feed_hashes))
    fingerprint = {
        **settings,
        "model": spec.name,
        "weights_sha256": sha256_file(plan.weights),
        "artifact_sha256": prepared.sha256,
        "adapter_sha256": adapter_sha256,
        "fixtures_sha256": plan.fixtures.sha256,
        "images": len(plan.fixtures.samples),
    }
    return {
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "generator": f"backend-parity {__version__}",
        "command": command_line(),
        "weights_sha256": fingerprint["weights_sha256"],
        "adapter_sha256": adapter_sha256,
        "artifact_sha256": prepared.sha256,
        "artifact": {"kind": prepared.kind, "made_from": prepared.made_from, "recipe": dict(prepared.recipe)},
        "provider": evidence.provider,
        "observed_precision": evidence.precision,
        "emulated": evidence.emulated,
        "class_names": list(spec.class_names),
        "preprocess": dict(preprocess),
        "inputs_sha256": hashlib.sha256(tensors.encode()).hexdigest(),
        "export_settings": settings,
        "run": {
            "config_fingerprint": fingerprint,
            "config_hash": hashlib.sha256(canonical(fingerprint).encode()).hexdigest(),
        },
    }


def _placed(prediction: Prediction, sample: Sample) -> Prediction:
    """Add the translation where the set knows its camera and the model the centre and the depth."""
    given = prediction.attributes or {}
    if sample.camera is None or "translation_m" in given or not {"depth_m", "center_px"} <= given.keys():
        return prediction
    cameras = np.broadcast_to(np.array(sample.camera, np.float64), (len(prediction.scores), 4))
    centres, depths = (np.asarray(given[name], np.float64) for name in ("center_px", "depth_m"))
    placed = back_project(centres, depths, cameras)
    return replace(prediction, attributes={**given, "translation_m": placed})


def refuse_violations(document: Any, form: Form) -> None:
    """Refuse what the schema of predictions does not allow, before it is written.

    Raises:
        ContractError: the first violation, with the place within its entry.
    """
    if form == "entries":
        keys = ("cx", "cy", "w", "h")
        odd = [d for entry in document for d in entry["detections"] if not is_plain(d, ("class_id",), keys)]
        found = [*_violations([{**e, "detections": []} for e in document], form), *_violations(odd, "detections")]
    elif form == "coco":
        keys = ("x", "y", "w", "h")
        odd = [d for d in document if not is_plain(d, ("image_id", "category_id"), keys)]
        found = _violations(odd, "coco_results")
    else:
        found = _violations(document, form)
    if found:
        name = document[0].get("image", document[0].get("image_id")) if isinstance(document, list) else "meta"
        raise ContractError(
            f"predictions of {name!r}: {found[0]}. Nothing was written; the model's adapter makes this."
        )


def _violations(document: Any, part: str) -> list[Any]:
    return list(schema_violations(document, "predictions", part=part)) if document else []


def _tell(out: Path, found: Mapping[int, Prediction], plan: ModelPlan) -> int:
    """Say what was written; 1 when some of it is not finite."""
    console = Console(stderr=str(out) == "-")
    count = sum(len(p.scores) for p in found.values())
    where = "standard output" if str(out) == "-" else out
    console.print(
        f"{where}: {count} detections on {len(found)} images of {plan.fixtures.name}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    broken = {i: n for i, p in found.items() if (n := _nonfinite(p))}
    if not broken:
        return 0
    first = next(s for s in plan.fixtures.samples if s.image_id in broken)
    Console(stderr=True).print(
        f"parity: {sum(broken.values())} detections on {len(broken)} images are not finite (first: {first.path.name}): "
        "the file says so, and no score can be made of it.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return _BROKEN_EXIT


def _nonfinite(prediction: Prediction) -> int:
    """Detections with a box, score or keypoint that is not finite."""
    good = np.isfinite(prediction.scores) & np.isfinite(prediction.boxes_xyxy).all(axis=1)
    if prediction.keypoints_xys is not None:
        good &= np.isfinite(prediction.keypoints_xys).all(axis=(1, 2))
    return int(np.count_nonzero(~good))
