"""From ranges to a good int8 graph: every step is tried on held-out calibration images, and kept when it helps.

1. The calibrator: entropy, percentile and min-max, by the SQNR of the outputs.
2. Cross-layer range equalisation, where two convolutions allow it.
3. Nodes that cannot take 8 bits go back to float, and the calibrator is chosen again for the rest.
4. Bias correction, last: it is made for the errors of exactly the nodes that are quantised.

The measure is the fake-quant reference (``sqnr``), the mean over the outputs in dB. Nothing looks at ground truth or at
images of the evaluation set.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.bias import corrected, mean_errors
from bench.precision.collect import METHODS, Histograms, collect
from bench.precision.equalise import channel_ranges, equalised, pairs_of
from bench.precision.graph import behind_relu, macs, share_ranges
from bench.precision.qdq import OPERATORS, insert_qdq, placement
from bench.precision.sensitivity import LIMIT_S, Price, scan
from bench.precision.sqnr import Reference, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto

    from bench.precision.calibration import TensorRange
    from bench.precision.options import Conversion
    from bench.types import Array, Feeds

HELD_OUT = 24
"""Images at most that choose between candidates; their ranges are not collected."""
FEW = 8
"""With fewer images none is held out: ranges need them more."""
MEANS_FROM = 512
"""Images at most from which channel means and channel ranges are taken. Means need many: the AP that bias correction
brought FastestDet rose from .0003 with 32 images to .0089 with 126."""
CANDIDATES: Mapping[str, tuple[tuple[str, float], ...]] = {
    "entropy": (("entropy", 0.0),),
    "percentile": (("percentile", 99.99), ("percentile", 99.999)),
    "minmax": (("minmax", 0.0),),
}
"""Calibrator -> what is tried under its name: a method and its percentile."""
EQUALISING_HELPS_DB = 0.5
"""Equalisation changes most weights of a file; for FastestDet it gained 0.1 dB and no AP."""
BIAS_HELPS_DB = -0.25
"""A mean error costs more AP than its share of the noise: 0.4 dB brought FastestDet .0089 AP. So it is kept unless it
clearly costs."""
GOOD_DB = 18.0
"""When every output is as good as this, no further node goes back to float: yolov10n gains no AP beyond."""
FLOAT_MACS = 0.45
"""Share of the multiply-accumulates that may go back to float."""
FLOAT_SHARE = 0.005
"""A node whose share of the noise is smaller is not worth a change of type around it."""
FLOAT_GAIN_DB = 0.5
"""Least gain of a set of nodes that goes back to float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A float graph, and what int8 needs to know about it."""

    model: ModelProto
    """Equalised and bias corrected where that helps; the same function up to the corrections."""
    ranges: Mapping[str, TensorRange]
    """Activation -> what it held and the magnitude that its grid covers."""
    float_nodes: tuple[str, ...]
    """All that stays in float."""
    reasons: Mapping[str, str]
    """Nodes that tuning sent back to float -> why."""
    images: int
    """Calibration images, those held out included."""
    images_sha256: str
    """Hash over names, types, shapes and bytes of all inputs, in the order in which they were read."""
    report: Mapping[str, Any]
    """Plain JSON values: what was tried and what it gave."""

    @property
    def amax(self) -> dict[str, float]:
        """Activation -> largest magnitude on its grid."""
        return {name: found.amax for name, found in self.ranges.items()}


def tune(
    model: ModelProto,
    feeds: Callable[[], Iterable[Feeds]],
    *,
    options: Conversion,
    float_nodes: Collection[str] = (),
    operators: Sequence[str] = OPERATORS,
    limit_s: float = LIMIT_S,
    progress: Callable[[str, int, int], None] | None = None,
) -> Tuned:
    """Calibrate ``model`` and, unless ``options.tune`` is off, improve it for int8.

    Args:
        model: float graph, every node named.
        feeds: opens the calibration inputs (B = 1) anew at every call.
        options: calibrator, and whether to tune.
        float_nodes: names of nodes that stay in float.
        operators: allow-list of operators.
        limit_s: of the sensitivity scan.
        progress: called with (step, done, total).

    Raises:
        ArtifactError: no inputs, nothing that can be quantised, or non-finite activations.
        ContractError: inputs that differ between two passes.
    """
    search = _Search(model, feeds, frozenset(float_nodes), tuple(operators), progress or (lambda *_: None))
    state = search.calibrate(options.calibrator)
    if options.tune:
        state = search.equalise(state)
        state = search.choose_again(search.relieve(state, limit_s))
        state = search.correct_bias(state)
    return search.result(state)


@dataclass(frozen=True, slots=True)
class _State:
    model: ModelProto
    histograms: Histograms
    method: str
    ranges: Mapping[str, TensorRange]
    float_nodes: frozenset[str]
    score: Score
    reasons: Mapping[str, str] = field(default_factory=dict)


class _Search:
    """Holds what all steps share: the held-out images, their float outputs, and the report."""

    def __init__(
        self,
        model: ModelProto,
        feeds: Callable[[], Iterable[Feeds]],
        float_nodes: frozenset[str],
        operators: tuple[str, ...],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._feeds = feeds
        self._float_nodes = float_nodes
        self._operators = operators
        self._progress = progress
        self._model = model
        self._total, self._sha256 = _counted(feeds())
        self._report: dict[str, Any] = {}
        if not self._total:
            raise ArtifactError("int8 needs calibration images, and there are none. Type: --calibration NAME or DIR")
        placed = placement(model, float_nodes=float_nodes, operators=operators).tensors
        self._tensors = tuple(dict.fromkeys((*placed, *behind_relu(model, placed))))
        if not self._tensors:
            raise ArtifactError(
                f"nothing in this graph can be quantised: no {', '.join(operators)} outside the {len(float_nodes)} "
                "nodes that stay in float"
            )

    # -- images ----------------------------------------------------------------------------------------------------

    @property
    def _stride(self) -> int:
        """Every how many-th image is held out; 0 when none is."""
        if self._total < FEW:
            return 0
        return max(4, -(-self._total // HELD_OUT))

    def _held_out(self) -> list[Feeds]:
        stride = self._stride or max(1, -(-self._total // HELD_OUT))
        return [feed for index, feed in enumerate(self._feeds()) if index % stride == 0]

    def _seen(self) -> Iterator[Feeds]:
        for index, feed in enumerate(self._feeds()):
            if not self._stride or index % self._stride:
                yield feed

    def _some(self) -> Iterator[Feeds]:
        return islice(self._seen(), MEANS_FROM)

    # -- steps -----------------------------------------------------------------------------------------------------

    def calibrate(self, calibrator: str) -> _State:
        """Collect ranges and choose the calibrator."""
        histograms = self._collect(self._model)
        held_out = self._held_out()
        self._reference = Reference.of(self._model, held_out)
        self._report |= {"held_out_images": len(held_out), "held_out_are_calibration_images": not self._stride}
        best: _State | None = None
        scores: dict[str, Any] = {}
        self._candidates = tuple(pair for name in METHODS if calibrator in ("auto", name) for pair in CANDIDATES[name])
        for method, percentile in self._candidates:
            state = self._with_ranges(self._model, histograms, method, percentile, self._float_nodes)
            scores[state.method] = state.score.document()
            if best is None or state.score.mean_db > best.score.mean_db:
                best = state
        assert best is not None
        self._report |= {"calibrator": best.method, "sqnr_db": scores}
        return best

    def equalise(self, state: _State) -> _State:
        """Bring channel ranges together where two convolutions allow it."""
        pairs = pairs_of(state.model, float_nodes=state.float_nodes)
        if not pairs:
            self._report["equalisation"] = {"pairs": 0, "kept": False}
            return state
        self._progress("equalise", 0, 1)
        ranges = channel_ranges(state.model, [pair.tensor for pair in pairs], self._some())
        model = equalised(state.model, pairs, ranges)
        changed = Score.of(self._reference.noise(model))
        histograms = self._collect(model)
        better = max(
            (self._with_ranges(model, histograms, *pair, state.float_nodes) for pair in self._candidates),
            key=lambda found: found.score.mean_db,
        )
        kept = self._keep("equalisation", state, better, EQUALISING_HELPS_DB)
        self._report["calibrator"] = kept.method
        self._report["equalisation"] |= {
            "pairs": len(pairs),
            "float_sqnr_db": changed.document()["mean"],
            "calibrator": better.method,
        }
        return kept

    def correct_bias(self, state: _State) -> _State:
        """Take back the mean error of each channel: judged on held-out images, then measured on all of them."""
        self._progress("correct biases", 0, 1)
        amax = {name: found.amax for name, found in state.ranges.items()}
        errors = mean_errors(state.model, amax, self._some(), float_nodes=state.float_nodes)
        better = self._corrected(state, errors)
        kept = self._keep("bias_correction", state, better, BIAS_HELPS_DB)
        self._report["bias_correction"]["nodes"] = len(errors)
        if kept is better and self._stride:
            every = islice(self._feeds(), MEANS_FROM)
            kept = self._corrected(state, mean_errors(state.model, amax, every, float_nodes=state.float_nodes))
        return kept

    def _corrected(self, state: _State, errors: Mapping[str, Array]) -> _State:
        model = corrected(state.model, errors)
        return replace(state, model=model, score=self._score(model, state.ranges, state.float_nodes))

    def relieve(self, state: _State, limit_s: float) -> _State:
        """Price the nodes and send those back to float that cost most."""
        work = macs(state.model)
        amax = {name: found.amax for name, found in state.ranges.items()}
        table = scan(
            state.model,
            amax,
            self._reference,
            float_nodes=state.float_nodes,
            operators=self._operators,
            macs=work,
            limit_s=limit_s,
            progress=lambda done, total: self._progress("scan", done, total),
        )
        best = state
        for candidates in _prefixes(table.prices):
            if best.score.worst_db >= GOOD_DB:
                break
            names = frozenset(price.node for price in candidates)
            score = self._score(state.model, state.ranges, state.float_nodes | names)
            if score.mean_db >= best.score.mean_db + FLOAT_GAIN_DB:
                reasons = {p.node: f"{p.share:.0%} of the quantisation noise at the outputs" for p in candidates}
                best = replace(state, float_nodes=state.float_nodes | names, score=score, reasons=reasons)
        self._report["sensitivity"] = {
            "images": table.images,
            "kept_float": len(best.reasons),
            "sqnr_db": {"before": state.score.document(), "after": best.score.document()},
            "unscanned": list(table.unscanned),
            "table": [price.document(kept_float=price.node in best.reasons) for price in table.prices],
        }
        return best

    def choose_again(self, state: _State) -> _State:
        """Compare the calibrators for the nodes that are left: the worst ones may have decided the first time."""
        if not state.reasons or len(self._candidates) == 1:
            return state
        found = [
            self._with_ranges(state.model, state.histograms, *pair, state.float_nodes) for pair in self._candidates
        ]
        self._report["sqnr_db_of_the_rest"] = {other.method: other.score.document() for other in found}
        best = max(found, key=lambda other: other.score.mean_db)
        self._report["calibrator"] = best.method
        return replace(best, reasons=state.reasons)

    def result(self, state: _State) -> Tuned:
        """What the last state holds."""
        self._report["sqnr_db_final"] = state.score.document()
        return Tuned(
            model=state.model,
            ranges=state.ranges,
            float_nodes=tuple(sorted(state.float_nodes)),
            reasons=state.reasons,
            images=self._total,
            images_sha256=self._sha256,
            report=self._report | {"ranges_from_images": state.histograms.images},
        )

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _collect(self, model: ModelProto) -> Histograms:
        with tempfile.TemporaryDirectory(prefix="parity-int8-") as scratch:
            path = Path(scratch) / "float.onnx"
            path.write_bytes(model.SerializeToString())
            return collect(
                path, self._seen, tensors=self._tensors,
                progress=lambda done, total: self._progress("calibrate", done, total),
            )  # fmt: skip

    def _with_ranges(
        self, model: ModelProto, histograms: Histograms, method: str, percentile: float, float_nodes: frozenset[str]
    ) -> _State:
        found = histograms.ranges(method, percentile=percentile) if percentile else histograms.ranges(method)
        ranges = share_ranges(model, found)
        name = f"{method} {percentile:g}" if percentile else method
        return _State(model, histograms, name, ranges, float_nodes, self._score(model, ranges, float_nodes))

    def _score(self, model: ModelProto, ranges: Mapping[str, TensorRange], float_nodes: frozenset[str]) -> Score:
        amax = {name: found.amax for name, found in ranges.items()}
        return self._reference.score(insert_qdq(model, amax, float_nodes=float_nodes, operators=self._operators))

    def _keep(self, step: str, old: _State, new: _State, least_db: float) -> _State:
        helps = new.score.mean_db >= old.score.mean_db + least_db
        self._report[step] = {"before": old.score.document(), "after": new.score.document(), "kept": helps}
        return new if helps else old


def _counted(feeds: Iterable[Feeds]) -> tuple[int, str]:
    """Number of inputs, and the hash that ``collect`` would give them."""
    digest, count = hashlib.sha256(), 0
    for feed in feeds:
        count += 1
        for name, value in sorted(feed.items()):
            digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value).data)
    return count, digest.hexdigest()


def _prefixes(prices: Sequence[Price]) -> Iterator[tuple[Price, ...]]:
    """The worst nodes, one more at a time; a node that would exceed the share of the arithmetic is passed over."""
    chosen: list[Price] = []
    used = 0.0
    for price in prices:
        if price.share >= FLOAT_SHARE and used + price.macs_share <= FLOAT_MACS:
            used += price.macs_share
            chosen.append(price)
            yield tuple(chosen)
