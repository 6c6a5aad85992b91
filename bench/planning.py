"""From a request to plans: adapters, weights, images, and what this host can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError, did_you_mean
from bench.events import Silent
from bench.fixtures import category_ids, list_fixtures, resolve, splits_of
from bench.matrix import ModelPlan, plan_cells
from bench.probe import probe
from bench.protocols import evaluate, refuse
from bench.records import read_records
from bench.registry import (
    adapter_names,
    adapter_reference,
    backend_names,
    backend_reference,
    fitted_reference,
    load_adapter,
    load_backend,
)

if TYPE_CHECKING:
    from bench.events import Events
    from bench.matrix import Request
    from bench.probe import BackendFacts
    from bench.registry import Reference
    from bench.types import FixtureSet, ModelSpec

OUT_OF_DOMAIN = "shapes"
"""Calibration images for a set that has none of its own; the label says so."""


def make_plans(request: Request, *, logs: Path, events: Events | None = None) -> list[ModelPlan]:
    """Resolve everything that a run needs before the first lane starts.

    Raises:
        UsageError: an unknown name, or a model without weights.
        InputError: images, annotations or weights that cannot be used; a model that does not follow the protocol.
        ContractError: a plug-in that cannot be imported.
    """
    watcher: Events = events or Silent()
    given = _adapters(request)
    files = _artifacts(request, len(given))
    weights = {a.name: _weights(a, load_adapter(a.target).spec, request, len(given)) for a in given}
    adapters = [fitted_reference(a, weights[a.name]) for a in given]
    watcher.stage("Asking the backends what this host can run")
    backends = probe_for(request, logs=logs)
    plans = []
    for adapter in adapters:
        spec = load_adapter(adapter.target).spec
        fixtures = _fixtures(request, spec, watcher)
        _check_protocol(request, spec, fixtures, watcher)
        path = weights[adapter.name]
        has_module = path.suffix.lower() != ".onnx"
        cells, golden = plan_cells(
            spec, fixtures_name=fixtures.name, has_module=has_module, request=request, backends=backends
        )
        calibration, label = _calibration(request, spec, fixtures, watcher)
        plans.append(
            ModelPlan(
                adapter=adapter,
                spec=spec,
                weights=path,
                fixtures=fixtures,
                labels_to_categories=category_ids(spec.class_names, fixtures),
                calibration=calibration,
                calibration_label=label,
                cells=cells,
                golden=golden,
                artifacts=files,
            )
        )
    return plans


def probe_for(request: Request, *, logs: Path) -> list[BackendFacts]:
    """Probe the backends asked for (default: all that can run here), plus those of the reference and the golden."""
    asked = [backend_reference(b) for b in request.backends]
    missing = sorted(set(request.require_backends) - {a.name for a in asked}) if asked else []
    if missing:
        raise UsageError(
            f"--require-backends {','.join(missing)}: not among --backends "
            f"{','.join(a.name for a in asked)}. Add it there too."
        )
    defaulted = not asked
    if defaulted:
        asked = [
            backend_reference(b)
            for b in backend_names()
            if load_backend(b).artifact_kind != "recording" or request.recording is not None
        ]
    targets = {a.name: a.target for a in asked}
    targets.setdefault(request.reference[0], request.reference[0])
    if not any(load_backend(t).artifact_kind == "weights" for t in targets.values()):  # one gives the golden
        targets.update({n: n for n in backend_names() if load_backend(n).artifact_kind == "weights"})
    onnx_given = any(p.suffix.lower() == ".onnx" for p in request.weights.values())
    if onnx_given and not any(load_backend(t).artifact_kind == "onnx" for t in targets.values()):
        targets.update({n: n for n in backend_names() if load_backend(n).artifact_kind == "onnx"})
    facts = probe(
        list(targets.values()),
        asked=[a.target for a in asked],
        devices=sorted({*request.devices, request.reference[2], "cpu"}),
        precisions=sorted({*request.precisions, request.reference[1], "fp64", "fp32"}),
        logs=logs,
        limits=request.limits,
    )
    if defaulted:
        facts = [f for f in facts if f.available or f.reference.name in request.require_backends]
    return facts


def one_model(request: Request) -> tuple[Reference, Path]:
    """Resolve the one model of a request, fitted to its weights, without asking any backend or opening any image.

    Raises:
        UsageError: an unknown name, several models, or one without weights.
        InputError: weights that cannot be used.
    """
    given = _adapters(request)
    if len(given) != 1:
        raise UsageError(f"one model is needed, {len(given)} are given.")
    weights = _weights(given[0], load_adapter(given[0].target).spec, request, 1)
    return fitted_reference(given[0], weights), weights


def _adapters(request: Request) -> list[Reference]:
    targets = request.models or tuple(n for n in adapter_names() if load_adapter(n).spec.default_weights is not None)
    if not targets:
        raise UsageError("no model ships weights. Type: --models NAME --weights NAME=PATH")
    references = [adapter_reference(t) for t in targets]
    names = [r.name for r in references]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--models: {name} is given twice.")
    unknown = sorted(set(request.weights) - set(names) - {"*"})
    if unknown:
        raise UsageError(f"--weights {unknown[0]}=...: no such model in this run.{did_you_mean(unknown[0], names)}")
    return references


def _weights(adapter: Reference, spec: ModelSpec, request: Request, models: int) -> Path:
    path = request.weights.get(adapter.name)
    if path is None and "*" in request.weights:
        if models > 1:
            raise UsageError("--weights PATH is ambiguous with several models. Type: --weights MODEL=PATH")
        path = request.weights["*"]
    path = path or spec.default_weights
    if path is None:
        raise UsageError(f"{adapter.name} ships no weights. Type: --weights {adapter.name}=PATH")
    if not path.is_file():
        raise UsageError(f"{adapter.name}: weights {path}: no such file. Type: --weights {adapter.name}=PATH")
    return path.resolve()


def _artifacts(request: Request, models: int) -> dict[str, Path]:
    """The files that were given beside the weights."""
    unknown = sorted(set(request.artifacts) - {"onnx", "engine"})
    if unknown:
        raise UsageError(f"no file of kind {unknown[0]!r} can be given beside the weights; onnx and engine can.")
    if request.artifacts and models != 1:
        raise UsageError(f"an ONNX file or engine belongs to one model, {models} are given.")
    for kind, path in request.artifacts.items():
        if not path.is_file():
            raise UsageError(f"--{kind} {path}: no such file.")
    return {kind: path.resolve() for kind, path in request.artifacts.items()}


def _fixtures(request: Request, spec: ModelSpec, events: Events) -> FixtureSet:
    name = request.fixtures or spec.default_fixtures
    if request.max_images is not None and request.max_images < 1:
        raise UsageError(f"--max-images {request.max_images}: give at least 1.")
    if request.records is not None:
        events.stage(f"Opening {request.records}")
        return read_records(request.records, spec.class_names, limit=request.max_images)
    events.stage(f"Opening {name}")
    found = resolve(name, progress=lambda done, total: events.progress(f"render {name}", done, total))
    if not found.samples:
        raise UsageError(f"--fixtures {name}: holds no image.")
    return found.take(request.max_images)


def _check_protocol(request: Request, spec: ModelSpec, fixtures: FixtureSet, events: Events) -> None:
    if request.protocol is None:
        return
    found = evaluate(spec, fixtures, request.protocol).mismatches
    where = f"{spec.name} on {fixtures.name}"
    for warning in refuse(where, request.protocol.label, found, allow=request.allow_protocol_mismatch):
        events.note(warning)


def _calibration(
    request: Request, spec: ModelSpec, fixtures: FixtureSet, events: Events
) -> tuple[FixtureSet | None, str | None]:
    if not {"int8", "fp16", "bf16"} & set(request.precisions):  # halves are checked on these images
        return None, None

    def progress(done: int, total: int) -> None:
        events.progress("render calibration images", done, total)

    if request.calibration:
        found = resolve(request.calibration, split="calibration", progress=progress)
        if found.sha256 == fixtures.sha256:
            events.note(
                f"--calibration {request.calibration} is the set that is being evaluated: int8 will look "
                "better than it is."
            )
        return found, found.name
    own = request.fixtures or spec.default_fixtures
    if own in list_fixtures():
        return resolve(own, split="calibration", progress=progress), f"{own} calibration split"
    is_folder = Path(own).expanduser().is_dir()
    if is_folder and {"calibration", "train"} & set(splits_of(own)):  # own, but not those evaluated
        found = resolve(own, split="calibration", progress=progress)
        return found, f"{found.name} {found.split} split"
    if "int8" in request.precisions:
        events.note(
            f"{own} has no calibration split: int8 is calibrated on {OUT_OF_DOMAIN} (out of domain). "
            "Type: --calibration DIR"
        )
    return resolve(OUT_OF_DOMAIN, split="calibration", progress=progress), f"{OUT_OF_DOMAIN} (out of domain)"
