"""Altered images: what changes, what moves along, and that the seed decides everything."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import testing
from bench.errors import UsageError
from bench.fixtures import resolve
from bench.scenarios.altering import alter_image, alter_set, write_folder
from bench.scenarios.chance import Chance
from bench.scenarios.definitions import Scenario, load_scenarios
from bench.scenarios.moves import Moved, Turn, Window
from bench.scenarios.pixels import line_kernel

CHANCE = Chance(seed=0, image_id=1, step=0)


def scenario(*steps):
    return Scenario(name="mine", description="mine", definition={"description": "mine", "alter": list(steps)})


def picture(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def box(x, y, w, h, **more):
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, **more}


def window(left, top, width, height, min_visible=0.3):
    return Window(left=left, top=top, width=width, height=height, min_visible=min_visible)


def filled(image_hw, bbox):
    """An image that is white inside a box of whole pixels."""
    image = np.zeros((*image_hw, 3), np.uint8)
    x, y, w, h = bbox
    image[y : y + h, x : x + w] = 255
    return image


def extent(image):
    rows, columns = np.flatnonzero(image.any(axis=(1, 2))), np.flatnonzero(image.any(axis=(0, 2)))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


@given(
    degrees=st.sampled_from([-270, -90, 0, 90, 180, 270, 360]),
    image_hw=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_quarter_turn_moves_the_box_exactly_with_its_pixels(degrees, image_hw, data):
    x, y = data.draw(st.integers(0, image_hw[1] - 2)), data.draw(st.integers(0, image_hw[0] - 2))
    w, h = data.draw(st.integers(1, image_hw[1] - x)), data.draw(st.integers(1, image_hw[0] - y))
    turn = Turn(degrees=float(degrees), image_hw=image_hw)
    pixels = turn.pixels(filled(image_hw, (x, y, w, h)))
    moved = Moved()
    (truth,) = turn.truth([box(x, y, w, h)], moved)
    assert pixels.shape[:2] == turn.canvas_hw
    np.testing.assert_allclose(truth["bbox"], extent(pixels), atol=1e-9)
    assert truth["area"] == w * h
    assert moved == Moved()


@given(degrees=st.floats(-180, 180), image_hw=st.tuples(st.integers(20, 40), st.integers(20, 40)))
@settings(max_examples=40, deadline=None)
def test_at_any_angle_the_pixels_of_an_object_lie_within_its_box_and_all_within_the_canvas(degrees, image_hw):
    turn = Turn(degrees=degrees, image_hw=image_hw)
    pixels = turn.pixels(filled(image_hw, (4, 5, 11, 8)))
    corners = turn.points(np.array([[0, 0], [image_hw[1], 0], [0, image_hw[0]], [image_hw[1], image_hw[0]]]))
    assert (corners >= -1e-6).all()
    assert (corners <= np.array(turn.canvas_hw[::-1]) + 1e-6).all()
    white = (pixels > 180).astype(np.uint8)
    (truth,) = turn.truth([box(4, 5, 11, 8)], Moved())
    x, y, w, h = truth["bbox"]
    left, top, width, height = extent(white)
    assert left >= x - 0.51
    assert top >= y - 0.51
    assert left + width <= x + w + 0.51
    assert top + height <= y + h + 0.51


def test_clockwise_is_clockwise():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = 255
    turned = Turn(degrees=90.0, image_hw=(2, 3)).pixels(image)
    assert turned.shape == (3, 2, 3)
    assert turned[0, 1].all()
    assert turned.any(axis=2).sum() == 1


def test_a_polygon_keeps_a_tilted_box_tight_and_without_one_it_is_counted_as_loose():
    turn = Turn(degrees=45.0, image_hw=(100, 100))
    diamond = [50, 40, 60, 50, 50, 60, 40, 50]
    moved = Moved()
    tight, loose = turn.truth([box(40, 40, 20, 20, segmentation=[diamond]), box(40, 40, 20, 20)], moved)
    assert tight["bbox"][2] == pytest.approx(20 / np.sqrt(2))
    assert loose["bbox"][2] == pytest.approx(20 * np.sqrt(2))
    assert moved.loose == 1


def test_labelled_keypoints_turn_with_the_pixels_and_unlabelled_ones_stay_at_nothing():
    turn = Turn(degrees=90.0, image_hw=(40, 60))
    (truth,) = turn.truth([box(0, 0, 9, 9, keypoints=[10, 5, 2, 0, 0, 0], num_keypoints=1)], Moved())
    np.testing.assert_allclose(truth["keypoints"], [35, 10, 2, 0, 0, 0])


def test_a_window_cuts_boxes_and_counts_what_is_too_little_visible_as_a_crowd_region():
    moved = Moved()
    cut = window(10, 10, 20, 20).truth(
        [
            box(12, 12, 4, 6),  # inside
            box(25, 12, 10, 10),  # half of it
            box(29, 12, 10, 10),  # a tenth
            box(31, 12, 10, 10),  # outside
            box(28, 10, 10, 10, iscrowd=1),  # a crowd region stays one
        ],
        moved,
    )
    assert [a["bbox"] for a in cut] == [[2, 2, 4, 6], [15, 2, 5, 10], [19, 2, 1, 10], [18, 0, 2, 10]]
    assert [a["iscrowd"] for a in cut] == [0, 0, 1, 1]
    assert [a["area"] for a in cut] == [24, 50, 10, 20]
    assert moved == Moved(clipped=1, ignored=1, gone=1)


def test_from_min_visible_on_an_object_counts():
    half = box(5, 0, 10, 10)
    for min_visible, crowd in ((0.5, 0), (0.51, 1)):
        (cut,) = window(0, 0, 10, 10, min_visible).truth([half], Moved())
        assert cut["iscrowd"] == crowd


def test_keypoints_outside_a_window_are_unlabelled():
    truth = box(0, 0, 20, 20, keypoints=[2, 2, 2, 15, 2, 1, 5, 5, 0], num_keypoints=2)
    (cut,) = window(1, 1, 10, 10, 0.0).truth([truth], Moved())
    assert cut["keypoints"] == [1, 1, 2, 0, 0, 0, 0, 0, 0]
    assert cut["num_keypoints"] == 1


def test_a_box_without_extent_is_kept_inside_and_dropped_outside():
    flat = [box(3, 3, 0, 5), box(15, 3, 0, 5)]
    assert len(window(0, 0, 10, 10).truth(flat, Moved())) == 1


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_cropped_box_is_where_its_pixels_are(data):
    height, width = data.draw(st.integers(8, 40)), data.draw(st.integers(8, 40))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    chance = Chance(seed=data.draw(st.integers(0, 99)), image_id=3, step=0)
    cut = Window.drawn({"op": "crop", "keep": 0.6, "min_visible": 0.0}, (height, width), chance)
    pixels = cut.pixels(filled((height, width), (x, y, w, h)))
    truth = cut.truth([box(x, y, w, h)], Moved())
    assert pixels.shape[:2] == cut.canvas_hw == (round(0.6 * height), round(0.6 * width))
    if truth:
        assert truth[0]["bbox"] == extent(pixels)
        assert truth[0]["area"] == pytest.approx((pixels > 0).all(axis=2).sum())
    else:
        assert not pixels.any()


@pytest.mark.parametrize("name", ["low_light", "blur", "jpeg", "rotated", "cropped"])
def test_the_same_seed_gives_the_same_image_whatever_stands_beside_it(name):
    chosen = load_scenarios()[name]
    image, truth = picture(), [box(5, 5, 30, 20)]
    first = alter_image(image, truth, chosen, image_id=7, seed=3)
    again = alter_image(image, truth, chosen, image_id=7, seed=3)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert first[0].dtype == np.uint8
    assert not np.array_equal(first[0], image)


@pytest.mark.parametrize("name", ["low_light", "rotated", "cropped"])
def test_another_seed_or_image_id_gives_another_chance(name):
    chosen, image = load_scenarios()[name], picture(200, 200)
    shown = {alter_image(image, [], chosen, image_id=i, seed=s)[0].tobytes() for i in range(4) for s in range(4)}
    assert len(shown) > (1 if name == "rotated" else 8)


def test_the_image_given_and_its_truth_are_left_as_they_were():
    image, truth = picture(), [box(5, 5, 30, 20, keypoints=[6, 6, 2])]
    before = image.copy(), json.dumps(truth)
    for chosen in load_scenarios().values():
        if chosen.alters:
            alter_image(image, truth, chosen, image_id=1, seed=0)
    np.testing.assert_array_equal(image, before[0])
    assert json.dumps(truth) == before[1]


def test_low_light_darkens_by_its_formula_and_its_noise_has_the_stated_spread():
    image = np.full((100, 100, 3), 128, np.uint8)
    dark = alter_image(image, [], scenario({"op": "low_light", "exposure": 0.5, "gamma": 2}), image_id=1, seed=0)[0]
    assert (dark == round(255 * 0.5 * (128 / 255) ** 2)).all()
    noisy = alter_image(image, [], scenario({"op": "noise", "std": 10}), image_id=1, seed=0)[0].astype(float)
    assert noisy.mean() == pytest.approx(128, abs=0.3)
    assert noisy.std() == pytest.approx(10, abs=0.3)


def test_motion_blur_is_a_line_of_its_length_that_keeps_the_brightness():
    kernel = line_kernel(9, 0.0)
    assert kernel.sum() == pytest.approx(1)
    assert np.count_nonzero(kernel.sum(axis=1) > 1e-6) == 1
    np.testing.assert_allclose(line_kernel(9, 90.0), kernel.T, atol=1e-6)
    flat = np.full((30, 30, 3), 90, np.uint8)
    assert (alter_image(flat, [], scenario({"op": "motion_blur", "length_px": 9}), image_id=1, seed=0)[0] == 90).all()


def test_jpeg_is_what_opencv_writes_at_that_quality():
    image = picture()
    out = alter_image(image, [], scenario({"op": "jpeg", "quality": 20}), image_id=1, seed=0)[0]
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    np.testing.assert_array_equal(out, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.fixture
def images(tmp_path):
    return resolve(str(testing.fake_folder(tmp_path / "fakes", 5)))


def test_steps_follow_each_other(images):
    twice = scenario({"op": "rotate", "degrees": [90]}, {"op": "rotate", "degrees": [270]})
    image = picture()
    out, truth, _ = alter_image(image, [box(3, 4, 5, 6)], twice, image_id=1, seed=0)
    np.testing.assert_array_equal(out, image)
    np.testing.assert_allclose(truth[0]["bbox"], [3, 4, 5, 6])


def test_a_written_folder_is_what_a_run_scores_and_a_second_writing_has_the_same_hash(images, tmp_path):
    chosen = load_scenarios()["cropped"]
    ours = alter_set(images, chosen, seed=4, folder=tmp_path / "scratch").fixtures
    write_folder(images, chosen, seed=4, out=tmp_path / "given")
    theirs = resolve(str(tmp_path / "given"))
    assert ours.sha256 == theirs.sha256
    assert ours.annotations == theirs.annotations
    assert [s.image_id for s in theirs.samples] == [s.image_id for s in images.samples]
    other = alter_set(images, chosen, seed=5, folder=tmp_path / "other").fixtures
    assert other.sha256 != ours.sha256
    info = json.loads((tmp_path / "given" / "annotations" / "instances.json").read_text())["info"]
    assert info["made_from_sha256"] == images.sha256
    assert info["seed"] == 4


def test_altered_pixels_keep_the_truth_as_it_is(images, tmp_path):
    made = alter_set(images, load_scenarios()["blur"], seed=0, folder=tmp_path / "scratch").fixtures
    assert made.annotations == images.annotations
    assert made.categories == images.categories


def test_images_of_one_name_in_two_folders_do_not_overwrite_each_other(images, tmp_path):
    first, second, *rest = images.samples
    copied = tmp_path / "copy" / first.path.name
    copied.parent.mkdir()
    copied.write_bytes(second.path.read_bytes())
    twins = replace(images, samples=(first, replace(second, path=copied), *rest))
    made = alter_set(twins, load_scenarios()["jpeg"], seed=0, folder=tmp_path / "scratch").fixtures
    assert len({s.path.name for s in made.samples}) == len(twins.samples)


def test_a_folder_that_holds_something_is_not_written_into(images, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="is not empty"):
        write_folder(images, load_scenarios()["blur"], seed=0, out=tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_failed_writing_leaves_nothing_behind(images, tmp_path, monkeypatch):
    broken = replace(images, samples=(*images.samples[:-1], replace(images.samples[-1], path=Path("gone.png"))))
    with pytest.raises(Exception, match=r"gone\.png"):
        write_folder(broken, load_scenarios()["blur"], seed=0, out=tmp_path / "given")
    assert not (tmp_path / "given").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["fakes"]
