"""An ONNX file as the fake TensorRT sees it: inputs, outputs, numpy arithmetic, and layers with a precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ELEMENT_TYPES = {1: "FLOAT", 10: "HALF", 16: "BF16", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8"}
"""ONNX element type (numbers of the file format) -> member of ``DataType``."""
_COMPUTE = {"Conv": "CaskConvolution", "ConvTranspose": "CaskDeconvolution", "Gemm": "CaskGemmMatrixMultiply",
            "MatMul": "CaskGemmMatrixMultiply"}  # fmt: skip
_WORDS = {"FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT8": "INT8"}
_TACTICS = {"FLOAT": "f32f32_f32f32_f32", "HALF": "f16f16_f16f16_f16", "BF16": "bf16bf16_bf16bf16_f32",
            "INT8": "i8i8_i8i32_f32", "TF32": "tf32f32_tf32f32_f32"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class IO:
    """One input or output; a string is a symbolic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class FakeLayer:
    """What the inspector says of one layer."""

    name: str
    kind: str
    operator: str
    word: str
    tactic: str


@dataclass(frozen=True)
class Network:
    """A parsed ONNX file."""

    content: bytes
    model: Any = field(repr=False)

    @cached_property
    def inputs(self) -> list[IO]:
        """Inputs that are no constants."""
        stored = {t.name for t in self.model.graph.initializer}
        return [_io(v) for v in self.model.graph.input if v.name not in stored]

    @cached_property
    def outputs(self) -> list[IO]:
        """Outputs, in order."""
        return [_io(v) for v in self.model.graph.output]

    def resolved(self, io: IO, shapes: Mapping[str, Sequence[int]]) -> list[int]:
        """Shape with the symbolic axes of these inputs filled in; -1 where the data decides."""
        axes = {name: size for one in self.inputs if one.name in shapes
                for name, size in zip(one.shape, shapes[one.name], strict=True) if isinstance(name, str)}  # fmt: skip
        return [d if isinstance(d, int) else axes.get(d, -1) for d in io.shape]

    @cached_property
    def _evaluator(self) -> Any:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(self.model, new_ops=_quantising() if _opset(self.model) < 19 else [])

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs in numpy."""
        names = [io.name for io in self.outputs]
        return dict(zip(names, self._evaluator.run(names, dict(feeds)), strict=True))

    def layers(self, flags: Sequence[str], *, typed: bool, calibrated: bool) -> list[FakeLayer]:
        """One layer per node; what an untyped network computes in is up to the builder flags."""
        stored = {t.name: ELEMENT_TYPES.get(t.data_type, "FLOAT") for t in self.model.graph.initializer}
        made_by = {name: node for node in self.model.graph.node for name in node.output}
        found = []
        for node in self.model.graph.node:
            kind = _precision(node, stored, made_by)
            if not typed and kind == "FLOAT":
                kind = "INT8" if calibrated else "HALF" if "FP16" in flags else "BF16" if "BF16" in flags else kind
            tactic = ""
            if node.op_type in _COMPUTE:
                rounded = kind == "FLOAT" and "TF32" in flags
                tactic = f"sm90_xmma_fake_implicit_gemm_{_TACTICS['TF32' if rounded else kind]}_nhwckrsc"
            found.append(FakeLayer(node.name or node.output[0], _COMPUTE.get(node.op_type, "NoOp"), node.op_type,
                                   _WORDS[kind], tactic))  # fmt: skip
        return found


def read_network(content: bytes) -> Network:
    """Parse an ONNX file.

    Raises:
        ValueError: it is none, or has a node that the fake "parser" does not take.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(content)
    except DecodeError as error:
        raise ValueError(f"not an ONNX file: {error}") from error
    if not model.graph.node:
        raise ValueError("not an ONNX file: it has no nodes")
    if own := sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"}):
        raise ValueError(f"no importer for the operator domain {own[0]}")
    return Network(content, model)


def _opset(model: Any) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def _quantising() -> list[Any]:
    """QuantizeLinear and DequantizeLinear of opsets 10 to 18, which onnx's evaluator lacks."""
    import numpy as np
    from onnx.reference.op_run import OpRun

    def along(values: Any, x: Any, axis: int) -> Any:
        return values if values.ndim == 0 else values.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])

    class QuantizeLinear(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any = None, axis: int = 1, **later: Any) -> tuple[Any]:
            zero = np.zeros((), np.uint8) if zero is None else zero
            limits = np.iinfo(zero.dtype)
            levels = np.rint(x / along(scale, x, axis)) + along(zero, x, axis).astype(np.int64)
            return (np.clip(levels, limits.min, limits.max).astype(zero.dtype),)

    class DequantizeLinear(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(self, x: Any, scale: Any, zero: Any = None, axis: int = 1, **later: Any) -> tuple[Any]:
            offset = 0 if zero is None else along(zero, x, axis).astype(np.int64)
            return ((x.astype(np.int64) - offset).astype(scale.dtype) * along(scale, x, axis),)

    return [QuantizeLinear, DequantizeLinear]


def _precision(node: Any, stored: Mapping[str, str], made_by: Mapping[str, Any]) -> str:
    operands = list(node.input[:2])
    if node.op_type in _COMPUTE and len(operands) == 2:
        if all(name in made_by and made_by[name].op_type == "DequantizeLinear" for name in operands):
            return "INT8"
        for name in operands:
            source = made_by.get(name)
            if source is not None and source.op_type == "DequantizeLinear" and source.input[1] in stored:
                return stored[source.input[1]]
    found = [stored[name] for name in operands if name in stored and stored[name] in _WORDS]
    return found[-1] if found else "FLOAT"


def _io(value: Any) -> IO:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or f"{value.name}?{axis}"
                  for axis, d in enumerate(kind.shape.dim))  # fmt: skip
    return IO(value.name, ELEMENT_TYPES[kind.elem_type], shape)
