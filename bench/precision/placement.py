"""Which nodes of a graph stay in float32 when the rest becomes fp16 or bf16, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.precision.graph import float_region, matching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnx import GraphProto, NodeProto

COMPUTE = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Attention", "DeformConv", "Einsum", "LSTM", "GRU", "RNN"}
)
"""Operators that carry the arithmetic of a network."""
FEATURES = COMPUTE | {
    "AveragePool", "BatchNormalization", "GlobalAveragePool", "GroupNormalization", "InstanceNormalization",
    "LayerNormalization", "MaxPool", "RMSNormalization", "Softmax",
}  # fmt: skip
"""What gives features; coordinates and sizes are computed from there on."""
EXCLUDED = "excluded"
HEAD = "head of the model"
COORDINATES = "positions and sizes"
CUSTOM = "operator of another domain"
NO_HALF = "ONNX has no {} for it"
BLOCKED = "the converter keeps it"


def kept_in_float(
    graph: GraphProto,
    types: Mapping[str, int],
    *,
    opset: int,
    half: str,
    exclude: Sequence[str] = (),
    head: Sequence[str] = (),
) -> dict[str, str]:
    """Name of each node that has float32 tensors and keeps them -> reason.

    Args:
        graph: sorted; every node has a name of its own.
        types: tensor -> ONNX element type, of all tensors.
        opset: of the default domain.
        half: ``float16`` or ``bfloat16``.
        exclude: patterns, see ``graph.matching``.
        head: patterns of nodes that stay with all that follows them, see ``graph.float_region``.

    Raises:
        UsageError: as ``graph.matching``.
        ContractError: as ``graph.float_region``.
    """
    from onnx import TensorProto
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    excluded = matching(graph, exclude)
    region = frozenset(float_region(graph, head))
    positions = frozenset(_coordinates(graph, types))
    kept = {}
    for node in graph.node:
        if all(types.get(name) != TensorProto.FLOAT for name in (*node.input, *node.output)):
            continue
        if node.name in excluded:
            kept[node.name] = EXCLUDED
        elif node.name in region:
            kept[node.name] = HEAD
        elif node.domain not in ("", "ai.onnx"):
            kept[node.name] = CUSTOM
        elif node.op_type in DEFAULT_OP_BLOCK_LIST:
            kept[node.name] = BLOCKED
        elif node.name in positions:
            kept[node.name] = COORDINATES
        elif _lacks(node, types, opset, half):
            kept[node.name] = NO_HALF.format(half)
    return kept


def _coordinates(graph: GraphProto, types: Mapping[str, int]) -> Iterator[str]:
    """Nodes that compute sampling grids, scales of a Resize and what becomes an integer, back to the features.

    fp16 has steps of 1 from 1024 on and bf16 from 128 on: a grid loses its sub-pixels, a size is off by one.
    """
    from onnx import TensorProto

    producers = {name: node for node in graph.node for name in node.output if name}
    wanted: list[str] = []
    for node in graph.node:
        if node.op_type == "GridSample":
            yield node.name
            wanted.append(node.input[1])
        elif node.op_type == "Resize":
            wanted.extend(node.input[1:3])
            if _text(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
                yield node.name
        elif node.op_type == "Cast" and types.get(node.output[0]) in (TensorProto.INT64, TensorProto.INT32):
            yield node.name
            wanted.append(node.input[0])
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        node_or_none = producers.get(name)
        if name in seen or node_or_none is None or types.get(name) != TensorProto.FLOAT:
            continue
        seen.add(name)
        if node_or_none.op_type not in FEATURES:
            yield node_or_none.name
            wanted.extend(node_or_none.input)


def _lacks(node: NodeProto, types: Mapping[str, int], opset: int, half: str) -> bool:
    """Whether a float32 tensor of this node may not be of the half type by the operator's definition."""
    from onnx import TensorProto, defs

    try:
        schema = defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError:
        return True
    for ports, formals, is_input in ((node.input, schema.inputs, True), (node.output, schema.outputs, False)):
        for index, name in enumerate(ports):
            if types.get(name) != TensorProto.FLOAT or (is_input and stays_float(node.op_type, index, opset)):
                continue
            allowed = formals[min(index, len(formals) - 1)].types
            if "tensor(float)" in allowed and f"tensor({half})" not in allowed:
                return True
    return False


def stays_float(op_type: str, index: int, opset: int) -> bool:
    """Whether this input is float32 whatever the others are; the converter knows of these."""
    return op_type == "Resize" and index == (1 if opset <= 10 else 2)


def _text(node: NodeProto, name: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name), "")
