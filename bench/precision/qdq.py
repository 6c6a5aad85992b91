"""Where quantised values stand in a graph: inserts QuantizeLinear / DequantizeLinear pairs, and reads them back.

One grid for every runtime: symmetric, scale = amax / 127, one scale per activation and one per output channel of a
weight. Weights are stored as int8 behind a DequantizeLinear; biases stay float32 (onnxruntime makes them int32 when it
loads the file, TensorRT takes no other).

Two runtimes decide where the pairs stand (measured in README.md):

* onnxruntime on x86 computes a node in int8 only if every Q around it has one DQ with one reader. So each quantised
  reader has a pair of its own, and what a quantised node gives to several readers passes a ``Max`` first.
* openvino moves a Q that follows a Concat in front of it, and loses the zero point of an int8 one. A ``Max`` holds it.

That ``Max`` is with the lowest value of the grid: behind or in front of the same grid it changes nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.qdqwriter import INT8_MAX, Placement, Writer, constants_of, lowest, tensors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from bench.types import Array

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that multiply."""
OPERATORS = (*COMPUTE, "Add")
"""Allow-list of TensorRT's advice: what multiplies, and residual additions. Softmax, normalisation, GridSample, TopK
and all element-wise arithmetic stay in float."""
QUANTISED = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "QLinearAdd", "QLinearConcat", "QGemm", "QAttention", "QLinearSigmoid", "QLinearMul",
})  # fmt: skip
MIN_OPSET = 13
"""The first opset with per-channel Q/DQ; neither onnxruntime nor openvino loads such a file below it."""
ZERO_POINT = {"int8": 0, "uint8": 128}


def opset_of(model: ModelProto) -> int:
    """Version of the default operator set.

    Raises:
        ArtifactError: the file declares none.
    """
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise ArtifactError("the graph declares no opset of the ai.onnx domain; export the model again")


def refuse_quantised(model: ModelProto) -> None:
    """Pass a graph without quantised operators.

    Raises:
        ArtifactError: names the first one: ranges cannot be measured behind a grid that is already there.
    """
    found = [node for node in model.graph.node if node.op_type in QUANTISED]
    if found:
        raise ArtifactError(
            f"the graph is already quantised: {len(found)} nodes, the first is {found[0].op_type} {found[0].name!r}. "
            "Quantising twice loses accuracy silently. Give the fp32 file, or run this one as it is"
        )


def placement(
    model: ModelProto,
    *,
    float_nodes: Collection[str] = (),
    operators: Sequence[str] = OPERATORS,
    ranges: Collection[str] | None = None,
) -> Placement:
    """Decide which nodes and activations are quantised.

    A node of ``operators`` is quantised when every activation that it reads can be. What it computes is quantised too,
    unless it is an output of the graph: onnxruntime multiplies in int8 only between two quantised values.

    Args:
        model: float graph, topologically sorted, every node named.
        float_nodes: names of nodes that stay in float.
        operators: allow-list.
        ranges: activations with a known range; None takes all for known.
    """
    graph = model.graph
    constants, activations = constants_of(graph), _float_activations(model)
    outputs = {value.name for value in graph.output}

    def known(name: str) -> bool:
        return ranges is None or name in ranges

    chosen: list[str] = []
    wanted: set[str] = set()
    produced: set[str] = set()
    for node in graph.node:
        if node.op_type not in operators or node.name in float_nodes or node.domain not in ("", "ai.onnx"):
            continue
        read = _quantised_inputs(node, constants, activations)
        if not read or not all(known(name) for name in read):
            continue
        chosen.append(node.name)
        wanted.update(read)
        if node.op_type in COMPUTE and node.output[0] not in outputs and known(node.output[0]):
            wanted.add(node.output[0])
            produced.add(node.output[0])
    ordered = [name for name in tensors_of(graph) if name in wanted]
    return Placement(tuple(chosen), tuple(ordered), frozenset(produced))


def insert_qdq(
    model: ModelProto,
    amax: Mapping[str, float],
    *,
    float_nodes: Collection[str] = (),
    activations: str = "int8",
    operators: Sequence[str] = OPERATORS,
) -> ModelProto:
    """Return a copy of ``model`` with Q/DQ pairs; inputs, outputs and biases stay float32.

    Only quantised nodes read quantised values. All others read the float value, unless a quantised node computed it:
    then it exists on the grid only.

    Args:
        model: float32 graph, opset 13 or later, topologically sorted; unnamed nodes are named.
        amax: activation tensor -> largest magnitude on its grid. A node that reads an activation without one, or with
            one of 0, stays in float; other names are ignored.
        float_nodes: names of nodes that stay in float.
        activations: ``int8`` (zero point 0) or ``uint8`` (the same grid with zero point 128).
        operators: allow-list of operators.

    Raises:
        ArtifactError: a quantised graph, an opset below 13, or a magnitude that is negative or not finite.
    """
    import onnx

    from bench.precision.graph import name_nodes

    refuse_quantised(model)
    if (opset := opset_of(model)) < MIN_OPSET:
        raise ArtifactError(
            f"opset {opset} has no per-channel Q/DQ; raise the graph to {MIN_OPSET} first "
            f"(onnx.version_converter.convert_version(model, {MIN_OPSET}))"
        )
    result = onnx.ModelProto()
    result.CopyFrom(model)
    name_nodes(result.graph)
    scales = {name: scale_of(value, name) for name, value in amax.items()}
    usable = {name for name, scale in scales.items() if scale > 0}
    placed = placement(result, float_nodes=float_nodes, operators=operators, ranges=usable)
    Writer(result.graph, placed, scales, ZERO_POINT[activations]).write()
    return result


def scale_of(amax: float, name: str = "activation") -> float:
    """Step of the grid: amax / 127 rounded to float32; 0 when the tensor is dead or below float32's normal range.

    Raises:
        ArtifactError: ``amax`` is negative or not finite.
    """
    if not (math.isfinite(amax) and amax >= 0):
        raise ArtifactError(f"range of {name!r}: the largest magnitude is {amax}; calibrate on finite images again")
    scale = float(np.float32(amax / INT8_MAX))
    return scale if np.finfo(np.float32).tiny <= scale < math.inf else 0.0


def scales_of(model: ModelProto) -> dict[str, float]:
    """Activation tensor -> scale of its QuantizeLinear (float32, as a Python float); weights are not among them.

    Raises:
        ArtifactError: a QuantizeLinear whose scale is no constant of the file, or not one number.
    """
    constants = constants_of(model.graph)
    makers = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        scale = constants.get(node.input[1])
        if scale is None or scale.size != 1:
            what = "not a constant" if scale is None else f"{scale.size} numbers"
            raise ArtifactError(
                f"{node.name or node.output[0]!r}: the scale of activation {node.input[0]!r} is {what}; "
                "one number per activation is expected"
            )
        value = float(scale.reshape(()))
        found.setdefault(_activation_behind(node.input[0], value, makers, constants), value)
    return found


def _activation_behind(name: str, scale: float, makers: Mapping[str, NodeProto], constants: Mapping[str, Array]) -> str:
    """The activation that a Q reads, seen through a ``Max`` of ours and the pair before it."""
    node = makers.get(name)
    if node is None or node.op_type != "Max" or len(node.input) != 2:
        return name
    bound = constants.get(node.input[1])
    if bound is None or bound.size != 1 or bound.reshape(()) != lowest(scale):
        return name
    before = makers.get(node.input[0])
    if before is None or before.op_type != "DequantizeLinear":
        return str(node.input[0])
    return str(makers[before.input[0]].input[0])


def _quantised_inputs(node: NodeProto, constants: Mapping[str, Array], activations: Mapping[str, Any]) -> list[str]:
    """Activations that ``node`` would read quantised; empty when it cannot be quantised."""
    pair = list(node.input[:2])
    if len(pair) < 2:
        return []
    weights = [name for name in pair if name in constants]
    read = [name for name in pair if name in activations and name not in constants]
    if len(weights) + len(read) < 2 or any(constants[name].dtype != np.float32 for name in weights):
        return []
    if node.op_type == "Add":
        # Residual: two maps of one shape. A constant, or a broadcast, is a bias or a grid.
        same = not weights and activations[read[0]] == activations[read[1]]
        return read if same and read[0] != read[1] else []
    if node.op_type in ("Conv", "ConvTranspose"):
        return read if weights == pair[1:] else []
    # A matrix product of a vector has no channels to speak of.
    if any(constants[name].ndim < 2 for name in weights):
        return []
    return read if weights in ([], pair[1:]) else []


def _float_activations(model: ModelProto) -> dict[str, tuple[int | str, ...]]:
    """float32 tensor -> shape, as far as it can be inferred."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.FLOAT:
            found[value.name] = tuple(
                axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in tensor.shape.dim
            )
    return found
