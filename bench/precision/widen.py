"""bf16 graph to one that a runtime without bf16 kernels can run: float32 arithmetic on values rounded to bf16.

Every tensor that is bf16 in the file holds bf16 values here too: what a node computes is cast to bfloat16 and back.
Weights stay stored as bfloat16 behind a cast. A runtime with bf16 arithmetic accumulates in its own way and does not
round between nodes that it fuses, so the two agree to about one rounding per node, not to the bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.compare import tensor_rms
from bench.errors import ArtifactError
from bench.precision.gate import first_line, load_session, runtime_errors
from bench.precision.halves import types_of
from bench.precision.onnxfile import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto, ModelProto, NodeProto

    from bench.types import Array

MOVES = frozenset({
    "Abs", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Max",
    "MaxPool", "Min", "Neg", "Pad", "Relu", "Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose outputs hold nothing but values of their inputs, signs and zeros apart: there is nothing to round."""


def widen(source: Path, out: Path) -> dict[str, Any]:
    """Write the widened form of a bf16 file and return the recipe.

    Raises:
        InputError: not a complete ONNX file.
        ArtifactError: it holds no bf16, or the widened file lost its roundings in onnxruntime's optimiser.
    """
    import onnx
    import onnxruntime

    read(source)
    given = onnx.load(str(source))
    model, rounded = widened(given, where=source)
    onnx.save(model, str(out))
    left = roundings_left(out)
    check_roundings(given, model, where=source)
    return {
        "tool": "bf16 graph widened: float32 arithmetic, every bf16 tensor rounded to bf16",
        "because": "onnxruntime's CPU provider has no bf16 convolution",
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "roundings": rounded,
        "roundings_after_optimisation": left,
    }


def check_roundings(given: ModelProto, wide: ModelProto, *, where: Path) -> None:
    """Refuse a widened graph that onnxruntime's optimiser makes compute something else on seeded noise.

    Their number alone does not tell: two in a row are one (behind a product with 1, say).

    Raises:
        ArtifactError: with optimisation the outputs lie nearer to those without any rounding than to its own.
    """
    feeds = noise(given.graph)
    plain, _ = widened(given, where=where, rounding=False)
    own, optimised, without = (
        _outputs(model, feeds, where, optimise=on) for model, on in ((wide, False), (wide, True), (plain, False))
    )
    lost, whole = _distance(optimised, own), _distance(without, own)
    if not (lost <= whole / 2 or lost == 0.0):
        raise ArtifactError(
            f"{where}: onnxruntime's optimiser drops roundings to bf16 from the widened graph: it changes the outputs "
            f"by {lost:.3g} rms, where all roundings together make {whole:.3g}. Use fp16 on this runtime"
        )


def noise(graph: GraphProto) -> dict[str, Array]:
    """Seeded input: uniform in 0..1 for floats, zeros for the rest; symbolic axes become 1."""
    from onnx import helper

    generator = np.random.default_rng(0)
    feeds = {}
    for value in graph.input:
        tensor = value.type.tensor_type
        shape = [axis.dim_value or 1 for axis in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        is_float = np.issubdtype(dtype, np.floating)
        feeds[value.name] = generator.random(shape).astype(dtype) if is_float else np.zeros(shape, dtype)
    return feeds


def _distance(found: Sequence[Array], own: Sequence[Array]) -> float:
    """Rms difference; equal values, infinities and NaN included, count as none: whoever runs the file judges those."""
    errors = []
    for a, b in zip(found, own, strict=True):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        errors.append(np.where(same, 0.0, np.where(same, 0.0, a).astype(np.float64) - np.where(same, 0.0, b)))
    return tensor_rms(errors)


def _outputs(model: ModelProto, feeds: dict[str, Array], where: Path, *, optimise: bool) -> list[Array]:
    """Floating outputs of one run on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, feeds)
    except refusals as error:
        raise ArtifactError(f"{where}: cannot be run widened: {first_line(error)}") from error
    return [value for value in found if np.issubdtype(value.dtype, np.floating)]


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


def roundings_left(path: Path) -> int:
    """Casts to bfloat16 in the graph that onnxruntime runs, as it writes it after all optimisations.

    Raises:
        ArtifactError: onnxruntime cannot load the file.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="parity-widen-") as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        load_session(path, optimised=optimised, portable=False)
        return count_roundings(onnx.load(str(optimised), load_external_data=False))


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
