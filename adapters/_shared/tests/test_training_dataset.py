"""A sample depends on the seed and its key alone: not on the order, the process or the cache."""

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from adapters._shared.tests.drawn_sets import LABEL_OF, bright_pixels, noise, note, with_rectangle, written_set
from adapters._shared.training.augment import Augmentation
from adapters._shared.training.dataset import SampleKey, TrainingSet
from adapters._shared.training.examples import PLACEMENT, ExampleSource
from adapters._shared.training.mosaic import MIN_SIDE_PX, MIN_VISIBLE
from adapters.yolov10.process import letterbox

SIDE = 64
EVERYTHING = Augmentation(mosaic=0.5, mixup=0.5, degrees=5)
KEYS = [SampleKey(epoch, index, closing) for epoch in (0, 1, 5) for index in range(3) for closing in (False, True)]


def training_set(tmp_path, augmentation=EVERYTHING, seed=3, **options):
    notes = [note(k, [5, 6, 20, 20], depth_m=float(k)) for k in (1, 2)]
    fixtures = written_set(tmp_path, [noise(48, 60, k) for k in range(3)], notes)
    return TrainingSet(ExampleSource(fixtures, LABEL_OF, SIDE, **options), SIDE, augmentation, seed)


def digest(example):
    parts = (example.image_rgb_u8, example.boxes_xyxy, example.labels, *example.attributes.values())
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def test_the_same_key_gives_the_same_bytes_in_any_order(tmp_path):
    forwards = {key: digest(training_set(tmp_path)[key]) for key in KEYS}
    set_ = training_set(tmp_path)
    assert {key: digest(set_[key]) for key in KEYS[::-1]} == forwards
    assert len(set(forwards.values())) == len(KEYS)


@pytest.mark.parametrize(("how", "workers"), [("fork", 2), ("spawn", 1)])
def test_the_same_key_gives_the_same_bytes_in_other_processes(tmp_path, how, workers):
    set_ = training_set(tmp_path, attributes=("depth_m",))
    here = [digest(set_[key]) for key in KEYS]
    fresh = training_set(tmp_path, attributes=("depth_m",))
    loader = DataLoader(
        fresh, batch_size=3, sampler=KEYS, collate_fn=list, num_workers=workers, multiprocessing_context=how
    )
    assert [digest(example) for batch in loader for example in batch] == here


def test_epoch_index_and_seed_each_change_the_sample(tmp_path):
    set_ = training_set(tmp_path)
    first = digest(set_[SampleKey(0, 0)])
    others = [set_[SampleKey(1, 0)], set_[SampleKey(0, 1)], training_set(tmp_path, seed=4)[SampleKey(0, 0)]]
    assert first not in {digest(other) for other in others}


def test_the_cache_changes_no_byte(tmp_path):
    kept, fresh = training_set(tmp_path, cache="on"), training_set(tmp_path, cache="off")
    for key in KEYS:
        assert digest(kept[key]) == digest(fresh[key]) == digest(kept[key])


def test_every_sample_is_square_with_rows_that_belong_together(tmp_path):
    set_ = training_set(tmp_path, Augmentation(mosaic=0.5, mixup=0.5), attributes=("depth_m",))
    counts = set()
    for epoch in range(30):
        example = set_[SampleKey(epoch, epoch % 3)]
        counts.add(len(example.labels))
        assert (example.image_rgb_u8.shape, example.image_rgb_u8.dtype) == ((SIDE, SIDE, 3), np.uint8)
        assert example.boxes_xyxy.dtype == np.float32
        assert {len(example.labels), *map(len, example.attributes.values())} == {len(example.boxes_xyxy)}
        assert set(example.attributes) == {"depth_m", PLACEMENT}
        assert (example.boxes_xyxy >= 0).all()
        assert (example.boxes_xyxy <= SIDE).all()
    assert len(counts) > 3


def test_without_changes_a_sample_is_the_letterbox_of_inference(tmp_path):
    set_ = training_set(tmp_path, Augmentation.off())
    canvas, box = letterbox(noise(48, 60, 1), (SIDE, SIDE))
    example = set_[SampleKey(4, 1)]
    np.testing.assert_array_equal(example.image_rgb_u8, canvas)
    np.testing.assert_allclose(example.boxes_xyxy, box.to_input(np.array([[5, 6, 25, 26]], np.float32)), atol=1e-4)
    assert example.image_id == 2


def test_closing_epochs_show_single_images(tmp_path):
    strong = Augmentation(**{**{n: 0.0 for n in Augmentation.__dataclass_fields__}, "mosaic": 1.0, "mixup": 1.0})
    set_, plain = training_set(tmp_path, strong), training_set(tmp_path, Augmentation.off())
    for index in range(3):
        closed = set_[SampleKey(7, index, closing=True)]
        np.testing.assert_array_equal(closed.image_rgb_u8, plain[SampleKey(0, index)].image_rgb_u8)
        assert digest(set_[SampleKey(7, index)]) != digest(closed)


def test_a_set_of_one_image_can_be_joined_with_itself(tmp_path):
    fixtures = written_set(tmp_path, [noise(48, 64)], [note(1, [5, 6, 50, 40])])
    set_ = TrainingSet(ExampleSource(fixtures, LABEL_OF, SIDE), SIDE, Augmentation(mosaic=1, mixup=1), 0)
    assert len(set_[SampleKey(0, 0)].labels) > 1


def test_a_joined_image_is_not_zoomed_or_shifted_once_more():
    white = with_rectangle((SIDE, SIDE), (0, 0, SIDE, SIDE))
    strength = Augmentation(mosaic=1, scale=0, translate=1, hue=0, saturation=0, value=0)
    set_ = TrainingSet(Listed([white]), SIDE, strength, 0)
    for epoch in range(5):
        assert (set_[SampleKey(epoch, 0)].image_rgb_u8 == 255).all()


def test_small_files_fill_a_joined_image_as_large_ones_do(tmp_path):
    white = np.full((16, 16, 3), 255, np.uint8)
    source = ExampleSource(written_set(tmp_path, [white]), LABEL_OF, SIDE)
    assert source.kept(0).image_rgb_u8.shape == (16, 16, 3)
    strength = Augmentation(mosaic=1, scale=0, translate=1, hue=0, saturation=0, value=0)
    set_ = TrainingSet(source, SIDE, strength, 0)
    for epoch in range(5):
        assert (set_[SampleKey(epoch, 0)].image_rgb_u8 == 255).all()


class Listed(list):
    """A source in memory."""

    kept = list.__getitem__

    def size_hw(self, index):
        return self[index].image_rgb_u8.shape[:2]


@settings(deadline=None)
@given(
    x0=st.integers(4, 40), y0=st.integers(4, 20), width=st.integers(6, 16), height=st.integers(6, 16),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_box_of_a_joined_and_changed_sample_stays_on_its_object(x0, y0, width, height, seed):
    # four times the same image, each with one rectangle that touches no border: its pieces can be told apart
    example = with_rectangle((48, SIDE), (x0, y0, x0 + width, y0 + height))
    strength = Augmentation(mosaic=1, flip=0.5, scale=0.4, value=0.15, hue=0.1, saturation=0.5)
    out = TrainingSet(Listed([example]), SIDE, strength, seed)[SampleKey(0, 0)]
    bright = bright_pixels(out.image_rgb_u8).astype(np.uint8)
    _, _, found, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    pieces = [np.array([x, y, x + w, y + h]) for x, y, w, h, _ in found[1:]]
    for box in out.boxes_xyxy:
        near = [k for k, piece in enumerate(pieces) if np.abs(piece - box).max() <= 1]
        assert near, (box, pieces)
        pieces.pop(near[0])
    for piece in pieces:
        size = piece[2:] - piece[:2]
        assert size.min() <= MIN_SIDE_PX + 1 or np.prod(size - 1) <= MIN_VISIBLE * width * height * 1.4**2
