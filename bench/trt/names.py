"""TensorRT's enums by name, never by number: the numbers were renumbered between 10.16 and 11.4.

``1 << 1`` as network flag is strongly typed in 10.16 and something else in 11.4, so no integer is written down, stored
or compared anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

BUILDS_WITH = (10, 11)
"""Major versions whose build interface this code speaks."""
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "FP8": "float8_e4m3fn",
}
"""``DataType`` member -> the name that numpy (or, for bfloat16 and fp8, ml_dtypes and torch) has for it."""


def version_of(trt: Any) -> tuple[int, ...]:
    """``"10.16.1.11"`` -> (10, 16, 1, 11); parts that are no numbers end it."""
    numbers = []
    for part in str(trt.__version__).split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def buildable_major(trt: Any) -> int:
    """The major version, when this code can build with it.

    Raises:
        Unsupported: another major version.
    """
    version = version_of(trt)
    if not version or version[0] not in BUILDS_WITH:
        raise Unsupported(
            f"TensorRT {trt.__version__}: engines are built with TensorRT 10 or 11 only (8 and 9 have no typed "
            "networks that 11 would accept). Type: pip install --upgrade tensorrt"
        )
    return version[0]


def member(trt: Any, enum: str, name: str) -> Any:
    """``member(trt, "BuilderFlag", "TF32")``.

    Raises:
        Unsupported: this version has no such enum or member.
    """
    found = getattr(getattr(trt, enum, None), name, None)
    if found is None:
        raise Unsupported(f"TensorRT {trt.__version__} has no {enum}.{name}")
    return found


def has(trt: Any, enum: str, name: str) -> bool:
    """Whether this version has the member."""
    return getattr(getattr(trt, enum, None), name, None) is not None


def bits(members: Iterable[Any]) -> int:
    """Bit mask of enum members, as ``create_network`` takes it; computed from the members of the running version."""
    mask = 0
    for one in members:
        mask |= 1 << int(one)
    return mask


def name_of(value: Any) -> str:
    """``DataType.FLOAT`` -> ``FLOAT``, for enum members of any binding."""
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else str(value).rpartition(".")[2]


def dtype_of(value: Any) -> str:
    """``DataType.HALF`` -> ``float16``; a type that numpy has no word for keeps TensorRT's, in small letters."""
    word = name_of(value)
    return DTYPES.get(word, word.lower())
