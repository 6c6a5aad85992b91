from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.compare import Goldens, compare_committed, compare_preprocess, compare_tensors, tensor_budget
from bench.types import FixtureSet, Sample

NAN, INF = math.nan, math.inf
tensors = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-1e3, 1e3, width=32))


def ramp(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(math.prod(shape), dtype=np.float64).reshape(shape)


def changed(array: np.ndarray[Any, Any], index: tuple[int, ...], value: float) -> np.ndarray[Any, Any]:
    other = array.copy()
    other[index] = value
    return other


def test_the_budget_is_ten_times_the_reference_error_or_a_millionth_of_the_golden() -> None:
    assert tensor_budget(2.0, 1e-4) == pytest.approx(1e-3)
    assert tensor_budget(2.0, 0.0) == pytest.approx(2e-5)
    assert tensor_budget(2.0, 1e-4, k=3) == pytest.approx(3e-4)


def test_the_budget_of_probabilities_is_never_below_the_spacing_of_float32_at_one():
    assert tensor_budget(3e-4, 0.0, full_scale=1.0) == pytest.approx(2**-23)
    assert tensor_budget(3e-4, 0.0) == pytest.approx(3e-9)
    assert tensor_budget(0.5, 1e-4, full_scale=1.0) == pytest.approx(1e-3)
    assert np.isnan(tensor_budget(np.nan, 0.0, full_scale=1.0))


@pytest.mark.parametrize("arguments", [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, INF)])
def test_a_budget_of_a_broken_reference_is_met_by_nothing(arguments: tuple[float, float]) -> None:
    budget = tensor_budget(*arguments)
    assert math.isnan(budget)
    assert compare_tensors("x", [ramp(3)], [ramp(3)], budget=budget).passed is False


def test_errors_are_measured_over_all_images_in_float64() -> None:
    golden = [np.full((1, 2), 3.0), np.full((1, 2), 4.0)]
    candidate = [g.astype(np.float32) for g in (golden[0] + [[0.0, 0.5]], golden[1] + [[1.0, 0.0]])]
    result = compare_tensors("boxes", candidate, golden, budget=0.6)
    assert (result.total, result.mismatched, result.nonfinite) == (4, 1, 0)
    assert result.max_abs == pytest.approx(1.0)
    assert result.rms == pytest.approx(math.sqrt(1.25 / 4))
    assert result.sqnr_db == pytest.approx(10 * math.log10(50 / 1.25))
    assert result.cosine == pytest.approx((9 + 10.5 + 20 + 16) / math.sqrt(50 * (9 + 12.25 + 25 + 16)))
    assert result.worst == "image 1 at (0, 0): expected 4, got 5"
    assert result.passed is True


def test_the_sentence_names_the_numbers_and_the_worst_element() -> None:
    golden = [ramp(2, 3)]
    result = compare_tensors("logits", [changed(golden[0], (1, 2), 9.0)], golden, budget=0.5)
    assert result.explain == (
        "logits: rms error 1.63 exceeds the budget 0.5; 1/6 elements are beyond it singly; "
        "worst image 0 at (1, 2): expected 5, got 9"
    )
    assert result.passed is False


def test_without_a_budget_the_result_is_reported_and_not_judged() -> None:
    result = compare_tensors("x", [ramp(3) + 1], [ramp(3)], budget=None)
    assert (result.passed, result.mismatched, result.rms) == (None, 0, 1.0)


@pytest.mark.parametrize("budget", [None, 1e9])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("side", ["candidate", "golden", "both"])
def test_a_non_finite_value_fails_wherever_it_is_even_without_a_budget(
    budget: float | None, value: float, side: str
) -> None:
    clean, broken = ramp(2, 2), changed(ramp(2, 2), (0, 1), value)
    candidate = broken if side != "golden" else clean
    golden = broken if side != "candidate" else clean
    result = compare_tensors("x", [clean, candidate], [clean, golden], budget=budget)
    assert result.passed is False
    assert (result.nonfinite, result.mismatched, result.total) == (1, 1, 8)
    assert result.worst is not None
    assert result.worst.startswith("image 1 at (0, 1): expected ")
    assert "1/8 elements are not finite" in (result.explain or "")
    assert math.isnan(result.max_abs or 0)


def test_an_output_of_nothing_but_nan_is_counted_and_located() -> None:
    result = compare_tensors("x", [np.full((2, 2), NAN)], [ramp(2, 2)], budget=1.0)
    assert (result.nonfinite, result.worst) == (4, "image 0 at (0, 0): expected 0, got nan")


def test_a_shape_mismatch_is_never_dropped_from_the_maximum() -> None:
    golden = [ramp(1, 3), ramp(1, 3), ramp(1, 3)]
    result = compare_tensors("boxes", [golden[0], ramp(1, 2), ramp(3)], golden, budget=None)
    assert result.passed is False
    assert (result.total, result.mismatched) == (9, 6)
    assert result.explain == "boxes: shape (1, 2), expected (1, 3), on 2 of 3 images (first: 1)"


def test_a_missing_image_or_no_image_fails() -> None:
    fewer = compare_tensors("x", [ramp(2)], [ramp(2), ramp(2)], budget=1.0)
    assert (fewer.passed, fewer.explain) == (False, "x: 1 images, expected 2")
    assert compare_tensors("x", [], [], budget=1.0).passed is False


def test_an_output_without_elements_that_has_the_right_shape_passes() -> None:
    result = compare_tensors("x", [np.zeros((1, 0, 4))], [np.zeros((1, 0, 4))], budget=1.0)
    assert (result.passed, result.total, result.rms, result.cosine) == (True, 0, 0.0, None)


def test_integer_outputs_do_not_wrap_around() -> None:
    result = compare_tensors("ids", [np.array([0], np.uint8)], [np.array([255], np.uint8)], budget=1.0)
    assert result.max_abs == 255


def test_a_silent_output_has_the_worst_ratio_and_no_cosine() -> None:
    result = compare_tensors("x", [np.zeros(3)], [ramp(3)], budget=1.0)
    assert (result.sqnr_db, result.cosine) == (0.0, None)
    against_silence = compare_tensors("x", [ramp(3)], [np.zeros(3)], budget=1.0)
    assert against_silence.sqnr_db == -INF


@given(tensors)
def test_a_tensor_equals_itself_at_any_budget(array: np.ndarray[Any, Any]) -> None:
    result = compare_tensors("x", [array], [array], budget=0.0)
    assert (result.passed, result.mismatched, result.max_abs, result.worst) == (True, 0, 0.0, None)
    assert result.sqnr_db in (None, INF)


@given(tensors, st.data())
def test_one_wrong_element_is_found_and_both_directions_agree(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    index = tuple(data.draw(st.integers(0, side - 1)) for side in array.shape)
    other = changed(array.astype(np.float64), index, float(array[index]) + 7.0)
    result = compare_tensors("x", [other], [array], budget=1e-3)
    back = compare_tensors("x", [array], [other], budget=1e-3)
    assert result.passed is back.passed is False
    assert result.mismatched == 1
    assert result.rms == back.rms == pytest.approx(7 / math.sqrt(array.size))
    assert result.worst is not None
    assert f"at ({', '.join(map(str, index))})" in result.worst


def test_equal_hashes_pass() -> None:
    result = compare_preprocess({1: "aa", 2: "bb"}, {2: "bb", 1: "aa"})
    assert (result.level, result.passed, result.total, result.mismatched) == ("preprocess", True, 2, 0)


def test_another_hash_or_a_missing_image_is_a_mismatch_on_either_side() -> None:
    result = compare_preprocess({1: "a" * 64, 2: "b", 3: "c"}, {1: "d" * 64, 2: "b", 4: "e"})
    assert (result.passed, result.total, result.mismatched) == (False, 4, 3)
    assert result.worst == "image 1: expected aaaaaaaaaaaa, got dddddddddddd"
    assert compare_preprocess({}, {4: "e"}).worst == "image 4: expected missing, got e"


def test_comparing_the_inputs_of_no_image_does_not_pass() -> None:
    assert compare_preprocess({}, {}).passed is False


def committed(found: dict[int, str], **changes: Any) -> Any:
    samples = tuple(Sample(image_id=i, path=Path(f"{i}.png"), width=1, height=1) for i in (1, 2, 3))
    images = FixtureSet(name="shapes", split="val", samples=samples, categories=(), annotations=(), sha256="s")
    made = {"fixtures": "shapes", "fixtures_sha256": "s", "opencv": "5.0", "hashes": {"1.png": "a", "2.png": "b"}}
    images = images.take(changes.pop("take", None))
    return compare_committed(Goldens(**{**made, **changes}), images, found, opencv="5.0")


def test_tensors_as_committed_pass_and_those_of_other_images_are_not_asked_for() -> None:
    result = committed({1: "a", 2: "b", 3: "x"})
    assert (result.level, result.passed, result.total) == ("preprocess", True, 2)
    assert result.explain == "preprocessing: all 2 input tensors against the committed hashes have the same hash"
    assert committed({1: "a"}, take=1).passed is True


@pytest.mark.parametrize("hashes", [{1: "a", 2: "x"}, {1: "a"}, {}])
def test_another_or_a_missing_tensor_fails_against_the_committed_hashes(hashes: dict[int, str]) -> None:
    assert committed(hashes).passed is False


def test_another_opencv_excuses_other_hashes_and_nothing_else() -> None:
    excused = committed({1: "a", 2: "x"}, opencv="4.0")
    assert (excused.passed, excused.mismatched) == (None, 1)
    assert "not judged: committed with OpenCV 4.0, this is 5.0" in excused.explain
    assert committed({1: "a"}, opencv="4.0").passed is False
    assert committed({1: "a", 2: "b"}, opencv="4.0").passed is True


def test_another_set_is_not_judged_and_no_goldens_give_no_row() -> None:
    other = committed({1: "a", 2: "b"}, fixtures_sha256="t")
    assert (other.passed, other.total) == (None, 0)
    assert "no committed hashes for shapes" in other.explain
    samples = FixtureSet(name="x", split="val", samples=(), categories=(), annotations=(), sha256="s")
    assert compare_committed(None, samples, {}, opencv="5.0") is None


def test_other_images_of_the_same_set_are_not_judged() -> None:
    other = committed({1: "a", 2: "b"}, hashes={"9.png": "a"})
    assert (other.passed, other.total) == (None, 0)
    assert "none of the 1 images with committed hashes is in this run" in other.explain
