"""No artefact is accepted before it has been checked, loaded and run once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.types import Feeds


def accept(path: Path, reference_inputs: Feeds) -> None:
    """Pass a file that is valid ONNX, loads in onnxruntime on the CPU and gives finite float32 outputs.

    Raises:
        ArtifactError: names the check that failed and the reason.
    """
    _check_model(path)
    session = load_session(path)
    wrong = [
        v for v in (*session.get_inputs(), *session.get_outputs()) if v.type in ("tensor(float16)", "tensor(double)")
    ]
    if wrong:
        raise ArtifactError(
            f"{path}: {', '.join(f'{v.name!r} is {v.type}' for v in wrong)}; inputs and outputs stay float32, so that "
            "every precision gets the same feeds"
        )
    for name, value in _run(session, path, reference_inputs).items():
        bad = int(value.size - np.isfinite(value).sum()) if np.issubdtype(value.dtype, np.floating) else 0
        if bad:
            raise ArtifactError(f"{path}: output {name!r} holds {bad} non-finite of {value.size} values on the example")


def _check_model(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{path}: the ONNX checker refuses it: {first_line(error)}") from error


def load_session(path: Path, *, optimised: Path | None = None) -> Any:
    """Load ``path`` in onnxruntime on the CPU; ``optimised`` gets the graph after its portable optimisations.

    Raises:
        ArtifactError: it cannot be loaded, with the reason.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ArtifactError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error


def _run(session: Any, path: Path, feeds: Feeds) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except refusals as error:
        raise ArtifactError(f"{path}: onnxruntime loads it but cannot run it: {first_line(error)}") from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises; its exceptions have no common root of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile,
        state.NotImplemented, state.RuntimeException,
    )  # fmt: skip


def first_line(error: Exception) -> str:
    """First line of a message that may be a page long."""
    return str(error).strip().splitlines()[0]
