"""How much of a file's arithmetic is between Q/DQ pairs: what a runtime may, but need not, compute in 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.backends.onnx_evidence import FLOAT_COMPUTE
from bench.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


def quantised_share(path: Path) -> float:
    """Share of the nodes that carry the arithmetic whose data and weights are both dequantised, 0..1.

    Raises:
        ArtifactError: the file is no ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{path}: not a readable ONNX file ({error})") from error
    found = list(_walk(graph, set()))
    return sum(found) / len(found) if found else 0.0


def _walk(graph: Any, outer: set[str]) -> Any:
    """Yield True or False for every compute node of a graph and its subgraphs."""
    from onnx import AttributeProto

    dequantised = set(outer)
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            dequantised.update(node.output)
        if node.op_type in FLOAT_COMPUTE:
            yield all(name in dequantised for name in node.input[:2])
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _walk(attribute.g, dequantised)
