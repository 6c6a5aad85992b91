"""Which provider runs which nodes, and which of those left on the CPU may be there. Pure, but for reading the file.

The table comes from the session (``session.record_ep_graph_assignment_info``), which names the nodes of the graph
before kernels are fused. What may stay on the CPU is decided on the file: integer arithmetic on shapes, whose inputs
come from ``Shape``, ``Size`` and constants and from nothing else. Such tensors are a few numbers that the host needs
anyway, to allocate; every other node on the CPU means copies of activations, and the cell is not "on the GPU".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.backends.onnx_evidence import FLOAT_COMPUTE, QUANTISED_COMPUTE
from bench.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from bench.ort.providers import Place

SHAPE_SOURCES = frozenset({"Shape", "Size"})
"""Read the shape of any tensor and return int64, whatever the tensor holds."""
SHAPE_OPERATORS = SHAPE_SOURCES | frozenset(
    {"Constant", "ConstantOfShape", "Identity", "Cast", "Gather", "Slice", "Concat", "Split", "Unsqueeze", "Squeeze"}
    | {"Reshape", "Expand", "Tile", "Range", "ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Where"}
)
_INTEGERS = frozenset({"INT64", "INT32", "BOOL"})
COMPUTE = FLOAT_COMPUTE | QUANTISED_COMPUTE
COPIES = ("MemcpyFromHost", "MemcpyToHost")
"""Nodes that ONNX Runtime inserts where a tensor changes between host and device."""
MAX_NAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the nodes of a session run."""

    table: Mapping[str, Mapping[str, int]]
    """Provider -> operator -> number of nodes, most frequent first."""
    provider: str
    """The providers that count for the label, the one with most of the arithmetic first: ``Evidence.provider``."""
    shapes: Mapping[str, int]
    """Operator -> nodes that compute shapes on the CPU, which is allowed."""
    misplaced: tuple[str, ...]
    """``Operator name`` of every node on the CPU that computes anything else."""

    def share(self, provider: str) -> float:
        """Share of all nodes that this provider runs, 0..1; NaN when nothing is known to run anywhere."""
        total = sum(sum(counts.values()) for counts in self.table.values())
        return sum(self.table.get(provider, {}).values()) / total if total else float("nan")

    def misplaced_words(self) -> str:
        """The misplaced nodes for a person, the first few by name."""
        more = len(self.misplaced) - MAX_NAMES
        return ", ".join(self.misplaced[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def read_placement(assigned: Iterable[Any], path: Path, place: Place) -> Placement:
    """Build the table of a session and judge what is on the CPU.

    Args:
        assigned: what ``get_provider_graph_assignment_info`` of the session returned.
        path: the ONNX file that was opened.
        place: the device that was asked for.

    Raises:
        ArtifactError: the file cannot be read.
    """
    from bench.ort.providers import CPU

    counts: dict[str, Counter[str]] = {}
    on_cpu: list[tuple[str, str]] = []
    for part in assigned:
        nodes = [(str(node.op_type), str(node.name)) for node in part.get_nodes()]
        counts.setdefault(part.ep_name, Counter()).update(operator for operator, _ in nodes)
        if part.ep_name == CPU:
            on_cpu.extend(nodes)
    table = {name: dict(found.most_common()) for name, found in sorted(counts.items())}
    if place.gpu is None:
        return Placement(table=table, provider=" + ".join(table), shapes={}, misplaced=())
    allowed = shape_nodes(path) if on_cpu else frozenset()
    in_place = [operator in SHAPE_SOURCES or (operator, name) in allowed for operator, name in on_cpu]
    shapes = Counter(operator for (operator, _), fine in zip(on_cpu, in_place, strict=True) if fine)
    misplaced = tuple(f"{op} {name!r}" for (op, name), fine in zip(on_cpu, in_place, strict=True) if not fine)
    counted = [name for name in table if name != CPU or misplaced]
    lead = _lead(table, place)
    counted.sort(key=lambda name: (name != lead, name))
    return Placement(table=table, provider=" + ".join(counted), shapes=dict(shapes.most_common()), misplaced=misplaced)


def _lead(table: Mapping[str, Mapping[str, int]], place: Place) -> str:
    """The provider with most of the nodes that carry the arithmetic; the asked one where there are none, or as many."""

    def arithmetic(name: str) -> int:
        return sum(count for operator, count in table.get(name, {}).items() if operator in COMPUTE)

    return max((place.provider, *table), key=arithmetic)


def shape_nodes(path: Path) -> frozenset[tuple[str, str]]:
    """(operator, name) of the nodes of a file that compute shapes in integers: by operator, by origin and by type.

    A node without a name, or whose name another node has that computes something else, is not among them: the session
    could mean either. ``Shape`` and ``Size`` need no type: theirs is int64 by definition.

    Raises:
        ArtifactError: the file cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{path}: not a readable ONNX file ({error})") from error
    try:
        typed = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        typed = model  # types that are not known vouch for nothing: only what the file itself states is allowed
    verdicts: dict[tuple[str, str], bool] = {}
    _judge(typed.graph, {}, frozenset(), verdicts)
    return frozenset(key for key, is_shape in verdicts.items() if is_shape and key[1])


def _judge(
    graph: Any, outer_types: Mapping[str, str], outer_shapes: frozenset[str], verdicts: dict[tuple[str, str], bool]
) -> None:
    """Walk a graph, which is sorted, and its subgraphs; adds to ``verdicts``."""
    from onnx import AttributeProto, TensorProto

    types = dict(outer_types)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        types[value.name] = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    shapes = set(outer_shapes)
    for tensor in graph.initializer:
        types[tensor.name] = TensorProto.DataType.Name(tensor.data_type)
        shapes.add(tensor.name)
    shapes -= {value.name for value in graph.input}  # an initialiser that can be fed is an input
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _judge(attribute.g, types, frozenset(shapes), verdicts)
        known = node.op_type in SHAPE_SOURCES or (
            node.op_type in SHAPE_OPERATORS
            and node.domain in ("", "ai.onnx")
            and all(name in shapes for name in node.input if name)
        )
        if known:
            shapes.update(node.output)
        integer = node.op_type in SHAPE_SOURCES or all(types.get(name) in _INTEGERS for name in node.output if name)
        key = (node.op_type, node.name)
        verdicts[key] = verdicts.get(key, True) and known and integer
