"""What an ONNX file says should come out: its own arithmetic, node by node, with nothing fused.

A Q/DQ file run without graph optimisation is the fake-quant reference: every quantised operator computes in float on
values that were rounded to the 8-bit grid. Runtimes replace that by 8-bit kernels with their own rounding; what they
give should lie close to it (reference: tensorrt, 2.1). It is onnxruntime's own implementation of the operators, so a
fault that onnxruntime has with and without optimisation does not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError
from bench.precision.gate import runnable
from bench.precision.session import first_line, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bench.types import Array, Feeds


def simulate(
    path: Path, feeds: Iterable[Feeds], *, progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Array]]:
    """Run each feed through ``path`` in onnxruntime on the CPU with every graph optimisation off.

    The CPU has no bf16 convolution: a bf16 graph runs in its widened form, float32 rounded to bf16 at every tensor.

    Args:
        path: ONNX file.
        feeds: B = 1; repeated where the file fixes a larger batch.
        progress: called with (done, 0) after each feed.

    Returns:
        One dictionary per feed: output -> array of B = 1, floating ones as float32.

    Raises:
        ArtifactError: the file cannot be loaded or run this way.
    """
    import numpy as np

    with runnable(path) as file:
        session = _session(file)
    outputs = [value.name for value in session.get_outputs()]
    fixed = session.get_inputs()[0].shape[0]
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    found = []
    for item in feeds:
        batch = {n: np.repeat(v, fixed, axis=0) if isinstance(fixed, int) else v for n, v in item.items()}
        try:
            values = session.run(outputs, batch)
        except refusals as error:
            raise ArtifactError(f"{path}: its own arithmetic cannot be run: {first_line(error)}") from error
        found.append({
            name: np.asarray(value[:1], np.float32 if np.issubdtype(value.dtype, np.floating) else None)
            for name, value in zip(outputs, values, strict=True)
        })  # fmt: skip
        if progress is not None:
            progress(len(found), 0)
    return found


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ArtifactError(f"{path}: its own arithmetic cannot be run: {first_line(error)}") from error


def described() -> str:
    """For a result: what ran the file's own arithmetic."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__} on the CPU, graph optimisation off"
