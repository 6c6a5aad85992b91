"""fp32 ONNX to an fp16 graph with fp32 inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.precision.halves import floats_of, halve, open_source, save, source_of
from bench.precision.overflow import refuse_overflow, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from onnx import GraphProto

    from bench.types import Feeds

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = 5.96e-8
"""Smallest positive fp16 value; the converter lifts smaller weights to it, so that no divisor becomes zero."""


def convert_fp16(
    source: Path, out: Path, *, feeds: Callable[[], Iterable[Feeds]] | None = None, exclude: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``source`` with fp16 weights and arithmetic to ``out`` and return the recipe.

    Args:
        source: fp32 ONNX file.
        out: file to write.
        feeds: opens the calibration inputs; the first of them show whether fp16 can hold what the graph computes.
        exclude: patterns of nodes that stay in float32 (their own, not what follows them).

    Raises:
        InputError: ``source`` is not a complete float32 ONNX file, or ``out`` cannot be written.
        UsageError: ``exclude`` that matches nothing.
        ArtifactError: the graph cannot be converted, or computes values that fp16 cannot hold.
    """
    import onnx
    import onnxruntime

    model = open_source(source, half="float16")
    halved = halve(model, where=source, half="float16", exclude=exclude)
    peaks = scan(halved.source, feeds() if feeds is not None else (), types=None, where=source)
    refuse_overflow(halved, peaks, where=source)
    save(halved.model, out)
    return {
        "tool": "onnxruntime.transformers.float16.convert_float_to_float16, repaired",
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "keep_io_types": True,
        "compute_nodes": {"fp16" if name == "half" else name: n for name, n in sorted(halved.compute().items())},
        "nodes_left_in_float": halved.kept_operators(),
        "exclude": list(exclude),
        "clamped_weights": clamped(halved.source.graph, halved.model.graph),
        "overflow_scan": peaks.recipe(halved.halves),
    }


def clamped(source: GraphProto, converted: GraphProto) -> dict[str, dict[str, int]]:
    """Weight -> number of its values that fp16 has cut off (``beyond`` 65504) or lifted (``below`` 5.96e-8)."""
    from onnx import TensorProto

    floats = floats_of(source)
    found = {}
    for tensor in converted.initializer:
        values = floats.get(source_of(tensor.name))
        if tensor.data_type != TensorProto.FLOAT16 or values is None:
            continue
        size = np.abs(values[np.isfinite(values)])
        beyond = int(np.count_nonzero(size > LARGEST))
        below = int(np.count_nonzero((size > 0) & (size < SMALLEST)))
        if beyond or below:
            found[tensor.name] = {k: n for k, n in (("beyond", beyond), ("below", below)) if n}
    return found
