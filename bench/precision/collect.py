"""Ranges of the activations of an fp32 graph over images; memory is that of one image, however many there are.

The graph is run unoptimised, so that every activation exists under the name that the file gives it. The first pass
reduces each activation to its smallest and largest value inside the graph. The second fetches activations and counts
their magnitudes in bins of equal width, whose limit is known by then: no bin ever has to be split or merged. A graph
whose activations exceed ``PASS_BYTES`` is read in more passes.

Nothing is kept on disk: a calibration that was killed starts again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ArtifactError, ContractError, UsageError, did_you_mean
from bench.precision.calibration import TensorRange
from bench.precision.observe import Fetch, Limits
from bench.precision.onnxfile import read
from bench.precision.thresholds import BINS, entropy_bins, percentile_bins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from bench.types import Array, Feeds

METHODS = ("entropy", "percentile", "minmax")
PERCENTILE = 99.999
PASS_BYTES = 256 * 2**20
"""Activations that one run of the second pass fetches."""
_CHUNK = 1 << 15
"""Values binned at once: their double-precision magnitudes (256 KB) stay in the second-level cache."""
_SIZED_BY_DATA = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique"})
"""What follows them may be empty, and then has no smallest value; no runtime computes it in int8."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """What one activation held over all images."""

    low: float
    high: float
    counts: Array
    """(BINS,) int64: magnitudes in bins of equal width from 0 to ``amax``."""

    @property
    def amax(self) -> float:
        """Largest magnitude seen; 0 for a tensor that was zero on every image, which has no scale."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histograms:
    """Histograms of a graph's activations over an ordered list of images."""

    images: int
    images_sha256: str
    """Hash over names, types, shapes and bytes of all inputs, in the order in which they were read."""
    tensors: Mapping[str, Histogram]
    """In the order of the graph."""

    def ranges(self, method: str, *, percentile: float = PERCENTILE) -> dict[str, TensorRange]:
        """Choose the magnitude that each tensor's 8-bit grid covers; the same histograms serve every method.

        Args:
            method: ``minmax`` covers all that was seen, ``percentile`` the share ``percentile`` of the magnitudes,
                ``entropy`` loses the least information (see ``thresholds.entropy_bins``).
            percentile: above 0, up to 100.

        Raises:
            UsageError: an unknown method, or a percentile out of range.
        """
        if method not in METHODS:
            raise UsageError(f"no calibrator is called {method!r}.{did_you_mean(method, METHODS)}")
        return {
            name: TensorRange(low=found.low, high=found.high, amax=_covered(found, method, percentile))
            for name, found in self.tensors.items()
        }


def _covered(found: Histogram, method: str, percentile: float) -> float:
    if method == "minmax":
        return found.amax
    bins = entropy_bins(found.counts) if method == "entropy" else percentile_bins(found.counts, percentile)
    return found.amax * bins / len(found.counts)


def collect(
    model: Path,
    feeds: Callable[[], Iterable[Feeds]],
    *,
    tensors: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Histograms:
    """Count the activations of ``model`` on calibration inputs.

    Args:
        model: fp32 ONNX file.
        feeds: opens the inputs (B = 1) anew at every call, always the same ones in the same order; called twice, or
            oftener for large graphs.
        tensors: activations to count; None: all float tensors that depend on the inputs, the inputs included.
        progress: called with (images read, images to read, over all passes); 0 to read while that is unknown.

    Raises:
        InputError: ``model`` is not a complete ONNX file.
        ContractError: ``tensors`` that are no float activations of the graph, or inputs that differ between passes.
        ArtifactError: no inputs, a graph that cannot be run, or a non-finite activation (tensor, node and image).
    """
    import onnx

    read(model)
    graph = onnx.load(str(model))
    known = activations(graph)
    names = list(known) if tensors is None else _wanted(tensors, known)
    if not names:
        raise ArtifactError(f"{model}: no float tensor depends on its inputs, so there is nothing to calibrate.")
    tell = progress or (lambda done, total: None)
    limits = Limits(graph, names, known)
    first = _Hashed(feeds())
    for number, feed in enumerate(first, start=1):
        limits.add(feed, number)
        tell(number, 0)
    if not first.count:
        raise ArtifactError("int8 needs calibration images, and there are none. Type: --calibration NAME or DIR")
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    groups = list(_groups(names, limits.sizes))
    for index, group in enumerate(groups, start=1):
        again = _Hashed(feeds())
        fetch = Fetch(graph, group)
        for number, feed in enumerate(again, start=1):
            for name, value in fetch(feed, number).items():
                _count(value, limits.amax[name], counts[name])
            tell(index * first.count + number, (len(groups) + 1) * first.count)
        if again.sha256 != first.sha256:
            raise ContractError(
                f"calibration inputs changed between two passes ({first.count} images, then {again.count} or others); "
                "feeds() must open the same inputs in the same order at every call"
            )
    return Histograms(
        images=first.count,
        images_sha256=first.sha256,
        tensors={
            name: Histogram(low=float(low), high=float(high), counts=counts[name])
            for name, low, high in zip(names, limits.low, limits.high, strict=True)
        },
    )


def activations(model: ModelProto) -> dict[str, str]:
    """Float tensors that depend on the graph's inputs -> the node that makes them (``input`` for the inputs), in order.

    Left out are weights, what is computed from weights alone, and what follows an operator whose output may be empty.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    described = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    floats = {v.name for v in described if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    dependent, unsized = set(inputs), set[str]()
    makers = {name: "input" for name in inputs}
    for index, node in enumerate(model.graph.node):
        if node.op_type in _SIZED_BY_DATA or not unsized.isdisjoint(node.input):
            unsized.update(node.output)
        if not dependent.isdisjoint(node.input):
            dependent.update(node.output)
            makers.update(dict.fromkeys(filter(None, node.output), node.name or f"{node.op_type} number {index}"))
    return {name: maker for name, maker in makers.items() if name in floats and name not in unsized}


def _wanted(tensors: Sequence[str], known: Mapping[str, str]) -> list[str]:
    unknown = [name for name in dict.fromkeys(tensors) if name not in known]
    if unknown:
        raise ContractError(
            f"{len(unknown)} tensor(s) to calibrate are no float activations of the graph, first {unknown[0]!r}."
            f"{did_you_mean(unknown[0], known)}"
        )
    asked = set(tensors)
    return [name for name in known if name in asked]


def _groups(names: Sequence[str], sizes: Array) -> Iterator[list[str]]:
    """Cut the tensors into groups of at most ``PASS_BYTES``; one that is larger by itself is alone."""
    group: list[str] = []
    used = 0
    for name, size in zip(names, sizes, strict=True):
        needed = 4 * int(size)
        if group and used + needed > PASS_BYTES:
            yield group
            group, used = [], 0
        group.append(name)
        used += needed
    yield group


def _count(value: Array, amax: float, counts: Array) -> None:
    """Add the magnitudes of ``value`` to ``counts``: equal bins from 0 to ``amax``, the last one closed.

    In double precision, because ``BINS / amax`` overflows single precision for ranges below 6e-36.
    """
    per_unit = len(counts) / amax if amax > 0 else 0.0
    flat = np.ravel(value)
    for start in range(0, flat.size, _CHUNK):
        places = np.abs(flat[start : start + _CHUNK], dtype=np.float64)
        places *= per_unit
        indices = np.minimum(places.astype(np.intp), len(counts) - 1)
        counts += np.bincount(indices, minlength=len(counts))


class _Hashed:
    """Iterates over feeds while counting and hashing them."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = feeds
        self._digest = hashlib.sha256()
        self.count = 0

    def __iter__(self) -> Iterator[Feeds]:
        for feed in self._feeds:
            self.count += 1
            for name, value in sorted(feed.items()):
                self._digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
                self._digest.update(np.ascontiguousarray(value).data)
            yield feed

    @property
    def sha256(self) -> str:
        """Hash over names, types, shapes and bytes of all feeds so far."""
        return self._digest.hexdigest()
