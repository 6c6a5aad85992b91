"""bf16 graph to one that a runtime without bf16 kernels can run: float32 arithmetic on values rounded to bf16.

Every tensor that is bf16 in the file holds bf16 values here too: what a node computes is cast to bfloat16 and back.
Weights stay stored as bfloat16 behind a cast. A runtime with bf16 arithmetic accumulates in its own way and does not
round between nodes that it fuses, so the two agree to about one rounding per node, not to the bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError
from bench.precision.halves import save, types_of
from bench.precision.onnxfile import read
from bench.precision.session import first_line, load_session

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MOVES = frozenset({
    "Abs", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Max",
    "MaxPool", "Min", "Neg", "Pad", "Relu", "Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose outputs hold nothing but values of their inputs, signs and zeros apart: there is nothing to round."""
_LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "Reshape", "Transpose", "Identity"})
"""What onnxruntime puts between a convolution in its own memory layout and its reader."""
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Ends of the names of operators that multiply, fused ones included."""


def widen(source: Path, out: Path) -> dict[str, Any]:
    """Write the widened form of a bf16 file and return the recipe.

    Raises:
        InputError: not a complete ONNX file, or ``out`` cannot be written.
        ArtifactError: it holds no bf16, or onnxruntime's optimiser drops roundings.
    """
    import onnx
    import onnxruntime

    read(source)
    model, rounded = widened(onnx.load(str(source)), where=source)
    save(model, out)
    runs = optimised(out)
    check_roundings(model, runs, where=source)
    return {
        "tool": "bf16 graph widened: float32 arithmetic, every bf16 tensor rounded to bf16",
        "because": "onnxruntime's CPU provider has no bf16 convolution",
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "roundings": rounded,
        "roundings_after_optimisation": count_roundings(runs),
    }


def optimised(path: Path) -> ModelProto:
    """Return the graph that onnxruntime runs, as it writes it after all optimisations.

    Raises:
        ArtifactError: onnxruntime cannot load the file.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="parity-widen-") as scratch:
        written = Path(scratch) / "optimised.onnx"
        load_session(path, optimised=written, portable=False)
        return onnx.load(str(written), load_external_data=False)


def check_roundings(wide: ModelProto, runs: ModelProto, *, where: Path) -> None:
    """Refuse a widened graph that lost roundings when it was optimised.

    Fewer are right where two in a row became one (behind a product with 1, say). Then no product may be read without
    having been rounded that was not in the file, and no fused operator may have appeared. Values do not tell: sums in
    another order move a few across a rounding border, and that grows from layer to layer (yolov10n on noise: 0.15 rms
    from optimisation alone, 0.23 from dropping every rounding).

    Raises:
        ArtifactError: with the number of roundings before and after.
    """
    before, after = count_roundings(wide), count_roundings(runs)
    if after >= before:
        return
    fused = {n.op_type for n in runs.graph.node} - {n.op_type for n in wide.graph.node} - _LAYOUT
    open_before, open_after = _unrounded(wide), _unrounded(runs)
    if fused or open_after > open_before:
        why = f"it fused {', '.join(sorted(fused))}" if fused else f"{open_after - open_before} products lost theirs"
        raise ArtifactError(
            f"{where}: onnxruntime's optimiser leaves {after} of {before} roundings to bf16 in the widened graph, and "
            f"{why}: what it would compute is not bf16. Use fp16 on this runtime"
        )


def _unrounded(model: ModelProto) -> int:
    """Number of products of which a reader gets the value before it was rounded."""
    from onnx import TensorProto

    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}

    def leaks(name: str) -> bool:
        if name in outputs:
            return True
        for node in readers.get(name, []):
            if node.op_type == "Cast" and _target(node) == TensorProto.BFLOAT16:
                continue
            if node.op_type not in _LAYOUT or any(leaks(output) for output in node.output):
                return True
        return False

    return sum(node.op_type.endswith(_PRODUCTS) and leaks(node.output[0]) for node in model.graph.node)


def widened(model: ModelProto, *, where: Path, rounding: bool = True) -> tuple[ModelProto, int]:
    """Return the widened graph and the number of tensors that it rounds.

    Args:
        model: with bf16 tensors inside; inputs and outputs are float32.
        where: its file, for messages.
        rounding: False gives the same graph without any rounding of what it computes.

    Raises:
        ArtifactError: no bf16 in it, a subgraph, bf16 inputs or outputs, or a graph that contradicts itself.
    """
    import onnx
    from onnx import AttributeProto, TensorProto

    try:
        types = types_of(model)
    except (ValueError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{where}: cannot be widened: {first_line(error)}") from error
    half = {name for name, number in types.items() if number == TensorProto.BFLOAT16}
    if not half:
        raise ArtifactError(f"{where}: is labelled bf16 and holds no bfloat16 tensor")
    if ends := [v.name for v in (*model.graph.input, *model.graph.output) if v.name in half]:
        raise ArtifactError(f"{where}: {ends[0]!r} is bfloat16; inputs and outputs stay float32")
    for node in model.graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise ArtifactError(f"{where}: {node.op_type} {node.name!r} holds a subgraph, which is not widened")
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    return wide, _widen(wide.graph, half, rounding=rounding)


def count_roundings(model: ModelProto) -> int:
    """Number of casts to bfloat16."""
    from onnx import TensorProto

    return sum(
        node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.BFLOAT16 for a in node.attribute)
        for node in model.graph.node
    )


def _widen(graph: GraphProto, half: set[str], *, rounding: bool) -> int:
    from onnx import TensorProto, helper

    nodes = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            stored = f"{tensor.name}_stored"
            nodes.append(_cast(stored, tensor.name, TensorProto.FLOAT))
            tensor.name = stored
    rounded = 0
    for node in graph.node:
        _widen_attributes(node)
        nodes.append(node)
        if node.op_type == "Cast" and node.input[0] in half and _target(node) == TensorProto.FLOAT:
            nodes[-1] = helper.make_node("Identity", list(node.input), list(node.output), name=node.name)
            continue
        if not rounding or node.op_type in MOVES or (node.op_type == "Resize" and _nearest(node)):
            continue
        for index, name in enumerate(node.output):
            if name in half:
                node.output[index] = f"{name}_wide"
                nodes.append(_cast(f"{name}_wide", f"{name}_rounded", TensorProto.BFLOAT16))
                nodes.append(_cast(f"{name}_rounded", name, TensorProto.FLOAT))
                rounded += 1
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return rounded


def _widen_attributes(node: NodeProto) -> None:
    from onnx import TensorProto, numpy_helper

    for a in node.attribute:
        if a.name in ("to", "dtype") and a.i == TensorProto.BFLOAT16:
            a.i = TensorProto.FLOAT
        elif a.HasField("t") and a.t.data_type == TensorProto.BFLOAT16:
            a.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(a.t).astype("float32"), a.t.name))


def _cast(source: str, target: str, number: int) -> NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=number)


def _target(node: NodeProto) -> int:
    return int(next(a.i for a in node.attribute if a.name == "to"))


def _nearest(node: NodeProto) -> bool:
    return next((a.s for a in node.attribute if a.name == "mode"), b"nearest") == b"nearest"
