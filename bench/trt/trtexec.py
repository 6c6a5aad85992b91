"""The ``trtexec`` command lines that match a build and a timing, for whoever wants to repeat them without Python.

11 changed trtexec's defaults: CUDA graph on, copies left out, spin-wait on. So a timing line sets all three in words,
and lines of 10 and 11 mean the same.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.trt.options import BuildOptions
    from bench.trt.profiles import InputRange


def build_line(
    onnx: Path | str,
    engine: Path | str,
    options: BuildOptions,
    ranges: Sequence[InputRange],
    *,
    major: int,
    timing_cache: Path | str | None = None,
) -> str:
    """Command that builds the same engine (kernel choices are timed anew, so not the same bytes).

    Args:
        onnx: the file built from.
        engine: the file written.
        options: what was built.
        ranges: shapes of the dynamic inputs.
        major: TensorRT's major version, 10 or 11.
        timing_cache: the timing cache file.
    """
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    if options.legacy_precision is not None:
        words.append(f"--{options.legacy_precision}")
        if options.calibration_cache is not None:
            words.append(f"--calib={options.calibration_cache}")
    elif major < 11:  # 11 has typed networks only; the flag does nothing there
        words.append("--stronglyTyped")
    if not options.tf32:
        words.append("--noTF32")
    for label, field in (("min", "low"), ("opt", "best"), ("max", "high")):
        if ranges:
            words.append(f"--{label}Shapes=" + ",".join(f"{r.name}:{_shape(getattr(r, field))}" for r in ranges))
    if options.workspace_mb is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mb}M")
    words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.hardware_compatibility != "NONE":
        words.append(f"--hardwareCompatibilityLevel={_camel(options.hardware_compatibility)}")
    if options.version_compatible:
        words.append("--versionCompatible")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    if options.error_on_timing_cache_miss:
        words.append("--errorOnTimingCacheMiss")
    words += ["--profilingVerbosity=detailed", "--skipInference"]
    return " ".join(shlex.quote(word) for word in words) + _without_counterpart(options)


def timing_line(
    engine: Path | str,
    ranges: Sequence[InputRange],
    *,
    major: int,
    cuda_graph: bool = False,
    transfers: bool = False,
    spin_wait: bool = False,
) -> str:
    """Command that times an engine at its optimal shapes under stated conditions.

    Args:
        engine: the file to load.
        ranges: shapes of the dynamic inputs.
        major: TensorRT's major version, 10 or 11.
        cuda_graph: replay a captured graph instead of enqueueing.
        transfers: include the copies between host and device.
        spin_wait: poll for completion instead of blocking.
    """
    words = ["trtexec", f"--loadEngine={engine}"]
    if ranges:
        words.append("--shapes=" + ",".join(f"{r.name}:{_shape(r.best)}" for r in ranges))
    if major < 11:
        words += ["--useCudaGraph"] * cuda_graph + ["--noDataTransfers"] * (not transfers)
        words += ["--useSpinWait"] * spin_wait
    else:
        words += ["--noCudaGraph"] * (not cuda_graph) + ["--includeDataTransfers"] * transfers
        words += ["--noSpinWait"] * (not spin_wait)
    return " ".join(shlex.quote(word) for word in words)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def _camel(level: str) -> str:
    """``AMPERE_PLUS`` -> ``ampere+``, ``SAME_COMPUTE_CAPABILITY`` -> ``sameComputeCapability``."""
    if level == "AMPERE_PLUS":
        return "ampere+"
    first, *rest = level.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def _without_counterpart(options: BuildOptions) -> str:
    """Trtexec has no word for these; a comment keeps the line honest and still runnable."""
    missing = [
        name
        for name, asked in (
            ("STRICT_NANS", options.strict_nans),
            ("EDITABLE_TIMING_CACHE", options.editable_timing_cache),
        )
        if asked
    ]
    return f"  # without: {', '.join(missing)}" if missing else ""
