"""From an ONNX file to an engine, with every answer of TensorRT checked.

TensorRT reports a failure by a log line and a None, False or negative number. Each of those is an ArtifactError here,
with the log lines in its text. Written against the bindings' names and signatures; not executed on a GPU yet.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, InputError, Unsupported
from bench.trt.inspector import inspect_engine, io_tensors
from bench.trt.legacy import refuse_legacy, set_legacy
from bench.trt.log import make_logger
from bench.trt.names import bits, buildable_major, has, member
from bench.trt.profiles import add_profile, input_ranges
from bench.trt.timingcache import attach_timing_cache, save_timing_cache, timing_cache_file
from bench.trt.trtexec import build_line, timing_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.trt.hostkey import HostKey
    from bench.trt.inspector import IOTensor, Layer
    from bench.trt.options import BuildOptions
    from bench.trt.profiles import InputRange
    from bench.trt.timingcache import AttachedCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine and everything that is known about it."""

    plan: bytes
    layers: tuple[Layer, ...]
    io: tuple[IOTensor, ...]
    ranges: tuple[InputRange, ...]
    """Shapes of the dynamic inputs; empty when all are static."""
    flags: tuple[str, ...]
    """Builder flags that are set, by name, sorted."""
    creation_flags: tuple[str, ...]
    """Flags of the network, by name."""
    timing_cache: AttachedCache | None
    warnings: tuple[str, ...]
    """Log lines of TensorRT, warnings and errors that did not stop it."""
    notes: tuple[str, ...]
    """What this code has to say about the build."""
    trtexec_build: str
    trtexec_timing: str
    seconds: float
    """Wall time of TensorRT's builder alone."""
    tensorrt: str
    """Version that built it."""


def build_engine(
    trt: Any, onnx: Path, options: BuildOptions, *, host: HostKey, engine_name: Path | str = "model.engine"
) -> Built:
    """Build an engine from an ONNX file.

    Args:
        trt: the module ``tensorrt``; CUDA must be known to work, without it the library ends the process.
        onnx: path; external data is found beside it.
        options: what to build.
        host: TensorRT, GPU and driver; names the timing cache file.
        engine_name: file name in the trtexec lines.

    Raises:
        Unsupported: this TensorRT cannot do what is asked for.
        InputError: a given file cannot be used.
        ArtifactError: TensorRT refuses a step; the message has its log lines.
    """
    major = buildable_major(trt)
    refuse_legacy(trt, options, major)
    if not onnx.is_file():
        raise InputError(f"{onnx}: no such file. Give the path of an .onnx file.")
    logger = make_logger(trt)
    plugins = trt.init_libnvinfer_plugins(logger, "")  # before parsing: nodes such as EfficientNMS_TRT are plugins
    builder = _made(trt.Builder, logger, what="builder", explain=logger.explain)
    creation = _creation_flags(trt, options)
    network = _not_none(
        builder.create_network(bits(member(trt, "NetworkDefinitionCreationFlag", name) for name in creation)),
        "network", logger.explain,
    )  # fmt: skip
    parser = _parse(trt, network, logger, onnx)
    config = _not_none(builder.create_builder_config(), "builder configuration", logger.explain)
    _configure(trt, config, options, explain=logger.explain)
    ranges = input_ranges(network, options)
    profile = add_profile(builder, config, ranges, explain=logger.explain)
    calibrator, notes = set_legacy(trt, config, options, profile, explain=logger.explain)
    cache = _timing_cache(config, options, host, logger.explain)
    if plugins is False:
        notes.append("TensorRT's own plugins could not be registered; a file that needs one is not parsed")
    if cache is not None and cache.state == "rejected":
        notes.append(f"TensorRT rejected the timing cache {cache.path.name}; it is made again")

    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if plan is None:
        raise ArtifactError(f"{onnx}: TensorRT built no engine. {_why_no_plan(calibrator)}{logger.explain()}")
    content = bytes(plan)
    if not content:
        raise ArtifactError(f"{onnx}: TensorRT returned an empty engine. {logger.explain()}")
    if getattr(calibrator, "asked_for_images", False):
        raise ArtifactError(
            f"{options.calibration_cache}: TensorRT did not accept the calibration cache (it asked for images), so the "
            f"engine has no int8 ranges. {logger.explain()}"
        )
    if cache is not None and (lost := save_timing_cache(config, cache.path)):
        notes.append(lost)
    flags = _flags_set(trt, config)
    # The plan owns memory of the builder, the parser points into the network: the order of release is TensorRT's.
    del plan, profile, calibrator, parser, config, network, builder
    layers, tensors = inspect_plan(trt, content, logger)
    return Built(
        plan=content,
        layers=layers,
        io=tensors,
        ranges=ranges,
        flags=flags,
        creation_flags=creation,
        timing_cache=cache,
        warnings=tuple([*logger.errors(), *logger.warnings()]),
        notes=tuple(notes),
        trtexec_build=build_line(
            onnx, engine_name, options, ranges, major=major, timing_cache=cache.path if cache else None
        ),
        trtexec_timing=timing_line(engine_name, ranges, major=major),
        seconds=seconds,
        tensorrt=str(trt.__version__),
    )


def inspect_plan(trt: Any, plan: bytes, logger: Any) -> tuple[tuple[Layer, ...], tuple[IOTensor, ...]]:
    """Load a serialised engine and read its layers and tensors.

    Raises:
        ArtifactError: it cannot be loaded (truncated, another GPU or version), or does not show its layers.
    """
    runtime = _made(trt.Runtime, logger, what="runtime", explain=logger.explain)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(f"TensorRT cannot load the engine. {logger.explain()}")
    found = inspect_engine(trt, engine), io_tensors(engine)
    del engine, runtime
    return found


def _creation_flags(trt: Any, options: BuildOptions) -> tuple[str, ...]:
    """Names of the network's flags: typed always, but for the legacy way of 10."""
    if options.legacy_precision is not None:
        return ()
    if not has(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"):
        raise Unsupported(f"TensorRT {trt.__version__} has no strongly typed networks. Type: pip install -U tensorrt")
    return ("STRONGLY_TYPED",)


def _parse(trt: Any, network: Any, logger: Any, onnx: Path) -> Any:
    """Parse from the file, so that external data resolves; every error of the parser is reported."""
    parser = _made(trt.OnnxParser, network, logger, what="ONNX parser", explain=logger.explain)
    if not parser.parse_from_file(str(onnx)):
        lines = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        told = "; ".join(lines) if lines else "the parser gives no reason"
        raise ArtifactError(f"{onnx}: TensorRT's ONNX parser refuses the file: {told}. {logger.explain()}")
    if network.num_outputs < 1 or network.num_inputs < 1:
        raise ArtifactError(f"{onnx}: the parsed network has no inputs or no outputs. {logger.explain()}")
    return parser


def _parser_error(error: Any) -> str:
    """Node, operator and description; ``node_name`` and ``node_operator`` came with 10.0."""
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def _configure(trt: Any, config: Any, options: BuildOptions, *, explain: Any) -> None:
    wanted = {
        "TF32": options.tf32,
        "VERSION_COMPATIBLE": options.version_compatible,
        "STRICT_NANS": options.strict_nans,
    }
    wanted["EDITABLE_TIMING_CACHE"] = options.editable_timing_cache
    wanted["ERROR_ON_TIMING_CACHE_MISS"] = options.error_on_timing_cache_miss
    for name, value in wanted.items():
        if not value and not has(trt, "BuilderFlag", name):
            continue
        flag = member(trt, "BuilderFlag", name)
        (config.set_flag if value else config.clear_flag)(flag)
        if bool(config.get_flag(flag)) != value:
            raise ArtifactError(
                f"TensorRT does not keep the builder flag {name} {'set' if value else 'clear'}. {explain()}"
            )
    config.profiling_verbosity = member(trt, "ProfilingVerbosity", "DETAILED")
    config.builder_optimization_level = options.optimization_level
    config.hardware_compatibility_level = member(trt, "HardwareCompatibilityLevel", options.hardware_compatibility)
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(member(trt, "MemoryPoolType", "WORKSPACE"), options.workspace_mb << 20)


def _timing_cache(config: Any, options: BuildOptions, host: HostKey, explain: Any) -> AttachedCache | None:
    if options.timing_cache is None:
        return None
    path = timing_cache_file(options.timing_cache, host, tf32=options.tf32)
    return attach_timing_cache(config, path, must_hit=options.error_on_timing_cache_miss, explain=explain)


def _flags_set(trt: Any, config: Any) -> tuple[str, ...]:
    """Names of all builder flags that are set, as TensorRT reports them after the build."""
    names: Sequence[str] = sorted(getattr(trt.BuilderFlag, "__members__", {}))
    return tuple(name for name in names if config.get_flag(getattr(trt.BuilderFlag, name)))


def _why_no_plan(calibrator: Any) -> str:
    if getattr(calibrator, "asked_for_images", False):
        return "It did not accept the calibration cache and asked for images. "
    return ""


def _made(factory: Any, *arguments: Any, what: str, explain: Any) -> Any:
    """Call a constructor of the bindings; a factory that returns nothing is their TypeError."""
    try:
        return _not_none(factory(*arguments), what, explain)
    except TypeError as error:
        raise ArtifactError(f"TensorRT creates no {what} ({error}). {explain()}") from error


def _not_none(value: Any, what: str, explain: Any) -> Any:
    if value is None:
        raise ArtifactError(f"TensorRT creates no {what}. {explain()}")
    return value
