"""No artefact is accepted before it has been checked, loaded and run once."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.session import first_line, load_session, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.types import Array, Feeds

_NO_KERNEL = "NOT_IMPLEMENTED"


def accept(path: Path, reference_inputs: Feeds) -> dict[str, Any]:
    """Pass a file that is valid ONNX, loads in onnxruntime on the CPU and gives finite outputs.

    A bf16 graph that onnxruntime has no kernels for is widened and run in that form, see ``widen.py``.

    Args:
        path: ONNX file.
        reference_inputs: what it is run on.

    Returns:
        What was checked and what ran, and why TensorRT would refuse the file, for its recipe.

    Raises:
        ArtifactError: names the check that failed and the reason.
    """
    from bench.precision.lint import lint

    _check_model(path)
    _check_ends(path)
    session, ran = _session_of(path)
    for name, value in _run(session, path, reference_inputs).items():
        bad = int(value.size - np.isfinite(value).sum()) if np.issubdtype(value.dtype, np.floating) else 0
        if bad:
            raise ArtifactError(f"{path}: output {name!r} holds {bad} non-finite of {value.size} values on the example")
    return {
        "passed": ["onnx.checker, full", "topological order", "strict shape and type inference with data propagation",
                   "float32 inputs and outputs", "loads", "runs", "finite outputs"],
        "ran_as": ran,
        "refused_by_trt": lint(path, runtime="trt"),
    }  # fmt: skip


def example(path: Path) -> dict[str, Array]:
    """Zeros for every input of the file; symbolic axes become 1."""
    from bench.precision.onnxfile import inspect

    inputs, _ = inspect(path)
    return {t.name: np.zeros([d if isinstance(d, int) else 1 for d in t.shape], t.dtype) for t in inputs}


def _check_model(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{path}: the ONNX checker refuses it: {first_line(error)}") from error
    try:  # the checker infers too, but neither strictly nor with the values of shapes
        onnx.shape_inference.infer_shapes(onnx.load(str(path)), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ArtifactError(f"{path}: strict shape inference refuses it: {first_line(error)}") from error


def _check_ends(path: Path) -> None:
    import onnx
    from onnx import TensorProto

    refused = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "double"}
    graph = onnx.load(str(path), load_external_data=False).graph
    ends = [(v.name, v.type.tensor_type.elem_type) for v in (*graph.input, *graph.output)]
    wrong = [f"{name!r} is tensor({refused[number]})" for name, number in ends if number in refused]
    if wrong:
        raise ArtifactError(
            f"{path}: {', '.join(wrong)}; inputs and outputs stay float32, so that every precision gets the same feeds"
        )


def _session_of(path: Path) -> tuple[Any, str]:
    """Session, and what it runs in words: the file itself, or the widened form of a bf16 graph."""
    import onnxruntime

    runtime = f"onnxruntime {onnxruntime.__version__} on the CPU"
    with runnable(path) as file:
        if file == path:
            return load_session(path), f"itself, {runtime}"
        return load_session(file), f"widened to float32 with bf16 roundings ({runtime} has no bf16 convolution)"


@contextlib.contextmanager
def runnable(path: Path) -> Iterator[Path]:
    """Give a file that onnxruntime's CPU provider can load: this one, or the widened form of a bf16 graph.

    Raises:
        ArtifactError: neither can be loaded, with the reason.
    """
    if not _has_bf16(path) or not _lacks_kernels(path):
        yield path
        return
    from bench.precision.widen import widen

    with tempfile.TemporaryDirectory(prefix="parity-gate-") as scratch:
        wide = Path(scratch) / "widened.onnx"
        widen(path, wide)
        yield wide


def _lacks_kernels(path: Path) -> bool:
    try:
        load_session(path)
    except ArtifactError as error:
        return _NO_KERNEL in str(error)
    return False


def _has_bf16(path: Path) -> bool:
    """False for a file that cannot be read: loading it says why."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import TensorProto

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError):
        return False
    return any(tensor.data_type == TensorProto.BFLOAT16 for tensor in graph.initializer) or any(
        a.i == TensorProto.BFLOAT16 for node in graph.node for a in node.attribute if a.name == "to"
    )


def _run(session: Any, path: Path, feeds: Feeds) -> dict[str, Any]:
    names = [output.name for output in session.get_outputs()]
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except refusals as error:
        raise ArtifactError(f"{path}: onnxruntime loads it but cannot run it: {first_line(error)}") from error
