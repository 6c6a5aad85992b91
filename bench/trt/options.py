"""What a person may choose about an engine; part of its identity and of its recipe, by name."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

LEGACY_PRECISIONS = ("fp16", "bf16", "int8")
"""Precisions that TensorRT 10 can still be asked for by a builder flag on an untyped network."""
_PATHS = ("timing_cache", "calibration_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of a build.

    Raises:
        UsageError: values that contradict each other.
    """

    tf32: bool
    """Whether fp32 arithmetic may round its inputs to TF32. Explicit: TensorRT's own default is on."""
    batches: tuple[int, int, int] = (1, 1, 1)
    """Smallest, optimal and largest batch of a dynamic batch axis."""
    input_batches: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    """Inputs whose first axis has other limits than ``batches``: (name, (min, opt, max))."""
    workspace_mb: int | None = None
    """MiB of scratch memory that a layer may use; None: TensorRT's own limit, the memory of the GPU."""
    optimization_level: int = 3
    """How long the builder searches, 0 to 5; 3 is TensorRT's default."""
    strict_nans: bool = False
    """Forbid rewrites that hold only without NaN and infinity."""
    hardware_compatibility: str = "NONE"
    """``NONE``: the engine is for this GPU. Other levels cost speed and are not what is compared here."""
    version_compatible: bool = False
    """Whether newer TensorRT versions can load the engine (through the lean runtime)."""
    timing_cache: Path | None = None
    """Folder of timing caches; one file per TensorRT version, GPU, driver and TF32."""
    editable_timing_cache: bool = False
    """Write a timing cache whose entries can be read and pinned."""
    error_on_timing_cache_miss: bool = False
    """Fail instead of timing: proves that a rebuild used cached choices only."""
    legacy_precision: str | None = None
    """Untyped network with builder flags (TensorRT 10 only); None: precision is in the ONNX file."""
    calibration_cache: Path | None = None
    """INT8 calibration cache for ``legacy_precision="int8"``."""
    any_cache_version: bool = False
    """Hand over a calibration cache of another TensorRT version with the header of this one."""

    def __post_init__(self) -> None:
        for name, limits in (("batches", self.batches), *self.input_batches):
            low, best, high = limits
            if not 1 <= low <= best <= high:
                raise UsageError(
                    f"{name}: {low},{best},{high}: batch limits are MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX"
                )
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise UsageError(f"workspace of {self.workspace_mb} MiB: at least 1")
        if not 0 <= self.optimization_level <= 5:
            raise UsageError(f"builder optimisation level {self.optimization_level}: 0 to 5")
        if self.legacy_precision not in (None, *LEGACY_PRECISIONS):
            raise UsageError(f"legacy precision {self.legacy_precision}: one of {', '.join(LEGACY_PRECISIONS)}")
        if (self.legacy_precision == "int8") != (self.calibration_cache is not None):
            raise UsageError(
                "A calibration cache and the legacy precision int8 belong together: without a cache TensorRT has no "
                "ranges, and a typed ONNX file brings its own. Give both or neither."
            )
        if self.error_on_timing_cache_miss and self.timing_cache is None:
            raise UsageError("An error on a timing cache miss needs a timing cache: give its folder too.")

    def limits_of(self, name: str) -> tuple[int, int, int]:
        """Batch limits of one input."""
        return dict(self.input_batches).get(name, self.batches)

    def identity(self) -> dict[str, Any]:
        """Plain JSON values that the engine depends on: no paths, names instead of enum numbers.

        Raises:
            InputError: the calibration cache cannot be read.
        """
        values = {name: value for name, value in asdict(self).items() if name not in _PATHS}
        values["batches"] = list(self.batches)
        values["input_batches"] = {name: list(limits) for name, limits in self.input_batches}
        values["timing_cache"] = self.timing_cache is not None
        values["calibration_cache"] = None
        if self.calibration_cache is not None:
            try:
                values["calibration_cache"] = hashlib.sha256(self.calibration_cache.read_bytes()).hexdigest()
            except OSError as error:
                raise InputError(
                    f"{self.calibration_cache}: cannot be read ({error.strerror}). Give a calibration cache."
                ) from error
        return values

    def to_job(self) -> dict[str, Any]:
        """Plain JSON values that ``from_job`` reads in another process, paths included."""
        values = asdict(self)
        for name in _PATHS:
            values[name] = None if values[name] is None else str(Path(values[name]).absolute())
        return values


def from_job(values: Mapping[str, Any]) -> BuildOptions:
    """Read ``BuildOptions.to_job`` back.

    Raises:
        UsageError: an unknown field.
    """
    known = {f.name for f in fields(BuildOptions)}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"unknown build options: {', '.join(unknown)}")
    given = dict(values)
    given["batches"] = _limits(given.get("batches", (1, 1, 1)))
    given["input_batches"] = tuple((name, _limits(limits)) for name, limits in given.get("input_batches", ()))
    for name in _PATHS:
        given[name] = Path(given[name]) if given.get(name) else None
    return BuildOptions(**given)


def _limits(values: Any) -> tuple[int, int, int]:
    low, best, high = values
    return int(low), int(best), int(high)


def tf32_from(label: str | None, flag: bool | None) -> bool:
    """Whether TF32 is allowed: as the flag says, else only for the label tf32.

    Raises:
        UsageError: label and flag contradict each other.
    """
    if flag is None:
        return label == "tf32"
    if (label, flag) in (("fp32", True), ("tf32", False)):
        raise UsageError(f"precision {label} and {'--tf32' if flag else '--no-tf32'} contradict each other.")
    return flag
