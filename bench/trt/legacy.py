"""Builder flags and calibration caches: the way to lower precision that TensorRT 11 removed. TensorRT 10 only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, InputError, Unsupported
from bench.trt.names import member, version_of

if TYPE_CHECKING:
    from pathlib import Path

    from bench.trt.options import BuildOptions

LEGACY_FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""Our word -> ``BuilderFlag`` member of TensorRT 10."""
CALIBRATORS = {
    "EntropyCalibration2": "IInt8EntropyCalibrator2",
    "MinMaxCalibration": "IInt8MinMaxCalibrator",
    "EntropyCalibration": "IInt8EntropyCalibrator",
}
"""Word in the cache's header -> calibrator class that reads such a cache."""
_HEADER = re.compile(rb"TRT-([0-9X]+)-([A-Za-z0-9]+)\s*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFile:
    """A calibration cache as it will be handed to TensorRT."""

    algorithm: str
    content: bytes
    note: str | None
    """What was changed on the way, or None."""


def refuse_legacy(trt: Any, options: BuildOptions, major: int) -> None:
    """Refuse builder precision flags where they do not exist.

    Raises:
        Unsupported: TensorRT 11 (or later) and a legacy precision.
    """
    if options.legacy_precision is None or major == 10:
        return
    remedy = (
        "migrate the cache onto the ONNX file: parity calibration-cache migrate --cache C --onnx M.onnx --out q.onnx"
        if options.legacy_precision == "int8"
        else f"type: parity export MODEL --precision {options.legacy_precision} --out M.onnx"
    )
    raise Unsupported(
        f"TensorRT {trt.__version__} has no builder flag for {options.legacy_precision} and no calibrator: both were "
        f"removed in 11.0, precision is in the ONNX file. Build from a typed or Q/DQ file instead; {remedy}"
    )


def read_calibration_file(path: Path, trt: Any, *, any_version: bool) -> CacheFile:
    """Read a cache and check its header against this TensorRT.

    TensorRT 10 rejects a header of another version or algorithm with one log line and builds without ranges, so both
    are looked at beforehand.

    Raises:
        InputError: unreadable, no such header, no entry, an algorithm without a calibrator here, or another version
            without ``any_version``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a calibration cache.") from error
    unix = content.replace(b"\r\n", b"\n")
    first, _, rest = unix.partition(b"\n")
    found = _HEADER.match(first)
    if found is None:
        shown = first[:60].decode("ascii", "replace").rstrip()
        raise InputError(
            f"{path}: line 1: {shown!r} is no header of a calibration cache (TRT-8601-EntropyCalibration2 is one)."
        )
    if b":" not in rest:
        raise InputError(f"{path}: no entry after the header. A cache has a line 'tensor: 3c010a14' per tensor.")
    version, algorithm = found.group(1).decode(), found.group(2).decode()
    if algorithm not in CALIBRATORS:
        raise InputError(
            f"{path}: line 1: algorithm {algorithm} is not one of {', '.join(CALIBRATORS)}. Migrate the cache onto the "
            "ONNX file instead: parity calibration-cache migrate"
        )
    wanted = header_version(trt)
    if version == wanted:
        note = None if unix == content else "calibration cache handed over without its carriage returns"
        return CacheFile(algorithm=algorithm, content=unix, note=note)
    if not any_version:
        raise InputError(
            f"{path}: line 1: written for TensorRT {version}, this is {trt.__version__} ({wanted}), which ignores a "
            "cache of another version. Scales do not depend on it; to hand them over with the header of this one, type "
            "--any-cache-version"
        )
    header = f"TRT-{wanted}-{algorithm}".encode()
    return CacheFile(
        algorithm=algorithm,
        content=header + b"\n" + rest,
        note=f"calibration cache of TensorRT {version} handed over as {wanted}",
    )


def header_version(trt: Any) -> str:
    """Version number in a cache header: 8.6.1 writes 8601, 10.14.1 writes 101401."""
    major, minor, patch = (*version_of(trt), 0, 0)[:3]
    return f"{major * (10000 if major >= 10 else 1000) + minor * 100 + patch}"


def make_calibrator(trt: Any, cache: CacheFile) -> Any:
    """A calibrator that answers with the cache and has no images."""
    base = getattr(trt, CALIBRATORS[cache.algorithm])

    class CacheOnlyCalibrator(base):  # type: ignore[misc, valid-type]
        """Reads a cache; never calibrates."""

        def __init__(self) -> None:
            base.__init__(self)
            self.asked_for_images = False

        def get_batch_size(self) -> int:
            """Batch size of the images that it does not have."""
            return 1

        def get_batch(self, names: Any) -> None:
            """No images: TensorRT asks for them when it does not accept the cache."""
            self.asked_for_images = True

        def read_calibration_cache(self) -> bytes:
            """The cache."""
            return cache.content

        def write_calibration_cache(self, cache: Any) -> None:
            """Nothing is written: the user's file stays as it is."""

    return CacheOnlyCalibrator()


def set_legacy(trt: Any, config: Any, options: BuildOptions, profile: Any, *, explain: Any) -> tuple[Any, list[str]]:
    """Set the builder flag of a legacy precision; for int8 also the calibrator.

    Returns:
        The calibrator (which must outlive the build) or None, and notes.

    Raises:
        InputError: as ``read_calibration_file``.
        ArtifactError: TensorRT does not keep the flag or refuses the calibration profile.
    """
    if options.legacy_precision is None:
        return None, []
    flag = member(trt, "BuilderFlag", LEGACY_FLAGS[options.legacy_precision])
    config.set_flag(flag)
    if not config.get_flag(flag):
        raise ArtifactError(f"TensorRT does not keep the builder flag {options.legacy_precision}. {explain()}")
    if options.calibration_cache is None:
        return None, []
    cache = read_calibration_file(options.calibration_cache, trt, any_version=options.any_cache_version)
    calibrator = make_calibrator(trt, cache)
    config.int8_calibrator = calibrator
    if profile is not None and not config.set_calibration_profile(profile):
        raise ArtifactError(f"TensorRT refuses the calibration profile. {explain()}")
    return calibrator, [cache.note] if cache.note else []
