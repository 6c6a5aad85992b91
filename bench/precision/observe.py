"""Runs a graph as it stands in the file and shows activations that are not its outputs: reduced, or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.session import first_line, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto

    from bench.types import Array, Feeds


class Limits:
    """First pass: smallest and largest value and number of values of each tensor, computed inside the graph.

    A sum is fetched too: reductions may drop a NaN, a sum cannot. It may overflow, so it only raises the suspicion.
    """

    _OPERATORS = ("ReduceMin", "ReduceMax", "ReduceSum", "Size")

    def __init__(self, model: ModelProto, names: Sequence[str], makers: Mapping[str, str]) -> None:
        from onnx import TensorProto, helper

        self._model, self._names, self._makers = model, names, makers
        nodes, outputs = [], []
        for index, name in enumerate(names):
            for operator in self._OPERATORS:
                result = f"parity:{index}:{operator}"  # own names: those of the graph are free text
                kind = TensorProto.INT64 if operator == "Size" else TensorProto.FLOAT
                options: dict[str, Any] = {} if operator == "Size" else {"keepdims": 0}
                nodes.append(helper.make_node(operator, [name], [result], **options))
                outputs.append(helper.make_tensor_value_info(result, kind, []))
        self._session = _session(model, outputs, nodes)
        self.low = np.full(len(names), np.inf, np.float32)
        self.high = np.full(len(names), -np.inf, np.float32)
        self.sizes = np.zeros(len(names), np.int64)

    @property
    def amax(self) -> dict[str, float]:
        """Tensor -> largest magnitude so far."""
        both = np.maximum(np.abs(self.low), np.abs(self.high))
        return dict(zip(self._names, map(float, both), strict=True))

    def add(self, feed: Feeds, number: int) -> None:
        """Read image ``number`` (from 1)."""
        low, high, total, size = np.array(_run(self._session, feed, number), np.float64).reshape(-1, 4).T
        for index in map(int, np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & np.isfinite(total)))):
            low[index], high[index] = self._checked(self._names[index], feed, number)
        self.low = np.minimum(self.low, low.astype(np.float32))
        self.high = np.maximum(self.high, high.astype(np.float32))
        self.sizes = np.maximum(self.sizes, size.astype(np.int64))

    def _checked(self, name: str, feed: Feeds, number: int) -> tuple[float, float]:
        """Fetch a suspected tensor whole; it may be finite after all."""
        value = Fetch(self._model, [name])(feed, number)[name]
        bad = int(value.size - np.isfinite(value).sum())
        if bad:
            raise ArtifactError(
                f"calibration failed at image {number}: tensor {name!r} (node {self._makers[name]!r}) holds {bad} "
                f"non-finite of {value.size} values. A range of it would mean nothing; look at the weights and at what "
                "the pre-processing feeds."
            )
        return float(value.min()), float(value.max())


class Fetch:
    """Runs the graph and returns some of its activations; inputs are taken from the feed."""

    def __init__(self, model: ModelProto, names: Sequence[str]) -> None:
        from onnx import TensorProto, helper

        inputs = {value.name for value in model.graph.input}
        self._inputs = [name for name in names if name in inputs]
        self._made = [name for name in names if name not in inputs]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self._made]
        self._session = _session(model, outputs, []) if self._made else None

    def __call__(self, feed: Feeds, number: int) -> dict[str, Array]:
        """Name -> values on one image."""
        made = [] if self._session is None else _run(self._session, feed, number)
        return {**{name: feed[name] for name in self._inputs}, **dict(zip(self._made, made, strict=True))}


def _session(model: ModelProto, outputs: Sequence[Any], nodes: Sequence[Any]) -> Any:
    """Load the graph with other outputs, and with ``nodes`` at its end, as it stands in the file: nothing is fused."""
    import onnx
    import onnxruntime

    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    edited.graph.node.extend(nodes)
    del edited.graph.output[:]
    edited.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # the same ranges on every host
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(edited.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ArtifactError(f"the graph cannot be loaded for calibration: {first_line(error)}") from error


def _run(session: Any, feed: Feeds, number: int) -> list[Any]:
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        results: list[Any] = session.run(None, dict(feed))
    except refusals as error:
        raise ArtifactError(f"calibration failed at image {number}: {first_line(error)}") from error
    return results
