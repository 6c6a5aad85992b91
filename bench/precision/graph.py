"""Questions to a graph: which nodes stay in float, what its arithmetic costs, how much of it is int8."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.errors import ContractError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import GraphProto, ModelProto, NodeProto

    from bench.precision.calibration import TensorRange


def float_region(graph: GraphProto, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the nodes that match and of all nodes downstream of them, in the order of the graph.

    A pattern is searched in a node's name, in the names of its outputs and in the names of its weights: exporters that
    number their nodes still name the weights after modules, so that ``detect_head`` finds a head in both.

    Args:
        graph: topologically sorted; every node has a name.
        patterns: regular expressions.

    Raises:
        ContractError: a pattern that is no regular expression, or patterns of which none matches anything.
    """
    try:
        searches = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ContractError(
            f"float_nodes of the model: {error.pattern!r} is no regular expression ({error})"
        ) from error
    weights = {tensor.name for tensor in graph.initializer}
    touched: set[str] = set()
    names: list[str] = []
    for node in graph.node:
        own = (node.name, *node.output, *(name for name in node.input if name in weights))
        named = any(search.search(name) for search in searches for name in own)
        if named or not touched.isdisjoint(node.input):
            touched.update(node.output)
            names.append(node.name)
    if patterns and not names:
        raise ContractError(
            f"float_nodes of the model: none of {', '.join(map(repr, patterns))} matches a node, an output or a weight "
            f"of this graph (its last node is {graph.node[-1].name!r})"
        )
    return tuple(names)


def name_nodes(graph: GraphProto) -> None:
    """Give every unnamed node the name ``<operator>_<index>``, because exclusion lists work by name."""
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


def matching(graph: GraphProto, patterns: Sequence[str]) -> dict[str, str]:
    """Node -> the first pattern that names it, by its name, an output or a weight; what follows it is not meant.

    Raises:
        UsageError: a pattern that is no regular expression, or that matches nothing.
    """
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, str] = {}
    for pattern in patterns:
        try:
            search = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--exclude {pattern!r} is no regular expression ({error})") from error
        named = [
            node.name
            for node in graph.node
            if any(search.search(n) for n in (node.name, *node.output, *(i for i in node.input if i in weights)))
        ]
        if not named:
            raise UsageError(
                f"--exclude {pattern!r} matches no node, output or weight of this graph (its first node is "
                f"{graph.node[0].name!r}, its last {graph.node[-1].name!r})"
            )
        for name in named:
            found.setdefault(name, pattern)
    return found


def shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape, with 1 for every symbolic axis; weights included."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    found: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = tuple(max(axis.dim_value, 1) for axis in value.type.tensor_type.shape.dim)
    return found


def macs(model: ModelProto) -> dict[str, int]:
    """Node -> multiply-accumulates of convolutions and matrix products at batch 1; 0 where a shape is unknown."""
    known = shapes(model)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        first, second, out = (known.get(name, ()) for name in (*node.input[:2], node.output[0]))
        found[node.name] = 0
        if not (first and second and out):
            continue
        if node.op_type == "Conv":
            found[node.name] = math.prod(out) * math.prod(second[1:])
        elif node.op_type == "ConvTranspose":
            found[node.name] = math.prod(first) * math.prod(second[1:])
        else:
            transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
            found[node.name] = math.prod(out) * first[0 if transposed else -1]
    return found


def int8_share(model: ModelProto) -> dict[str, float | int]:
    """How much of a Q/DQ graph computes on 8-bit values: by multiply-accumulates and by nodes."""
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    work = macs(model)
    quantised = {node.name for node in model.graph.node if node.name in work and dequantised.issuperset(node.input[:2])}
    total = sum(work.values())
    return {
        "macs": round(sum(work[name] for name in quantised) / total, 4) if total else 0.0,
        "nodes": round(len(quantised) / len(work), 4) if work else 0.0,
        "int8_nodes": len(quantised),
        "compute_nodes": len(work),
    }


def share_ranges(model: ModelProto, ranges: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """``ranges``, where what only a ReLU reads has the magnitude of what the ReLU gives.

    Negative values end as 0 whatever they were, so the grid need not reach them; and behind the ReLU nothing is rounded
    a second time.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    shared = dict(ranges)
    for name, found in ranges.items():
        after = readers.get(name, [])
        if len(after) == 1 and after[0].op_type == "Relu" and after[0].output[0] in ranges:
            shared[name] = replace(found, amax=ranges[after[0].output[0]].amax)
    return shared


def behind_relu(model: ModelProto, tensors: Sequence[str]) -> tuple[str, ...]:
    """Outputs of the ReLUs that read ``tensors``, which ``share_ranges`` needs the ranges of."""
    wanted = set(tensors)
    return tuple(n.output[0] for n in model.graph.node if n.op_type == "Relu" and n.input[0] in wanted)
