"""Bias correction: rounding shifts the mean of a channel, and the bias takes the shift back.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
measured on images: each quantised node is computed a second time, on the rounded input and with the rounded weights,
beside the float node that it stands for. What both get comes from the float graph, so that every node is corrected for
its own error only and one pass serves all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ArtifactError
from bench.precision.qdq import placement, scale_of
from bench.precision.qdqwriter import quantise_weight, weight_axis
from bench.precision.sqnr import run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from onnx import ModelProto, NodeProto

    from bench.types import Array, Feeds

_PREFIX = "parity:bias:"
"""Names of graphs are free text; nobody else writes this one."""


def mean_errors(
    model: ModelProto,
    amax: Mapping[str, float],
    feeds: Iterable[Feeds],
    *,
    float_nodes: Collection[str] = (),
) -> dict[str, Array]:
    """Convolution -> mean of (quantised - float) per output channel, (C,) float64.

    Args:
        model: float graph that ``insert_qdq`` takes.
        amax: activation -> largest magnitude on its grid.
        feeds: calibration inputs, read once, one after the other.
        float_nodes: names of nodes that stay in float.

    Raises:
        ArtifactError: the graph cannot be run.
    """
    import onnx
    from onnx import TensorProto, helper

    usable = {name for name, value in amax.items() if scale_of(value, name) > 0}
    chosen = set(placement(model, float_nodes=float_nodes, ranges=usable).nodes)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.name in chosen and n.op_type == "Conv" and n.input[1] in weights]
    if not nodes:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    for tensor in {node.input[0]: None for node in nodes}:
        zero, scale = f"{_PREFIX}zero:{tensor}", f"{_PREFIX}scale:{tensor}"
        step = np.array(scale_of(amax[tensor]), np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(step, scale))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), zero))
        graph.node.append(helper.make_node("QuantizeLinear", [tensor, scale, zero], [f"{_PREFIX}q:{tensor}"]))
        graph.node.append(
            helper.make_node("DequantizeLinear", [f"{_PREFIX}q:{tensor}", scale, zero], [f"{_PREFIX}in:{tensor}"])
        )
    outputs = []
    for index, node in enumerate(nodes):
        graph.initializer.append(_rounded(weights[node.input[1]], node, f"{_PREFIX}{index}:weight"))
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{_PREFIX}{index}:twin"
        twin.input[0], twin.input[1] = f"{_PREFIX}in:{node.input[0]}", f"{_PREFIX}{index}:weight"
        twin.output[0] = f"{_PREFIX}{index}:out"
        graph.node.append(twin)
        graph.node.append(helper.make_node("Sub", [twin.output[0], node.output[0]], [f"{_PREFIX}{index}:error"]))
        graph.node.append(helper.make_node("GlobalAveragePool", [f"{_PREFIX}{index}:error"], [f"{_PREFIX}{index}"]))
        outputs.append(helper.make_tensor_value_info(f"{_PREFIX}{index}", TensorProto.FLOAT, None))
    del graph.output[:]
    graph.output.extend(outputs)
    found = run(probe, feeds)
    means = {
        node.name: np.mean([row[f"{_PREFIX}{i}"].mean(axis=0).ravel().astype(np.float64) for row in found], axis=0)
        for i, node in enumerate(nodes)
    }
    for name, value in means.items():
        if not np.isfinite(value).all():
            raise ArtifactError(f"bias correction: node {name!r} has a non-finite mean error; exclude it from int8")
    return means


def corrected(model: ModelProto, errors: Mapping[str, Array]) -> ModelProto:
    """Copy of ``model`` whose biases are lowered by the mean errors of their nodes; a missing bias is added."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    biases = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.name not in errors:
            continue
        old = biases[node.input[2]] if len(node.input) > 2 and node.input[2] in biases else None
        value = 0.0 if old is None else onnx.numpy_helper.to_array(old).astype(np.float64)
        # Its own tensor: another node may share the old one.
        name = f"{node.name}:bias"
        tensor = onnx.numpy_helper.from_array((value - errors[node.name]).astype(np.float32), name)
        result.graph.initializer.append(tensor)
        if len(node.input) > 2:
            node.input[2] = name
        else:
            node.input.append(name)
    read = {name for node in result.graph.node for name in node.input} | {v.name for v in result.graph.output}
    kept = [tensor for tensor in result.graph.initializer if tensor.name in read]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


def _rounded(weight: object, node: NodeProto, name: str) -> object:
    """The weight as int8 represents it, in float32."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(weight)  # type: ignore[arg-type]
    axis = weight_axis(node, values.ndim)
    steps, scales = quantise_weight(values, axis)
    shape = [1] * values.ndim
    shape[axis] = -1
    return numpy_helper.from_array(steps.astype(np.float32) * scales.reshape(shape), name)
