"""fp32 ONNX to a bf16 graph with fp32 inputs and outputs.

The fp16 converter places the casts; then every fp16 tensor becomes bf16, with weights rounded from the float32 ones.
The head stays in float32: bf16 has steps of 2 from 256 on, too coarse for pixels (measured in README.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.halves import floats_of, halve, open_source, save, source_of
from bench.precision.qdq import opset_of
from bench.precision.session import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import GraphProto, ModelProto, TensorProto

    from bench.types import Array

MIN_OPSET = 22
"""Convolutions and poolings take bfloat16 from here on; the checker refuses them below."""
LARGEST = 3.3895313892515355e38
"""Largest finite bf16 value; float32 goes a little further (masks hold its end) and would round to infinity."""
_IR_VERSION = 10


def convert_bf16(
    source: Path, out: Path, *, float_nodes: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``source`` with bf16 weights and arithmetic to ``out`` and return the recipe.

    Args:
        source: fp32 ONNX file.
        out: file to write.
        float_nodes: patterns of the head, which stays in float32 with all that follows it, see ``graph.float_region``.
        exclude: patterns of nodes that stay in float32 (their own, not what follows them).

    Raises:
        InputError: ``source`` is not a complete float32 ONNX file, or ``out`` cannot be written.
        UsageError: ``exclude`` that matches nothing.
        ContractError: ``float_nodes`` that match nothing.
        ArtifactError: the opset cannot be raised to 22, or the graph cannot be converted.
    """
    import onnx
    import onnxruntime

    model = open_source(source, half="bfloat16")
    opset = opset_of(model)
    model = raise_opset(model, MIN_OPSET, where=source, why="convolutions take bfloat16 only from there on")
    halved = halve(model, where=source, half="bfloat16", exclude=exclude, head=float_nodes)
    clamped = _retype(halved.model, halved.source)
    save(halved.model, out)
    return {
        "tool": "onnxruntime.transformers.float16 for the placement, retyped to bfloat16",
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "keep_io_types": True,
        "opset_of_source": opset,
        "opset": opset_of(halved.model),
        "compute_nodes": {"bf16" if name == "half" else name: n for name, n in sorted(halved.compute().items())},
        "nodes_left_in_float": halved.kept_operators(),
        "exclude": list(exclude),
        "float_patterns": list(float_nodes),
        "clamped_weights": clamped,
    }


def raise_opset(model: ModelProto, opset: int, *, where: Path, why: str) -> ModelProto:
    """Return the model at least at ``opset``; node names stay.

    Raises:
        ArtifactError: the version converter refuses, with its reason.
    """
    import onnx

    found = opset_of(model)
    if found >= opset:
        return model
    try:
        raised = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise ArtifactError(
            f"{where}: opset {found} cannot be raised to {opset} ({why}): {first_line(error)}. Export the model with "
            f"opset {opset}, or use fp16"
        ) from error
    raised.ir_version = max(raised.ir_version, _IR_VERSION)
    return raised


def to_bfloat16(values: Array) -> Array:
    """Round to the nearest bf16 value, ties to even; finite values stay finite.

    Args:
        values: float32.

    Returns:
        Array of ``ml_dtypes.bfloat16`` of the same shape.
    """
    import ml_dtypes

    inside = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    return inside.astype(ml_dtypes.bfloat16)


def _retype(model: ModelProto, source: ModelProto) -> dict[str, dict[str, int]]:
    """Make every fp16 tensor bf16; returns weight -> number of its values that had to be cut off."""
    from onnx import TensorProto, numpy_helper

    floats = floats_of(source.graph)
    clamped = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = floats[source_of(tensor.name)]
            beyond = int(np.count_nonzero(np.isfinite(values) & (np.abs(values) > LARGEST)))
            if beyond:
                clamped[tensor.name] = {"beyond": beyond}
            tensor.CopyFrom(_tensor(tensor.name, values))
    attributes = {
        (node.name, a.name): numpy_helper.to_array(a.t)
        for node in source.graph.node for a in node.attribute
        if a.HasField("t") and a.t.data_type == TensorProto.FLOAT
    }  # fmt: skip
    _retype_nodes(model.graph, attributes)
    return clamped


def _retype_nodes(graph: GraphProto, attributes: Mapping[tuple[str, str], Array]) -> None:
    from onnx import TensorProto, numpy_helper

    for node in graph.node:
        for a in node.attribute:
            if a.name in ("to", "dtype") and a.i == TensorProto.FLOAT16:
                a.i = TensorProto.BFLOAT16
            elif a.HasField("t") and a.t.data_type == TensorProto.FLOAT16:
                values = attributes.get((node.name, a.name), numpy_helper.to_array(a.t).astype(np.float32))
                a.t.CopyFrom(_tensor(a.t.name, values))
        node.name = _renamed(node.name)
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = _renamed(name)


def _renamed(name: str) -> str:
    """The converter's own names end in the type that it had in mind."""
    for ending in ("_cast_to_fp16", "_cast_to_fp16_node"):
        if name.endswith(ending):
            return name.removesuffix(ending) + ending.replace("fp16", "bf16")
    return name


def _tensor(name: str, values: Array) -> TensorProto:
    from onnx import TensorProto, helper

    rounded = to_bfloat16(values)
    return helper.make_tensor(name, TensorProto.BFLOAT16, rounded.shape, rounded.tobytes(), raw=True)
