import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.geometry import (
    Letterbox,
    box_iou,
    cxcywh_from_xyxy,
    oks,
    xywh_from_xyxy,
    xyxy_from_cxcywh,
    xyxy_from_xywh,
)

edge = st.floats(-1e3, 1e3)
size = st.floats(0.5, 1e3)
side = st.integers(1, 2000)


@st.composite
def boxes_xyxy(draw):
    x, y, width, height = draw(edge), draw(edge), draw(size), draw(size)
    return np.array([[x, y, x + width, y + height]])


@given(boxes_xyxy())
def test_converters_undo_each_other(box):
    np.testing.assert_allclose(xyxy_from_cxcywh(cxcywh_from_xyxy(box)), box, atol=1e-9)
    np.testing.assert_allclose(xyxy_from_xywh(xywh_from_xyxy(box)), box, atol=1e-9)


def test_converters_mean_what_their_names_say():
    box = np.array([[10.0, 20.0, 40.0, 60.0]])
    assert cxcywh_from_xyxy(box).tolist() == [[25.0, 40.0, 30.0, 40.0]]
    assert xywh_from_xyxy(box).tolist() == [[10.0, 20.0, 30.0, 40.0]]


@given(boxes_xyxy(), boxes_xyxy())
def test_iou_is_symmetric_between_0_and_1_and_1_with_itself(a, b):
    iou = box_iou(a, b)
    assert 0 <= iou[0, 0] <= 1 + 1e-12
    np.testing.assert_allclose(iou, box_iou(b, a).T)
    np.testing.assert_allclose(box_iou(a, a), 1)


def test_iou_of_known_boxes_empty_boxes_and_nan():
    a = np.array([[0, 0, 2, 2], [0, 0, 0, 0], [np.nan, 0, 1, 1]])
    iou = box_iou(a, np.array([[1, 0, 3, 2], [5, 5, 5, 5]]))
    assert iou[0].tolist() == [pytest.approx(1 / 3), 0]
    assert iou[1].tolist() == [0, 0]
    assert np.isnan(iou[2]).all()


@given(side, side, side, side)
def test_a_letterboxed_image_lies_inside_the_input_and_touches_two_sides(height, width, input_height, input_width):
    box = Letterbox.fit((height, width), (input_height, input_width))
    assert 1 <= box.resized_hw[0] <= input_height
    assert 1 <= box.resized_hw[1] <= input_width
    assert box.top + box.resized_hw[0] <= input_height
    assert box.left + box.resized_hw[1] <= input_width
    assert box.resized_hw[0] == input_height or box.resized_hw[1] == input_width


@given(side, side, boxes_xyxy())
def test_a_box_survives_the_letterbox_and_back(height, width, box):
    letterbox = Letterbox.fit((height, width), (320, 320))
    span = max(height, width)
    inside = np.clip(box, 0, span).astype(np.float32)
    np.testing.assert_allclose(letterbox.to_image(letterbox.to_input(inside)), inside, atol=span * 1e-3)


def test_an_odd_pixel_of_padding_goes_to_the_bottom_and_right():
    box = Letterbox.fit((100, 203), (320, 320))
    assert box.resized_hw == (158, 320)
    assert (box.top, box.left) == (81, 0)
    assert Letterbox.fit((100, 101), (320, 320)).top == 1


def test_oks_is_that_of_pycocotools():
    from pycocotools.cocoeval import COCOeval

    generator = np.random.default_rng(0)
    sigmas, areas = np.linspace(0.03, 0.1, 5), np.array([900.0, 4000.0, 25.0])
    ours, theirs = generator.uniform(0, 60, (3, 5, 2)), generator.uniform(0, 60, (4, 5, 2))
    theirs[:3] = ours + generator.normal(0, 2, ours.shape)
    evaluation = COCOeval(iouType="keypoints")
    evaluation.params.kpt_oks_sigmas = sigmas
    visible = np.concatenate((ours, np.full((3, 5, 1), 2)), axis=2).reshape(3, -1).tolist()
    evaluation._gts = {(1, 1): [{"keypoints": k, "area": float(a), "bbox": [0, 0, 60, 60]}
                                for k, a in zip(visible, areas, strict=True)]}  # fmt: skip
    evaluation._dts = {(1, 1): [{"keypoints": np.concatenate((k, np.ones((5, 1))), 1).ravel().tolist(), "score": -n}
                                for n, k in enumerate(theirs)]}  # fmt: skip
    np.testing.assert_allclose(oks(ours, theirs, areas, sigmas).T, evaluation.computeOks(1, 1), rtol=1e-12)


def test_oks_of_an_object_without_area_is_that_of_its_own_place():
    points = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    assert oks(points, np.concatenate((points, points + 1)), np.zeros(1), np.full(2, 0.1)).tolist() == [[1.0, 0.0]]
