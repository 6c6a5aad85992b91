"""Can fp16 hold what the graph computes? Largest magnitude of every float tensor over calibration images.

The float32 graph runs with a reduction behind every float tensor, so that two numbers per tensor leave it whatever the
size of the tensors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.halves import types_of
from bench.precision.session import first_line, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from bench.precision.halves import Halved
    from bench.types import Feeds

LIMIT = 65504.0
"""Largest finite fp16 value."""
MAX_IMAGES = 32
"""The scan is a second pass over the images; the largest magnitudes of a detector hardly depend on their number."""
_SHOWN = 12
_LARGEST_KEPT = 5
_PEAKS, _SUMS = "parity_overflow_peaks", "parity_overflow_sums"


@dataclass(frozen=True, slots=True)
class Peaks:
    """Result of a scan."""

    values: Mapping[str, float]
    """Tensor -> largest magnitude; NaN or infinite when one value was."""
    images: int

    def recipe(self, tensors: Collection[str]) -> dict[str, Any]:
        """What was scanned of ``tensors``, and the largest of them, for the artefact's record."""
        if not self.images:
            return {"images": 0, "result": "not scanned: there were no calibration images"}
        found = sorted(((v, n) for n, v in self.values.items() if n in tensors), reverse=True)
        unseen = sum(name not in self.values for name in tensors)
        return {
            "images": self.images,
            "at_most_images": MAX_IMAGES,
            "limit": LIMIT,
            "tensors": len(found),
            "largest": {name: float(f"{value:.6g}") for value, name in found[:_LARGEST_KEPT]},
            **({"not_scanned": unseen} if unseen else {}),
        }


def scan(model: ModelProto, feeds: Iterable[Feeds], *, where: Path, types: Mapping[str, int] | None = None) -> Peaks:
    """Run the first ``MAX_IMAGES`` feeds and keep the largest magnitude of every float32 tensor, inputs included.

    Args:
        model: float32 graph without control flow; not changed.
        feeds: B = 1; repeated where the graph fixes a larger batch.
        where: file of ``model``, for messages.
        types: tensor -> element type; inferred when None.

    Raises:
        ArtifactError: the graph cannot be run on the feeds.
    """
    import onnx
    from onnx import TensorProto

    found = types_of(model) if types is None else types
    weights = {tensor.name for tensor in model.graph.initializer}
    produced = [value.name for value in model.graph.input] + [name for n in model.graph.node for name in n.output]
    tensors = [n for n in produced if n and n not in weights and found.get(n) == TensorProto.FLOAT]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    if not tensors:
        return Peaks({}, 0)
    _watch(watched, tensors)
    return _run(watched, tensors, feeds, where)


def refuse_overflow(halved: Halved, peaks: Peaks, *, where: Path) -> None:
    """Refuse a graph of which an fp16 tensor was not within fp16's range.

    Tensors that only float32 nodes touch do not count.

    Raises:
        ArtifactError: names the nodes, the values and what to type.
    """
    bad = {n: v for n, v in peaks.values.items() if n in halved.halves and not v <= LIMIT}
    if not bad:
        return
    producers = {name: node for node in halved.source.graph.node for name in node.output}
    leave: dict[str, None] = {}
    words = []
    for name, value in bad.items():
        node = producers.get(name)
        text = f"up to {value:.6g}" if math.isfinite(value) else "not finite"
        words.append(f"{node.op_type} {node.name!r} {text}" if node is not None else f"input {name!r} {text}")
        readers = [n for n in halved.source.graph.node if name in n.input]
        for each in ([node] if node is not None else []) + readers:
            if each.name not in halved.kept:
                leave[each.name] = None
    more = f", and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    raise ArtifactError(
        f"{where}: fp16 ends at {LIMIT:g}, and on {peaks.images} calibration images it cannot hold what "
        f"{len(words)} node{'s compute' if len(words) > 1 else ' computes'}: {'; '.join(words[:_SHOWN])}{more}. "
        f"Leave them and what reads them in float32, or use bf16. Type: --exclude {exclusion(list(leave))}"
    )


def exclusion(names: Sequence[str]) -> str:
    """One quoted pattern for the shell that matches these nodes and no others."""
    escaped = [re.sub(r"([.^$*+?{}\[\]|()\\])", r"\\\1", name) for name in names]
    body = escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
    return "'" + f"^{body}$".replace("'", "'\\''") + "'"


def _watch(model: ModelProto, tensors: Sequence[str]) -> None:
    """Add largest magnitude and sum of magnitudes of every tensor, as two vectors; all other outputs go.

    The sum is there for NaN, which a maximum may lose.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "parity_overflow_flat"))
    peaks, sums = [], []
    for index, name in enumerate(tensors):
        at = f"parity_overflow_{index}"
        graph.node.extend([
            helper.make_node("Abs", [name], [f"{at}_abs"]),
            helper.make_node("Reshape", [f"{at}_abs", "parity_overflow_flat"], [f"{at}_vector"]),
            helper.make_node("ReduceMax", [f"{at}_vector"], [f"{at}_max"], keepdims=1),
            helper.make_node("ReduceSum", [f"{at}_vector"], [f"{at}_sum"], keepdims=1),
        ])  # fmt: skip
        peaks.append(f"{at}_max")
        sums.append(f"{at}_sum")
    graph.node.append(helper.make_node("Concat", peaks, [_PEAKS], axis=0))
    graph.node.append(helper.make_node("Concat", sums, [_SUMS], axis=0))
    del graph.output[:], graph.value_info[:]
    graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, [len(tensors)]) for n in (_PEAKS, _SUMS))


def _run(model: ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds], where: Path) -> Peaks:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    highest = np.zeros(len(tensors))
    images = 0
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        batch = session.get_inputs()[0].shape[0] if session.get_inputs()[0].shape else None
        for feed in islice(feeds, MAX_IMAGES):
            if isinstance(batch, int):
                feed = {n: np.repeat(v, batch, axis=0) if len(v) == 1 else v for n, v in feed.items()}
            peaks, sums = session.run([_PEAKS, _SUMS], dict(feed))
            # np.maximum hands NaN on; of an empty tensor the maximum is -inf and the sum 0.
            highest = np.maximum(highest, np.where(np.isnan(sums), np.nan, peaks))
            images += 1
    except refusals as error:
        raise ArtifactError(f"{where}: the overflow scan failed at image {images + 1}: {first_line(error)}") from error
    return Peaks(dict(zip(tensors, highest.tolist(), strict=True)), images)
