"""How far the outputs of a changed graph lie from those of its source: signal over noise, in dB.

Both graphs run in onnxruntime with every graph optimisation off. On a Q/DQ file that is the fake-quant reference: the
arithmetic that the file describes, before any runtime replaces it by 8-bit kernels of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ArtifactError
from bench.precision.session import first_line, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import ModelProto

    from bench.types import Array, Feeds

EQUAL_DB = 120.0
"""Stands for "no difference": float32 itself resolves about 140 dB."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Held-out inputs and the outputs of the float graph on them."""

    feeds: Sequence[Feeds]
    outputs: Sequence[Mapping[str, Array]]

    @classmethod
    def of(cls, model: ModelProto, feeds: Sequence[Feeds]) -> Reference:
        """Run the float graph.

        Raises:
            ArtifactError: it cannot be run on these inputs.
        """
        return cls(feeds, run(model, feeds))

    def noise(self, model: ModelProto, *, images: int | None = None) -> dict[str, float]:
        """Output -> power of (candidate - float) over the power of float, on the first ``images`` inputs.

        NaN and infinities stay: a candidate with a non-finite output has infinite noise.
        """
        outputs = self.outputs[:images]
        found = run(model, self.feeds[:images])
        return {name: _noise(name, outputs, found) for name in outputs[0]}

    def score(self, model: ModelProto, *, images: int | None = None) -> Score:
        """Signal to noise of ``model``, in dB."""
        return Score.of(self.noise(model, images=images))


@dataclass(frozen=True, slots=True)
class Score:
    """Signal to noise of one candidate."""

    by_output_db: Mapping[str, float]

    @classmethod
    def of(cls, noise: Mapping[str, float]) -> Score:
        """10 log10(signal / noise) of each output, at most ``EQUAL_DB``."""
        return cls({name: decibels(value) for name, value in noise.items()})

    @property
    def mean_db(self) -> float:
        """Mean over the outputs: each counts alike, whatever its unit. NaN loses every comparison."""
        return float(np.mean(list(self.by_output_db.values())))

    @property
    def worst_db(self) -> float:
        """Of the outputs."""
        return min(self.by_output_db.values())

    def document(self) -> dict[str, float]:
        """Plain JSON values, rounded to hundredths of a dB."""
        return {"mean": round(self.mean_db, 2), **{n: round(v, 2) for n, v in self.by_output_db.items()}}


def decibels(noise: float) -> float:
    """Relative noise power -> signal to noise in dB, at most ``EQUAL_DB``; minus infinity when it is not finite."""
    if not math.isfinite(noise):
        return -math.inf
    return EQUAL_DB if noise <= 10 ** (-EQUAL_DB / 10) else -10 * math.log10(noise)


def run(model: ModelProto, feeds: Iterable[Feeds]) -> list[dict[str, Array]]:
    """Outputs of ``model`` for each feed; one thread, so that every host gets the same numbers.

    Raises:
        ArtifactError: the graph cannot be loaded or run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]
    except refusals as error:
        raise ArtifactError(f"a candidate graph cannot be run: {first_line(error)}") from error


def _noise(name: str, expected: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> float:
    signal = noise = 0.0
    for want, have in zip(expected, found, strict=True):
        if want[name].shape != have[name].shape:
            return math.inf
        value = want[name].astype(np.float64)
        signal += float(np.square(value).sum())
        noise += float(np.square(have[name].astype(np.float64) - value).sum())
    if not math.isfinite(noise):
        return math.inf
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else math.inf
