"""The yardstick of the graph's selection: class-wise, greedy, ties decided."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.yolov10.nms import nms
from bench.geometry import box_iou

LIMITS = {"conf": 0.25, "iou": 0.5, "max_detections": 10}
PAIR = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float32)  # overlap .9


def scores_of(*rows):
    return np.array(rows, np.float32)


def test_the_worse_of_two_boxes_of_one_class_goes():
    found = nms(PAIR, scores_of([0.6, 0.8]), **LIMITS)
    np.testing.assert_array_equal(found.boxes_xyxy, PAIR[1:])
    np.testing.assert_array_equal(found.scores, scores_of(0.8))


def test_boxes_of_two_classes_do_not_suppress_each_other():
    found = nms(PAIR, scores_of([0.6, 0], [0, 0.8]), **LIMITS)
    assert found.labels.tolist() == [1, 0]


def test_a_box_that_went_suppresses_nothing():
    chain = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)  # overlaps .43, .43, .11
    found = nms(chain, scores_of([0.9, 0.8, 0.7]), conf=0.25, iou=0.4, max_detections=10)
    assert found.scores.tolist() == scores_of(0.9, 0.7).tolist()


def test_an_overlap_equal_to_the_threshold_stays_and_a_score_equal_to_it_goes():
    halves = np.array([[0, 0, 8, 8], [0, 0, 8, 4]], np.float32)
    assert len(nms(halves, scores_of([0.9, 0.8]), conf=0.25, iou=0.5, max_detections=10).scores) == 2
    assert len(nms(halves, scores_of([0.9, 0.25]), conf=0.25, iou=0.5, max_detections=10).scores) == 1


def test_equal_scores_keep_the_lower_anchor_and_rank_the_lower_class_first():
    found = nms(PAIR, scores_of([0.5, 0.5], [0.5, 0.5]), **LIMITS)
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(found.boxes_xyxy, PAIR[[0, 0]])


def test_the_limit_counts_all_classes_together():
    apart = np.array([[i * 20, 0, i * 20 + 10, 10] for i in range(4)], np.float32)
    found = nms(apart, scores_of([0.9, 0, 0.7, 0], [0, 0.8, 0, 0.6]), conf=0.25, iou=0.5, max_detections=3)
    assert found.scores.tolist() == scores_of(0.9, 0.8, 0.7).tolist()
    assert found.labels.tolist() == [0, 1, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0.05, 0.95))
def test_what_stays_does_not_overlap_and_what_goes_has_a_better_box_that_stays(seed, count, iou):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (count, 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 30, (count, 2))), 1).astype(np.float32)
    scores = rng.random((2, count)).astype(np.float32)
    found = nms(boxes, scores, conf=0.3, iou=iou, max_detections=1000)
    for label in (0, 1):
        kept = found.boxes_xyxy[found.labels == label]
        values = found.scores[found.labels == label]
        overlap = box_iou(kept, kept)
        assert (overlap[~np.eye(len(kept), dtype=bool)] <= iou).all()
        for box, score in zip(boxes, scores[label], strict=True):
            if score > np.float32(0.3) and score not in values:
                share = box_iou(box[None], kept)[0]
                assert ((share > iou) & (values >= score)).any()
