"""What the fp16 and the bf16 conversion share: a graph that can be converted, and the converter's result repaired.

onnxruntime's converter decides where casts go. What it leaves wrong or lossy is undone here; the list stands in
README.md, with a test for each.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError, InputError
from bench.precision.graph import name_nodes
from bench.precision.onnxfile import read
from bench.precision.placement import COMPUTE, kept_in_float, stays_float
from bench.precision.qdq import QUANTISED, opset_of
from bench.precision.session import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from bench.types import Array

OWN = "_own_float"
"""Suffix of the copy of a weight that float nodes get when half nodes read it too."""
ROI = "parity_no_roi"
_ROI_OPTIONAL = 13


@dataclass(frozen=True, slots=True)
class Halved:
    """An fp16-typed graph with float32 inputs and outputs, and what it was made from."""

    model: ModelProto
    source: ModelProto
    """The float32 graph with the same names."""
    kept: Mapping[str, str]
    """Node that stays in float32 -> reason."""
    halves: frozenset[str]
    """Tensors of ``source`` that exist as fp16, inputs and outputs included when a cast narrows them."""
    types: Mapping[str, int]
    """Tensor of ``model`` -> element type."""

    def compute(self) -> dict[str, int]:
        """Nodes that carry the arithmetic: ``half`` and ``fp32`` -> number."""
        from onnx import TensorProto

        first = [n.input[0] for n in self.model.graph.node if n.op_type in COMPUTE]
        return dict(Counter("half" if self.types.get(name) == TensorProto.FLOAT16 else "fp32" for name in first))

    def kept_operators(self) -> dict[str, dict[str, int]]:
        """Reason -> operator -> number of nodes that stay in float32 for it."""
        counts: dict[str, Counter[str]] = {}
        for node in self.source.graph.node:
            if node.name in self.kept:
                counts.setdefault(self.kept[node.name], Counter())[node.op_type] += 1
        return {reason: dict(c.most_common()) for reason, c in sorted(counts.items())}


def open_source(path: Path, *, half: str) -> ModelProto:
    """Load a float32 graph, with local functions inlined and every node named.

    Raises:
        InputError: not a complete ONNX file, or one that is quantised or of half precision already.
        ArtifactError: a graph that the converter would break (control flow).
    """
    import onnx
    from onnx import AttributeProto, TensorProto, inliner

    read(path)
    model = onnx.load(str(path))
    if model.functions:
        model = inliner.inline_local_functions(model)
    quantised = sorted({n.op_type for n in model.graph.node if n.op_type in QUANTISED})
    if quantised:
        raise InputError(
            f"{path}: is quantised already ({', '.join(quantised)}). Give the float32 file that it was made from."
        )
    halves = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
    found = {t.data_type for t in model.graph.initializer} | {
        a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"
    }
    if already := [name for number, name in halves.items() if number in found]:
        raise InputError(f"{path}: holds {' and '.join(already)} already. Give the float32 file that it was made from.")
    flow = [
        n for n in model.graph.node if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in n.attribute)
    ]
    if flow:
        raise ArtifactError(
            f"{path}: {flow[0].op_type} {flow[0].name!r} holds a subgraph, and the converter puts its casts outside of "
            f"it. No {half} graph is made. Export without control flow (fixed shapes, constants folded)."
        )
    name_nodes(model.graph)
    _distinct_names(model.graph)
    return model


def halve(
    model: ModelProto, *, where: Path, half: str, exclude: Sequence[str] = (), head: Sequence[str] = ()
) -> Halved:
    """Convert to fp16 what may be ``half``; the model given is not changed.

    Args:
        model: of ``open_source``.
        where: its file, for messages.
        half: ``float16`` or ``bfloat16``: the type that every converted tensor must be allowed to have.
        exclude: patterns of nodes that stay in float32, see ``graph.matching``.
        head: patterns of nodes that stay with all that follows them, see ``graph.float_region``.

    Raises:
        UsageError: as ``graph.matching``.
        ContractError: as ``graph.float_region``.
        ArtifactError: the graph is not one that can be converted.
    """
    import onnx
    from onnx import TensorProto
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = onnx.ModelProto()
    source.CopyFrom(model)
    _lift_constants(source.graph)
    _drop_old_inputs(source)
    opset = opset_of(source)
    _drop_unused_roi(source.graph, opset)
    try:
        kept = kept_in_float(source.graph, types_of(source), opset=opset, half=half, exclude=exclude, head=head)
        working = onnx.ModelProto()
        working.CopyFrom(source)
        _own_weights(working.graph, kept, opset)
        converted = convert_float_to_float16(working, keep_io_types=True, node_block_list=list(kept))
        _keep_roi(converted.graph)
        del converted.graph.value_info[:]  # every float note was made fp16, also where the tensor stayed float
        _merge_twins(converted.graph)
        _sort(converted, where)
        _undo_round_trips(converted)
        types = types_of(converted)
    except (ValueError, AssertionError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{where}: cannot be converted to {half}: {first_line(error)}") from error
    narrowed = {n.input[0] for n in converted.graph.node if _casts_to(n, TensorProto.FLOAT16)}
    # An output is computed under another name and widened; its float32 name says nothing of how it was computed.
    outputs = {
        n.output[0] for n in converted.graph.node
        if _casts_to(n, TensorProto.FLOAT) and types.get(n.input[0]) == TensorProto.FLOAT16
    }  # fmt: skip
    known = {name for n in source.graph.node for name in n.output} | {value.name for value in source.graph.input}
    halves = {name for name, number in types.items() if number == TensorProto.FLOAT16} | outputs
    halves |= {name for name in narrowed if types.get(name) == TensorProto.FLOAT}
    return Halved(model=converted, source=source, kept=kept, halves=frozenset(halves & known), types=types)


def types_of(model: ModelProto) -> dict[str, int]:
    """Tensor -> ONNX element type, by strict inference with data propagation.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def save(model: ModelProto, out: Path) -> None:
    """Write the file, weights inside.

    Raises:
        InputError: the disk does not take it.
        ArtifactError: it is larger than 2 GB, which is where protobuf ends.
    """
    import onnx
    from google.protobuf.message import EncodeError

    try:
        onnx.save(model, str(out))
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror}). Free space, or move the store with PARITY_CACHE=DIR."
        ) from error
    except (ValueError, EncodeError) as error:
        raise ArtifactError(f"{out}: cannot be written as one file: {first_line(error)}") from error


def floats_of(graph: GraphProto) -> dict[str, Array]:
    """Float32 initialiser -> its values."""
    from onnx import TensorProto, numpy_helper

    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.FLOAT}


def source_of(name: str) -> str:
    """Name in the source of a weight that may be a copy for float nodes."""
    return name.removesuffix(OWN)


def _distinct_names(graph: GraphProto) -> None:
    """Exclusion works by name: a name that two nodes share would exclude both."""
    taken: set[str] = set()
    for node in graph.node:
        base, number = node.name, 1
        while node.name in taken:
            node.name, number = f"{base}_{number}", number + 1
        taken.add(node.name)


def _lift_constants(graph: GraphProto) -> None:
    """Turn Constant nodes into initialisers.

    The converter ignores ``value_float`` and ``value_floats``, and rounds a Constant that only float nodes read.
    """
    kept = []
    for node in graph.node:
        tensor = _constant(node) if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        _replace_nodes(graph, kept)


def _constant(node: NodeProto) -> TensorProto | None:
    from onnx import TensorProto, numpy_helper

    attribute = node.attribute[0]
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = node.output[0]
        return tensor
    numbers: dict[str, Any] = {
        "value_float": (attribute.f, np.float32), "value_floats": (list(attribute.floats), np.float32),
        "value_int": (attribute.i, np.int64), "value_ints": (list(attribute.ints), np.int64),
    }  # fmt: skip
    if attribute.name not in numbers:
        return None
    value, dtype = numbers[attribute.name]
    return numpy_helper.from_array(np.array(value, dtype), node.output[0])


def _drop_old_inputs(model: ModelProto) -> None:
    """Weights listed as inputs (IR 3) would get a cast at run time instead of being stored in half."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    notes = [value for value in graph.value_info if value.name not in weights]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    graph.value_info.extend(notes)
    model.ir_version = max(model.ir_version, 4)


def _drop_unused_roi(graph: GraphProto, opset: int) -> None:
    """Only tf_crop_and_resize reads the roi, and the converter makes it fp16.

    Before opset 13 there must be one: then it is an empty one of our own, see ``_keep_roi``.
    """
    from onnx import numpy_helper

    if opset < _ROI_OPTIONAL:
        graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), ROI))
    for node in graph.node:
        crops = any(a.s == b"tf_crop_and_resize" for a in node.attribute)
        if node.op_type == "Resize" and len(node.input) >= 3 and not crops:
            node.input[1] = "" if opset >= _ROI_OPTIONAL else ROI
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _keep_roi(graph: GraphProto) -> None:
    """Make the empty roi float32 again."""
    from onnx import TensorProto

    for tensor in graph.initializer:
        if tensor.name == ROI:
            tensor.data_type = TensorProto.FLOAT


def _own_weights(graph: GraphProto, kept: Mapping[str, str], opset: int) -> None:
    """Copy weights that both kinds of node read: the converter would give float nodes the rounded values."""
    from onnx import TensorProto

    weights = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    readers: dict[str, dict[bool, list[tuple[NodeProto, int]]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in weights:
                is_float = node.name in kept or stays_float(node.op_type, index, opset)
                readers.setdefault(name, {True: [], False: []})[is_float].append((node, index))
    for name, sides in readers.items():
        if sides[True] and sides[False]:
            copy = graph.initializer.add()
            copy.CopyFrom(weights[name])
            copy.name = name + OWN
            for node, index in sides[True]:
                node.input[index] = copy.name


def _merge_twins(graph: GraphProto) -> None:
    """Keep one of equal casts: the converter adds one for every float node that reads a tensor, all of one name."""
    seen: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in seen:
            continue
        seen.update(node.output)
        nodes.append(node)
    _replace_nodes(graph, nodes)


def _sort(model: ModelProto, where: Path) -> None:
    from onnxruntime.transformers.onnx_model import OnnxModel

    try:
        OnnxModel(model).topological_sort(is_deterministic=True)
    except RuntimeError as error:
        raise ArtifactError(f"{where}: its nodes cannot be sorted: {first_line(error)}") from error


def _undo_round_trips(model: ModelProto) -> None:
    """Let float nodes read each other directly: between two of them the converter goes through fp16 and back."""
    from onnx import TensorProto

    graph = model.graph
    types = types_of(model)
    producers = {name: node for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    dropped: set[str] = set()
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        inner = producers.get(node.input[0]) if node.input else None
        if inner is None or not (_casts_to(node, TensorProto.FLOAT) and _casts_to(inner, TensorProto.FLOAT16)):
            continue
        node.input[0] = inner.input[0]
        if types.get(inner.input[0]) != TensorProto.FLOAT:
            continue  # an integer: one cast to float is left
        if node.output[0] in outputs:
            node.op_type = "Identity"
            del node.attribute[:]
        else:
            renamed[node.output[0]] = inner.input[0]
            dropped.add(node.name)
    nodes = [node for node in graph.node if node.name not in dropped]
    read_by_someone = {name for node in nodes for name in node.input} | outputs
    nodes = [n for n in nodes if not (_casts_to(n, TensorProto.FLOAT16) and n.output[0] not in read_by_someone)]
    _replace_nodes(graph, nodes)


def _casts_to(node: NodeProto, number: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == number for a in node.attribute)


def _replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
