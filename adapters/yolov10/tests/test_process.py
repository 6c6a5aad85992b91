"""Pixels in and boxes out are exact, and nothing broken can hide."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.yolov10 import adapter
from adapters.yolov10.process import preprocess, select

ANCHORS = 2100
side = st.integers(min_value=40, max_value=900)


def blank(classes=8):
    return np.zeros((1, 4 + classes, ANCHORS), np.float32)


def split(joined):
    """(1, 4 + nc, A) boxes and scores in one array -> the two outputs."""
    return {"boxes_cxcywh": joined[:, :4], "scores": joined[:, 4:]}


@given(height=side, width=side, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_known_box_maps_back_within_half_a_pixel(height, width, data):
    feeds, meta = adapter.preprocess(np.zeros((height, width, 3), np.uint8))
    assert feeds["images"].shape == (1, 3, 320, 320)
    x1, y1 = data.draw(st.floats(0, width - 8)), data.draw(st.floats(0, height - 8))
    x2, y2 = data.draw(st.floats(x1 + 4, width)), data.draw(st.floats(y1 + 4, height))
    box = np.array([[x1, y1, x2, y2]], np.float32)
    a, b, c, d = meta["letterbox"].to_input(box)[0]
    outputs = blank()
    anchor, label = data.draw(st.integers(0, ANCHORS - 1)), data.draw(st.integers(0, 7))
    outputs[0, :4, anchor] = (a + c) / 2, (b + d) / 2, c - a, d - b
    outputs[0, 4 + label, anchor] = 0.9
    found = adapter.postprocess(split(outputs), meta)
    assert len(found.scores) == 1
    assert found.labels[0] == label
    np.testing.assert_allclose(found.boxes_xyxy, box, atol=0.5)


def test_zeros_give_no_detection_above_the_floor():
    _, meta = adapter.preprocess(np.zeros((50, 80, 3), np.uint8))
    found = adapter.postprocess(split(blank()), meta)
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
    assert found.labels.dtype == np.int64


def test_at_most_three_hundred_detections_come_out_best_first():
    rng = np.random.default_rng(0)
    outputs = rng.random((1, 12, ANCHORS), np.float32)
    _, meta = adapter.preprocess(np.zeros((320, 320, 3), np.uint8))
    found = adapter.postprocess(split(outputs), meta)
    assert len(found.scores) == 300
    assert (np.diff(found.scores) <= 0).all()


def test_one_box_may_appear_with_two_classes():
    outputs = blank()
    outputs[0, :4, 7] = 100, 100, 20, 20
    outputs[0, 5, 7], outputs[0, 9, 7] = 0.8, 0.6
    _, meta = adapter.preprocess(np.zeros((320, 320, 3), np.uint8))
    found = adapter.postprocess(split(outputs), meta)
    assert found.labels.tolist() == [1, 5]
    np.testing.assert_array_equal(found.boxes_xyxy[0], found.boxes_xyxy[1])


def test_the_two_stages_select_the_best_pairs_of_all():
    rng = np.random.default_rng(3)
    boxes, scores = rng.random((4, 50), np.float32), rng.random((8, 50), np.float32)
    found_boxes, found, labels = select(boxes, scores, 20)
    order = np.argsort(-scores.T.reshape(-1), kind="stable")[:20]
    np.testing.assert_array_equal(found, scores.T.reshape(-1)[order])
    np.testing.assert_array_equal(labels, order % 8)
    np.testing.assert_array_equal(found_boxes, boxes.T[order // 8])


@pytest.mark.parametrize("row", [0, 3, 4, 11])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_number_reaches_the_result_even_where_its_scores_are_low(row, value):
    outputs = np.random.default_rng(1).random((1, 12, ANCHORS), np.float32)
    outputs[0, 4:, 5] = 0
    outputs[0, row, 5] = value
    _, meta = adapter.preprocess(np.zeros((320, 320, 3), np.uint8))
    found = adapter.postprocess(split(outputs), meta)
    assert len(found.scores) == 300
    assert not (np.isfinite(found.boxes_xyxy).all() and np.isfinite(found.scores).all())


def test_boxes_are_clipped_to_the_image():
    outputs = blank()
    outputs[0, :4, 0] = 0, 160, 100, 1000
    outputs[0, 4, 0] = 0.5
    _, meta = adapter.preprocess(np.zeros((160, 320, 3), np.uint8))
    found = adapter.postprocess(split(outputs), meta)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 50, 160]])


def test_a_wide_image_is_padded_with_grey_above_and_below():
    feeds, meta = preprocess(np.full((160, 640, 3), 255, np.uint8), (320, 320))
    image = feeds["images"]
    assert image.dtype == np.float32
    assert meta["letterbox"].top == 120
    np.testing.assert_allclose(image[0, :, :120], 114 / 255)
    np.testing.assert_allclose(image[0, :, 120:200], 1)
    np.testing.assert_allclose(image[0, :, 200:], 114 / 255)


def test_the_channels_stay_in_rgb_order():
    image = np.zeros((320, 320, 3), np.uint8)
    image[..., 0] = 255
    feeds, _ = adapter.preprocess(image)
    assert feeds["images"][0].mean(axis=(1, 2)).tolist() == [1, 0, 0]


def test_importing_the_adapter_imports_neither_torch_nor_a_runtime():
    code = (
        "import sys, adapters.yolov10; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'lightning'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
