"""One batch of one file against torch: its dense tensors by number, its selection exactly, its detections as a set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.compare import compare_tensors, tensor_budget, tensor_rms
from bench.deployment.findings import Check
from bench.deployment.probe import crowd
from bench.deployment.sets import Slack, compare_sets, shortened
from bench.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.deployment.cases import Case
    from bench.deployment.options import ExportOptions, Reference
    from bench.types import Array, Outputs, Prediction, Runner

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}
_TIE_IOU = 1e-6
"""An overlap this near to the threshold may fall on either side in float32."""
_ROUNDING = float(np.finfo(np.float32).eps)
"""No budget is smaller. onnxruntime's sigmoid is off by 3e-8 rms even where a score is 1e-6 (measured over -20..5), and
an image without objects has no larger ones; torch is exact there."""
_CROWD, _ROWS = "random boxes", "rows that differ"


class Batch:
    """The checks of one batch on one device."""

    def __init__(
        self, case: Case, batch: int, device: str, options: ExportOptions, reference: Reference, selects: bool
    ) -> None:
        self._case, self._batch, self._device = case, batch, device
        self._options, self._reference, self._selects = options, reference, selects
        self._tolerance = TOLERANCE[options.precision]

    def judge(self, runner: Runner, inner: Runner) -> list[Check]:
        """Run both sessions once."""
        feeds = self._cut(self._case.feeds)
        found = inner.run(feeds)
        names = list(self._case.torch)
        checks = [self._dense(name, found) for name in names]
        if self._selects:
            dense = {name: found[name] for name in names}
            checks.append(self._selection(dense, found))
            checks.append(self._set(dense, runner.run(feeds)))
        return checks

    def _cut(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: value[: self._batch] for name, value in arrays.items()}

    def _check(self, tensor: str, *, passed: bool, **facts: Any) -> Check:
        return Check(
            device=self._device, images=self._case.images, batch=self._batch, tensor=tensor, passed=passed, **facts
        )

    def _dense(self, name: str, found: Outputs) -> Check:
        """Absolute tolerance against torch fp32, and rms budget against the golden; NaN meets neither."""
        case = self._case
        expected = self._cut(case.torch)
        unit, want = self._reference.scaled(expected)[name]
        have = self._reference.scaled({n: found[n] for n in expected})[name][1]
        with np.errstate(invalid="ignore"):
            error = np.abs(have - want)
        meant = self._reference.meant(expected).get(name, np.ones(error.shape, bool))
        inside = np.where(meant, error <= self._tolerance, np.isfinite(error))
        worst = float(error[meant].max()) if np.isfinite(error).all() else float("nan")
        budget, judged = None, self._batch
        if case.own is not None:
            judged = min(self._batch, len(case.own[name]))  # the error differs by image: the same images on both sides
            own, golden = case.own[name][:judged], case.golden[name][:judged]
            golden_rms, own_rms = tensor_rms([golden]), tensor_rms([own - golden])
            budget = max(tensor_budget(golden_rms, own_rms), _ROUNDING)  # a NaN stays one: no error is within it
        relative = compare_tensors(name, [found[name][:judged]], [case.golden[name][:judged]], budget=budget)
        detail = ""
        if not inside.all():
            wrong = np.where(inside, -1, np.where(np.isfinite(error), error, np.inf))
            at = np.unravel_index(int(np.argmax(wrong)), error.shape)
            index = ", ".join(str(int(i)) for i in at)
            compared = int((meant | ~inside).sum())
            detail = (
                f"{name}[{index}]: expected {float(expected[name][at]):.7g}, found {float(found[name][at]):.7g} "
                f"({int((~inside).sum())} of {compared} differ by more than {self._tolerance:g} {unit})"
            )
        elif relative.passed is False:
            detail = relative.explain or ""
        return self._check(
            name,
            passed=bool(inside.all()) and relative.passed is not False,
            unit=unit,
            max_abs=worst,
            tolerance=self._tolerance,
            rms=relative.rms,
            budget=budget,
            detail=detail,
        )

    def _selection(self, dense: Mapping[str, Array], outputs: Outputs) -> Check:
        """The graph's selection from its own tensors must be numpy's, number by number."""
        detail, rows = _selection_differs(self._reference, dense, outputs)
        return self._check(
            "selection",
            passed=not detail,
            unit=_ROWS,
            max_abs=None if detail else 0.0,
            tolerance=0.0,
            detail=detail or f"{rows} rows",
        )

    def _set(self, dense: Mapping[str, Array], outputs: Outputs) -> Check:
        """The file's detections against a selection from torch's tensors."""
        try:
            found = self._reference.read(outputs)
        except ContractError as error:
            return self._check("detections", passed=False, detail=str(error))
        side = float(max(self._options.image_hw))
        expected = self._cut(self._case.torch)
        want, have = self._reference.scaled(expected), self._reference.scaled(dense)
        # Twice, because the session that shows its inner tensors may round differently from the one that does not.
        boxes, scores = (2 * float(np.abs(have[n][1] - want[n][1]).max()) + 1e-6 for n in expected)
        result = compare_sets(
            self._reference.select(expected),
            found,
            options=self._options,
            suppresses="num_dets" in outputs,
            slack=Slack(box_px=min(boxes, self._tolerance) * side, score=min(scores, self._tolerance)),
            tolerance_px=self._tolerance * side,
            tolerance_score=self._tolerance,
        )
        return self._check(
            "detections",
            passed=not result.unexplained,
            unit="share of the longer side, or score",
            max_abs=max(result.max_box_px / side, result.max_score),
            tolerance=self._tolerance,
            flips=tuple(shortened(result.explained)),
            detail=_set_words(result.pairs, result.explained, result.unexplained),
        )


def _set_words(pairs: int, explained: Sequence[str], unexplained: Sequence[str]) -> str:
    flips = f", {len(explained)} explained flips" if explained else ""
    if not unexplained:
        return f"{pairs} pairs{flips}"
    return f"detections, {unexplained[0]} ({len(unexplained)} unexplained, {pairs} pairs{flips})"


def _first_difference(expected: Sequence[Prediction], found: Sequence[Prediction]) -> str:
    """Where two selections differ first; empty when they are equal."""
    for image, (want, have) in enumerate(zip(expected, found, strict=True)):
        if len(want.scores) != len(have.scores):
            return f"image {image}: expected {len(want.scores)} detections, found {len(have.scores)}"
        for word, a, b in (
            ("class", want.labels, have.labels),
            ("score", want.scores, have.scores),
            ("box", want.boxes_xyxy, have.boxes_xyxy),
        ):
            same = np.isclose(a, b, rtol=1e-6, atol=1e-4) if word == "box" else a == b
            rows = np.flatnonzero(~(same.all(1) if same.ndim > 1 else same))
            if len(rows):
                row = int(rows[0])
                return f"image {image}, row {row}: {word} expected {a[row]}, found {b[row]}"
    return ""


def check_selection_alone(
    runner: Runner,
    device: str,
    options: ExportOptions,
    reference: Reference,
    shapes: Mapping[str, Sequence[int]],
    batch: int,
) -> Check:
    """The selection alone, on boxes made to try it."""
    feeds = crowd(shapes, options, batch=batch)
    outputs = runner.run({f"{name}_given": value for name, value in feeds.items()})
    detail, rows = _selection_differs(reference, feeds, outputs)
    return Check(
        device=device,
        images=_CROWD,
        batch=batch,
        tensor="selection",
        passed=not detail,
        unit=_ROWS,
        max_abs=None if detail else 0.0,
        tolerance=0.0,
        detail=detail or f"{rows} rows",
    )


def _selection_differs(reference: Reference, dense: Mapping[str, Array], outputs: Outputs) -> tuple[str, int]:
    """Where a selection differs first from numpy's on the same tensors (empty: nowhere), and its number of rows.

    An overlap at the threshold may fall on either side in float32: three thresholds are tried.
    """
    try:
        found = reference.read(outputs)
    except ContractError as error:
        return str(error), 0
    differences = []
    for shift in (0.0, -_TIE_IOU, _TIE_IOU):
        difference = _first_difference(reference.select(dense, iou_shift=shift), found)
        if not difference:
            return "", sum(len(prediction.scores) for prediction in found)
        differences.append(difference)
    return differences[0], 0
