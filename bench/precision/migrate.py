"""An old calibration cache onto an ONNX graph: explicit Q/DQ nodes with the cache's scales, without any image.

What carries over are the scales of activations. What does not: TensorRT's implicit mode chose int8 or float per layer
by speed, and had its own scales for weights; here every node whose activations have a scale is quantised, and weights
get one scale per channel from their values. The result is labelled ``migrated scales`` in the file and is not the old
engine: compare it with a fresh calibration.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, InputError, did_you_mean
from bench.precision.calibration import INT8_MAX
from bench.precision.collect import activations
from bench.precision.graph import name_nodes
from bench.precision.onnxfile import read
from bench.precision.qdq import MIN_OPSET, insert_qdq, opset_of, placement, refuse_quantised, scale_of
from bench.precision.session import first_line, runtime_errors
from bench.schema import read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from bench.precision.trtcache import TrtCache

LABEL = "migrated scales"
METADATA = "parity.scales"
"""Key of the recipe (JSON) in the metadata of a migrated file."""
MIN_COVERAGE = 0.5
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What of a cache found its place in a graph."""

    matched: tuple[str, ...]
    """Cache names of tensors of the graph, in the order of the cache."""
    unmatched: tuple[str, ...]
    """Cache names that are no float activation of the graph (fused, unnamed or renamed layers)."""
    without_scale: tuple[str, ...]
    """Graph tensors that int8 needs a scale for and the cache has none of; their nodes stay in float."""
    needed: int
    """Graph tensors that int8 needs a scale for."""

    @property
    def share(self) -> float:
        """Share of the needed tensors that have a scale."""
        return 1 - len(self.without_scale) / self.needed

    @property
    def cache_share(self) -> float:
        """Share of the cache's tensors that are in the graph."""
        return len(self.matched) / (len(self.matched) + len(self.unmatched))

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "coverage": self.share,
            "needed": self.needed,
            "covered": self.needed - len(self.without_scale),
            "cache_share": self.cache_share,
            "matched": list(self.matched),
            "unmatched": list(self.unmatched),
            "without_scale": list(self.without_scale),
        }

    def __str__(self) -> str:
        """One line of figures."""
        tensors = len(self.matched) + len(self.unmatched)
        return (
            f"{self.needed - len(self.without_scale)} of {self.needed} activations that int8 needs a scale for have "
            f"one ({self.share:.1%}); {len(self.matched)} of {tensors} cache names are in the graph "
            f"({self.cache_share:.1%})"
        )


def migrate(
    cache: TrtCache,
    model: ModelProto,
    *,
    names: Mapping[str, str] | None = None,
    float_nodes: Collection[str] = (),
    min_coverage: float = MIN_COVERAGE,
    source: str = "cache",
) -> tuple[ModelProto, Coverage]:
    """Insert Q/DQ nodes with the scales of ``cache``.

    Args:
        cache: of the old engine.
        model: fp32 graph; not changed.
        names: cache name -> tensor of the graph, for tensors that were renamed; others match by equal names.
        float_nodes: names of nodes that stay in float.
        min_coverage: refuse below this share of needed tensors with a scale.
        source: what the recipe calls the cache (a file name).

    Raises:
        InputError: a name map that does not fit, or a coverage below the threshold.
        ArtifactError: a graph that is quantised already, has nothing to quantise, or an opset below 13.
    """
    refuse_quantised(model)
    known = activations(model)
    scales = _renamed(cache, names or {}, known)
    amax = {new: cache.scales[old] * INT8_MAX for old, new in scales if new in known}
    named = type(model)()
    named.CopyFrom(model)
    name_nodes(named.graph)
    wanted = placement(named, float_nodes=float_nodes).tensors
    if not wanted:
        raise ArtifactError("the graph has no node that int8 could compute, so no scale has a place in it.")
    coverage = Coverage(
        matched=tuple(old for old, new in scales if new in known),
        unmatched=tuple(old for old, new in scales if new not in known),
        without_scale=tuple(name for name in wanted if not scale_of(amax.get(name, 0.0), name)),
        needed=len(wanted),
    )
    if not coverage.share >= min_coverage:
        raise InputError(_too_little(coverage, min_coverage))
    result = insert_qdq(named, amax, float_nodes=float_nodes)
    recipe = {
        "label": LABEL,
        "cache": source,
        "header": cache.header,
        "coverage": coverage.share,
        "cache_share": coverage.cache_share,
        "without_scale": list(coverage.without_scale),
        "renamed": dict(names or {}),
        "float_nodes": sorted(float_nodes),
    }
    entry = result.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(recipe, ensure_ascii=False)
    return result, coverage


def read_names(path: Path) -> dict[str, str]:
    """Read a name map, cache name -> ONNX tensor, from JSON or TOML (there also below ``[names]``).

    Raises:
        InputError: not readable, or not a table of texts.
    """
    if path.suffix.lower() == ".toml":
        try:
            document: Any = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise InputError(f"--names {path}: cannot be read ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"--names {path}: not TOML: {error}.") from error
    else:
        document = read_json(path)
    if isinstance(document, dict) and isinstance(document.get("names"), dict):
        document = document["names"]
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise InputError(f'--names {path}: must be a table {{"name in the cache": "tensor of the graph", ...}}.')
    return document


def load_model(path: Path) -> ModelProto:
    """Read a graph with its weights.

    Raises:
        InputError: as ``onnxfile.read``.
    """
    import onnx

    read(path)
    return onnx.load(str(path))


def raised(model: ModelProto) -> ModelProto:
    """The graph at an opset that has per-channel Q/DQ; tensors keep their names.

    Raises:
        ArtifactError: it cannot be converted.
    """
    import onnx

    opset = opset_of(model)
    if opset >= MIN_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, MIN_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise ArtifactError(f"opset {opset} cannot be raised to {MIN_OPSET}: {first_line(error)}") from error


def accept_migrated(content: bytes) -> None:
    """Pass a file that the ONNX checker accepts and that onnxruntime loads; it is not run, for want of inputs.

    Raises:
        ArtifactError: with the reason.
    """
    import onnx
    import onnxruntime

    refusals: tuple[type[Exception], ...] = (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        *runtime_errors(),
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise ArtifactError(f"the migrated graph is not accepted: {first_line(error)}") from error


def _renamed(cache: TrtCache, names: Mapping[str, str], known: Mapping[str, str]) -> list[tuple[str, str]]:
    """(cache name, tensor of the graph) of every scale; two scales for one tensor must be equal."""
    absent = [old for old in names if old not in cache.scales]
    if absent:
        raise InputError(
            f"--names: {len(absent)} name(s) are not in the cache: {_first(absent)}."
            f"{did_you_mean(absent[0], cache.scales)}"
        )
    unknown = [new for new in names.values() if new not in known]
    if unknown:
        raise InputError(
            f"--names: {len(unknown)} target(s) are no float activation of the graph: {_first(unknown)}."
            f"{did_you_mean(unknown[0], known)}"
        )
    pairs = [(old, names.get(old, old)) for old in cache.scales]
    given: dict[str, str] = {}
    for old, new in pairs:
        other = given.setdefault(new, old)
        if cache.scales[other] != cache.scales[old]:
            raise InputError(
                f"--names: {other!r} (scale {cache.scales[other]:.9g}) and {old!r} ({cache.scales[old]:.9g}) both "
                f"become {new!r}. Map one of them."
            )
    return pairs


def _too_little(coverage: Coverage, least: float) -> str:
    return (
        f"coverage is too low: {coverage}; the threshold is {least:.1%}. Without a scale, for example: "
        f"{_first(coverage.without_scale)}. In the cache only, for example: {_first(coverage.unmatched)}. Give a map "
        "with --names MAP.json, the ONNX file that the cache was made from, or a lower --min-coverage."
    )


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN])) or "none"
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
