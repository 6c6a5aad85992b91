"""Cross-layer range equalisation: channels of one activation share one scale, so their ranges are brought together.

Between two convolutions with nothing or a ReLU between them, a channel may be divided by any positive factor if the
next convolution multiplies it again: the function stays the same, the ranges do not (Nagel et al., arXiv 1906.04721).
Weights have a scale per output channel here, so only activations gain: in front of a depthwise convolution, whose
weights follow for nothing, all channels get the same range; in front of a full one the factor is the geometric mean
between the range of the channel and that of the weights that read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.precision.sqnr import run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from bench.types import Array, Feeds

_LARGEST_FACTOR = 2.0**8
"""A channel that is nearly dead on the calibration images must not fill the grid, lest others find it alive."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two convolutions between which channels can be scaled."""

    first: str
    second: str
    tensor: str
    """What the second one reads: the output of the first, or of the ReLU behind it."""
    depthwise: bool
    """Whether the second reads each channel by itself."""


def pairs_of(model: ModelProto, *, float_nodes: Collection[str] = ()) -> tuple[Pair, ...]:
    """Convolutions whose output only one other convolution reads, through a ReLU or nothing.

    Pairs with a node of ``float_nodes`` are left alone: nothing is rounded between them, or only one side of it is.
    """
    graph = model.graph
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    seen = {value.name for value in graph.output}
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = []
    for first in graph.node:
        if first.op_type != "Conv" or first.name in float_nodes or not _owns(first, weights, readers):
            continue
        tensor = first.output[0]
        after = readers.get(tensor, [])
        if len(after) == 1 and after[0].op_type == "Relu" and tensor not in seen:
            tensor = after[0].output[0]
            after = readers.get(tensor, [])
        if len(after) != 1 or tensor in seen or after[0].op_type != "Conv" or after[0].input[0] != tensor:
            continue
        second = after[0]
        channels = weights[first.input[1]][0]
        if second.name in float_nodes or not _owns(second, weights, readers):
            continue
        groups = next((a.i for a in second.attribute if a.name == "group"), 1)
        shape = weights[second.input[1]]
        depthwise = groups == channels == shape[0] and shape[1] == 1
        if depthwise or groups == 1:
            found.append(Pair(first.name, second.name, tensor, depthwise))
    return tuple(found)


def channel_ranges(model: ModelProto, tensors: Iterable[str], feeds: Iterable[Feeds]) -> dict[str, Array]:
    """Tensor (B, C, H, W) -> largest magnitude of each channel over ``feeds``, (C,) float64."""
    import onnx
    from onnx import TensorProto, helper

    names = list(dict.fromkeys(tensors))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for index, name in enumerate(names):
        size, result = f"parity:size:{index}", f"parity:channels:{index}"
        probe.graph.node.append(helper.make_node("Abs", [name], [size]))
        probe.graph.node.append(helper.make_node("GlobalMaxPool", [size], [result]))
        probe.graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
    rows = run(probe, feeds) if names else []
    return {
        name: np.max([row[f"parity:channels:{i}"].max(axis=0).ravel().astype(np.float64) for row in rows], axis=0)
        for i, name in enumerate(names)
    }


def equalised(model: ModelProto, pairs: Sequence[Pair], ranges: Mapping[str, Array]) -> ModelProto:
    """Copy of ``model`` with the channels between each pair scaled; the same function up to float32 rounding."""
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes = {node.name: node for node in result.graph.node}

    def change(name: str, value: Array) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))

    for pair in pairs:
        first, second = nodes[pair.first], nodes[pair.second]
        weight = numpy_helper.to_array(tensors[first.input[1]])
        after = numpy_helper.to_array(tensors[second.input[1]])
        factors = _factors(ranges[pair.tensor], after, pair.depthwise)
        change(first.input[1], weight / factors.reshape(-1, *[1] * (weight.ndim - 1)))
        if len(first.input) > 2:
            change(first.input[2], numpy_helper.to_array(tensors[first.input[2]]) / factors)
        axis = 0 if pair.depthwise else 1
        shape = [1] * after.ndim
        shape[axis] = -1
        change(second.input[1], after * factors.reshape(shape))
    return result


def _factors(activation: Array, weight: Array, depthwise: bool) -> Array:
    """What each channel is divided by: powers of two, so that scaling rounds nothing."""
    reads = np.ones_like(activation)
    if not depthwise:
        reads = np.abs(weight).max(axis=(0, *range(2, weight.ndim))).astype(np.float64)
    alive = (activation > 0) & (reads > 0)
    if not alive.any():
        return np.ones_like(activation)
    wanted = np.where(alive, activation, 1.0)
    if not depthwise:
        wanted = np.sqrt(wanted / np.where(alive, reads, 1.0))
    wanted = wanted / wanted[alive].max()
    wanted = np.clip(wanted, 1 / _LARGEST_FACTOR, 1.0)
    factors: Array = np.where(alive, np.exp2(np.rint(np.log2(wanted))), 1.0)
    return factors


def _owns(node: NodeProto, weights: Mapping[str, tuple[int, ...]], readers: Mapping[str, list[NodeProto]]) -> bool:
    """Whether weight and bias are constants that no other node reads."""
    return all(name in weights and len(readers[name]) == 1 for name in node.input[1:])
