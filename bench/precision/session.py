"""An onnxruntime session on the CPU that loads a file or says why not, and the errors that it raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


def load_session(path: Path, *, optimised: Path | None = None, portable: bool = True) -> Any:
    """Load ``path`` in onnxruntime on the CPU.

    Args:
        path: ONNX file.
        optimised: gets the optimised graph.
        portable: with ``optimised``: only optimisations that any runtime understands, else all.

    Raises:
        ArtifactError: it cannot be loaded, with the reason.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        if portable:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ArtifactError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises; its exceptions have no common root of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile,
        state.NotImplemented, state.RuntimeException,
    )  # fmt: skip


def first_line(error: Exception) -> str:
    """First line of a message that may be a page long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
