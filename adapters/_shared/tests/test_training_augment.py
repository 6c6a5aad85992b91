"""Boxes stay on their objects through every change, and the library does what its seeds and the network allow."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapters._shared.tests.drawn_sets import around, bright_pixels, noise, with_rectangle
from adapters._shared.training.augment import Augmentation, Pipeline
from adapters._shared.training.examples import PLACEMENT, Example
from adapters._shared.training.mosaic import MIN_SIDE_PX, MIN_VISIBLE, PAD_VALUE
from adapters.yolov10.process import letterbox
from bench.errors import UsageError

SIDE = 64
ALONE = {
    "flip": 1.0,
    "scale": 0.5,
    "translate": 0.3,
    "hue": 0.2,
    "saturation": 1.0,
    "value": 0.15,
}


def only(**strengths):
    return Augmentation(**{**{name: 0.0 for name in Augmentation.__dataclass_fields__}, **strengths})


@st.composite
def rectangles(draw, side=SIDE, least=4):
    """An example whose longer side is ``side``, with a white rectangle of at least ``least`` pixels anywhere in it."""
    short = draw(st.integers(side // 4, side))
    size_hw = (short, side) if draw(st.booleans()) else (side, short)
    x0, y0 = (draw(st.integers(0, size_hw[axis] - least)) for axis in (1, 0))
    x1, y1 = draw(st.integers(x0 + least, size_hw[1])), draw(st.integers(y0 + least, size_hw[0]))
    return with_rectangle(size_hw, (x0, y0, x1, y1))


def rng_of(seed):
    return np.random.default_rng(seed)


def assert_on_its_object(out, zoomed_area, bright=None):
    """The box and the bright pixels agree within a pixel; a box may be missing where hardly anything is left."""
    assert out.image_rgb_u8.shape == (SIDE, SIDE, 3)
    assert out.image_rgb_u8.dtype == np.uint8
    bright = bright_pixels(out.image_rgb_u8) if bright is None else bright
    if len(out.boxes_xyxy):
        assert len(out.boxes_xyxy) == 1
        np.testing.assert_allclose(out.boxes_xyxy[0], around(bright), atol=1)
    elif bright.any():
        width, height = np.subtract(*np.split(around(bright), 2)[::-1])
        assert min(width, height) <= MIN_SIDE_PX + 1 or (width - 1) * (height - 1) <= MIN_VISIBLE * zoomed_area


def zoomed_area(example, scale):
    """At most."""
    width, height = example.boxes_xyxy[0, 2:] - example.boxes_xyxy[0, :2]
    return width * height * (1 + scale) ** 2


@pytest.mark.parametrize("name", ALONE)
@settings(deadline=None)
@given(example=rectangles(), seed=st.integers(0, 2**32))
def test_a_box_stays_on_its_object_through_each_change_alone(name, example, seed):
    out = Pipeline(only(**{name: ALONE[name]}), SIDE)(example, rng_of(seed))
    assert_on_its_object(out, zoomed_area(example, ALONE["scale"]))


@settings(deadline=None)
@given(example=rectangles(), seed=st.integers(0, 2**32))
def test_a_box_stays_on_its_object_through_all_changes_together(example, seed):
    strengths = {**ALONE, "flip": 0.5}
    assert_on_its_object(Pipeline(only(**strengths), SIDE)(example, rng_of(seed)), zoomed_area(example, 0.5))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), x0=st.integers(18, 30), y0=st.integers(18, 30), size=st.integers(10, 16))
def test_a_rotated_box_is_the_box_around_its_rotated_object(seed, x0, y0, size):
    # in the middle: where the canvas cuts a rotated object, the box of its corners is wider than what is left of it
    example = with_rectangle((SIDE, SIDE), (x0, y0, x0 + size, y0 + size))
    out = Pipeline(only(degrees=180, scale=0.2, flip=0.5), SIDE)(example, rng_of(seed))
    assert len(out.boxes_xyxy) == 1
    # nothing but the pad is nearby, and the tip of a corner fills little of its pixel
    assert_on_its_object(out, 0, bright=(out.image_rgb_u8 > PAD_VALUE + 6).all(axis=2))


@settings(deadline=None)
@given(example=rectangles(), seed=st.integers(0, 2**32))
def test_the_placement_takes_points_of_the_file_where_the_image_goes(example, seed):
    example = Example(
        image_rgb_u8=example.image_rgb_u8,
        boxes_xyxy=example.boxes_xyxy,
        labels=example.labels,
        attributes={PLACEMENT: np.array([[[0.5, 0, 0], [0, 0.25, 0]]])},
    )
    out = Pipeline(only(flip=0.5, scale=0.4, translate=0.2), SIDE)(example, rng_of(seed))
    assume(len(out.boxes_xyxy) and (out.boxes_xyxy > 0).all() and (out.boxes_xyxy < SIDE).all())  # not cut
    in_file = example.boxes_xyxy[0].astype(float) / (0.5, 0.25, 0.5, 0.25)
    corners = np.stack((in_file[:2], in_file[2:]), axis=1)
    placement = out.attributes[PLACEMENT][0]
    moved = placement[:, :2] @ corners + placement[:, 2:]
    np.testing.assert_allclose(np.sort(moved, axis=1).T.ravel(), out.boxes_xyxy[0], atol=1e-2)


@settings(deadline=None)
@given(height=st.integers(1, SIDE), width=st.integers(1, SIDE), wide=st.booleans())
def test_without_changes_it_is_the_letterbox_of_inference(height, width, wide):
    height, width = (height, SIDE) if wide else (SIDE, width)
    image, boxes = noise(height, width), np.array([[0, 0, 1, 1], [0, 0, width, height]], np.float32)
    out = Pipeline(Augmentation.off(), SIDE)(
        Example(image_rgb_u8=image, boxes_xyxy=boxes, labels=np.array([4, 2])), rng_of(0)
    )
    canvas, box = letterbox(image, (SIDE, SIDE))
    np.testing.assert_array_equal(out.image_rgb_u8, canvas)
    np.testing.assert_allclose(out.boxes_xyxy, box.to_input(boxes), atol=1e-4)
    np.testing.assert_array_equal(out.labels, [4, 2])


def test_rows_of_labels_and_attributes_leave_with_their_box():
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    edge, middle = [0, 0, 3, SIDE], [20, 20, 44, 44]
    example = Example(
        image_rgb_u8=image,
        boxes_xyxy=np.array([edge, middle], np.float32),
        labels=np.array([5, 6]),
        attributes={"depth_m": np.array([1.5, 2.5])},
    )
    pipeline = Pipeline(only(translate=0.3), SIDE)
    outs = [pipeline(example, rng_of(seed)) for seed in range(20)]
    lost = [out for out in outs if len(out.labels) == 1]
    assert lost
    assert len(lost) < len(outs)
    for out in lost:
        assert (out.labels.tolist(), out.attributes["depth_m"].tolist()) == ([6], [2.5])
        assert out.boxes_xyxy.shape == (1, 4)


def test_an_image_without_boxes_stays_one():
    empty = Example(image_rgb_u8=noise(30, SIDE), boxes_xyxy=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64))
    out = Pipeline(Augmentation(degrees=5), SIDE)(empty, rng_of(1))
    assert (out.boxes_xyxy.shape, out.boxes_xyxy.dtype) == ((0, 4), np.float32)
    assert (out.labels.shape, out.labels.dtype) == ((0,), np.int64)


def test_the_pixels_of_the_source_are_never_written_to():
    image = noise(40, SIDE)
    example = Example(image_rgb_u8=image.copy(), boxes_xyxy=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64))
    example.image_rgb_u8.flags.writeable = False
    for seed in range(5):
        Pipeline(Augmentation(flip=1, degrees=5), SIDE)(example, rng_of(seed))
    np.testing.assert_array_equal(example.image_rgb_u8, image)


def test_greys_stay_grey_whatever_the_colours_do():
    grey = Example(
        image_rgb_u8=np.full((SIDE, SIDE, 3), 90, np.uint8),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
    )
    for seed in range(10):
        image = Pipeline(only(hue=0.5, saturation=1, value=0.4), SIDE)(grey, rng_of(seed)).image_rgb_u8.astype(int)
        assert np.ptp(image, axis=2).max() <= 1
        assert 54 <= image.mean() <= 126


def test_zoom_flip_and_brightness_are_drawn_independently():
    example = with_rectangle((SIDE, SIDE), (16, 16, 48, 48), colour=(100, 100, 100))
    example = Example(
        image_rgb_u8=example.image_rgb_u8,
        boxes_xyxy=example.boxes_xyxy,
        labels=example.labels,
        attributes={PLACEMENT: np.array([[[1.0, 0, 0], [0, 1.0, 0]]])},
    )
    pipeline = Pipeline(only(scale=0.4, flip=0.5, value=0.4, translate=0.2), SIDE)
    draws = []
    for seed in range(400):
        out = pipeline(example, rng_of(seed))
        placement = out.attributes[PLACEMENT][0]
        x, y = out.boxes_xyxy[0].reshape(2, 2).mean(axis=0).astype(int)
        draws.append((abs(placement[0, 0]), placement[0, 0] < 0, out.image_rgb_u8[y, x, 0], *(out.boxes_xyxy[0, :2])))
    zoom, flipped, brightness = np.array(draws, float).T[:3]
    assert 0.4 < flipped.mean() < 0.6
    assert zoom.min() < 0.65 < 1.35 < zoom.max()
    assert brightness.min() < 65 < 135 < brightness.max()
    # 400 independent pairs stay below 0.2 in all but one of 10,000 cases
    assert np.abs(np.corrcoef([zoom, flipped, brightness]) - np.eye(3)).max() < 0.2


def test_uncovered_canvas_is_the_grey_of_the_letterbox():
    white = Example(
        image_rgb_u8=np.full((SIDE, SIDE, 3), 255, np.uint8),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
    )
    image = Pipeline(only(scale=0.5), SIDE)(white, rng_of(3)).image_rgb_u8
    assert set(np.unique(image[[0, -1]])) <= {PAD_VALUE, 255}
    images = [Pipeline(only(scale=0.5), SIDE)(white, rng_of(seed)).image_rgb_u8 for seed in range(8)]
    assert any((image[0, 0] == PAD_VALUE).all() for image in images)


@pytest.mark.parametrize(
    ("name", "given"), [("flip", 1.1), ("scale", 1.0), ("hue", -0.1), ("value", float("nan")), ("mixup", "much")]
)
def test_a_strength_out_of_range_is_refused_by_name(name, given):
    with pytest.raises(UsageError, match=f"training option {name} must be a number from 0"):
        Augmentation(**{name: given})


def test_strengths_are_said_and_what_is_off_is_not():
    assert str(Augmentation(hue=0, saturation=0, value=0)) == "mosaic 0.5, flip 0.5, scale 0.4, translate 0.1"
    assert str(Augmentation.off()) == "none"


def test_importing_the_library_asks_nobody_for_a_newer_version():
    code = """
import socket, sys, urllib.request
calls = []
socket.socket.connect = lambda *a: calls.append(a)
socket.getaddrinfo = lambda *a, **k: calls.append(a) or []
urllib.request.OpenerDirector.open = lambda *a, **k: calls.append(a)
from adapters._shared.training.augment import library
assert "albumentations" not in sys.modules  # and importing our own module is free of it
assert library().__version__.startswith("2.0.")
print("calls:", len(calls))
"""
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "calls: 0\n"
