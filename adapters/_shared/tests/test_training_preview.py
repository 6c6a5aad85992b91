"""The preview shows every chosen image with its boxes, escapes what it is given, and needs no other file."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters._shared.tests.drawn_sets import LABEL_OF, noise, note, written_set
from adapters._shared.training.augment import Augmentation
from adapters._shared.training.dataset import TrainingSet
from adapters._shared.training.draw import colour_of, draw_boxes, ink_on
from adapters._shared.training.examples import ExampleSource
from adapters._shared.training.preview import write_preview
from bench.errors import InputError


def page_of(tmp_path, class_names=("disc", "square", "star"), count=24, augmentation=None):
    notes = [note(1, [5, 6, 20, 20]), note(1, [5, 6, 20, 20]), note(1, [15, 6, 20, 20]), note(2, [30, 6, 20, 30], 9)]
    fixtures = written_set(tmp_path, [noise(48, 60, k) for k in range(5)], notes)
    set_ = TrainingSet(ExampleSource(fixtures, LABEL_OF, 64), 64, augmentation or Augmentation(), 3)
    return write_preview(set_, class_names, tmp_path / "page" / "preview.html", count).read_text("utf-8")


def test_the_page_shows_each_image_as_it_is_and_as_two_epochs_draw_it(tmp_path):
    page = page_of(tmp_path)
    assert re.findall(r"<h3>(.*?)</h3>", page) == [f"{k}.png" for k in range(1, 6)]
    assert page.count('src="data:image/jpeg;base64,') == 15
    assert "as it is, 2 boxes" in page
    assert len(set(re.findall(r"base64,([^\"]+)", page))) == 15


def test_fewer_images_are_spread_over_the_set(tmp_path):
    assert re.findall(r"<h3>(.*?)</h3>", page_of(tmp_path, count=3)) == ["1.png", "3.png", "5.png"]


def test_the_page_needs_no_other_file(tmp_path):
    page = page_of(tmp_path)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", page)
    assert "url(" not in page


def test_strengths_cleaning_and_classes_are_said(tmp_path):
    page = page_of(tmp_path, augmentation=Augmentation(flip=0.25, mosaic=0))
    assert "<dt>flip 0.25</dt>" in page
    assert "<dt>mosaic off</dt>" in page
    assert "1 exact duplicates were dropped; 3 images without boxes stay as background." in page
    assert "2 in 1 images" in page
    assert "1 of 3 classes have no box" in page
    assert "learned from this set: star</p>" in page


def test_hostile_names_are_escaped(tmp_path):
    page = page_of(tmp_path, class_names=("<script>alert(1)</script>", "a&b", '"'))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_page_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "page").write_text("in the way")
    with pytest.raises(InputError, match=r"preview\.html: cannot be written"):
        page_of(tmp_path)


def test_a_drawn_box_outlines_its_pixels_and_the_image_is_left_alone():
    image = np.zeros((100, 100, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[30, 40, 70, 90]], np.float32), np.array([4]), ["a"] * 5)
    assert not image.any()
    for x, y in ((30, 60), (69, 60), (50, 89)):
        assert tuple(drawn[y, x]) == colour_of(4)
    assert not drawn[50:80, 40:60].any()
    assert not drawn[95:].any()


@settings(deadline=None)
@given(corners=st.lists(st.floats(-50, 150, width=32), min_size=4, max_size=4), label=st.integers(0, 200))
def test_any_box_can_be_drawn_on_a_canvas_of_any_size(corners, label):
    x0, y0, x1, y1 = corners
    box = np.array([[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]])
    for shape in ((1, 1, 3), (20, 90, 3)):
        assert draw_boxes(np.zeros(shape, np.uint8), box, np.array([label]), ["Straße"], np.array([0.5])).shape == shape


def test_neighbouring_classes_differ_in_colour_and_letters_stand_out():
    colours = np.array([colour_of(label) for label in range(80)], int)
    assert len({*map(tuple, colours)}) == 80
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 100
    for colour in colours:
        assert np.abs(colour - ink_on(tuple(colour))).max() > 120
