"""Why a runtime would refuse or misread an ONNX file: known before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.precision.onnxfile import read
from bench.precision.qdq import QUANTISED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MIN_OPSET = 9
MAX_OPSETS = {8: 17, 9: 19, 10: 22, 11: 25}
"""Major version of TensorRT -> highest opset that its documentation names (up to 10: operators.md of onnx-tensorrt, 11:
the ONNX opset guide). Not tried here: no parser has run."""
GRID_SAMPLE_OPSET = 20
"""From here on the modes are called ``linear`` and ``cubic``; the parser knows the old words only and samples the
nearest value instead, without a message (TensorRT #4646, onnx-tensorrt #1060)."""
_INTEGER_FORMS = QUANTISED - {"QuantizeLinear", "DequantizeLinear"}


def lint(path: Path, *, runtime: str | None, version: str | None = None) -> list[str]:
    """Reasons why ``runtime`` cannot be given this file, each with a remedy; empty when none is known.

    Args:
        path: ONNX file.
        runtime: ``trt``; other runtimes and None have no rules yet.
        version: of the runtime, for example ``10.16.1``; None, or newer than the rules: the newest one known.

    Raises:
        InputError: not a complete ONNX file.
        UsageError: a version that is none, or older than the rules.
    """
    model = read(path)
    if runtime != "trt":
        return []
    known = max(MAX_OPSETS)
    word = (version or str(known)).split(".")[0]
    if not word.isdecimal() or int(word) < min(MAX_OPSETS):
        raise UsageError(f"TensorRT {version}: the rules know {min(MAX_OPSETS)} to {known}.")
    major = min(int(word), known)
    return [*_opset(model, major), *_ends(model.graph), *_operators(model, path)]


def _opset(model: ModelProto, major: int) -> Iterator[str]:
    found = _default_opset(model)
    if not MIN_OPSET <= found <= MAX_OPSETS[major]:
        yield (
            f"opset {found}: TensorRT {major} is documented for opsets {MIN_OPSET} to {MAX_OPSETS[major]}. "
            "Export with --opset 17"
        )


def _default_opset(model: ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _ends(graph: GraphProto) -> Iterator[str]:
    from onnx import TensorProto

    refused = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}
    weights = {tensor.name for tensor in graph.initializer}
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            number = value.type.tensor_type.elem_type
            if number in refused and value.name not in weights:
                yield (
                    f"{kind} {value.name!r} is {refused[number]}: a strongly typed engine would take and give "
                    "that type, and every precision gets the same float32 feeds. Convert with keep_io_types"
                )


def _operators(model: ModelProto, path: Path) -> Iterator[str]:
    opset = _default_opset(model)
    sampled: list[str] = []
    integer: dict[str, list[str]] = {}
    shifted: list[str] = []
    biased: list[str] = []
    for node, weights in _nodes(model.graph, {}):
        if node.op_type == "GridSample" and opset >= GRID_SAMPLE_OPSET:
            sampled.append(node.name)
        elif node.op_type in _INTEGER_FORMS:
            integer.setdefault(node.op_type, []).append(node.name)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if not _symmetric(node, weights, path):
                shifted.append(node.name)
            elif node.op_type == "DequantizeLinear" and _is_int32(node, weights):
                biased.append(node.name)
    if sampled:
        yield (
            f"GridSample at opset {opset} ({_some(sampled)}): TensorRT samples the nearest value instead of "
            f"interpolating, without a message (TensorRT #4646). Export with an opset up to 18"
        )
    for operator, names in sorted(integer.items()):
        yield (
            f"{operator} ({_some(names)}): TensorRT takes quantisation as Q/DQ pairs only. "
            "Convert with --precision int8"
        )
    if shifted:
        yield (
            f"zero point other than a signed 0 ({_some(shifted)}): TensorRT takes symmetric int8 only. "
            "Convert with --activations int8"
        )
    if biased:
        yield (
            f"int32 bias behind a DequantizeLinear ({_some(biased)}): TensorRT takes float biases. "
            "Leave biases in float"
        )


def _nodes(graph: GraphProto, outer: dict[str, TensorProto]) -> Iterator[tuple[NodeProto, dict[str, TensorProto]]]:
    """Every node, subgraphs included, with the constants that it can see."""
    seen = dict(outer)
    seen.update({tensor.name: tensor for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            seen[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        yield node, seen
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _nodes(inner, seen)


def _symmetric(node: NodeProto, weights: dict[str, TensorProto], path: Path) -> bool:
    """Whether the zero point is a constant 0 of a signed type; one that the graph computes is not known to be."""
    from onnx import TensorProto, numpy_helper

    if len(node.input) < 3 or not node.input[2]:
        signed = any(a.name == "output_dtype" and a.i not in (0, TensorProto.UINT8) for a in node.attribute)
        return node.op_type == "DequantizeLinear" or signed  # without either, ONNX quantises to uint8
    tensor = weights.get(node.input[2])
    if tensor is None or tensor.data_type == TensorProto.UINT8:
        return False
    return not numpy_helper.to_array(tensor, str(path.parent)).astype("float32").any()


def _is_int32(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    from onnx import TensorProto

    tensor = weights.get(node.input[0])
    return tensor is not None and tensor.data_type == TensorProto.INT32


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
