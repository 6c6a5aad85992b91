"""Files become examples: decoded right, resized as in inference, their truth cleaned and nothing of that hidden."""

import dataclasses
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapters._shared.tests.drawn_sets import LABEL_OF, noise, note, written_set
from adapters._shared.training.cache import PixelCache
from adapters._shared.training.cleaning import labels_by_name
from adapters._shared.training.examples import PLACEMENT, ExampleSource
from bench.errors import InputError, UsageError
from bench.geometry import Letterbox

RED, GREEN, BLUE, WHITE = (200, 30, 40), (20, 190, 60), (10, 60, 180), (255, 255, 255)


def quarters(height=48, width=64):
    """Red, green / blue, white: every turn and mirror image shows."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def source(fixtures, side_px=64, **options):
    return ExampleSource(fixtures, LABEL_OF, side_px, **options)


def decoded(tmp_path, write, suffix, size_hw=(48, 64)):
    path = tmp_path / f"given{suffix}"
    write(path)
    return source(written_set(tmp_path, [(path, *size_hw)]))[0].image_rgb_u8


def assert_quarters(image, tolerance):
    for (y, x), colour in zip([(12, 16), (12, 48), (36, 16), (36, 48)], (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.abs(image[y, x].astype(int) - colour).max() <= tolerance, (y, x, image[y, x], colour)


def test_a_plain_rgb_image_keeps_its_channels(tmp_path):
    image = decoded(tmp_path, Image.fromarray(quarters()).save, ".png")
    np.testing.assert_array_equal(image, quarters())


def test_a_grey_image_has_three_equal_channels(tmp_path):
    grey = noise(48, 64)[..., 0]
    image = decoded(tmp_path, Image.fromarray(grey).save, ".png")
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_a_cmyk_jpeg_shows_its_colours(tmp_path):
    write = Image.fromarray(quarters()).convert("CMYK").save
    assert_quarters(decoded(tmp_path, lambda path: write(path, quality=95), ".jpg"), tolerance=12)


def test_a_16_bit_png_is_scaled_to_8_bits(tmp_path):
    deep_bgr = quarters()[..., ::-1].astype(np.uint16) * 257
    assert_quarters(decoded(tmp_path, lambda path: cv2.imwrite(str(path), deep_bgr), ".png"), tolerance=1)


def test_a_palette_png_shows_its_colours(tmp_path):
    write = Image.fromarray(quarters()).convert("P", palette=Image.Palette.ADAPTIVE).save
    assert_quarters(decoded(tmp_path, write, ".png"), tolerance=3)


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 1), (8, 3)])
def test_a_turned_photograph_is_seen_upright(tmp_path, orientation, turn):
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(quarters(), turn)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decoded(tmp_path, lambda path: stored.save(path, quality=95, exif=exif), ".jpg")
    assert_quarters(image, tolerance=12)


def test_a_turned_photograph_whose_truth_speaks_of_the_stored_size_is_refused(tmp_path):
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(quarters(), 1)))
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(InputError, match=r"given\.jpg: is 64 x 48 pixels, its ground truth says 48 x 64"):
        decoded(tmp_path, lambda path: stored.save(path, exif=exif), ".jpg", size_hw=(64, 48))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_file_is_an_input_error_that_names_it(tmp_path, suffix):
    def write(path):
        Image.fromarray(noise(48, 64)).save(path)
        path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(InputError, match=rf"given\{suffix}: truncated"):
        decoded(tmp_path, write, suffix)


def test_a_missing_file_is_an_input_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png"):
        source(written_set(tmp_path, [(tmp_path / "gone.png", 8, 8)]))[0]


@settings(deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_images_and_boxes_are_resized_as_the_letterbox_of_inference_does(tmp_path_factory, height, width):
    image, box = noise(height, width), [0.25 * width, 0.5 * height, 0.5 * width, 0.5 * height]
    example = source(written_set(tmp_path_factory.mktemp("set"), [image], [note(1, box)]))[0]
    fit = Letterbox.fit((height, width), (64, 64))
    np.testing.assert_array_equal(
        example.image_rgb_u8,
        image if fit.scale == 1 else cv2.resize(image, fit.resized_hw[::-1], interpolation=cv2.INTER_LINEAR),
    )
    corners = np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]])
    offset = np.array([fit.left, fit.top, fit.left, fit.top])
    np.testing.assert_allclose(example.boxes_xyxy, fit.to_input(corners) - offset, atol=1e-4)
    assert (example.boxes_xyxy.dtype, example.labels.dtype) == (np.float32, np.int64)


def test_odd_truth_is_cleaned_and_every_case_is_counted(tmp_path):
    notes = [
        note(1, [10, 10, 20, 20]),
        note(1, [10, 10, 20, 20]),  # the same again
        note(1, [10, 10, 20, 20], 9),  # the same place, another class: kept
        note(1, [-5, 30, 20, 30]),  # beyond the left and the lower edge
        note(1, [70, 10, 20, 20]),  # outside
        note(1, [20, 20, 0, 10]),  # no width
        note(1, [0, 0, 64, 48.004]),  # rounded: not worth a word
        note(2, [0, 0, 5, 5], iscrowd=1),
    ]
    cleaned = source(written_set(tmp_path, [noise(48, 64)] * 2, notes))
    np.testing.assert_array_equal(
        cleaned[0].boxes_xyxy, [[10, 10, 30, 30], [10, 10, 30, 30], [0, 30, 15, 48], [0, 0, 64, 48]]
    )
    np.testing.assert_array_equal(cleaned[0].labels, [0, 1, 0, 0])
    assert cleaned[1].boxes_xyxy.shape == (0, 4)
    assert str(cleaned.cleaning) == (
        "2 images, 4 boxes: 1 reached outside their image and were clipped; 2 without area inside their image were "
        "dropped; 1 exact duplicates were dropped; 1 crowd regions carry no box; 1 images without boxes stay as "
        "background."
    )


def test_clean_truth_is_said_to_be_clean(tmp_path):
    assert str(source(written_set(tmp_path, [noise(8, 8)], [note(1, [1, 1, 4, 4])])).cleaning).endswith(
        "1 images, 1 boxes: nothing to clean."
    )


def test_a_class_without_a_label_is_refused_by_name(tmp_path):
    fixtures = written_set(tmp_path, [noise(8, 8)], [note(1, [1, 1, 4, 4], 9)])
    with pytest.raises(InputError, match=r"drawn: category 9 \('square'\) has no label"):
        ExampleSource(fixtures, {7: 0}, 64)


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="drawn: the train split has no image"):
        source(written_set(tmp_path, []))


def test_an_unknown_cache_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cache must be auto, on or off, not 'ram'"):
        source(written_set(tmp_path, [noise(8, 8)]), cache="ram")


def test_categories_map_by_name_and_strangers_are_named(tmp_path):
    fixtures = written_set(tmp_path, [noise(8, 8)])
    assert labels_by_name(fixtures, ("square", "disc")) == {7: 1, 9: 0}
    with pytest.raises(InputError, match=r"no class named 'square'\. Did you mean 'squares'"):
        labels_by_name(fixtures, ("disc", "squares"))


def test_categories_without_names_map_by_number(tmp_path):
    fixtures = dataclasses.replace(
        written_set(tmp_path, [noise(8, 8)]),
        named_categories=False,
        categories=({"id": 1, "name": "class 0"}, {"id": 3, "name": "class 2"}),
    )
    assert labels_by_name(fixtures, ("a", "b", "c")) == {1: 0, 3: 2}
    with pytest.raises(InputError, match="uses class 2, the model has 2 classes"):
        labels_by_name(fixtures, ("a", "b"))


def test_attributes_follow_their_boxes_and_are_nan_where_an_annotation_has_none(tmp_path):
    notes = [
        note(1, [1, 1, 0, 0], depth_m=9.0, rotation=np.eye(3).tolist()),
        note(1, [1, 1, 4, 4], depth_m=2.5, rotation=(2 * np.eye(3)).tolist()),
        note(1, [2, 2, 4, 4], 9),
    ]
    example = source(written_set(tmp_path, [noise(8, 16)] * 2, notes), attributes=("depth_m", "rotation"))[0]
    np.testing.assert_array_equal(example.attributes["depth_m"], [2.5, np.nan])
    assert example.attributes["rotation"].shape == (2, 3, 3)
    assert example.attributes["rotation"][0, 0, 0] == 2
    np.testing.assert_array_equal(example.attributes[PLACEMENT], [[[4, 0, 0], [0, 4, 0]]] * 2)


def test_an_image_without_boxes_has_attribute_columns_of_no_rows(tmp_path):
    fixtures = written_set(tmp_path, [noise(8, 16)] * 2, [note(1, [1, 1, 4, 4], rotation=np.eye(3).tolist())])
    empty = source(fixtures, attributes=("rotation",))[1]
    assert {k: v.shape for k, v in empty.attributes.items()} == {"rotation": (0, 3, 3), PLACEMENT: (0, 2, 3)}


def test_attributes_that_cannot_make_a_column_are_refused(tmp_path):
    notes = [note(1, [1, 1, 4, 4], depth_m=1, word="x", mixed=[1]), note(1, [2, 2, 4, 4], mixed=[1, 2])]
    fixtures = written_set(tmp_path, [noise(8, 8)], notes)
    with pytest.raises(InputError, match=r"no annotation has 'depth'. Did you mean 'depth_m'"):
        source(fixtures, attributes=("depth",))
    with pytest.raises(InputError, match="annotation 1: word holds no numbers"):
        source(fixtures, attributes=("word",))
    with pytest.raises(InputError, match=r"mixed has shape \(1,\) in annotation 1 and \(2,\) in annotation 2"):
        source(fixtures, attributes=("mixed",))


def test_a_cached_image_is_decoded_once_and_cannot_be_written_to(tmp_path):
    fixtures = written_set(tmp_path, [noise(32, 64)])
    kept, again = source(fixtures, cache="on"), source(fixtures, cache="off")
    first = kept[0].image_rgb_u8.copy()
    fixtures.samples[0].path.unlink()
    np.testing.assert_array_equal(kept[0].image_rgb_u8, first)
    with pytest.raises(ValueError, match="read-only"):
        kept[0].image_rgb_u8[:] = 0
    with pytest.raises(InputError):
        again[0]


def test_auto_caches_what_fits_the_limit(tmp_path):
    fixtures = written_set(tmp_path, [noise(8, 16)] * 2)
    bytes_needed = 2 * 8 * 16 * 3  # kept as small as the files are
    assert source(fixtures, cache_limit_bytes=bytes_needed).cached
    assert not source(fixtures, cache_limit_bytes=bytes_needed - 1).cached


def test_what_a_forked_process_decodes_is_there_for_the_others():
    import multiprocessing

    cache, image = PixelCache([(2, 3), (4, 5)]), noise(4, 5)
    assert cache.get(1) is None
    child = multiprocessing.get_context("fork").Process(target=cache.put, args=(1, image))
    child.start()
    child.join()
    np.testing.assert_array_equal(cache.get(1), image)
    assert cache.get(0) is None


def test_a_pickled_source_decodes_for_itself(tmp_path):
    fixtures = written_set(tmp_path, [noise(8, 16)], [note(1, [1, 1, 4, 4])])
    kept = source(fixtures, cache="on")
    first = kept[0]
    copy = pickle.loads(pickle.dumps(kept))
    np.testing.assert_array_equal(copy[0].image_rgb_u8, first.image_rgb_u8)
    fixtures.samples[0].path.unlink()
    with pytest.raises(InputError):
        copy[0]


def test_a_stretched_source_fills_the_square_and_its_boxes_and_placement_follow(tmp_path):
    fixtures = written_set(tmp_path, [noise(48, 96)], [note(1, [24, 12, 48, 24], depth_m=2.0)])
    example = source(fixtures, 64, stretch=True, attributes=("depth_m",))[0]
    assert example.image_rgb_u8.shape == (64, 64, 3)
    np.testing.assert_allclose(example.boxes_xyxy, [[16, 16, 48, 48]], atol=1e-5)
    np.testing.assert_allclose(example.attributes[PLACEMENT], [[[64 / 96, 0, 0], [0, 64 / 48, 0]]])


def test_the_camera_of_an_image_comes_with_each_of_its_boxes(tmp_path):
    fixtures = written_set(
        tmp_path, [noise(48, 64), noise(48, 64, 1)], [note(1, [2, 3, 10, 10]), note(2, [2, 3, 9, 9])]
    )
    seen = dataclasses.replace(fixtures.samples[0], camera=(500.0, 510.0, 32.0, 24.0))
    fixtures = dataclasses.replace(fixtures, samples=(seen, fixtures.samples[1]))
    examples = source(fixtures, attributes=("intrinsics",))
    np.testing.assert_array_equal(examples[0].attributes["intrinsics"], [[500, 510, 32, 24]])
    assert np.isnan(examples[1].attributes["intrinsics"]).all()


def test_an_image_smaller_than_its_training_size_is_kept_small_and_shown_large(tmp_path):
    small, tall, large = noise(24, 32), noise(90, 20), noise(128, 96)
    fixtures = written_set(tmp_path, [small, tall, large], [note(1, [4, 6, 20, 12], depth_m=2.0)])
    for cache in ("on", "off"):
        source = ExampleSource(fixtures, LABEL_OF, 64, cache=cache, attributes=("depth_m",))
        for _ in range(2):
            kept, shown = source.kept(0), source[0]
            np.testing.assert_array_equal(kept.image_rgb_u8, small)
            assert kept.boxes_xyxy.tolist() == [[4, 6, 24, 18]]
            assert source.size_hw(0) == shown.image_rgb_u8.shape[:2] == (48, 64)
            np.testing.assert_array_equal(shown.image_rgb_u8, cv2.resize(small, (64, 48)))
            assert shown.boxes_xyxy.tolist() == [[8, 12, 48, 36]]
            assert shown.attributes[PLACEMENT].tolist() == [[[2, 0, 0], [0, 2, 0]]]
            assert source.kept(1).image_rgb_u8.shape == source[1].image_rgb_u8.shape == (64, 14, 3)
            assert source.kept(2).image_rgb_u8.shape == source[2].image_rgb_u8.shape == (64, 48, 3)


def test_an_image_that_is_stretched_both_ways_is_kept_at_its_training_size(tmp_path):
    fixtures = written_set(tmp_path, [noise(24, 96)], [note(1, [4, 6, 20, 12])])
    source = ExampleSource(fixtures, LABEL_OF, 64, stretch=True)
    assert source.kept(0).image_rgb_u8.shape == source[0].image_rgb_u8.shape == (64, 64, 3)
