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
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from onnx import GraphProto, ModelProto, NodeProto

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
INT8_MAX = 127
ZERO_POINT = {"int8": 0, "uint8": 128}
_BIAS_MAX = 2.0**30
"""onnxruntime stores a bias as int32 with the step input scale * weight scale; half of the range stays free."""
_SMALLEST_SCALE = 1e-30
"""A dead channel has weights of any size, and the product of two scales must not underflow."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What is quantised, before any scale is known."""

    nodes: tuple[str, ...]
    """Nodes that compute on quantised inputs, in the order of the graph."""
    tensors: tuple[str, ...]
    """Activations with a Q/DQ pair, in the order in which they are computed."""
    produced: frozenset[str]
    """Those of ``tensors`` that a node of ``nodes`` computes."""


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
    constants, activations = _constants(graph), _float_activations(model)
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
    ordered = [name for name in _in_order(graph) if name in wanted]
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
    _Writer(result.graph, placed, scales, ZERO_POINT[activations]).write()
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
    constants = _constants(model.graph)
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
    if bound is None or bound.size != 1 or bound.reshape(()) != _lowest(scale):
        return name
    before = makers.get(node.input[0])
    if before is None or before.op_type != "DequantizeLinear":
        return str(node.input[0])
    return str(makers[before.input[0]].input[0])


def _lowest(scale: float) -> Array:
    """Lowest value of the grid, as a runtime dequantises it."""
    return np.array(np.float32(-INT8_MAX - 1) * np.float32(scale), np.float32)


def weight_axis(node: NodeProto, rank: int) -> int:
    """Axis of the output channels in the weight of ``node``."""
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return rank - 1 if node.op_type == "MatMul" else 0


def quantise_weight(values: Array, axis: int, *, least: Array | float = 0.0) -> tuple[Array, Array]:
    """Float weight -> int8 in [-127, 127] and its scales, float32, one per index of ``axis``.

    Args:
        values: weight of any rank.
        axis: of the output channels.
        least: lower bound of the scales, one number or one per channel.
    """
    others = tuple(i for i in range(values.ndim) if i != axis)
    amax = np.abs(values).max(axis=others).astype(np.float64)
    scales = np.maximum(np.maximum(amax / INT8_MAX, least), _SMALLEST_SCALE).astype(np.float32)
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = np.rint(values.astype(np.float64) / scales.reshape(shape))
    return np.clip(steps, -INT8_MAX, INT8_MAX).astype(np.int8), scales


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


def _constants(graph: GraphProto) -> dict[str, Array]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


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


def _in_order(graph: GraphProto) -> Iterator[str]:
    for value in graph.input:
        yield value.name
    for node in graph.node:
        yield from node.output


class _Writer:
    """Rewrites one graph in place."""

    def __init__(self, graph: GraphProto, placed: Placement, scales: Mapping[str, float], zero_point: int) -> None:
        self._graph = graph
        self._placed = placed
        self._scales = scales
        self._zero_point = zero_point
        self._constants = _constants(graph)
        self._taken = {*self._constants, *_in_order(graph), *(node.name for node in graph.node)}
        self._least = self._smallest_weight_scales()

    def write(self) -> None:
        """Emit every node behind the pairs that it needs, and drop the weights that nobody reads any more."""
        quantised, wanted = set(self._placed.nodes), set(self._placed.tensors)
        old = list(self._graph.node)
        readers = Counter(name for node in old for name in node.input)
        weights: dict[str, str] = {}
        source: dict[str, str] = {}
        """Activation -> tensor that stands for it, where that is another one."""
        ready: set[str] = set()
        """Activations whose one reader finds them dequantised already."""
        del self._graph.node[:]
        for node in old:
            for index, name in enumerate(node.input):
                reads_grid = node.name in quantised and index < 2
                if reads_grid and name in self._constants:
                    if name not in weights:
                        weights[name] = self._weight(name, weight_axis(node, self._constants[name].ndim))
                    node.input[index] = weights[name]
                elif reads_grid and name in wanted and name not in ready:
                    node.input[index] = self._pair(name, source.get(name, name))
                elif name in self._placed.produced:
                    node.input[index] = source[name]
            self._graph.node.append(node)
            for name in node.output:
                if name in self._placed.produced:
                    source[name] = self._pair(name, name)
                    if readers[name] > 1:
                        source[name] = self._hold(name, source[name])
                    else:
                        ready.add(name)
                elif name in wanted and node.op_type == "Concat":
                    source[name] = self._hold(name, name)
        self._drop_unread()

    def _pair(self, name: str, read: str) -> str:
        """Q and DQ of activation ``name``, reading ``read``; returns the dequantised tensor.

        Each pair has its own constants: onnxruntime merges pairs that share them.
        """
        scale = self._store(f"{name}_scale", np.array(self._scales[name], np.float32))
        zero = self._store(f"{name}_zero_point", np.array(self._zero_point, np.uint8 if self._zero_point else np.int8))
        stored = self._emit("QuantizeLinear", name, [read, scale, zero], f"{name}_quantized")
        return self._emit("DequantizeLinear", name, [stored, scale, zero], f"{name}_dequantized")

    def _hold(self, name: str, read: str) -> str:
        """A ``Max`` that changes nothing on the grid and that no runtime removes."""
        lowest = self._store(f"{name}_lowest", _lowest(self._scales[name]))
        return self._emit("Max", name, [read, lowest], f"{name}_held")

    def _weight(self, name: str, axis: int) -> str:
        steps, scales = quantise_weight(self._constants[name], axis, least=self._least.get(name, 0.0))
        inputs = [
            self._store(f"{name}_quantized", steps),
            self._store(f"{name}_scale", scales),
            self._store(f"{name}_zero_point", np.zeros(scales.shape, np.int8)),
        ]
        return self._emit("DequantizeLinear", name, inputs, f"{name}_dequantized", axis=axis)

    def _smallest_weight_scales(self) -> dict[str, Array | float]:
        """Weight -> least scale per output channel at which its bias fits into int32.

        A dead channel has a bias and next to no weights (FastestDet: two channels of a depthwise convolution).
        """
        least: dict[str, Array | float] = {}
        for node in self._graph.node:
            if node.name not in self._placed.nodes or node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
                continue
            bias = self._constants.get(node.input[2])
            channels = (
                self._constants[node.input[1]].shape[weight_axis(node, 2)] if node.input[1] in self._constants else 0
            )
            if bias is not None and bias.shape == (channels,):
                needed = np.abs(bias.astype(np.float64)) / (_BIAS_MAX * self._scales[node.input[0]])
                least[node.input[1]] = np.maximum(needed, least.get(node.input[1], 0.0))
        return least

    def _emit(self, operator: str, about: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        output = self._unused(output)
        node = helper.make_node(operator, inputs, [output], name=self._unused(f"{about}_{operator}"), **attributes)
        self._graph.node.append(node)
        return output

    def _store(self, name: str, values: Array) -> str:
        from onnx import numpy_helper

        name = self._unused(name)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _unused(self, name: str) -> str:
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def _drop_unread(self) -> None:
        read = {name for node in self._graph.node for name in node.input} | {v.name for v in self._graph.output}
        read |= _read_in_subgraphs(self._graph)
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        gone = {tensor.name for tensor in self._graph.initializer} - {tensor.name for tensor in kept}
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        inputs = [value for value in self._graph.input if value.name not in gone]  # IR 3 lists weights among them
        del self._graph.input[:]
        self._graph.input.extend(inputs)


def _read_in_subgraphs(graph: GraphProto) -> set[str]:
    from onnx import AttributeProto

    found: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found |= {name for inner in attribute.g.node for name in inner.input}
                found |= _read_in_subgraphs(attribute.g)
    return found
