"""Is a file for deployment the network that it was exported from? torch against onnxruntime, before anybody gets it.

What a file computes before it selects is judged like every tensor of this project: by an absolute tolerance in a unit
that a person can read, and by a budget relative to torch's own error at that precision (``bench/compare.py``). A
selection turns a difference of the last digit into a box that is there or not; so it is judged twice: exactly, against
numpy on the very tensors that the graph's selection reads, and as a set against torch, where each flip needs a reason.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.deployment.batches import Batch, check_selection_alone
from bench.deployment.cases import BATCHES, Steps, compute_cases
from bench.deployment.findings import Check, Validation, failed
from bench.deployment.probe import write_probe, write_selection
from bench.errors import ArtifactError, ContractError, InputError, LaneError, Unavailable, Unsupported
from bench.files import sha256_file
from bench.registry import load_backend
from bench.types import Artifact, Cell, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.deployment.options import ExportOptions, Reference
    from bench.types import Array, Runner

BACKEND = "onnxrt"
DEVICES = ("cpu", "cuda:0")
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def validate(
    path: Path,
    reference: Reference,
    options: ExportOptions,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    selects_from: Mapping[str, Sequence[Any]],
    images: Mapping[str, Sequence[Array]],
    progress: Callable[[int, int], None],
) -> Validation:
    """Run the file at batches 1, 4 and 8 on synthetic and on real images, on the CPU and on CUDA where there is one.

    Args:
        path: the ONNX file.
        reference: the network in torch.
        options: of the file.
        inputs: what the file is said to take.
        outputs: what it is said to return.
        selects_from: dense output of the reference -> node and number of its input that reads it; empty when the dense
            outputs are those of the file.
        images: name of a set -> RGB images; fewer than eight are repeated.
        progress: told of every step, so that a slow one is not taken to hang.

    Raises:
        Unavailable: onnxruntime is not installed.
    """
    try:
        signature = _signature(path, inputs, outputs)
    except InputError as error:
        signature = failed("file", "none", 0, "file", str(error))
    if not signature.passed:
        return Validation(checks=(signature,), devices={})
    checks, devices, notes = [signature], {}, list[str]()
    steps = Steps(progress, total=(1 + len(images)) * (3 * max(BATCHES) + len(BATCHES) * len(DEVICES)))
    cases = compute_cases(reference, options, images, notes, steps)
    shapes = {name: value.shape[1:] for name, value in cases[0].torch.items()}
    with tempfile.TemporaryDirectory(prefix="parity-validate-") as scratch:
        dense = alone = _File(path, tuple(inputs), tuple(outputs))
        if selects_from:
            probe, selection = Path(scratch) / "probe.onnx", Path(scratch) / "selection.onnx"
            try:
                dense = _File(probe, dense.inputs, (*outputs, *write_probe(path, probe, selects_from, shapes)))
                alone = _File(selection, write_selection(path, selection, selects_from, shapes), tuple(outputs))
            except ArtifactError as error:
                return Validation(checks=(signature, failed("file", "none", 0, "graph", str(error))), devices={})
        for device in DEVICES:
            runtime = load_backend(BACKEND)
            try:
                mode = runtime.require(device, options.precision)
            except (Unavailable, Unsupported) as error:
                if device == "cpu":
                    raise
                devices[device] = {"not_run": str(error)}
                continue
            try:
                with (
                    _open(_File(path, tuple(inputs), tuple(outputs)), device, options) as runner,
                    _open(dense, device, options) as inner,
                ):
                    devices[device] = _evidence(runner, mode)
                    checks += _provider(device, devices[device])
                    for case, batch in product(cases, BATCHES):
                        checks += Batch(case, batch, device, options, reference, bool(selects_from)).judge(
                            runner, inner
                        )
                        steps.next()
                if selects_from:
                    with _open(alone, device, options) as runner:
                        checks += [
                            check_selection_alone(runner, device, options, reference, shapes, batch)
                            for batch in BATCHES
                        ]
            except (ArtifactError, ContractError, LaneError) as error:
                checks.append(failed(device, "all", 0, "session", str(error)))
    return Validation(checks=tuple(checks), devices=devices, notes=tuple(notes))


def _open(file: _File, device: str, options: ExportOptions) -> Runner:
    artifact = Artifact(
        kind="onnx",
        path=file.path,
        sha256=sha256_file(file.path),
        precision=options.precision,
        inputs=file.inputs,
        outputs=file.outputs,
    )
    cell = Cell(model="export", backend=BACKEND, device=device, precision=options.precision, fixtures="validation")
    return load_backend(BACKEND).open(artifact, cell, threads=1)


def _evidence(runner: Runner, mode: str) -> dict[str, Any]:
    seen = runner.attest()
    return {
        "provider": seen.provider,
        "precision": seen.precision,
        "emulated": seen.emulated or mode == "emulated",
        "left_to_cpu": seen.details.get("misplaced", ""),
        "placement": seen.details.get("placement", {}),
    }


def _provider(device: str, evidence: Mapping[str, Any]) -> list[Check]:
    """On a GPU the provider must be the one asked for: what ran elsewhere says nothing about it."""
    if device == "cpu" or evidence["provider"] == _CUDA:
        return []
    return [failed(device, "all", 0, "provider", f"asked for {_CUDA}, ran on {evidence['provider']}")]


def _signature(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Check:
    """Names, shapes and dtypes of the file are those that its metadata states."""
    from bench.precision import onnxfile

    found = dict(zip(("input", "output"), onnxfile.inspect(path), strict=True))
    for word, declared in (("input", inputs), ("output", outputs)):
        have, want = list(map(str, found[word])), list(map(str, declared))
        if have != want:
            return failed("file", "none", 0, f"{word}s", f"expected {'; '.join(want)}, found {'; '.join(have)}")
    return Check(device="file", images="none", batch=0, tensor="names, shapes, dtypes", passed=True)
