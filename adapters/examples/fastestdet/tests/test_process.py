from __future__ import annotations

import numpy as np
import pytest

from adapters.examples.fastestdet import FastestDet, Recipe, adapter
from adapters.examples.fastestdet.process import decode

META = {"image_hw": (220, 440)}


def raw_cells(*cells):
    """(row, column, objectness, label, probability, tw, th) -> raw output; tx = ty = 0."""
    output = np.zeros((1, 85, 22, 22), np.float32)
    for row, column, objectness, label, probability, tw, th in cells:
        output[0, [0, 3, 4, 5 + label], row, column] = objectness, tw, th, probability
    return {"758": output}


def test_an_image_becomes_bgr_planes_between_zero_and_one():
    image = np.zeros((100, 50, 3), np.uint8)
    image[..., 0] = 255
    feeds, meta = adapter.preprocess(image)
    assert feeds["input.1"].shape == (1, 3, 352, 352)
    assert feeds["input.1"].dtype == np.float32
    assert feeds["input.1"].flags.c_contiguous
    assert feeds["input.1"][0, :, 7, 9].tolist() == [0, 0, 1]
    assert meta == {"image_hw": (100, 50)}
    rgb, _ = FastestDet(Recipe(channel_order="rgb")).preprocess(image)
    assert rgb["input.1"][0, :, 7, 9].tolist() == [1, 0, 0]


def test_pillow_averages_over_a_checkerboard_that_opencv_samples():
    image = np.zeros((352 * 4, 352 * 4, 3), np.uint8)
    image[::4] = 255
    averaged, _ = FastestDet(Recipe(resize="pil-bilinear")).preprocess(image)
    sampled, _ = adapter.preprocess(image)
    assert averaged["input.1"].mean() == pytest.approx(0.25, abs=0.01)
    assert sampled["input.1"].mean() == 0


def test_a_known_cell_maps_to_pixels_of_the_original_image():
    prediction = adapter.postprocess(raw_cells((11, 2, 0.5, 7, 0.25, 0.0, 0.0)), META)
    np.testing.assert_allclose(prediction.boxes_xyxy, [[40 - 110, 110 - 55, 40 + 110, 110 + 55]], atol=1e-4)
    assert prediction.scores == pytest.approx([0.5**0.6 * 0.25**0.4])
    assert prediction.labels.tolist() == [7]
    assert prediction.boxes_xyxy.dtype == prediction.scores.dtype == np.float32
    assert prediction.labels.dtype == np.int64


def test_outputs_of_zeros_give_no_detection():
    prediction = adapter.postprocess(raw_cells(), META)
    assert prediction.boxes_xyxy.shape == (0, 4)
    assert prediction.scores.shape == prediction.labels.shape == (0,)


def test_overlapping_boxes_are_suppressed_within_a_class_only():
    outputs = raw_cells((11, 10, 0.9, 3, 1, 0, 0), (11, 11, 0.8, 3, 1, 0, 0), (12, 10, 0.7, 4, 1, 0, 0))
    assert adapter.postprocess(outputs, META).labels.tolist() == [3, 4]
    assert FastestDet(Recipe(class_agnostic_nms=True)).postprocess(outputs, META).labels.tolist() == [3]


def test_clipped_boxes_stay_inside_the_image():
    outputs = raw_cells((0, 0, 0.9, 0, 1, 0, 0), (21, 21, 0.8, 1, 1, 0, 0))
    free = adapter.postprocess(outputs, META).boxes_xyxy
    clipped = FastestDet(Recipe(clip_boxes=True)).postprocess(outputs, META).boxes_xyxy
    assert free.min() < 0
    assert free[:, 2].max() > 440
    np.testing.assert_allclose(clipped, np.clip(free, 0, [440, 220, 440, 220]))


def test_the_best_hundred_remain_best_first():
    cells = [(row, column, 0.1 + 0.001 * (row + column), (row * 22 + column) % 80, 1, -9, -9)
             for row in range(22) for column in range(22)]  # fmt: skip
    scores = adapter.postprocess(raw_cells(*cells), META).scores
    assert len(scores) == 100
    assert (np.diff(scores) <= 0).all()
    assert scores[0] == pytest.approx((0.1 + 0.042) ** 0.6)


@pytest.mark.parametrize("channel", [0, 1, 4, 5 + 7])
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(clip_boxes=True, class_agnostic_nms=True, score_floor=0.25)])
def test_a_nan_in_any_channel_stays_in_the_prediction(channel, recipe):
    outputs = raw_cells(*((5, column, 0.9, column, 1, -5, -5) for column in range(20)))
    outputs["758"][0, channel, 18, 3] = np.nan
    prediction = FastestDet(recipe).postprocess(outputs, META)
    rows = np.column_stack((prediction.boxes_xyxy, prediction.scores))
    assert not np.isfinite(rows[0]).all()
    assert np.isfinite(rows[1:]).all()
    assert len(rows) == 21


def test_an_output_of_nans_fills_the_prediction_instead_of_emptying_it():
    prediction = adapter.postprocess({"758": np.full((1, 85, 22, 22), np.nan, np.float32)}, META)
    assert len(prediction.scores) == adapter.spec.max_detections
    assert np.isnan(prediction.scores).all()


def test_every_cell_of_the_grid_has_its_own_centre():
    boxes, _, _ = decode(np.zeros((1, 85, 22, 22), np.float32), (22, 44))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(centres[22 * 3 + 5], [10, 3], atol=1e-9)
    assert len(np.unique(centres, axis=0)) == 484
