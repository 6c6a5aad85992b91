"""What an ONNX file says of itself, read without the package ``onnx``: a target machine has TensorRT and little else.

Only the fields that are needed are decoded (protobuf wire format; numbers from onnx.proto). Subgraphs are not entered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLOATS = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16"}
"""Element type of an ONNX tensor -> our word; the numbers are part of the file format."""
_COMPUTE_OPS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])


class _Node(NamedTuple):
    op: str
    inputs: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """An ONNX file in a few numbers."""

    opset: int
    inputs: tuple[tuple[str, tuple[int | str, ...]], ...]
    """(name, shape) of each input that is no constant; a string is a symbolic axis."""
    operators: dict[str, int]
    """Operator -> number of nodes."""
    compute: dict[str, int]
    """Precision -> number of convolutions and matrix products whose weights show it; ``int8``: both operands come
    from a DequantizeLinear."""
    external: tuple[str, ...]
    """Names of the files with external data, relative to the ONNX file."""

    @property
    def precision(self) -> str:
        """The label that the file deserves: int8 when it has quantised compute, else that of most compute nodes."""
        if self.compute.get("int8"):
            return "int8"
        return max(self.compute, key=lambda name: self.compute[name]) if self.compute else "fp32"


def read_graph_file(path: Path) -> GraphFile:
    """Read an ONNX file.

    Raises:
        InputError: unreadable, truncated, no ONNX, or external data that is missing or outside the file's folder.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give the path of an .onnx file.") from error
    try:
        model = _collect(memoryview(content), {7: "graph", 8: "opsets"})
        graph = _collect(model["graph"][0], {1: "nodes", 5: "initializers", 11: "inputs", 12: "outputs"})
        found = _read(model, graph)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a complete ONNX file ({error}). Download or export it again.") from error
    if not found.operators or not graph["outputs"] or found.opset == 0:
        raise InputError(f"{path}: not a complete ONNX model: no nodes, no outputs or no opset. Export it again.")
    for name in found.external:
        if not is_inside(name):
            raise InputError(f"{path}: external data {name!r} lies outside the folder of the file; refused.")
        if not (path.parent / name).is_file():
            raise InputError(f"{path}: its external data {name!r} is not beside it. Copy both files together.")
    return found


def is_inside(name: str) -> bool:
    """Whether a file name stays inside the folder that it is looked for in, on any system."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and ".." not in parts and not parts[0].startswith("/") and ":" not in name


def _read(model: dict[str, list[Any]], graph: dict[str, list[Any]]) -> GraphFile:
    stored: dict[str, int] = {}
    external: set[str] = set()
    for tensor in graph["initializers"]:
        parts = _collect(tensor, {2: "type", 8: "name", 13: "external"})
        stored[_text(parts["name"][0]) if parts["name"] else ""] = parts["type"][0] if parts["type"] else 0
        for entry in parts["external"]:
            pair = _collect(entry, {1: "key", 2: "value"})
            if pair["key"] and pair["value"] and _text(pair["key"][0]) == "location":
                external.add(_text(pair["value"][0]))
    nodes, made_by = [], {}
    for item in graph["nodes"]:
        parts = _collect(item, {1: "inputs", 2: "outputs", 4: "op"})
        node = _Node(_text(parts["op"][0]) if parts["op"] else "", [_text(name) for name in parts["inputs"]])
        nodes.append(node)
        made_by.update(dict.fromkeys((_text(name) for name in parts["outputs"]), node))
    compute: Counter[str] = Counter()
    for node in nodes:
        if node.op in _COMPUTE_OPS:
            word = _node_precision(node, stored, made_by)
            if word is not None:
                compute[word] += 1
    return GraphFile(
        opset=_opset(model["opsets"]),
        inputs=tuple(spec for spec in (_input(value) for value in graph["inputs"]) if spec[0] not in stored),
        operators=dict(Counter(node.op for node in nodes).most_common()),
        compute=dict(compute.most_common()),
        external=tuple(sorted(external)),
    )


def _node_precision(node: _Node, stored: dict[str, int], made_by: dict[str, _Node]) -> str | None:
    """Precision of a convolution or matrix product, or None when its operands do not say."""
    operands = node.inputs[:2]
    dequantised = [made_by[name] for name in operands if name in made_by and made_by[name].op == "DequantizeLinear"]
    if len(dequantised) == 2:
        return "int8"
    types = [stored[name] for name in operands if name in stored]
    types += [stored[d.inputs[1]] for d in dequantised if len(d.inputs) > 1 and d.inputs[1] in stored]  # its scale
    return _FLOATS.get(types[0]) if types else None


def _input(value: Any) -> tuple[str, tuple[int | str, ...]]:
    parts = _collect(value, {1: "name", 2: "type"})
    shape: list[int | str] = []
    for kind in parts["type"]:
        for tensor in _collect(kind, {1: "tensor"})["tensor"]:
            for form in _collect(tensor, {2: "shape"})["shape"]:
                for axis in _collect(form, {1: "axes"})["axes"]:
                    size = _collect(axis, {1: "value", 2: "symbol"})
                    shape.append(
                        size["value"][0] if size["value"] else _text(size["symbol"][0]) if size["symbol"] else "?"
                    )
    return (_text(parts["name"][0]) if parts["name"] else "", tuple(shape))


def _opset(entries: list[Any]) -> int:
    for entry in entries:
        parts = _collect(entry, {1: "domain", 2: "version"})
        if not parts["domain"] or _text(parts["domain"][0]) in ("", "ai.onnx"):
            return int(parts["version"][0]) if parts["version"] else 0
    return 0


def _collect(message: Any, names: dict[int, str]) -> dict[str, list[Any]]:
    """Values of the named fields of one message, in the order in which they stand."""
    if isinstance(message, int):
        raise ValueError("a number stands where a message is expected")
    found: dict[str, list[Any]] = {name: [] for name in names.values()}
    for number, value in _fields(message):
        if number in names:
            found[names[number]].append(value)
    return found


def _fields(view: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, integer or bytes) of a protobuf message."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield tag >> 3, value
        elif kind == 2:
            size, at = _varint(view, at)
            if at + size > end:
                raise ValueError(f"a field of {size} bytes ends after the file does")
            yield tag >> 3, view[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise ValueError("a number ends after the file does")
        else:
            raise ValueError(f"wire type {kind} at byte {at}")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise ValueError("a number is cut off or too long")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(value: Any) -> str:
    if isinstance(value, int):
        raise ValueError("a number stands where a name is expected")
    return bytes(value).decode("utf-8")
