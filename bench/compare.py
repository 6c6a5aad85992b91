"""Is it the same tensor? Raw outputs against the golden, and preprocessed inputs by hash.

Written so that NaN loses: a value passes by being inside, never by not being outside. Nothing is dropped before a
maximum or a sum is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.results import ParityResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.types import Array, FixtureSet

_RELATIVE_FLOOR = 1e-6
"""Share of the golden's rms below which no reference error is believed: float32 has 6e-8 per operation."""

_SPACING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goldens:
    """What a model's pre-processing gave for the first images of one set, committed beside the model."""

    fixtures: str
    """Name of the set."""
    fixtures_sha256: str
    opencv: str
    """Version that decoded and resized, and the processor family."""
    hashes: Mapping[str, str]
    """File name of the image -> ``feed_key`` of its feeds."""


def tensor_budget(golden_rms: float, reference_error_rms: float, k: float = 10.0, *, full_scale: float = 0.0) -> float:
    """Allowed rms error of a candidate: ``k * max(reference_error_rms, 1e-6 * golden_rms)``.

    Never below float32's spacing at ``full_scale``: onnxruntime's sigmoid is off by 3e-8 rms wherever it is near 0, and
    a network that is sure of nothing has no larger scores to hide that (``golden_rms`` 3e-4, measured).

    Args:
        golden_rms: root mean square of the fp64 golden.
        reference_error_rms: rms of reference - golden at the candidate's precision.
        k: how much worse than the reference a candidate may be.
        full_scale: largest value that the tensor takes by construction (1 for probabilities); 0: unknown.

    Returns:
        The budget in the tensor's unit; NaN, which nothing meets, when an argument is not finite.
    """
    if not (math.isfinite(golden_rms) and math.isfinite(reference_error_rms)):
        return math.nan
    return max(k * max(reference_error_rms, _RELATIVE_FLOOR * golden_rms), _SPACING * full_scale)


def tensor_rms(arrays: Sequence[Array]) -> float:
    """Root mean square over all elements of all arrays, in float64; 0 when there are none, NaN when one is NaN."""
    flat = np.concatenate([np.zeros(0), *[np.asarray(a, np.float64).ravel() for a in arrays]])
    return float(np.sqrt(np.mean(np.square(flat)))) if flat.size else 0.0


def compare_tensors(
    name: str, candidate: Sequence[Array], golden: Sequence[Array], *, budget: float | None
) -> ParityResult:
    """Compare one output over several images.

    Args:
        name: output name.
        candidate: one array per image.
        golden: as many arrays of the same shapes.
        budget: allowed rms of candidate - golden; None reports without judging.

    Returns:
        A result whose ``mismatched`` counts elements that are not finite or, singly, beyond the budget. A non-finite
        value on either side, another shape or another number of images fails, with or without a budget.
    """
    if len(candidate) != len(golden):
        total = sum(array.size for array in golden)
        return _broken(name, total, total, f"{len(candidate)} images, expected {len(golden)}", budget)
    shapes = [(np.shape(c), np.shape(g)) for c, g in zip(candidate, golden, strict=True)]
    wrong = [i for i, (obtained, expected) in enumerate(shapes) if obtained != expected]
    total = sum(array.size for array in golden)
    if wrong:
        obtained, expected = shapes[wrong[0]]
        what = f"shape {obtained}, expected {expected}, on {len(wrong)} of {len(golden)} images (first: {wrong[0]})"
        return _broken(name, total, sum(golden[i].size for i in wrong), what, budget)
    if not golden:
        return _broken(name, 0, 0, "no image was compared", budget)
    return _measure(name, candidate, golden, budget)


def parts_of(
    name: str, background: int | None, candidate: Sequence[Array], golden: Sequence[Array]
) -> list[tuple[str, Callable[[Array], Array]]]:
    """How an output is cut for the comparison: the classes and the background apart, anything else whole.

    Args:
        name: of the output.
        background: index on the last axis, or None.
        candidate: one array per image.
        golden: as many; where any shape differs nothing is cut, so that the difference shows.

    Returns:
        Label and function of each part; every element is in one of them.
    """
    shapes = [(np.shape(c), np.shape(g)) for c, g in zip(candidate, golden, strict=False)]
    if background is None or any(obtained != expected for obtained, expected in shapes):
        return [(name, np.asarray)]
    return [
        (name, lambda values: np.delete(values, background, axis=-1)),
        (f"{name}, background", lambda values: np.asarray(values)[..., background]),
    ]


def compare_preprocess(reference: Mapping[int, str], candidate: Mapping[int, str]) -> ParityResult:
    """Compare the hashes of preprocessed tensors.

    Args:
        reference: image id -> hash.
        candidate: image id -> hash; an image missing on either side is a mismatch.

    Returns:
        A result that always judges; comparing nothing fails.
    """
    images = sorted(set(reference) | set(candidate))
    wrong = [i for i in images if reference.get(i) is None or reference.get(i) != candidate.get(i)]
    worst = None
    if wrong:
        sides = (str(side.get(wrong[0], "missing"))[:12] for side in (reference, candidate))
        worst = "image {}: expected {}, got {}".format(wrong[0], *sides)
    if not images:
        explain = "preprocessing: no image was compared"
    elif wrong:
        explain = f"preprocessing: {len(wrong)}/{len(images)} input tensors differ; first at {worst}"
    else:
        explain = f"preprocessing: all {len(images)} input tensors have the same hash"
    return ParityResult(
        level="preprocess",
        name="input tensors",
        total=len(images),
        mismatched=len(wrong),
        worst=worst,
        passed=bool(images) and not wrong,
        explain=explain,
    )


def compare_committed(
    goldens: Goldens | None, fixtures: FixtureSet, feed_hashes: Mapping[int, str], *, opencv: str
) -> ParityResult | None:
    """Compare the hashes of preprocessed tensors with those that the model's author committed.

    A fault in the pre-processing that reference and candidate share makes no difference between them; this sees it.

    Args:
        goldens: the model's, or None.
        fixtures: the images of this run, perhaps only the first of the set.
        feed_hashes: image id -> hash; an image missing here is a mismatch.
        opencv: what decoded and resized here, in the form of ``Goldens.opencv``.

    Returns:
        None without goldens. Not judged for other images, and for other hashes under another OpenCV, whose kernels may
        round differently.
    """
    if goldens is None:
        return None
    name = "committed tensor hashes"
    by_name = {sample.path.name: sample.image_id for sample in fixtures.samples}
    expected = {by_name[file]: value for file, value in goldens.hashes.items() if file in by_name}
    why = None
    if goldens.fixtures_sha256 != fixtures.sha256:
        of = f"{goldens.fixtures} {goldens.fixtures_sha256[:12]}"
        why = f"preprocessing: no committed hashes for {fixtures.name}; they are of {of}"
    elif not expected:
        why = f"preprocessing: none of the {len(goldens.hashes)} images with committed hashes is in this run"
    if why is not None:
        return ParityResult(level="preprocess", name=name, total=0, mismatched=0, passed=None, explain=why)
    result = compare_preprocess(expected, {i: feed_hashes[i] for i in expected if i in feed_hashes})
    explain = (result.explain or "").replace("input tensors", "input tensors against the committed hashes", 1)
    excusable = expected.keys() <= feed_hashes.keys()
    if result.passed is False and excusable and opencv != goldens.opencv:
        explain += f"; not judged: committed with OpenCV {goldens.opencv}, this is {opencv}"
        return replace(result, name=name, passed=None, explain=explain)
    return replace(result, name=name, explain=explain)


def _measure(name: str, candidate: Sequence[Array], golden: Sequence[Array], budget: float | None) -> ParityResult:
    """Same shapes: take every sum over all elements of all images, in float64."""
    sums = np.zeros(4)  # error^2, golden^2, candidate^2, golden * candidate
    total = mismatched = nonfinite = 0
    peak = _Peak()
    for image, (got, expected) in enumerate(zip(candidate, golden, strict=True)):
        c, g = (np.asarray(side, np.float64).reshape(-1) for side in (got, expected))
        with np.errstate(invalid="ignore", over="ignore"):
            error = c - g
            sums += (error @ error, g @ g, c @ c, g @ c)
        finite = np.isfinite(c) & np.isfinite(g)
        inside = finite if budget is None else finite & (np.abs(error) <= budget)
        total += c.size
        nonfinite += c.size - int(np.count_nonzero(finite))
        mismatched += c.size - int(np.count_nonzero(inside))
        peak.see(image, np.shape(got), c, g, error, finite)
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = float(np.sqrt(sums[0] / total)) if total else 0.0
        sqnr = float(10 * (np.log10(sums[1]) - np.log10(sums[0]))) if sums[1] or sums[0] else None
        norms = np.sqrt(sums[1]) * np.sqrt(sums[2])
        cosine = float(sums[3] / norms) if norms != 0 else None
    within = nonfinite == 0 and (budget is None or rms <= budget)
    passed = False if not within else (None if budget is None else True)
    return ParityResult(
        level="tensor",
        name=name,
        total=total,
        mismatched=mismatched,
        max_abs=math.nan if nonfinite else peak.size,
        rms=rms,
        sqnr_db=sqnr,
        cosine=cosine,
        nonfinite=nonfinite,
        budget=budget,
        worst=peak.text,
        passed=passed,
        explain=_explain(name, total, mismatched, nonfinite, rms, budget, peak.text),
    )


class _Peak:
    """The worst element so far: the first that is not finite, else the one with the largest error."""

    def __init__(self) -> None:
        self.size = 0.0
        self.text: str | None = None
        self._settled = False

    def see(self, image: int, shape: tuple[int, ...], got: Array, expected: Array, error: Array, finite: Array) -> None:
        if self._settled or not got.size:
            return
        self._settled = not finite.all()
        # argmax over errors would raise or lie where all are NaN, so these come first
        at = int(np.argmin(finite)) if self._settled else int(np.argmax(np.abs(error)))
        if self._settled or abs(error[at]) > self.size:
            self.size = float(abs(error[at]))
            index = ", ".join(str(int(i)) for i in np.unravel_index(at, shape))
            self.text = f"image {image} at ({index}): expected {expected[at]:.6g}, got {got[at]:.6g}"


def _explain(
    name: str, total: int, mismatched: int, nonfinite: int, rms: float, budget: float | None, worst: str | None
) -> str:
    if nonfinite:
        return f"{name}: {nonfinite}/{total} elements are not finite; first {worst}"
    tail = f"; worst {worst}" if worst else ""
    if budget is None:
        return f"{name}: rms error {rms:.3g}, reported without a budget{tail}"
    if rms <= budget:
        return f"{name}: rms error {rms:.3g} is within the budget {budget:.3g}{tail}"
    return (
        f"{name}: rms error {rms:.3g} exceeds the budget {budget:.3g}; "
        f"{mismatched}/{total} elements are beyond it singly{tail}"
    )


def _broken(name: str, total: int, mismatched: int, what: str, budget: float | None) -> ParityResult:
    """Build the result of a comparison that could not be made: it failed."""
    return ParityResult(
        level="tensor",
        name=name,
        total=total,
        mismatched=mismatched,
        budget=budget,
        worst=what,
        passed=False,
        explain=f"{name}: {what}",
    )
