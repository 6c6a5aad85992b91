"""What an engine really computes in, from the JSON of ``EngineInspector``.

A label is not evidence: a request for fp16 that TensorRT 11 ignored left an fp32 engine with nothing but a warning. The
layout of the JSON is taken from NVIDIA's documentation of 10 and 11 and from published dumps; no engine was inspected
on the machine where this was written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import ArtifactError
from bench.trt.names import dtype_of, member, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNKNOWN = "unknown"
_WORDS = (
    (r"bf16|bfloat16", "bf16"),
    (r"fp16|half|float16", "fp16"),
    (r"tf32", "tf32"),
    (r"fp8|e4m3|e5m2", "fp8"),
    (r"fp4|e2m1", "fp4"),
    (r"fp32|float32|float", "fp32"),
    (r"uint8", "uint8"),
    (r"int8", "int8"),
    (r"int4", "int4"),
    (r"int32", "int32"),
    (r"int64", "int64"),
    (r"bool", "bool"),
)
"""Pattern in the inspector's text -> our word; the first that matches."""
_WIDTH = {"fp4": 1, "int4": 1, "fp8": 2, "int8": 2, "fp16": 3, "bf16": 3, "tf32": 4, "fp32": 5}
_COMPUTE = ("convolution", "correlation", "gemm", "matrixmultiply", "matrix_multiply", "matmul", "fullyconnected",
            "einsum", "attention", "mha")  # fmt: skip
"""In a layer's type: the arithmetic of a network. Reformats, shuffles, casts and pointwise layers are not."""
_FUSED = ("kgen", "myelin", "foreignnode")
"""Types of fused layers, whose kernel or name must say what is in them."""
_FUSED_COMPUTE = re.compile(r"gemm|mha|matm|conv|xmma|_fc", re.IGNORECASE)
_KERNEL = re.compile(
    r"(?<![a-z0-9])(?:(?P<int8>i8i8|i8f32|i8f16|s8s8|imma|int8)|(?P<fp8>e4m3|e5m2|fp8)|(?P<bf16>bf16)"
    r"|(?P<tf32>tf32)|(?P<fp16>f16|h16|hmma|fp16)|(?P<fp32>f32f32|sgemm|scudnn|fp32))"
)
"""Operand types in kernel names such as ``sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_...``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine as the inspector describes it."""

    name: str
    kind: str
    """``LayerType``, for example ``CaskConvolution``."""
    inputs: tuple[str, ...]
    """Precision of each input (``fp16``, ``int8``, ...; ``unknown`` where the inspector does not say)."""
    outputs: tuple[str, ...]
    weights: str | None
    """Precision of the weights, when the layer has any."""
    tactic: str
    """Name of the kernel, or empty."""

    @property
    def is_compute(self) -> bool:
        """Whether the layer carries the arithmetic of the network."""
        kind = self.kind.lower()
        if any(word in kind for word in _COMPUTE):
            return True
        return any(word in kind for word in _FUSED) and bool(_FUSED_COMPUTE.search(f"{self.tactic} {self.name}"))

    @property
    def precision(self) -> str:
        """What the layer computes in: the wider of its first input and its weights, else what its kernel is named.

        fp32 operands in a kernel whose name says tf32 are ``tf32``.
        """
        shown = [p for p in (*self.inputs[:1], self.weights or UNKNOWN) if p in _WIDTH]
        kernel = kernel_precision(self.tactic)
        if not shown:
            return kernel
        widest = max(shown, key=lambda p: _WIDTH[p])
        return "tf32" if (widest, kernel) == ("fp32", "tf32") else widest


class IOTensor(NamedTuple):
    """One input or output of an engine."""

    name: str
    mode: str
    """``input`` or ``output``."""
    dtype: str
    """numpy's name."""
    shape: tuple[int, ...]
    """-1 for a dynamic axis."""


class Observed(NamedTuple):
    """What most compute layers run in."""

    precision: str
    """One of fp32, tf32, fp16, bf16, fp8, int8, or ``unknown``."""
    counts: dict[str, int]
    """Precision -> number of compute layers, most frequent first."""
    share: float
    """Share of the compute layers that run in ``precision``, 0 to 1."""


def parse_engine_information(text: str) -> tuple[Layer, ...]:
    """Layers from ``get_engine_information(LayerInformationFormat.JSON)`` of TensorRT 10 or 11.

    Raises:
        ArtifactError: empty, no JSON, no layers, or names only (built without ``ProfilingVerbosity.DETAILED``).
    """
    if not text or not text.strip():
        raise ArtifactError("The engine inspector returned nothing: what the engine computes in cannot be told.")
    try:
        # Names of fused ONNX nodes are joined by the control character 0x1F, which strict JSON forbids.
        document = json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise ArtifactError(
            f"The engine inspector's text is not JSON (line {error.lineno} column {error.colno}: {error.msg})."
        ) from error
    found = document.get("Layers") if isinstance(document, dict) else None
    if not isinstance(found, list) or not found:
        raise ArtifactError("The engine inspector's JSON has no list 'Layers'.")
    if any(not isinstance(layer, dict) for layer in found):
        raise ArtifactError(
            "The engine inspector shows layer names only. Build with ProfilingVerbosity.DETAILED (trtexec: "
            "--profilingVerbosity=detailed); without it no precision can be observed."
        )
    return tuple(_layer(layer) for layer in found)


def observed_precision(layers: Sequence[Layer]) -> Observed:
    """What most compute layers run in; ``unknown`` when no such layer shows its type.

    One kernel that rounds to TF32 makes an fp32 engine ``tf32``: TF32 is allowed or not for the whole engine.
    """
    counts = Counter(layer.precision for layer in layers if layer.is_compute)
    known = {name: count for name, count in counts.items() if name != UNKNOWN}
    ordered = dict(counts.most_common())
    if not known:
        return Observed(UNKNOWN, ordered, 0.0)
    # fp32 and tf32 are one family here: what counts is whether any of it rounds.
    families = Counter({name: count for name, count in known.items() if name != "tf32"})
    families["fp32"] += known.get("tf32", 0)
    dominant, of_it = max(families.items(), key=lambda item: (item[1], _WIDTH.get(item[0], 0)))
    if dominant == "fp32" and "tf32" in known:
        dominant = "tf32"
    return Observed(dominant, ordered, of_it / sum(counts.values()))


def label_problem(requested: str, observed: Observed, *, in_graph: Mapping[str, int] | None = None) -> str | None:
    """Why a label is not borne out by an engine, or None.

    Args:
        requested: precision on the label.
        observed: from ``observed_precision``.
        in_graph: compute nodes of the ONNX file by precision; every precision with a tenth of them must show up in the
            engine with at least half of that share.
    """
    table = ", ".join(f"{name} {count}" for name, count in observed.counts.items()) or "none"
    if observed.precision == UNKNOWN:
        return f"{requested} was requested, and no convolution or matrix product shows its type (layers: {table})"
    if observed.precision != requested and not _mostly_other(requested, in_graph):
        return f"{requested} was requested, but most compute layers run in {observed.precision} ({table})"
    total, engine_total = sum((in_graph or {}).values()), sum(observed.counts.values())
    for name, count in (in_graph or {}).items():
        share = count / total
        seen = observed.counts.get(name, 0) / engine_total
        if name == "fp32":
            seen += observed.counts.get("tf32", 0) / engine_total
        if share >= 0.1 and seen < share / 2:
            return (
                f"{share:.0%} of the compute nodes of the ONNX file are {name}, but {seen:.0%} of the engine's compute "
                f"layers ({table})"
            )
    return None


def inspect_engine(trt: Any, engine: Any) -> tuple[Layer, ...]:
    """Ask an engine for its layers.

    An engine with a dynamic axis shows no types ("N/A due to dynamic shapes") until an execution context has shapes, so
    it gets one, at the optimal shape of the first profile. Some engines answer nothing with a context; then they are
    asked again without.

    Raises:
        ArtifactError: as ``parse_engine_information``, or the inspector cannot be created.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise ArtifactError("TensorRT created no engine inspector for this engine.")
    json_format = member(trt, "LayerInformationFormat", "JSON")
    context = _context_with_shapes(engine, io_tensors(engine))
    text = ""
    if context is not None:
        inspector.execution_context = context
        text = inspector.get_engine_information(json_format)
    if not text:
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(json_format)
    layers = parse_engine_information(text)
    del inspector, context
    return layers


def io_tensors(engine: Any) -> tuple[IOTensor, ...]:
    """Inputs and outputs of an engine, in its order."""
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        found.append(
            IOTensor(
                name,
                name_of(engine.get_tensor_mode(name)).lower(),
                dtype_of(engine.get_tensor_dtype(name)),
                tuple(int(d) for d in engine.get_tensor_shape(name)),
            )
        )
    return tuple(found)


def kernel_precision(tactic: str) -> str:
    """Operand type in the name of a kernel; ``unknown`` when it has none."""
    found = _KERNEL.search(tactic.lower())
    return found.lastgroup if found and found.lastgroup else UNKNOWN


def type_word(text: str) -> str:
    """``Row major linear FP16 format`` or ``Half`` -> ``fp16``; ``unknown`` for anything else."""
    small = text.lower()
    return next((word for pattern, word in _WORDS if re.search(pattern, small)), UNKNOWN)


def _context_with_shapes(engine: Any, tensors: Sequence[IOTensor]) -> Any:
    """An execution context at the optimal shapes; None when all shapes are static or none can be had."""
    dynamic = [t for t in tensors if t.mode == "input" and any(d < 0 for d in t.shape)]
    if not dynamic:
        return None
    context = engine.create_execution_context()
    if context is None:
        return None
    for tensor in dynamic:
        _, best, _ = engine.get_tensor_profile_shape(tensor.name, 0)
        if not context.set_input_shape(tensor.name, tuple(int(d) for d in best)):
            return None
    return context


def _layer(document: Mapping[str, Any]) -> Layer:
    weights = document.get("Weights")
    return Layer(
        name=str(document.get("Name", "")),
        kind=str(document.get("LayerType", "")) or str(document.get("ParameterType", "")),
        inputs=_types(document.get("Inputs")),
        outputs=_types(document.get("Outputs")),
        weights=type_word(str(weights.get("Type", ""))) if isinstance(weights, dict) else None,
        tactic=str(document.get("TacticName") or ""),
    )


def _types(tensors: Any) -> tuple[str, ...]:
    return tuple(_tensor_type(tensor) for tensor in tensors) if isinstance(tensors, list) else ()


def _tensor_type(tensor: Any) -> str:
    """11 has ``DataType`` (and ``Datatype`` was seen); 10 has the type inside ``Format/Datatype``."""
    if not isinstance(tensor, dict):
        return UNKNOWN
    for field in ("DataType", "Datatype", "Format/Datatype", "Format"):
        word = type_word(str(tensor.get(field, "")))
        if word != UNKNOWN:
            return word
    return UNKNOWN


def _mostly_other(requested: str, in_graph: Mapping[str, int] | None) -> bool:
    """Whether the file itself has more compute nodes of another precision: then the engine may have them too."""
    counts = in_graph or {}
    return counts.get(requested, 0) > 0 and max(counts.values()) > counts[requested]


def layer_record(layer: Layer) -> dict[str, Any]:
    """A layer as plain JSON values."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        "inputs": list(layer.inputs),
        "outputs": list(layer.outputs),
        "weights": layer.weights,
        "tactic": layer.tactic,
    }


def layer_of_record(entry: Mapping[str, Any]) -> Layer:
    """Read ``layer_record`` back."""
    return Layer(
        name=entry["name"],
        kind=entry["kind"],
        inputs=tuple(entry["inputs"]),
        outputs=tuple(entry["outputs"]),
        weights=entry["weights"],
        tactic=entry["tactic"],
    )
