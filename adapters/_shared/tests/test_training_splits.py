"""A training run finds images to learn from and images to judge on, and says when they are not independent."""

import json
import re
import shutil
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters._shared.training.splits import training_splits
from bench.errors import InputError, UsageError
from bench.paths import data_dir


def put_images(folder, stems):
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        noise = np.random.default_rng(zlib.crc32(stem.encode())).integers(0, 256, (8, 8, 3))
        cv2.imwrite(str(folder / f"{stem}.png"), noise.astype(np.uint8))


def put_coco(root, split, file_names, categories=(("dog", 1), ("cat", 2)), folder=None):
    truth = root / "annotations" / (f"instances_{split}.json" if split else "instances.json")
    truth.parent.mkdir(parents=True, exist_ok=True)
    truth.write_text(
        json.dumps(
            {
                "images": [
                    {"id": k, "file_name": name, "width": 8, "height": 8} for k, name in enumerate(file_names, start=1)
                ],
                "categories": [{"id": number, "name": name} for name, number in categories],
                "annotations": [
                    {"id": k, "image_id": k, "category_id": categories[0][1], "bbox": [1, 1, 3, 3]}
                    for k in range(1, len(file_names) + 1)
                ],
            }
        )
    )
    put_images(root / (folder or f"images/{split}"), [name.removesuffix(".png") for name in file_names])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pets").mkdir()
    return tmp_path / "pets"


def whole(root, count):
    """A COCO folder of one set."""
    put_coco(root, "", [f"{k:04d}.png" for k in range(count)], folder="images")
    return str(root)


def names(fixtures):
    return {s.path.name for s in fixtures.samples}


def test_a_folder_with_both_splits_uses_them_without_a_word(root):
    put_coco(root, "train", ["a1.png", "a2.png"])
    put_coco(root, "val", ["b1.png"])
    splits = training_splits(str(root))
    assert (names(splits.train), names(splits.val)) == ({"a1.png", "a2.png"}, {"b1.png"})
    assert (splits.train.split, splits.val.split, splits.note) == ("train", "val", "")


def test_a_folder_without_val_gives_up_a_share_and_says_so(root):
    splits = training_splits(whole(root, 60), seed=0)
    assert names(splits.train) | names(splits.val) == {f"{k:04d}.png" for k in range(60)}
    assert not names(splits.train) & names(splits.val)
    held = len(splits.val.samples)
    assert splits.note == (
        f"no val split in {root}: {held} of 60 images held out (seed 0); type --val DIR to give your own"
    )
    assert {a["image_id"] for a in splits.val.annotations} == {s.image_id for s in splits.val.samples}
    assert len(splits.train.annotations) == 60 - held
    assert (splits.train.split, splits.val.split) == ("train", "val")
    assert len({splits.train.sha256, splits.val.sha256, training_splits(str(root), seed=1).val.sha256}) == 3


def test_a_folder_with_train_alone_gives_up_a_share_of_it(root):
    put_coco(root, "train", [f"{k}.png" for k in range(10)])
    splits = training_splits(str(root))
    assert len(splits.train.samples) + len(splits.val.samples) == 10
    assert "images held out" in splits.note


def test_a_folder_with_val_alone_has_nothing_to_learn_from(root):
    put_coco(root, "val", ["b.png"])
    with pytest.raises(UsageError, match="has no split 'train'; it has: val"):
        training_splits(str(root))


def test_added_images_move_none_of_the_others(root):
    before = training_splits(whole(root, 40), seed=3)
    after = training_splits(whole(root, 80), seed=3)
    assert names(before.val) <= names(after.val)
    assert names(before.train) <= names(after.train)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(2, 12), seed=st.integers(0, 10**6), share=st.floats(0.001, 0.999))
def test_neither_part_is_ever_empty(root, count, seed, share):
    splits = training_splits(whole(root, count), seed=seed, val_fraction=share)
    assert splits.train.samples
    assert splits.val.samples
    assert len(splits.train.samples) + len(splits.val.samples) == count


def test_the_share_is_about_the_one_asked_for(root):
    path = whole(root, 1000)
    found = [len(training_splits(path, seed=seed, val_fraction=0.2).val.samples) for seed in range(3)]
    assert all(abs(count - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5 for count in found)
    assert len(set(found)) > 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_a_usage_error(root, share):
    with pytest.raises(UsageError, match="val_fraction must lie above 0 and below 1"):
        training_splits(whole(root, 4), val_fraction=share)


def test_composed_and_decomposed_spellings_of_a_name_share_their_fate(root, tmp_path):
    other = tmp_path / "other"
    composed, decomposed = [f"\u00e9{k}.png" for k in range(30)], [f"e\u0301{k}.png" for k in range(30)]
    put_coco(root, "", composed, folder="images")
    put_coco(other, "", decomposed, folder="images")
    first, second = training_splits(str(root)), training_splits(str(other))
    assert {n[1:] for n in names(first.val)} == {n[2:] for n in names(second.val)}


def test_val_train_judges_on_the_training_images_and_calls_it_no_estimate(root):
    splits = training_splits(whole(root, 5), "train")
    assert names(splits.val) == names(splits.train)
    assert splits.val.sha256 == splits.train.sha256
    assert "on the 5 training images of pets themselves" in splits.note
    assert "no estimate for unseen data" in splits.note
    assert "(same file)" not in splits.note


def test_another_folder_given_to_judge_on(root, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    put_coco(root, "train", ["a.png"])
    put_coco(root, "val", ["b.png"])
    put_coco(other, "", ["c.png"], folder="images")
    splits = training_splits(str(root), str(other))
    assert (names(splits.train), names(splits.val), splits.val.name) == ({"a.png"}, {"c.png"}, "other")


def test_a_single_image_is_both_parts_and_the_note_says_so(root):
    splits = training_splits(whole(root, 1))
    assert names(splits.train) == names(splits.val) == {"0000.png"}
    assert splits.note.startswith("the only image of ")
    assert "\n" not in splits.note


def test_two_images_are_one_to_learn_from_and_one_to_judge_on(root):
    splits = training_splits(whole(root, 2))
    assert (len(splits.train.samples), len(splits.val.samples)) == (1, 1)


def test_images_that_are_in_both_splits_are_counted_by_content(root):
    put_coco(root, "train", ["a.png", "b.png", "c.png"])
    put_coco(root, "val", ["x.png", "y.png", "z.png"])
    shutil.copy(root / "images/train/a.png", root / "images/val/y.png")
    shutil.copy(root / "images/train/c.png", root / "images/val/z.png")
    assert training_splits(str(root)).note.startswith(
        "2 of the 3 validation images of pets are training images too (same file)"
    )


def test_the_same_folder_to_judge_on_is_noticed(root):
    path = whole(root, 3)
    assert "3 of the 3 validation images" in training_splits(path, path).note


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ((("dog", 1),), r"only in pets \(train\): cat\."),
        ((("dog", 1), ("cat", 2), ("emu", 3)), r"only in pets \(val\): emu\."),
        ((("dog", 2), ("cat", 1)), r"of another id: 'dog' 1 and 2, 'cat' 2 and 1\."),
    ],
)
def test_splits_of_different_categories_are_refused_by_name(root, categories, message):
    put_coco(root, "train", ["a.png"])
    put_coco(root, "val", ["b.png"], categories=categories)
    with pytest.raises(InputError, match=rf"different categories: .*{message}"):
        training_splits(str(root))


def put_yolo(root, split, labels):
    put_images(root / "images" / split, labels)
    (root / "labels" / split).mkdir(parents=True)
    for stem, label in labels.items():
        (root / "labels" / split / f"{stem}.txt").write_text(f"{label} .5 .5 .5 .5\n")


def test_sets_without_class_names_agree_on_the_larger_number_of_classes(root):
    put_yolo(root, "train", {"a": 4, "b": 0})
    put_yolo(root, "val", {"c": 1})
    splits = training_splits(str(root))
    assert len(splits.train.categories) == 5
    assert splits.train.categories == splits.val.categories


def test_an_empty_split_is_an_input_error(root):
    put_coco(root, "train", ["a.png"])
    put_coco(root, "val", [])
    with pytest.raises(InputError, match="its split val holds no image"):
        training_splits(str(root))
    put_coco(root, "train", [])
    with pytest.raises(InputError, match="its split train holds no image"):
        training_splits(str(root), "train")


def test_a_set_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'shapes'"):
        training_splits("shaps")


def test_real_photographs_are_parted_without_a_val_split():
    root = data_dir() / "coco128-val"
    if not root.is_dir():
        pytest.skip(f"{root} is not present")
    splits = training_splits(str(root))
    found = re.search(r"(\d+) of 128 images held out", splits.note)
    assert found is not None
    assert len(splits.val.samples) == int(found[1])
    assert 5 <= int(found[1]) <= 22
    assert len(splits.train.categories) == 80
