"""Every flip between two selections needs a reason that was measured."""

import numpy as np
import pytest

from bench.deployment.options import ExportOptions
from bench.deployment.sets import Slack, compare_sets, shortened
from bench.types import Prediction

OPTIONS = ExportOptions(head="nms", image_hw=(640, 640), conf=0.25, iou=0.5, max_detections=4)
SLACK = Slack(box_px=1e-3, score=1e-4)
BOX = [100, 100, 140, 140]
FAR = [400, 400, 440, 440]
NEAR = [100, 100, 140, 130]  # overlap .75 with BOX


def detections(*rows):
    """Rows (box, score, label), best first."""
    boxes = np.array([r[0] for r in rows], np.float32).reshape(-1, 4)
    return Prediction(boxes, np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], np.int64))


def compared(want, have, *, suppresses=True, slack=SLACK):
    return compare_sets(
        [want], [have], options=OPTIONS, suppresses=suppresses, slack=slack, tolerance_px=0.64, tolerance_score=1e-3
    )


def test_equal_sets_in_another_order_are_pairs():
    one, two = (BOX, 0.9, 1), (FAR, 0.9, 1)
    result = compared(detections(one, two), detections(two, one))
    assert (result.pairs, result.max_box_px, result.max_score) == (2, 0, 0)
    assert not result.explained + result.unexplained


def test_differences_within_the_tolerances_are_pairs_and_are_measured():
    result = compared(detections((BOX, 0.9, 1)), detections(([100.5, 100, 140, 140], 0.9005, 1)))
    assert result.pairs == 1
    assert result.max_box_px == pytest.approx(0.5)
    assert result.max_score == pytest.approx(5e-4, abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [([101, 100, 140, 140], 0.9004, 1), (BOX, 0.902, 1), (BOX, 0.9, 2), (BOX, np.nan, 1), ([np.nan] * 4, 0.9, 1)],
)
def test_a_box_a_score_or_a_class_beyond_them_is_unexplained_on_both_sides(other):
    result = compared(detections((BOX, 0.9, 1)), detections(other))
    assert result.pairs == 0
    assert len(result.unexplained) == 2
    assert (
        "image 0: row 0: class 1, score 0.90000, box (100.00, 100.00, 140.00, 140.00) expected, not found"
        in (result.unexplained[0])
    )


def test_a_score_at_the_threshold_explains_a_flip_and_one_beside_it_does_not():
    at, beside = detections((BOX, 0.25005, 1)), detections((BOX, 0.2503, 1))
    nothing = detections()
    assert "of the threshold" in compared(at, nothing).explained[0]
    assert compared(beside, nothing).unexplained
    assert compared(nothing, beside).unexplained


def test_a_file_without_a_threshold_has_no_such_reason():
    assert compared(detections((BOX, 0.25005, 1)), detections(), suppresses=False).unexplained


def test_the_last_score_of_a_full_list_explains_what_it_leaves_out():
    full = [([i * 50, 0, i * 50 + 40, 40], 0.9 - i / 10, 1) for i in range(4)]
    swapped = [*full[:3], (FAR, 0.60005, 1)]
    result = compared(detections(*full), detections(*swapped), suppresses=False)
    assert len(result.explained) == 2
    assert "cut at 4 rows" in result.explained[0]
    short = compared(detections(*full), detections(*full[:3]), suppresses=False)
    assert short.unexplained, "a list that is not full leaves nothing out"


def test_two_overlapping_boxes_of_equal_score_may_change_places():
    result = compared(detections((BOX, 0.8, 1)), detections((NEAR, 0.80005, 1)))
    assert not result.unexplained
    assert "changed places with a box of overlap 0.75" in result.explained[0]
    assert compared(detections((BOX, 0.8, 1)), detections((NEAR, 0.79, 1))).unexplained, "another score"
    assert compared(detections((BOX, 0.8, 1)), detections((NEAR, 0.8, 2))).unexplained, "another class"
    assert compared(detections((BOX, 0.8, 1)), detections((FAR, 0.8, 1))).unexplained, "no overlap"


def test_an_overlap_at_the_threshold_may_fall_on_either_side():
    half = [100, 100, 140, 120]  # overlap .5
    both, one = detections((BOX, 0.9, 1), (half, 0.6, 1)), detections((BOX, 0.9, 1))
    assert "lies at the threshold" in compared(both, one).explained[0]
    beside = [100, 100, 140, 122]  # overlap .55
    assert compared(detections((BOX, 0.9, 1), (beside, 0.6, 1)), one).unexplained


def test_what_a_flipped_box_suppresses_is_explained_by_it():
    third = [100, 116, 140, 150]  # overlaps NEAR little and BOX by .48
    taller = [100, 112, 140, 150]  # overlap .56 with BOX
    want, have = detections((NEAR, 0.8, 1), (taller, 0.6, 1)), detections((BOX, 0.80005, 1))
    result = compared(want, have)
    assert not result.unexplained
    assert any("itself an explained flip" in text for text in result.explained)
    assert compared(detections((NEAR, 0.8, 1), (third, 0.6, 1)), have).unexplained


def test_other_images_are_a_difference():
    result = compare_sets(
        [detections()], [], options=OPTIONS, suppresses=True, slack=SLACK, tolerance_px=1, tolerance_score=1
    )
    assert result.unexplained == ("0 images instead of 1",)


def test_long_lists_are_shortened_with_their_number():
    assert shortened(["a"] * 20) == ["a"] * 20
    assert shortened(["a"] * 23)[-1] == "and 3 more"
