"""Joined images: each box stays on its object, and slivers are dropped."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters._shared.tests.drawn_sets import around, with_rectangle
from adapters._shared.training.examples import PLACEMENT, Example
from adapters._shared.training.mosaic import MIN_SIDE_PX, MIN_VISIBLE, PAD_VALUE, mixup, mosaic, visible_rows

SIDE = 64
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


@st.composite
def rectangle(draw, colour, label, square=False):
    short = SIDE if square else draw(st.integers(SIDE // 4, SIDE))
    size_hw = (short, SIDE) if draw(st.booleans()) else (SIDE, short)
    x0, y0 = (draw(st.integers(0, size_hw[axis] - 4)) for axis in (1, 0))
    x1, y1 = draw(st.integers(x0 + 4, size_hw[1])), draw(st.integers(y0 + 4, size_hw[0]))
    return with_rectangle(size_hw, (x0, y0, x1, y1), colour, label, image_id=10 + label)


four = st.tuples(*(rectangle(colour, label) for label, colour in enumerate(COLOURS)))


def seen(image, colour):
    """Pixels nearer to this colour than to black, to the pad and to the other three."""
    others = np.array([c for c in (*COLOURS, (0, 0, 0), (PAD_VALUE,) * 3) if c != colour])
    distances = [np.abs(image.astype(int) - other).sum(axis=2) for other in (np.array(colour), *others)]
    return np.argmin(distances, axis=0) == 0


@settings(deadline=None)
@given(parts=four, zoom=st.floats(0.5, 1.5), meet=st.tuples(st.integers(16, 48), st.integers(16, 48)))
def test_every_box_of_a_mosaic_stays_on_its_object(parts, zoom, meet):
    out = mosaic(parts, SIDE, zoom=zoom, meet_xy=meet)
    assert out.image_rgb_u8.shape == (SIDE, SIDE, 3)
    assert out.boxes_xyxy.dtype == np.float32
    assert out.image_id == 10
    boxes = dict(zip(out.labels.tolist(), out.boxes_xyxy, strict=True))
    for label, (part, colour) in enumerate(zip(parts, COLOURS, strict=True)):
        visible = seen(out.image_rgb_u8, colour)
        if label in boxes:
            np.testing.assert_allclose(boxes[label], around(visible), atol=1)
        elif visible.any():
            width, height = np.subtract(*np.split(around(visible), 2)[::-1])
            whole = np.prod(part.boxes_xyxy[0, 2:] - part.boxes_xyxy[0, :2]) * zoom**2
            assert min(width, height) <= MIN_SIDE_PX + 1 or (width - 1) * (height - 1) <= MIN_VISIBLE * whole


@settings(deadline=None)
@given(parts=four, meet=st.tuples(st.integers(16, 48), st.integers(16, 48)))
def test_inner_corners_meet_and_the_rest_is_grey(parts, meet):
    out = mosaic(parts, SIDE, zoom=1.0, meet_xy=meet)
    x, y = meet
    corners = [(y - 1, x - 1, -1, -1), (y - 1, x, -1, 0), (y, x - 1, 0, -1), (y, x, 0, 0)]
    for part, (row, column, part_row, part_column) in zip(parts, corners, strict=True):
        np.testing.assert_array_equal(out.image_rgb_u8[row, column], part.image_rgb_u8[part_row, part_column])
    covered = np.zeros((SIDE, SIDE), bool)
    for number, part in enumerate(parts):
        height, width = part.image_rgb_u8.shape[:2]
        rows = slice(max(y - height, 0), y) if number < 2 else slice(y, y + height)
        columns = slice(max(x - width, 0), x) if number % 2 == 0 else slice(x, x + width)
        covered[rows, columns] = True
    assert (out.image_rgb_u8[~covered] == PAD_VALUE).all()


@settings(deadline=None)
@given(parts=four, zoom=st.floats(0.5, 1.5), meet=st.tuples(st.integers(16, 48), st.integers(16, 48)))
def test_attributes_and_placements_go_with_their_boxes(parts, zoom, meet):
    marked = [
        Example(
            image_rgb_u8=part.image_rgb_u8,
            boxes_xyxy=part.boxes_xyxy,
            labels=part.labels,
            attributes={"depth_m": part.labels + 0.5, PLACEMENT: np.array([[[0.5, 0, 0], [0, 0.5, 0]]])},
        )
        for part in parts
    ]
    out = mosaic(marked, SIDE, zoom=zoom, meet_xy=meet)
    np.testing.assert_array_equal(out.attributes["depth_m"], out.labels + 0.5)
    assert out.attributes[PLACEMENT].shape == (len(out.labels), 2, 3)
    for label, box, placement in zip(out.labels, out.boxes_xyxy, out.attributes[PLACEMENT], strict=True):
        in_file = parts[label].boxes_xyxy[0].reshape(2, 2) / 0.5
        moved = (in_file @ placement[:, :2].T + placement[:, 2]).ravel()
        np.testing.assert_allclose(np.clip(moved, 0, SIDE), box, atol=1e-3)


@settings(deadline=None)
@given(a=rectangle((255, 0, 0), 0, square=True), b=rectangle((0, 255, 0), 1, square=True), share=st.floats(0.3, 0.7))
def test_both_boxes_of_a_blend_stay_on_their_objects(a, b, share):
    out = mixup(a, b, share)
    assert out.labels.tolist() == [0, 1]
    assert out.image_id == 10
    for box, channel, weight in zip(out.boxes_xyxy, (0, 1), (share, 1 - share), strict=True):
        np.testing.assert_array_equal(box, around(out.image_rgb_u8[..., channel] > 255 * weight / 2))
        assert abs(out.image_rgb_u8[..., channel].max() - 255 * weight) <= 1


def test_labels_and_attributes_of_the_boxes_that_leave_leave_with_them():
    out_of_sight, visible = [0, 0, 10, 10], [50, 50, 60, 60]
    part = Example(
        image_rgb_u8=np.zeros((SIDE, SIDE, 3), np.uint8),
        boxes_xyxy=np.array([out_of_sight, visible], np.float32),
        labels=np.array([5, 6]),
        attributes={"depth_m": np.array([1.5, 2.5])},
    )
    out = mosaic([part] * 4, SIDE, zoom=1.0, meet_xy=(32, 32))
    assert out.labels.tolist() == [6, 5]  # upper left shows its lower right corner, and lower right its upper left
    assert out.attributes["depth_m"].tolist() == [2.5, 1.5]


def test_slivers_are_dropped_and_everything_else_stays():
    moved = np.array([[0, 0, 10, 10], [-86, 0, 14, 10], [-84, 0, 16, 10], [0, 0, 1.9, 10], [0, 0, 2, 10]], float)
    np.testing.assert_array_equal(visible_rows(moved, np.clip(moved, 0, 64)), [0, 2, 4])


def test_parts_of_another_size_than_their_images_lie_as_if_they_had_been_enlarged_first():
    small = with_rectangle((16, 32), (4, 4, 20, 12))
    large = Example(
        image_rgb_u8=cv2.resize(small.image_rgb_u8, (64, 32), interpolation=cv2.INTER_NEAREST),
        boxes_xyxy=small.boxes_xyxy * 2,
        labels=small.labels,
    )
    enlarged = mosaic([large] * 4, SIDE, zoom=1.3, meet_xy=(30, 34))
    at_once = mosaic([small] * 4, SIDE, zoom=1.3, meet_xy=(30, 34), sizes_hw=[(32, 64)] * 4)
    np.testing.assert_allclose(at_once.boxes_xyxy, enlarged.boxes_xyxy, atol=1e-4)
    differ = np.abs(at_once.image_rgb_u8.astype(int) - enlarged.image_rgb_u8) > 128
    assert differ.mean() < 0.02
