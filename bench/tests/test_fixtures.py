"""Sets are found by name or folder, and labels find their categories."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench import manifests
from bench.errors import InputError, UsageError
from bench.fixtures import category_ids, list_fixtures, resolve
from bench.manifests import list_manifests, load_manifest
from bench.paths import data_dir
from bench.types import FixtureSet, Sample
from fixtures.shapes import render


def make_set(names, *, named=True, annotations=()):
    return FixtureSet(
        name="pets",
        split="val",
        samples=(Sample(image_id=1, path=Path("a.png"), width=4, height=4),),
        categories=tuple({"id": 10 * k + 1 if named else k + 1, "name": n} for k, n in enumerate(names)),
        annotations=annotations,
        sha256="0" * 64,
        named_categories=named,
    )


@pytest.fixture
def folder(tmp_path):
    """Return a folder called ``pets`` with one image."""
    root = tmp_path / "pets"
    (root / "images").mkdir(parents=True)
    cv2.imwrite(str(root / "images" / "7.png"), np.zeros((20, 40, 3), np.uint8))
    return root


def coco(category="dog", file_name="7.png"):
    return json.dumps(
        {
            "images": [{"id": 7, "file_name": file_name, "width": 40, "height": 20}],
            "categories": [{"id": 18, "name": category}],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4]}],
        }
    )


@pytest.fixture
def three_images(monkeypatch, tmp_path):
    """Let ``shapes`` have a validation split of 3 images, in a store of its own."""
    entry = render.render_split(tmp_path / "measured", "val", 3)
    monkeypatch.setattr(render, "manifest", lambda: {"version": 1, "splits": {"val": entry}})
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "store"))


def test_shapes_is_rendered_on_first_use_and_has_one_hash(three_images):
    steps = []
    first = resolve("shapes", progress=lambda done, total: steps.append((done, total)))
    again = resolve("shapes", progress=lambda *_: pytest.fail("rendered twice"))
    assert steps[-1] == (3, 3)
    assert (first.name, first.split, len(first.samples), len(first.categories)) == ("shapes", "val", 3, 8)
    assert first.sha256 == again.sha256 == render.set_sha256("val")
    assert all(s.path.is_file() for s in first.samples)


def test_every_shipped_manifest_follows_the_schema_and_is_listed():
    assert {"shapes", "coco128"} <= set(list_fixtures())
    for name, path in list_manifests().items():
        assert load_manifest(path)["name"] == name


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "found"},
        {"splits": {"test": {"root": ".", "format": "yolo"}}},
        {"splits": {}},
        {"splits": {"val": {"root": ".", "format": "coco"}}},
        {"splits": {"val": {"images": 3}}},
        {"surprise": 1},
        {"splits": {"val": {"root": ".", "format": "yolo", "sha256": "12"}}},
    ],
)
def test_a_manifest_outside_the_schema_is_refused(tmp_path, change):
    facts = {
        "schema": "fixture_manifest/1",
        "name": "pets",
        "kind": "registered",
        "licence": "x",
        "origin": "x",
        "splits": {"val": {"root": ".", "format": "yolo"}},
    }
    path = tmp_path / "pets.json"
    path.write_text(json.dumps(facts))
    load_manifest(path)
    path.write_text(json.dumps(facts | change))
    with pytest.raises(InputError, match="fixture_manifest"):
        load_manifest(path)


def test_an_unknown_name_is_a_usage_error_with_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'shapes'"):
        resolve("shaeps")


def test_a_path_that_does_not_exist_is_an_input_error():
    with pytest.raises(InputError, match="no such folder"):
        resolve("./shapes_of_mine")


def test_a_folder_takes_its_own_name_and_coco_comes_before_yolo(folder):
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(coco())
    (folder / "annotations" / "other.json").write_text("not looked at")
    (folder / "labels").mkdir()
    found = resolve(str(folder))
    assert (found.name, found.categories[0]["id"]) == ("pets", 18)


def test_panoptic_and_caption_files_are_not_taken_for_boxes(folder):
    (folder / "annotations").mkdir()
    (folder / "annotations" / "panoptic.json").write_text("{}")
    (folder / "annotations" / "captions_val.json").write_text("{}")
    (folder / "annotations" / "boxes.json").write_text(coco())
    assert resolve(str(folder)).categories[0]["name"] == "dog"
    (folder / "annotations" / "more.json").write_text(coco())
    with pytest.raises(InputError, match=r"several ground-truth files \(boxes\.json, more\.json\)"):
        resolve(str(folder))


def test_the_layout_of_the_coco_download_is_understood(folder):
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(coco())
    (folder / "annotations" / "person_keypoints_val2017.json").write_text("{}")
    (folder / "images").rename(folder / "val2017")
    assert resolve(str(folder)).samples[0].path == folder / "val2017" / "7.png"


def test_a_yolo_folder_needs_only_images_and_labels(folder):
    (folder / "labels").mkdir()
    (folder / "labels" / "7.txt").write_text("3 .5 .5 .5 .5")
    found = resolve(str(folder))
    assert found.annotations[0]["bbox"] == [10, 5, 20, 10]
    assert not found.named_categories


def test_a_folder_of_plain_images_calibrates_but_does_not_evaluate(folder):
    assert len(resolve(str(folder), split="calibration").samples) == 1
    assert len(resolve(str(folder / "images"), split="calibration").samples) == 1
    with pytest.raises(InputError, match=r"looked for annotations/instances.json.*images/ and labels/"):
        resolve(str(folder))


def test_a_manifest_given_by_path_is_relative_to_its_own_folder_and_its_hash_is_checked(folder, tmp_path):
    (folder / "labels").mkdir()
    facts = {
        "schema": "fixture_manifest/1",
        "name": "mine",
        "kind": "registered",
        "licence": "x",
        "origin": "x",
        "splits": {"val": {"root": "pets", "format": "yolo"}},
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(facts))
    found = resolve(str(path))
    assert found.name == "mine"
    with pytest.raises(UsageError, match="mine has no split 'calibration'"):
        resolve(str(path), split="calibration")
    facts["splits"]["val"]["sha256"] = found.sha256
    path.write_text(json.dumps(facts))
    resolve(str(path))
    (folder / "labels" / "7.txt").write_text("0 .5 .5 .1 .1")
    with pytest.raises(InputError, match="have hash"):
        resolve(str(path))


def test_a_registered_set_that_is_not_on_this_machine_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PARITY_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"does not exist\. Get the images from lightly-ai/coco128_yolo"):
        resolve("coco128")


def test_coco128_is_found_by_name_and_by_folder():
    root = data_dir() / "coco128-val"
    if not root.is_dir():
        pytest.skip(f"{root} is not present")
    by_name, by_folder = resolve("coco128"), resolve(str(root))
    assert (len(by_name.samples), len(by_name.annotations), len(by_name.categories)) == (128, 898, 80)
    assert by_name.sha256 == by_folder.sha256


def test_labels_are_matched_to_categories_by_name_in_any_order():
    assert category_ids(("dog", "cat"), make_set(["cat", "cow", "dog"])) == (21, 1)


def test_classes_that_the_set_lacks_are_listed_with_the_nearest_name():
    with pytest.raises(InputError, match=r"2 of the model's 3 classes .*'dgo' is missing. Did you mean 'dog'.*'emu'"):
        category_ids(("cat", "dgo", "emu"), make_set(["cat", "dog", "cow"]))


def test_a_set_without_names_maps_by_order_and_may_show_fewer_classes_than_the_model_has():
    assert category_ids(("a", "b", "c"), make_set(["class 0", "class 1"], named=False)) == (1, 2, 3)
    with pytest.raises(InputError, match="uses 2 classes, the model has 1"):
        category_ids(("a",), make_set(["class 0", "class 1"], named=False))


def test_importing_the_module_loads_no_image_library_and_no_runtime():
    code = (
        "import sys, bench.fixtures; heavy = {'cv2', 'yaml', 'torch', 'fixtures.shapes.compose'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONWARNINGS": "error"})


def test_only_manifests_of_the_right_schema_are_listed(tmp_path, monkeypatch):
    (tmp_path / "fixtures" / "other").mkdir(parents=True)
    (tmp_path / "fixtures" / "other" / "manifest.json").write_text('{"schema": "artifact/1"}')
    monkeypatch.setattr(manifests, "REPOSITORY", tmp_path)
    assert list_fixtures() == ()
