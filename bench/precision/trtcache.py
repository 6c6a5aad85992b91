"""TensorRT's INT8 calibration cache: a text file with one symmetric scale per tensor.

The first line is ``TRT-<version>-<calibrator>``, every other one ``<tensor>: <hex>``: the big-endian bits of the
float32 scale = amax / 127. Tensor names are free text, so a line is split at its last ``": "``. Some writers drop
leading zeros of the hexadecimal number.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import InputError, UsageError
from bench.files import write_atomic
from bench.precision.calibration import INT8_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HEADER = re.compile(r"TRT-(?P<version>[0-9]*X*)-(?P<algorithm>[A-Za-z][A-Za-z0-9]*)")
_HEX = re.compile(r"[0-9a-fA-F]{1,8}")
_TABLE_LINE = re.compile(r"\S.* [-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DETAILED = 40
"""Malformed lines that are described; of the others the number is given."""
_NUMBERED = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtCache:
    """The content of a cache."""

    header: str
    """First line, for example ``TRT-8601-EntropyCalibration2``."""
    version: str
    """TensorRT version of the header, digits or X."""
    algorithm: str
    """Calibrator of the header; TensorRT refuses a cache whose calibrator is not the builder's."""
    scales: Mapping[str, float]
    """Tensor -> scale (amax / 127), exactly as stored, in the order of the file."""
    notes: tuple[str, ...] = ()
    """What is odd but harmless, with line numbers."""

    @property
    def amax(self) -> dict[str, float]:
        """Tensor -> largest magnitude that is represented; exact in double precision."""
        return {name: scale * INT8_MAX for name, scale in self.scales.items()}


def read_cache(path: Path) -> TrtCache:
    """Read a cache; LF or CRLF, blank lines are skipped.

    Raises:
        InputError: not readable, not a cache, or malformed lines: all of them, with number and reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give the path of a calibration cache.") from error
    notes: list[str] = []
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
        notes.append("line 1: starts with a byte order mark, which is dropped")
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    _refuse_other_formats(path, lines)
    problems: list[tuple[int, str]] = []
    header = _HEADER.fullmatch(lines[0].decode("utf-8", "replace"))
    if header is None or not header["version"]:
        problems.append((1, f"header {_shown(lines[0])} is not TRT-<version>-<calibrator>"))
        header = None
    scales: dict[str, float] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            name, scale = _parse(line)
        except ValueError as error:
            problems.append((number, str(error)))
            continue
        if name not in scales:
            scales[name], seen[name] = scale, number
        elif scales[name] == scale:
            notes.append(f"line {number}: {name!r} again, with the scale of line {seen[name]}")
        else:
            first = f"line {seen[name]} says {scales[name]:.9g}"
            problems.append((number, f"{name!r} again, with scale {scale:.9g}; {first}"))
    if problems or header is None:
        raise InputError(_listed(path, problems))
    if not scales:
        raise InputError(f"{path}: a header and no tensor; the file is truncated. Copy or calibrate it again.")
    return TrtCache(
        header=header.group(),
        version=header["version"],
        algorithm=header["algorithm"],
        scales=scales,
        notes=tuple(notes),
    )


def write_cache(path: Path, scales: Mapping[str, float], *, version: str | int, algorithm: str) -> str:
    """Write a cache and return its header; the file of ``read_cache`` comes out byte for byte (LF, eight digits).

    Args:
        path: file to write.
        scales: tensor -> scale, rounded to float32.
        version: of the TensorRT that will read it, digits as in ``8601``.
        algorithm: calibrator class that will read it without its ``I`` and ``...Calibrator`` forms, for example
            ``EntropyCalibration2``.

    Raises:
        UsageError: a version or calibrator that cannot stand in a header.
        InputError: no scale at all, or names and scales that the format cannot hold (all are named).
    """
    header = f"TRT-{version}-{algorithm}"
    parsed = _HEADER.fullmatch(header)
    if parsed is None or not parsed["version"]:
        raise UsageError(f"{header!r} is no header of a cache; for example --tensorrt 8601 gives TRT-8601-{algorithm}.")
    if not scales:
        raise InputError(f"{path}: there is no scale to write.")
    lines, problems = [header], []
    for name, scale in scales.items():
        try:
            lines.append(f"{_writable(name)}: {_hex_of(scale)}")
        except ValueError as error:
            problems.append(f"{name!r}: {error}")
    if problems:
        more = f"; and {len(problems) - _DETAILED} more" if len(problems) > _DETAILED else ""
        raise InputError(
            f"{path}: a calibration cache cannot hold {len(problems)} of {len(scales)} tensors: "
            f"{'; '.join(problems[:_DETAILED])}{more}."
        )
    write_atomic(path, "\n".join(lines) + "\n")
    return header


def _parse(line: bytes) -> tuple[str, float]:
    """Name and scale of one line; ValueError says what is wrong with it."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{_shown(line)} is not UTF-8 text") from None
    name, separator, digits = text.rpartition(": ")
    digits = digits.strip()
    if not separator or not name.strip():
        raise ValueError(f"{_shown(line)} is not <tensor>: <hex>")
    if not _HEX.fullmatch(digits):
        raise ValueError(f"{name!r} has {digits[:20]!r}, which is not 1 to 8 hexadecimal digits")
    (scale,) = struct.unpack(">f", bytes.fromhex(digits.zfill(8)))
    _check_scale(scale, name)
    return name, scale


def _check_scale(scale: float, name: str) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"{name!r} has scale {scale}; it must be finite")
    if not scale > 0:
        raise ValueError(f"{name!r} has scale {scale:g}; it must be above zero")


def _writable(name: str) -> str:
    if not name.strip() or "\n" in name or "\r" in name:
        raise ValueError("the name is blank or has a line break")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the name is not valid Unicode") from None
    return name


def _hex_of(scale: float) -> str:
    try:
        stored = struct.pack(">f", scale)
    except OverflowError:
        raise ValueError(f"scale {scale:g} is beyond float32") from None
    (value,) = struct.unpack(">f", stored)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"scale {scale:g} is {value:g} in float32; it must be finite and above zero")
    return stored.hex()


def _refuse_other_formats(path: Path, lines: list[bytes]) -> None:
    """Recognise what people take for a cache."""
    filled = [line.decode("utf-8", "replace") for line in lines if line.strip()]
    if not filled:
        raise InputError(f"{path}: empty. A calibration cache starts with TRT-<version>-<calibrator>.")
    if filled[0].startswith("TRT-"):
        return
    if all(_TABLE_LINE.fullmatch(line) and not _HEX.fullmatch(line.rpartition(": ")[2]) for line in filled[:20]):
        raise InputError(
            f"{path}: this is onnxruntime's own calibration table ('name value'), not TensorRT's cache. Its value is "
            "the larger end of the range, not the larger magnitude: a tensor from -6 to 2 would be cut at 2. Calibrate "
            "again: parity calibrate MODEL, then parity calibration-cache write."
        )
    if filled[0].lstrip().startswith("{"):
        raise InputError(
            f"{path}: this is JSON, not TensorRT's cache. If it is a calibration: parity calibration-cache write "
            f"--calibration {path.name} --out calibration.cache"
        )


def _listed(path: Path, problems: list[tuple[int, str]]) -> str:
    """Every malformed line by number, the first ones with their reasons."""
    described = "; ".join(f"line {number}: {reason}" for number, reason in problems[:_DETAILED])
    rest = [str(number) for number, _ in problems[_DETAILED:]]
    more = f"; and lines {', '.join(rest[:_NUMBERED])}" if rest else ""
    if len(rest) > _NUMBERED:
        more += f" and {len(rest) - _NUMBERED} more"
    return f"{path}: {len(problems)} malformed line(s): {described}{more}. Calibrate again, or correct the file."


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")
