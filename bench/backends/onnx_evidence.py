"""Which precision does an optimised ONNX graph compute in? Read from the graph that a runtime wrote back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

# Operators that carry the arithmetic of a network, in onnx and in onnxruntime's own domains, fused or not.
FLOAT_COMPUTE = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Attention"}
    | {"FusedConv", "FusedMatMul", "FusedGemm", "NhwcConv", "NhwcFusedConv"}
)
QUANTISED_COMPUTE = frozenset(
    {"QLinearConv", "QLinearMatMul", "QLinearConvTranspose", "QGemm", "QAttention", "NhwcQLinearConv"}
    | {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
)
_NAMES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}


@dataclass(frozen=True, slots=True)
class GraphEvidence:
    """Counts over one graph and its subgraphs."""

    compute: dict[str, int]
    """Precision -> number of nodes that carry the arithmetic; ``int8`` counts quantised operators."""
    operators: dict[str, int]
    """Operator -> number of nodes, most frequent first."""
    casts: int
    stored: dict[str, int]
    """ONNX type -> number of floating or 8-bit initialisers with more than one element."""

    @property
    def dominant(self) -> str | None:
        """Precision of most compute nodes; None when the graph has no such node."""
        return max(self.compute, key=lambda name: self.compute[name]) if self.compute else None


def read_graph(path: Path) -> GraphEvidence:
    """Count compute nodes by the type of their first input.

    Raises:
        ArtifactError: the file is no ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{path}: not a readable ONNX file ({error})") from error
    compute: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    _count(model.graph, {}, compute, operators, stored)
    return GraphEvidence(compute=dict(compute), operators=dict(operators.most_common()), casts=operators["Cast"],
                         stored=dict(stored))  # fmt: skip


def _count(
    graph: Any, outer: dict[str, str], compute: Counter[str], operators: Counter[str], stored: Counter[str]
) -> None:
    from onnx import AttributeProto, TensorProto

    types = dict(outer)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        types[value.name] = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    for tensor in graph.initializer:
        types[tensor.name] = TensorProto.DataType.Name(tensor.data_type)
        if len(tensor.dims) > 0 and types[tensor.name] in {*_NAMES, "INT8", "UINT8"}:
            stored[types[tensor.name]] += 1
    for node in graph.node:
        operators[node.op_type] += 1
        if node.op_type in QUANTISED_COMPUTE:
            compute["int8"] += 1
        elif node.op_type in FLOAT_COMPUTE:
            # The weight is the surest witness: the type of an activation is not always written down.
            found = next((types[n] for n in reversed(node.input[:2]) if n in types), "unknown")
            compute[_NAMES.get(found, found.lower())] += 1
        _propagate(node, types)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _count(attribute.g, types, compute, operators, stored)


def _propagate(node: Any, types: dict[str, str]) -> None:
    """Guess the types of outputs that the file does not state: a dequantised value has the type of its scale."""
    from onnx import TensorProto

    if node.op_type == "Cast":
        found: str | None = TensorProto.DataType.Name(next(a.i for a in node.attribute if a.name == "to"))
    else:
        witness = node.input[1:2] if node.op_type == "DequantizeLinear" else node.input[:1]
        found = types.get(witness[0]) if witness else None
    for name in node.output:
        if found is not None:
            types.setdefault(name, found)
