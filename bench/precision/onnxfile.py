"""What an ONNX file says of itself, and whether it is the model that it was given for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError, OtherModelError, did_you_mean
from bench.types import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto, TensorProto, ValueInfoProto

    from bench.types import ModelSpec


def inspect(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Read the inputs and outputs of an ONNX file; symbolic axes keep their name, unnamed ones are ``?``.

    Raises:
        InputError: not a file, truncated or no ONNX at all, or external data that is missing or too short.
    """
    model = read(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value) for value in model.graph.input if value.name not in constants)
    return inputs, tuple(_spec(value) for value in model.graph.output)


def check_against(spec: ModelSpec, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the tensors of ``path`` after comparing them with those of ``spec``; a fixed batch size is allowed.

    Raises:
        InputError: as ``inspect``.
        OtherModelError: lists every name, dtype, rank and axis that differs.
    """
    inputs, outputs = inspect(path)
    problems = [*_differences("input", spec.inputs, inputs), *_differences("output", spec.outputs, outputs)]
    if problems:
        raise OtherModelError(
            f"{path} is not a {spec.name}: {'; '.join(problems)}. Export it with these tensors, or choose its own "
            "model with --models or --adapter."
        )
    return inputs, outputs


def artifact_sha256(path: Path) -> str:
    """Hash of the file, and of the files with its external data in the order of their names.

    Raises:
        InputError: as ``inspect``.
    """
    names = sorted({_external(tensor)["location"] for tensor in _stored_outside(read(path))})
    digest = hashlib.sha256(path.read_bytes())
    for name in names:
        with (path.parent / name).open("rb") as stream:
            digest.update(name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read(path: Path) -> ModelProto:
    """Parse the file without its external data, whose presence and length are checked.

    Raises:
        InputError: as ``inspect``.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the path of an .onnx file.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise InputError(f"{path}: not a complete ONNX file ({error}). Download or export it again.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give the path of a readable file.") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path}: holds no ONNX graph. Download or export it again.")
    for tensor in _stored_outside(model):
        _check_external(path, tensor)
    return model


def _check_external(path: Path, tensor: TensorProto) -> None:
    where = _external(tensor)
    data = path.parent / where.get("location", "")
    if not data.is_file():
        raise InputError(
            f"{path}: its external data {where.get('location')!r} is missing (weights of {tensor.name!r}). "
            f"Put that file into {path.parent}, or export with the weights inside."
        )
    needed = int(where.get("offset", 0)) + int(where.get("length", 0))
    if data.stat().st_size < needed:
        raise InputError(
            f"{path}: its external data {data.name!r} has {data.stat().st_size} bytes, {tensor.name!r} needs {needed}. "
            "Copy the two files again, together."
        )


def _stored_outside(model: ModelProto) -> Iterator[TensorProto]:
    from onnx.external_data_helper import uses_external_data

    return (tensor for tensor in model.graph.initializer if uses_external_data(tensor))


def _external(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _spec(value: ValueInfoProto) -> TensorSpec:
    from onnx import helper

    tensor = value.type.tensor_type
    shape: tuple[Any, ...] = tuple(
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim
    )
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "unknown"
    return TensorSpec(name=value.name, shape=shape, dtype=dtype)


def _differences(kind: str, expected: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> Iterator[str]:
    by_name = {tensor.name: tensor for tensor in found}
    known = [tensor.name for tensor in expected]
    for want in expected:
        have = by_name.get(want.name)
        if have is None:
            yield f"{kind} {want.name!r} is not there"
        elif have.dtype != want.dtype:
            yield f"{kind} {want.name!r} is {have.dtype} instead of {want.dtype}"
        elif len(have.shape) != len(want.shape):
            yield f"{kind} {have} has rank {len(have.shape)} instead of {len(want.shape)}: expected {want}"
        elif not all(_fits(w, h) for w, h in zip(want.shape, have.shape, strict=True)):
            yield f"{kind} {have} should be {want}"
    for name in by_name:
        if name not in known:
            yield f"{kind} {name!r} is unknown.{did_you_mean(name, known)}".removesuffix(".")


def _fits(want: int | str, have: int | str) -> bool:
    """Whether an axis may stand for the wanted one: a symbolic axis may be fixed, and a fixed one left open."""
    return isinstance(want, str) or isinstance(have, str) or want == have
