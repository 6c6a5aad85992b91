"""Boxes stay on their objects through decoding and augmentation."""

import dataclasses

import cv2
import numpy as np
import pytest

from adapters.yolov10.data import Augmentation, AugmentedSet, Example, centred, label_of_category, load_examples
from adapters.yolov10.names import SHAPES_NAMES
from bench.errors import InputError

NOTHING = Augmentation(mosaic=0, flip=0, scale=0, translate=0, hue=0, saturation=0, value=0)


def marked(height=96, width=96):
    """A black image with one white rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    image[20:50, 30:70] = 255
    return Example(image, np.array([[30, 20, 70, 50]], np.float32), np.array([3]))


def white_box(image):
    rows, columns = np.nonzero((image > 200).all(-1))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_categories_map_by_name_and_an_unknown_one_is_named(drawn):
    assert label_of_category(drawn, SHAPES_NAMES) == {i + 1: i for i in range(8)}
    backwards = SHAPES_NAMES[::-1]
    assert label_of_category(drawn, backwards)[1] == 7
    with pytest.raises(InputError, match="disc"):
        label_of_category(drawn, ("cat", "dog"))


def test_categories_without_names_map_by_order(drawn):
    unnamed = dataclasses.replace(drawn, named_categories=False)
    assert label_of_category(unnamed, ("a", "b"))[2] == 1


def test_images_are_cached_at_the_input_size_with_their_boxes_and_without_crowds(drawn):
    examples = load_examples(drawn, label_of_category(drawn, SHAPES_NAMES), 128)
    assert len(examples) == 4
    first = examples[0]
    assert first.image_rgb_u8.shape == (96, 128, 3)
    assert first.image_rgb_u8.dtype == np.uint8
    x, y, width, height = drawn.annotations[0]["bbox"]
    np.testing.assert_allclose(first.boxes_xyxy[0], [2 * x, 2 * y, 2 * (x + width), 2 * (y + height)])
    assert len(first.labels) == 2


def test_a_damaged_image_is_an_input_error(drawn):
    drawn.samples[1].path.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"2\.png"):
        load_examples(drawn, label_of_category(drawn, SHAPES_NAMES), 64)


def test_without_augmentation_the_image_comes_out_unchanged():
    example = marked()
    out = AugmentedSet([example], 96, NOTHING, seed=0)[0]
    np.testing.assert_array_equal(out.image_rgb_u8, example.image_rgb_u8)
    np.testing.assert_array_equal(out.boxes_xyxy, example.boxes_xyxy)


def test_a_map_of_pixel_edges_becomes_one_of_pixel_centres():
    edges = np.array([[2, 0, 3], [0, 0.5, 5]], np.float32)
    pixel = 4
    centres = centred(edges) @ (pixel, pixel, 1)
    np.testing.assert_allclose(centres + 0.5, edges @ (pixel + 0.5, pixel + 0.5, 1))


@pytest.mark.parametrize("index", range(8))
def test_after_flip_zoom_and_shift_the_box_is_still_on_the_object(index):
    strength = dataclasses.replace(NOTHING, flip=0.5, scale=0.4, translate=0.1)
    out = AugmentedSet([marked()] * 8, 96, strength, seed=index)[index]
    np.testing.assert_allclose(out.boxes_xyxy[0], white_box(out.image_rgb_u8), atol=1.5)


def test_a_mosaic_holds_parts_of_four_images_with_boxes_on_their_objects():
    strength = dataclasses.replace(NOTHING, mosaic=1.0)
    examples = [marked()] * 4
    counts = []
    for seed in range(12):
        out = AugmentedSet(examples, 96, strength, seed=seed)[0]
        counts.append(len(out.labels))
        mask = np.zeros((96, 96), bool)
        for x1, y1, x2, y2 in np.round(out.boxes_xyxy).astype(int):
            mask[y1:y2, x1:x2] = True
        white = (out.image_rgb_u8 > 200).all(-1)
        assert (white & mask).sum() >= 0.9 * mask.sum()
    assert max(counts) > 1


def test_the_same_seed_epoch_and_index_give_the_same_example():
    strength = Augmentation()
    one, two = (AugmentedSet([marked()] * 4, 96, strength, seed=5) for _ in range(2))
    _ = one[2]
    np.testing.assert_array_equal(one[1].image_rgb_u8, two[1].image_rgb_u8)
    two.epoch = 1
    assert not np.array_equal(one[1].image_rgb_u8, two[1].image_rgb_u8)


def test_light_changes_leave_grey_levels_grey_and_boxes_alone():
    strength = dataclasses.replace(NOTHING, value=0.4)
    grey = Example(np.full((96, 96, 3), 100, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    out = AugmentedSet([grey], 96, strength, seed=3)[0].image_rgb_u8
    assert (out == out[0, 0, 0]).all()
    assert out[0, 0, 0] != 100
    assert cv2.cvtColor(out, cv2.COLOR_RGB2HSV)[..., 1].max() == 0
