"""Rewrites a graph so that it computes on 8-bit values; where, is decided in ``qdq``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import GraphProto, NodeProto

    from bench.types import Array

INT8_MAX = 127
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


class Writer:
    """Rewrites one graph in place."""

    def __init__(self, graph: GraphProto, placed: Placement, scales: Mapping[str, float], zero_point: int) -> None:
        self._graph = graph
        self._placed = placed
        self._scales = scales
        self._zero_point = zero_point
        self._constants = constants_of(graph)
        self._taken = {*self._constants, *tensors_of(graph), *(node.name for node in graph.node)}
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
        bound = self._store(f"{name}_lowest", lowest(self._scales[name]))
        return self._emit("Max", name, [read, bound], f"{name}_held")

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


def lowest(scale: float) -> Array:
    """Lowest value of the grid, as a runtime dequantises it."""
    return np.array(np.float32(-INT8_MAX - 1) * np.float32(scale), np.float32)


def constants_of(graph: GraphProto) -> dict[str, Array]:
    """Weights and other constants, by name."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def tensors_of(graph: GraphProto) -> Iterator[str]:
    """Inputs, then what the nodes compute, in order."""
    for value in graph.input:
        yield value.name
    for node in graph.node:
        yield from node.output


def _read_in_subgraphs(graph: GraphProto) -> set[str]:
    from onnx import AttributeProto

    found: set[str] = set()
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found |= {name for inner in attribute.g.node for name in inner.input}
                found |= _read_in_subgraphs(attribute.g)
    return found
