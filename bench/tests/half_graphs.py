"""Graphs of a few nodes, written down as ``"Conv x w -> y"``, for the tests of fp16 and bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.precision.session import load_session

if TYPE_CHECKING:
    from pathlib import Path

RNG_SEED = 3
WEIGHTS = np.random.default_rng(RNG_SEED).normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)


def graph(
    path: Path,
    *lines: str | tuple[str, dict[str, Any]],
    weights: dict[str, Any] | None = None,
    shape: tuple[int | str, ...] = ("batch", 4, 8, 8),
    out_shape: tuple[int | str, ...] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    edit: Any = None,
) -> Path:
    """Write a model with the input ``x`` and the output ``y``, both float32.

    A line is ``"Operator a b -> c"`` (``_`` is an absent input; ``domain.Operator`` another domain), or that and its
    attributes. A node is named after its first output. ``edit`` may change the model before it is written.
    """
    nodes = []
    for line in lines:
        text, attributes = line if isinstance(line, tuple) else (line, {})
        left, right = text.split("->")
        operator, *inputs = left.split()
        domain, _, operator = operator.rpartition(".")
        outputs = right.split()
        inputs = ["" if name == "_" else name for name in inputs]
        nodes.append(helper.make_node(operator, inputs, outputs, name=f"n_{outputs[0]}", domain=domain, **attributes))
    built = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out_shape or shape))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    if edit is not None:
        edit(model)
    onnx.save(model, str(path))
    return path


def f32(*values: float) -> np.ndarray:
    """Float32 vector."""
    return np.array(values, np.float32)


def feed(seed: int = 0, shape: tuple[int, ...] = (1, 4, 8, 8), scale: float = 1.0) -> dict[str, np.ndarray]:
    """Seeded normal values for ``x``."""
    return {"x": (np.random.default_rng(seed).normal(0, scale, shape)).astype(np.float32)}


def run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Output ``y``."""
    return load_session(path).run(["y"], feeds)[0]


def sqnr_db(got: np.ndarray, expected: np.ndarray) -> float:
    """Signal to error in dB; infinite when equal."""
    error = float(((got.astype(np.float64) - expected) ** 2).sum())
    return float(10 * np.log10((expected.astype(np.float64) ** 2).sum() / error)) if error else np.inf


def nodes(path: Path) -> dict[str, onnx.NodeProto]:
    """Name -> node."""
    return {node.name: node for node in onnx.load(str(path)).graph.node}


def stored(path: Path) -> dict[str, str]:
    """Initialiser -> its ONNX type."""
    return {t.name: TensorProto.DataType.Name(t.data_type) for t in onnx.load(str(path)).graph.initializer}


def types(path: Path) -> dict[str, str]:
    """Tensor -> its ONNX type, inferred."""
    from bench.precision.halves import types_of

    return {name: TensorProto.DataType.Name(number) for name, number in types_of(onnx.load(str(path))).items()}
