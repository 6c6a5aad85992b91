from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ContractError
from bench.matching import ImageDifference, compare_predictions
from bench.results import ParityResult
from bench.types import Prediction

NAMES = ("horse", "zebra", "cow")
Row = tuple[float, float, float, float, float, int]
"""x1, y1, x2, y2, score, label."""


def prediction(*rows: Row) -> Prediction:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Prediction(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64))


def compare(
    reference: dict[int, Prediction] | list[Row], candidate: dict[int, Prediction] | list[Row], **options: Any
) -> tuple[ParityResult, tuple[ImageDifference, ...]]:
    sides = [{1: prediction(*s)} if isinstance(s, list) else s for s in (reference, candidate)]
    return compare_predictions(*sides, class_names=NAMES, **{"gate": True, **options})


def grid(count: int, label: int = 0) -> list[Row]:
    """Boxes far apart, scores falling from 0.9."""
    return [(100.0 * n, 10, 100.0 * n + 80, 90, 0.9 - 0.5 * n / count, label) for n in range(count)]


HORSE: Row = (10, 10, 110, 60, 0.8, 0)
ZEBRA: Row = (200, 20, 260, 90, 0.6, 1)


def test_equal_detections_pass_and_nothing_is_listed() -> None:
    result, changed = compare([HORSE, ZEBRA], [HORSE, ZEBRA])
    assert (result.passed, result.total, result.mismatched, result.nonfinite) == (True, 2, 0, 0)
    assert changed == ()
    assert result.explain == "detections: all 2 on 1 images agree (IoU >= 0.99, score difference <= 0.001)"


def test_small_differences_pass_and_the_largest_score_difference_is_told() -> None:
    result, changed = compare([HORSE, ZEBRA], [(10.1, 10, 110, 60, 0.8004, 0), ZEBRA])
    assert result.passed is True
    assert result.max_abs == pytest.approx(4e-4, abs=1e-6)
    assert changed == ()


def test_a_missing_box_fails() -> None:
    result, changed = compare([HORSE, ZEBRA], [HORSE])
    assert (result.passed, result.mismatched, result.total) == (False, 1, 2)
    assert changed[0].missing == 1
    assert changed[0].kind == "1 missing"
    assert result.worst == "image 1: 'zebra' 0.6000 at (200.0, 20.0, 260.0, 90.0) is missing"


def test_forty_spurious_boxes_fail() -> None:
    spurious: list[Row] = [(5.0 * n, 200, 5.0 * n + 40, 240, 0.0505, 2) for n in range(40)]
    result, changed = compare([HORSE], [HORSE, *spurious])
    assert (result.passed, result.mismatched) == (False, 40)
    assert changed[0].extra == 40


def test_an_empty_reference_against_many_boxes_fails() -> None:
    result, changed = compare([], grid(41))
    assert (result.passed, changed[0].extra) == (False, 41)


def test_a_duplicated_box_is_extra_because_matching_is_one_to_one() -> None:
    result, changed = compare([HORSE], [HORSE, HORSE])
    assert (result.passed, changed[0].extra, changed[0].missing) == (False, 1, 0)


@pytest.mark.parametrize("moved", [(12, 10, 112, 60, 0.8, 0), (10, 10, 110, 60, 0.79, 0)])
def test_a_moved_box_or_score_is_one_difference_not_two(moved: Row) -> None:
    result, changed = compare([HORSE], [moved])
    assert (result.passed, result.mismatched, result.total) == (False, 1, 1)
    assert (changed[0].moved, changed[0].missing, changed[0].extra) == (1, 0, 0)
    assert "expected score 0.8000" in (result.worst or "")


def test_matching_is_optimal_where_taking_the_nearest_first_would_leave_a_box_over() -> None:
    # reference 0 fits candidates 0 and 1, reference 1 fits candidate 0 only, and reference 0 prefers candidate 0
    reference: list[Row] = [(0, 0, 1000, 100, 0.5, 0), (6, 0, 1006, 100, 0.5, 0)]
    candidate: list[Row] = [(3, 0, 1003, 100, 0.5, 0), (-4, 0, 996, 100, 0.5, 0)]
    assert compare(reference, candidate)[0].passed is True


def test_the_class_counts() -> None:
    result, changed = compare([HORSE], [(*HORSE[:5], 1)])
    assert (result.passed, changed[0].missing, changed[0].extra) == (False, 1, 1)


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_box_or_score_fails_even_when_both_sides_have_it_and_nothing_is_gated(
    gate: bool, side: int, column: int, value: float
) -> None:
    broken = list(ZEBRA)
    broken[column] = value
    sides = [[HORSE, ZEBRA], [HORSE, ZEBRA]]
    sides[side][1] = tuple(broken)
    result, changed = compare(*sides, gate=gate)
    assert (result.passed, result.nonfinite) == (False, 1)
    assert changed[0].nonfinite == 1
    assert result.worst == "image 1: 1 rows are not finite"
    both, _ = compare([HORSE, tuple(broken)], [HORSE, tuple(broken)], gate=gate)
    assert (both.passed, both.nonfinite) == (False, 2)


@pytest.mark.parametrize("gate", [True, False])
def test_an_image_on_one_side_only_fails_even_without_boxes(gate: bool) -> None:
    for sides in (({1: prediction(HORSE), 2: prediction()}, {1: prediction(HORSE)}), ({}, {2: prediction()})):
        result, changed = compare(*sides, gate=gate)
        assert (result.passed, result.mismatched) == (False, 1)
        assert changed[0].image_id == 2
        assert "result" in changed[0].kind


def test_comparing_no_image_does_not_pass() -> None:
    assert compare({}, {})[0].passed is False


def test_without_a_gate_differences_are_reported_and_not_judged() -> None:
    result, changed = compare([HORSE, ZEBRA], [HORSE], gate=False)
    assert (result.passed, result.mismatched, changed[0].missing) == (None, 1, 1)


def test_columns_of_unequal_length_and_keypoints_are_refused() -> None:
    uneven = Prediction(np.zeros((2, 4)), np.zeros(1), np.zeros(1, np.int64))
    with pytest.raises(ContractError, match=r"candidate, image 1: boxes \(2, 4\), scores \(1,\)"):
        compare({1: prediction(HORSE)}, {1: uneven})
    posed = Prediction(np.zeros((1, 4)), np.zeros(1), np.zeros(1, np.int64), np.zeros((1, 17, 3)))
    with pytest.raises(ContractError, match="has keypoints, which cannot be compared without sigmas"):
        compare({1: posed}, {1: posed})


# explained flips


def test_a_box_that_crosses_the_score_floor_is_an_explained_flip() -> None:
    above, below = (*HORSE[:4], 0.0502, 0), (*HORSE[:4], 0.0498, 0)
    for sides in (([above], [below]), ([below], [above])):
        result, changed = compare(*sides)
        assert (result.passed, result.mismatched, changed[0].explained) == (True, 0, 1)
        assert changed[0].unexplained == 0
        assert "1 explained flips" in (result.explain or "")


def test_a_box_near_the_score_floor_without_a_partner_is_not_explained() -> None:
    assert compare([(*HORSE[:4], 0.0502, 0)], [])[0].passed is False
    assert compare([(*HORSE[:4], 0.0502, 0)], [(*HORSE[:4], 0.03, 0)])[0].passed is False


def test_boxes_below_the_floor_are_not_compared() -> None:
    assert compare([HORSE, (0, 0, 9, 9, 0.04, 1)], [HORSE, (50, 50, 99, 99, 0.0495, 2)])[0].passed is True


def test_a_box_at_the_floor_of_the_model_itself_may_be_lacking() -> None:
    lone: list[Row] = [(*HORSE[:4], 0.3004, 0)]
    assert compare(lone, [], emission_floor=0.3)[0].passed is True
    assert compare(lone, [], emission_floor=0.25)[0].passed is False


def test_a_box_at_the_cut_of_a_full_list_may_be_lacking() -> None:
    kept = grid(3)
    last: Row = (700, 10, 780, 90, kept[-1][4] - 5e-4, 0)
    result, changed = compare([*kept[:2], last], kept, max_detections=3)
    assert (result.passed, changed[0].explained) == (True, 2)
    assert compare([*kept[:2], last], kept, max_detections=4)[0].passed is False
    high: Row = (700, 10, 780, 90, 0.8, 0)
    assert compare([high, *kept[:2]], kept, max_detections=3)[0].passed is False


def test_a_rare_class_tie_is_explained_and_a_shifted_class_table_is_not() -> None:
    rows = grid(200)
    one_tie = [(*rows[0][:5], 1), *rows[1:]]
    result, changed = compare(rows, one_tie)
    assert (result.passed, changed[0].explained) == (True, 1)
    shifted = [(*row[:5], 1) for row in rows]
    result, changed = compare(rows, shifted)
    assert (result.passed, result.mismatched, changed[0].explained) == (False, 400, 0)
    assert result.worst == "image 1: 200 boxes have another class"


def test_equal_scores_in_another_order_are_no_difference() -> None:
    rows = [(*row[:4], 0.5, row[5]) for row in grid(6)]
    assert compare(rows, rows[::-1])[0].passed is True


def test_boxes_without_area_match_themselves() -> None:
    flat: Row = (10, 10, 10, 60, 0.7, 0)
    assert compare([flat, HORSE], [flat, (10.1, *HORSE[1:])])[0].passed is True
    assert compare([flat], [(12, 10, 12, 60, 0.7, 0)])[0].passed is False


def test_images_are_listed_worst_first_and_explained_ones_last() -> None:
    flip = (*HORSE[:4], 0.0502, 0), (*HORSE[:4], 0.0498, 0)
    reference = {1: prediction(flip[0]), 2: prediction(ZEBRA), 3: prediction(HORSE), 4: prediction(HORSE)}
    nan = prediction((math.nan, *HORSE[1:]))
    candidate = {1: prediction(flip[1]), 2: prediction(), 3: prediction(), 4: nan}
    result, changed = compare(reference, candidate)
    assert [d.image_id for d in changed] == [4, 3, 2, 1]
    assert (result.worst or "").startswith("image 4: 1 rows are not finite")


def test_six_hundred_images_of_fifty_boxes_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(0)
    reference, candidate = {}, {}
    for image_id in range(600):
        low, labels = rng.uniform(0, 500, (50, 2)), rng.integers(0, 3, 50)
        boxes, scores = np.concatenate((low, low + rng.uniform(5, 150, (50, 2))), axis=1), rng.uniform(0.06, 1, 50)
        reference[image_id] = Prediction(boxes, scores, labels)
        noise = rng.normal(0, 1, boxes.shape), rng.normal(0, 0.01, 50)
        candidate[image_id] = Prediction(boxes + noise[0], scores + noise[1], labels)
    began = time.perf_counter()
    compare(reference, candidate)
    assert time.perf_counter() - began < 2


# properties

boxes = st.builds(
    lambda x, y, w, h, score, label: (x, y, x + w, y + h, score, label),
    st.integers(0, 200), st.integers(0, 200), st.integers(1, 100), st.integers(1, 100),
    st.floats(0.015625, 1, width=32), st.integers(0, 2),
)  # fmt: skip
lists = st.lists(boxes, max_size=8)


def swapped(difference: ImageDifference) -> tuple[int, int, int, int]:
    return difference.extra, difference.missing, difference.moved, difference.explained


@settings(deadline=None)
@given(lists)
def test_a_list_equals_itself_in_any_order(rows: list[Row]) -> None:
    for other in (rows, rows[::-1]):
        result, changed = compare(rows, other)
        assert (result.passed, changed) == (True, ())


@settings(deadline=None)
@given(lists, lists, st.randoms())
def test_swapping_the_sides_swaps_missing_and_extra_and_order_does_not_matter(
    reference: list[Row], candidate: list[Row], shuffler: Any
) -> None:
    result, changed = compare(reference, candidate)
    back, changed_back = compare(candidate, reference)
    assert (result.passed, result.total, result.mismatched) == (back.passed, back.total, back.mismatched)
    assert [(d.missing, d.extra, d.moved, d.explained) for d in changed] == [swapped(d) for d in changed_back]
    shuffler.shuffle(candidate)
    again, _ = compare(reference, candidate)
    assert (again.passed, again.total, again.mismatched) == (result.passed, result.total, result.mismatched)


@settings(deadline=None)
@given(lists, boxes.filter(lambda row: row[4] >= 0.0515), st.integers(0, 8))
def test_adding_one_box_fails_on_either_side(rows: list[Row], row: Row, at: int) -> None:
    more = [*rows[:at], row, *rows[at:]]
    result, changed = compare(rows, more)
    assert (result.passed, result.mismatched, changed[0].extra) == (False, 1, 1)
    assert compare(more, rows)[0].mismatched == 1


SIGMAS = (0.05, 0.05, 0.1)


def posed(*people: tuple[Row, list[tuple[float, float, float]]]) -> Prediction:
    boxes = prediction(*[row for row, _ in people])
    points = np.array([points for _, points in people], np.float32).reshape(-1, 3, 3)
    return Prediction(boxes.boxes_xyxy, boxes.scores, boxes.labels, points)


EYES = [(30.0, 20.0, 0.9), (50.0, 20.0, 0.8), (60.0, 40.0, 0.7)]


def compare_poses(reference: Prediction, candidate: Prediction) -> tuple[ParityResult, tuple[ImageDifference, ...]]:
    return compare({1: reference}, {1: candidate}, oks_sigmas=SIGMAS)


def test_equal_poses_pass_and_the_sentence_names_oks() -> None:
    result, changed = compare_poses(posed((HORSE, EYES)), posed((HORSE, EYES)))
    assert (result.passed, changed) == (True, ())
    assert "OKS >= 0.99" in (result.explain or "")


def test_a_keypoint_may_move_by_as_much_as_oks_allows() -> None:
    # area 5000 px^2, sigma 0.05: one of three keypoints at d costs (1 - exp(-d^2 / 100)) / 3
    def moved_by(distance: float) -> bool | None:
        other = [(30.0 + distance, 20.0, 0.9), *EYES[1:]]
        return compare_poses(posed((HORSE, EYES)), posed((HORSE, other)))[0].passed

    limit = math.sqrt(-100 * math.log(1 - 0.03))
    assert moved_by(0.98 * limit) is True
    assert moved_by(1.02 * limit) is False


@pytest.mark.parametrize(
    "points",
    [
        [EYES[1], EYES[0], EYES[2]],  # left and right swapped, the box as it was
        [(y, x, s) for x, y, s in EYES],  # transposed
        [(x, y, s - 0.01) for x, y, s in EYES],  # the scores of the keypoints only
    ],
)
def test_keypoints_alone_can_fail_a_pose_whose_box_is_right(points: list[tuple[float, float, float]]) -> None:
    result, changed = compare_poses(posed((HORSE, EYES)), posed((HORSE, points)))
    assert (result.passed, changed[0].kind) == (False, "1 moved")
    assert "OKS" in (result.worst or "")


def test_a_box_alone_can_fail_a_pose_whose_keypoints_are_right() -> None:
    result, _ = compare_poses(posed((HORSE, EYES)), posed(((20, 10, 110, 60, 0.8, 0), EYES)))
    assert result.passed is False


def test_poses_are_paired_by_their_keypoints_where_boxes_are_the_same() -> None:
    other = [(x + 20, y + 10, s) for x, y, s in EYES]
    result, _ = compare_poses(posed((HORSE, EYES), (HORSE, other)), posed((HORSE, other), (HORSE, EYES)))
    assert result.passed is True


def test_a_keypoint_that_is_not_finite_is_counted_and_never_dropped() -> None:
    broken = [(math.nan, 20.0, 0.9), *EYES[1:]]
    result, changed = compare_poses(posed((HORSE, EYES)), posed((HORSE, broken)))
    assert (result.passed, result.nonfinite) == (False, 1)
    assert changed[0].missing == 1


def test_keypoints_that_do_not_agree_with_the_sigmas_are_refused() -> None:
    with pytest.raises(ContractError, match="candidate, image 1: has no keypoints; the model declares sigmas for 3"):
        compare_poses(posed((HORSE, EYES)), prediction(HORSE))
    with pytest.raises(ContractError, match=r"keypoints \(1, 3, 3\) must be \(1, 2, 3\)"):
        compare({1: posed((HORSE, EYES))}, {1: posed((HORSE, EYES))}, oks_sigmas=(0.1, 0.1))
    result, _ = compare_poses(posed((HORSE, EYES)), prediction())
    assert (result.passed, result.mismatched) == (False, 1), "an empty list needs no keypoints"
