"""Pixels in and boxes and poses out are exact, and nothing broken can hide."""

import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.rtdetr_pose import adapter
from adapters.rtdetr_pose.process import class_scores, matrix_from_rot6d, preprocess, sigmoid

side = st.integers(min_value=40, max_value=900)
QUERIES = 400


def blank(rng=None):
    """Every query sees background only; shapes of the registered model."""
    outputs = {o.name: np.zeros((1, *o.shape[1:]), np.float32) for o in adapter.spec.outputs}
    outputs["logits"][..., -1] = 20
    outputs["rot6d"][..., [0, 4]] = 1
    if rng is not None:
        for name, value in outputs.items():
            outputs[name] = rng.normal(size=value.shape).astype(np.float32)
    return outputs


def meta_of(height, width):
    return adapter.preprocess(np.zeros((height, width, 3), np.uint8))[1]


@given(height=side, width=side, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_known_box_and_its_pose_map_back_to_the_image(height, width, data):
    x1, y1 = data.draw(st.floats(0.5, width - 9)), data.draw(st.floats(0.5, height - 9))
    x2, y2 = data.draw(st.floats(x1 + 4, width - 0.5)), data.draw(st.floats(y1 + 4, height - 0.5))
    query, label = data.draw(st.integers(0, QUERIES - 1)), data.draw(st.integers(0, 7))
    shares = np.array([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
    outputs = blank()
    outputs["bbox"][0, query] = np.log(shares / (1 - shares))
    outputs["logits"][0, query, label] = 25
    outputs["log_z"][0, query] = math.log(2.5)
    outputs["offsets"][0, query] = 0.25, -0.5
    found = adapter.postprocess(outputs, meta_of(height, width))
    assert len(found.scores) == 1
    assert found.labels.tolist() == [label]
    np.testing.assert_allclose(found.boxes_xyxy, [[x1, y1, x2, y2]], atol=0.05)
    np.testing.assert_allclose(found.attributes["depth_m"], [2.5], rtol=1e-6)
    centre = [(x1 + x2) / 2 + 0.25 * (x2 - x1), (y1 + y2) / 2 - 0.5 * (y2 - y1)]
    np.testing.assert_allclose(found.attributes["center_px"], [centre], atol=0.05)
    np.testing.assert_array_equal(found.attributes["rotation"], np.eye(3)[None])
    assert "translation_m" not in found.attributes  # nobody said which camera
    assert {x.dtype for x in found.attributes.values()} == {np.dtype(np.float32)}


def test_the_translation_is_the_centre_seen_through_the_corrected_camera():
    outputs = blank()
    outputs["logits"][0, 4, 2] = 25
    outputs["log_z"][0, 4] = math.log(4)
    meta = meta_of(200, 400) | {"intrinsics": (500, 250, 190, 110)}
    found = adapter.postprocess(outputs, meta)
    expected = [(200 - 190) / 500 * 4, (100 - 110) / 250 * 4, 4]
    np.testing.assert_allclose(found.attributes["translation_m"], [expected], atol=1e-5)
    outputs["k_delta"][0] = 0.25, 0.0, 0.1, 0.0
    found = adapter.postprocess(outputs, meta)
    expected[0] = (200 - 190 - 40) / 625 * 4
    np.testing.assert_allclose(found.attributes["translation_m"], [expected], atol=1e-5)


def test_background_is_neither_a_class_nor_a_score():
    scores = class_scores(np.log(np.array([[1.0, 3.0, 4.0]])))
    np.testing.assert_allclose(scores, [[1 / 8, 3 / 8]], rtol=1e-6)
    found = adapter.postprocess(blank(), meta_of(50, 80))
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)
    assert found.attributes["rotation"].shape == (0, 3, 3)
    assert found.labels.dtype == np.int64


def test_at_most_fifty_detections_come_out_best_first_one_per_query():
    outputs = blank(np.random.default_rng(0))
    found = adapter.postprocess(outputs, meta_of(320, 320))
    assert len(found.scores) == 50
    assert (np.diff(found.scores) <= 0).all()
    best = np.sort(class_scores(outputs["logits"][0]).max(1))[::-1][:50]
    np.testing.assert_array_equal(found.scores, best)


def test_every_row_of_a_detection_belongs_to_the_same_query():
    outputs = blank(np.random.default_rng(2))
    outputs["log_z"][0, :, 0] = np.arange(QUERIES) / 50
    found = adapter.postprocess(outputs, meta_of(320, 320))
    queries = np.round(np.log(found.attributes["depth_m"]) * 50).astype(int)
    scores = class_scores(outputs["logits"][0])
    np.testing.assert_array_equal(found.scores, scores.max(1)[queries])
    np.testing.assert_array_equal(found.labels, scores.argmax(1)[queries])
    np.testing.assert_array_equal(found.attributes["rotation"], matrix_from_rot6d(outputs["rot6d"][0, queries]))
    np.testing.assert_allclose(
        found.keypoints_xys[..., :2], outputs["keypoints"][0, queries].reshape(50, 17, 2) * 320, rtol=1e-6
    )
    np.testing.assert_array_equal(found.keypoints_xys[:, 0, 2], found.scores)


@pytest.mark.parametrize("name", ["logits", "bbox", "log_z", "rot6d", "offsets", "keypoints"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_number_reaches_the_result_even_where_its_score_is_low(name, value):
    outputs = blank(np.random.default_rng(1))
    outputs["logits"][0, 5] = 0
    outputs["logits"][0, 5, -1] = 30
    outputs[name][0, 5, 1 if name != "log_z" else 0] = value
    found = adapter.postprocess(outputs, meta_of(320, 320))
    row = {
        "logits": found.scores,
        "bbox": found.boxes_xyxy,
        "log_z": found.attributes["depth_m"],
        "rot6d": found.attributes["rotation"],
        "offsets": found.attributes["center_px"],
        "keypoints": found.keypoints_xys,
    }[name][0]
    assert not np.isfinite(row).all()


def test_vectors_that_span_no_plane_are_no_rotation():
    found = matrix_from_rot6d(np.array([[0.0, 0, 0, 0, 1, 0], [1, 0, 0, 2, 0, 0], [1, 0, 0, 0, 1, 0]]))
    assert np.isnan(found[:2]).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(found[2], np.eye(3))


def test_the_sigmoid_neither_overflows_nor_hides_nan():
    with np.errstate(over="raise", invalid="raise"):
        found = sigmoid(np.array([-1e4, -1.0, 0, 1, 1e4]))
    np.testing.assert_allclose(found, [0, 1 / (1 + math.e), 0.5, 1 / (1 + 1 / math.e), 1])
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


def test_boxes_are_clipped_to_the_image():
    outputs = blank()
    outputs["logits"][0, 0, 0] = 25
    outputs["bbox"][0, 0] = -10, 0, 0, 10
    found = adapter.postprocess(outputs, meta_of(160, 320))
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 80, 160]], atol=0.1)


def test_an_image_is_resized_bilinearly_without_keeping_its_shape_and_stays_rgb():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (200, 500, 3), np.uint8)
    feeds, meta = preprocess(image, (320, 320))
    expected = cv2.resize(image, (320, 320), interpolation=cv2.INTER_LINEAR)
    assert feeds["images"].dtype == np.float32
    np.testing.assert_allclose(feeds["images"][0] * 255, expected.transpose(2, 0, 1), atol=1e-4)
    assert meta == {"image_hw": (200, 500), "input_hw": (320, 320)}


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)
    feeds, _ = preprocess(image, (320, 320))
    np.testing.assert_array_equal(np.round(feeds["images"][0] * 255).astype(np.uint8), image.transpose(2, 0, 1))


def test_importing_the_adapter_imports_neither_torch_nor_a_runtime():
    code = (
        "import sys, adapters.rtdetr_pose; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'lightning'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
