"""A folder's own splits are found in every usual layout, and nothing outside the folder is read."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest

from bench.errors import InputError, UsageError
from bench.fixtures import resolve, splits_of

IMAGE_HW = (20, 40)


def put_image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*IMAGE_HW, 3), value, np.uint8))


def put_coco(path, *file_names, categories=("dog",)):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": k, "file_name": name, "width": IMAGE_HW[1], "height": IMAGE_HW[0]}
            for k, name in enumerate(file_names, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, start=1)],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [1, 2, 3, 4]} for k in range(1, len(file_names) + 1)
        ],
    }
    path.write_text(json.dumps(content))


def put_yolo(images, labels, *stems):
    labels.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        put_image(images / f"{stem}.png")
        (labels / f"{stem}.txt").write_text("0 .5 .5 .5 .5\n")


def names(fixtures):
    return [s.path.name for s in fixtures.samples]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pets").mkdir()
    return tmp_path / "pets"


@pytest.mark.parametrize(
    ("truths", "folders"),
    [
        (("instances_train2017", "instances_val2017"), ("images/train2017", "images/val2017")),
        (("instances_train2017", "instances_val2017"), ("train2017", "val2017")),
        (("instances_train2017", "instances_val2017"), ("images/train", "images/val")),
        (("instances_train", "instances_val"), ("images/train", "images/val")),
        (("instances_train", "instances_valid"), ("train", "val")),
        (("train", "val"), ("images", "images")),
        (("training", "validation"), ("train2017", "val2017")),
        (("pets_train", "pets-val"), ("images/train", "images/valid")),
    ],
)
def test_a_json_per_split_finds_its_own_images(root, truths, folders):
    for truth, folder, image in zip(truths, folders, ("a.png", "b.png"), strict=True):
        put_image(root / folder / image)
        put_coco(root / "annotations" / f"{truth}.json", image)
    assert splits_of(str(root)) == ("train", "val")
    train, val = resolve(str(root), split="train"), resolve(str(root))
    assert (names(train), names(val)) == (["a.png"], ["b.png"])
    assert (train.name, train.split, val.name, val.split) == ("pets", "train", "pets", "val")
    assert train.sha256 != val.sha256


def test_the_folder_of_a_split_comes_before_the_folder_of_all_images(root):
    put_image(root / "images" / "other.png")
    put_image(root / "val2017" / "b.png")
    put_coco(root / "annotations" / "instances_val2017.json", "b.png")
    assert resolve(str(root)).samples[0].path == root / "val2017" / "b.png"


def test_json_files_of_splits_may_lie_beside_the_images(root):
    put_image(root / "images" / "a.png")
    put_image(root / "images" / "b.png")
    put_coco(root / "train.json", "a.png")
    put_coco(root / "val.json", "b.png")
    assert (names(resolve(str(root), split="train")), names(resolve(str(root)))) == (["a.png"], ["b.png"])


def test_the_full_coco_download_takes_boxes_and_leaves_captions_and_keypoints(root):
    for split in ("train2017", "val2017"):
        put_image(root / split / f"{split}.png")
        put_coco(root / "annotations" / f"instances_{split}.json", f"{split}.png")
        put_coco(root / "annotations" / f"person_keypoints_{split}.json", f"{split}.png", categories=("person",))
        (root / "annotations" / f"captions_{split}.json").write_text("{}")
        (root / "annotations" / "image_info_test2017.json").write_text("{}")
    assert splits_of(str(root)) == ("train", "val")
    assert resolve(str(root), split="train").categories[0]["name"] == "dog"


def test_two_files_of_one_split_are_refused_by_name(root):
    put_coco(root / "annotations" / "a_val.json", "a.png")
    put_coco(root / "annotations" / "b_val.json", "a.png")
    with pytest.raises(InputError, match=r"several ground-truth files \(a_val\.json, b_val\.json\)"):
        resolve(str(root))


def test_a_file_named_instances_is_used_whole_whatever_lies_beside_it(root):
    put_image(root / "images" / "a.png")
    put_coco(root / "annotations" / "instances.json", "a.png")
    put_coco(root / "annotations" / "instances_train.json", "absent.png")
    assert splits_of(str(root)) == ()
    assert resolve(str(root), split="train").sha256 == resolve(str(root), split="val").sha256


def test_a_folder_per_split_with_the_json_beside_its_images(root):
    for folder, image in (("train", "a.png"), ("valid", "b.png"), ("test", "c.png")):
        put_image(root / folder / image)
        put_coco(root / folder / "_annotations.coco.json", image)
    assert splits_of(str(root)) == ("train", "val", "test")
    assert (names(resolve(str(root), split="train")), names(resolve(str(root)))) == (["a.png"], ["b.png"])
    assert names(resolve(str(root / "valid"))) == ["b.png"]


@pytest.mark.parametrize("layout", ["images/{split}", "{split}/images"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "val2017"])
def test_yolo_splits_in_either_nesting(root, layout, val):
    (root / "data.yaml").write_text("names: [dog, cat]\n")
    for split, stem in (("train", "a"), (val, "b")):
        folder = layout.format(split=split)
        put_yolo(root / folder, root / folder.replace("images", "labels"), stem)
    assert splits_of(str(root)) == ("train", "val")
    train, found = resolve(str(root), split="train"), resolve(str(root))
    assert (names(train), names(found)) == (["a.png"], ["b.png"])
    assert [c["name"] for c in found.categories] == ["dog", "cat"]
    assert len(found.annotations) == 1


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("first/images", "second/images"),
        ("./first/images/", "second/images"),
        ("first", "second"),
        ("../first/images", "../second/images"),  # as a well-known exporter writes it
        ("first\\images", "second\\images"),
    ],
)
def test_data_yaml_names_the_folders(root, train, val):
    for name, stem in (("first", "a"), ("second", "b")):
        put_yolo(root / name / "images", root / name / "labels", stem)
    (root / "data.yaml").write_text(f"names: [dog]\ntrain: '{train}'\nval: '{val}'\ntest: ../test/images\n")
    found = resolve(str(root), split="train"), resolve(str(root))
    assert [names(f) for f in found] == [["a.png"], ["b.png"]]
    assert [len(f.annotations) for f in found] == [1, 1]


@pytest.mark.parametrize(
    "path",
    ["../outside/images", "/outside/images", "first/../../outside/images", "C:\\outside", "..", "..\\outside\\images"],
)
def test_data_yaml_cannot_lead_out_of_the_folder(root, path):
    put_yolo(root.parent / "outside" / "images", root.parent / "outside" / "labels", "secret")
    put_yolo(root / "first" / "images", root / "first" / "labels", "a")
    text = path.replace("/outside", str(root.parent / "outside"), 1) if path.startswith("/") else path
    (root / "data.yaml").write_text(f"names: [dog]\ntrain: first/images\nval: '{text}'\n")
    assert names(resolve(str(root), split="train")) == ["a.png"]
    with pytest.raises(InputError, match=r"data\.yaml: val: .* leaves .*pets\. Use a path relative to data\.yaml"):
        resolve(str(root))


def test_a_path_in_data_yaml_that_is_not_there_is_an_error_of_that_split_alone(root):
    put_yolo(root / "first" / "images", root / "first" / "labels", "a")
    (root / "data.yaml").write_text("names: [dog]\ntrain: first/images\nval: second/images\n")
    assert splits_of(str(root)) == ("train", "val")
    with pytest.raises(InputError, match=r"'second/images' is not a folder in .*take the line out"):
        resolve(str(root))
    (root / "data.yaml").write_text("names: [dog]\ntrain: first/images\nval: [x, y]\n")
    with pytest.raises(InputError, match=r"val must be the path of one folder of images, not \['x', 'y'\]"):
        resolve(str(root))


def test_a_wrong_path_in_data_yaml_does_not_hide_the_folder_of_that_word(root):
    put_yolo(root / "images" / "val", root / "labels" / "val", "b")
    (root / "data.yaml").write_text("names: [dog]\nval: /datasets/pets/images/val\n")
    assert names(resolve(str(root))) == ["b.png"]


def test_a_flat_yolo_folder_is_used_whole_whatever_its_data_yaml_names(root):
    put_yolo(root / "images", root / "labels", "a")
    (root / "data.yaml").write_text("names: [dog]\n")
    first = resolve(str(root))
    for text in ("train: images\n", "train: ../train/images\nval: ../valid/images\n", "train: images\nval: images\n"):
        (root / "data.yaml").write_text("names: [dog]\n" + text)
        assert splits_of(str(root)) == ()
        assert names(resolve(str(root))) == names(first) == names(resolve(str(root), split="train"))


def test_images_beside_the_split_folders_are_ambiguous(root):
    put_yolo(root / "images", root / "labels", "a")
    put_yolo(root / "images" / "train", root / "labels" / "train", "b")
    with pytest.raises(InputError, match=r"images/ holds images beside the splits train"):
        resolve(str(root), split="train")


@pytest.mark.parametrize("pair", [("images/val", "images/valid"), ("val/images", "images/val")])
def test_two_folders_of_one_split_are_refused(root, pair):
    for folder in pair:
        put_yolo(root / folder, root / folder.replace("images", "labels"), "a")
    with pytest.raises(InputError, match="are both the split val"):
        resolve(str(root))


def test_a_split_that_the_folder_lacks_is_a_usage_error_naming_those_it_has(root):
    put_yolo(root / "images" / "train", root / "labels" / "train", "a")
    put_yolo(root / "images" / "test", root / "labels" / "test", "c")
    with pytest.raises(UsageError, match=r"has no split 'val'; it has: train, test\."):
        resolve(str(root))


def test_a_split_without_labels_is_not_taken_for_background(root):
    put_yolo(root / "images" / "train", root / "labels" / "train", "a")
    put_image(root / "images" / "val" / "b.png")
    with pytest.raises(InputError, match=r"labels/val: no such folder, so the images in .* have no ground truth"):
        resolve(str(root))
    (root / "labels" / "val").mkdir()
    assert resolve(str(root)).annotations == ()


def test_an_empty_split_is_named(root):
    put_yolo(root / "images" / "train", root / "labels" / "train", "a")
    (root / "images" / "val").mkdir()
    (root / "labels" / "val").mkdir()
    with pytest.raises(InputError, match=r"images/val: no image"):
        resolve(str(root))


def test_calibration_takes_its_own_split_then_train_then_the_only_one(root):
    for split, stem in (("val", "b"), ("train", "a"), ("calib", "k")):
        put_yolo(root / "images" / split, root / "labels" / split, stem)
    assert names(resolve(str(root), split="calibration")) == ["k.png"]
    shutil.rmtree(root / "images" / "calib")
    assert names(resolve(str(root), split="calibration")) == ["a.png"]
    shutil.rmtree(root / "images" / "train")
    found = resolve(str(root), split="calibration")
    assert (names(found), found.split) == (["b.png"], "calibration")


def test_both_layouts_in_one_folder_read_the_json_and_say_so(root, caplog):
    put_image(root / "images" / "val" / "b.png")
    put_coco(root / "annotations" / "instances_val.json", "b.png", categories=("from json",))
    put_yolo(root / "images" / "train", root / "labels" / "train", "a")
    with caplog.at_level(logging.INFO, "bench"):
        assert resolve(str(root)).categories[0]["name"] == "from json"
    assert "the json is read, the labels are not" in caplog.text
    with pytest.raises(UsageError, match="has no split 'train'; it has: val"):
        resolve(str(root), split="train")


def test_truth_whose_images_are_elsewhere_names_the_places(root):
    put_coco(root / "annotations" / "instances_train2017.json", "a.png")
    with pytest.raises(InputError, match=r"instances_train2017\.json has no images .*images/train2017.*pets/train2017"):
        resolve(str(root), split="train")


def test_registered_sets_name_their_splits():
    assert set(splits_of("shapes")) == {"train", "calibration", "val"}
    with pytest.raises(UsageError, match="Did you mean 'shapes'"):
        splits_of("shapse")


def test_data_yaml_comes_before_the_folder_of_that_word(root):
    put_yolo(root / "images" / "val", root / "labels" / "val", "old")
    put_yolo(root / "second" / "images", root / "second" / "labels", "b")
    (root / "data.yaml").write_text("names: [dog]\nval: second/images\n")
    assert names(resolve(str(root))) == ["b.png"]


def test_split_folders_without_any_labels_are_no_ground_truth(root):
    put_image(root / "images" / "train" / "a.png")
    put_image(root / "images" / "val" / "b.png")
    with pytest.raises(InputError, match=r"neither COCO .* nor YOLO layout"):
        resolve(str(root))
