from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import InputError
from bench.scoring import score
from bench.tests.sample_predictions import detection, entry, fixture_set, read, result
from bench.types import FixtureSet


@pytest.fixture
def fixtures() -> FixtureSet:
    return fixture_set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.json"


# forms and formats


def test_every_form_and_box_format_gives_the_same_table(path: Path, fixtures: FixtureSet) -> None:
    shapes = {
        "cxcywh_norm": ([0.15, 0.25, 0.2, 0.3], ("cx", "cy", "w", "h")),
        "cxcywh_abs": ([30, 25, 40, 30], ("cx", "cy", "w", "h")),
        "xywh_abs": ([10, 10, 40, 30], ("x", "y", "w", "h")),
        "xyxy_abs": ([10, 10, 50, 40], ("x1", "y1", "x2", "y2")),
    }
    for bbox_format, (numbers, keys) in shapes.items():
        for bbox in (numbers, dict(zip(keys, numbers, strict=True))):
            found = [detection(bbox=bbox)]
            forms = {
                "coco": [result(bbox=bbox)],
                "entries": [entry(detections=found)],
                "wrapped": {"schema_version": 1, "predictions": [entry(detections=found)], "meta": {}},
                "map": {"a.jpg": found},
            }
            for form, document in forms.items():
                got = read(path, document, fixtures, bbox_format)
                assert (got.form, got.bbox_format) == (form, bbox_format)
                assert got.detections.boxes_xywh == pytest.approx(np.array([[10, 10, 40, 30]]))
                assert got.detections.image_ids.tolist() == [10]
                assert got.detections.category_ids.tolist() == [1]


def test_the_format_is_xywh_for_coco_results_and_normalised_centres_for_the_rest(
    path: Path, fixtures: FixtureSet
) -> None:
    assert read(path, [result()], fixtures).bbox_format == "xywh_abs"
    assert read(path, [entry()], fixtures).bbox_format == "cxcywh_norm"


def test_the_meta_names_the_format_and_the_option_outranks_it_with_a_warning(path: Path, fixtures: FixtureSet) -> None:
    found = [detection(bbox=[10, 10, 50, 40])]
    wrapped = {"predictions": [entry(detections=found)], "meta": {"bbox_format": "xyxy_abs", "model": "m"}}
    got = read(path, wrapped, fixtures)
    assert got.detections.boxes_xywh.tolist() == [[10, 10, 40, 30]]
    assert got.meta["model"] == "m"
    asked = read(path, wrapped, fixtures, "xywh_abs")
    assert asked.detections.boxes_xywh.tolist() == [[10, 10, 50, 40]]
    assert asked.warnings[0].endswith("of the option counts, not that of the file (xywh_abs, not xyxy_abs)")


def test_class_id_is_a_label_in_the_order_of_the_category_ids_unless_category_id_is_given(
    path: Path, fixtures: FixtureSet
) -> None:
    found = [detection(class_id=2), detection(class_id=0), detection(class_id=0, category_id=3)]
    assert read(path, [entry(detections=found)], fixtures).detections.category_ids.tolist() == [7, 1, 3]


@pytest.mark.parametrize("empty", [[], {}, {"predictions": []}, [{"image": "a.jpg", "detections": []}]])
def test_an_empty_file_scores_zero_and_says_so(path: Path, fixtures: FixtureSet, empty: Any) -> None:
    got = read(path, empty, fixtures)
    assert score(fixtures, got.detections)["AP"] == 0.0
    assert "no detections" in got.warnings[-1]


# image join


@pytest.mark.parametrize(
    "image", ["images/a.jpg", "./images/a.jpg", "a.jpg", "other/place/a.jpg", r"C:\x\a.jpg", "10", 10]
)
def test_an_image_is_found_by_path_then_basename_then_id(path: Path, fixtures: FixtureSet, image: Any) -> None:
    assert read(path, [entry(image=image)], fixtures).detections.image_ids.tolist() == [10]


def test_a_file_name_outranks_the_same_digits_as_an_id(path: Path) -> None:
    fixtures = fixture_set(("20", "b.jpg"))
    assert read(path, [entry(image="20")], fixtures).detections.image_ids.tolist() == [10]


def test_images_of_one_basename_are_told_apart_by_folder_with_a_warning_and_never_guessed(path: Path) -> None:
    fixtures = fixture_set(("root/x/a.jpg", "root/y/a.jpg"))
    got = read(path, [entry(image="y/a.jpg")], fixtures)
    assert got.detections.image_ids.tolist() == [20]
    assert "images that share a file name were told apart by their folder (y/a.jpg)" in got.warnings
    for image in ("a.jpg", "z/a.jpg"):
        with pytest.raises(InputError, match=r"entry 0: image .*a.jpg' may be any of 2 files .*give the path"):
            read(path, [entry(image=image)], fixtures)


def test_warnings_name_repeated_missing_and_renumbered_images(path: Path, fixtures: FixtureSet) -> None:
    got = read(path, [entry(image_id=99), entry(), entry()], fixtures)
    assert got.warnings == (
        "the image has another id here and its name counts ('a.jpg' is 10)",
        "the image has an entry already and its detections are added (entry 1, 'a.jpg' and 1 more)",
        "images without an entry count as images without detections (2 images)",
    )


def test_a_file_made_on_another_version_of_the_fixtures_says_so(path: Path, fixtures: FixtureSet) -> None:
    meta = {"fixtures": "tiny", "fixtures_sha256": "1" * 64}
    assert "another version" in read(path, {"predictions": [], "meta": meta}, fixtures).warnings[0]


def test_boxes_that_mostly_end_outside_their_image_raise_a_doubt_about_the_format(
    path: Path, fixtures: FixtureSet
) -> None:
    got = read(path, [result(bbox=[120.0, 60.0, 190.0, 95.0])] * 10, fixtures)
    assert got.warnings == ("most boxes end outside their image: is the box format right (10 of 10 boxes)",)


def test_a_set_without_class_names_takes_classes_that_it_does_not_show(path: Path, fixtures: FixtureSet) -> None:
    from dataclasses import replace

    unnamed = replace(fixtures, named_categories=False)
    found = [detection(), detection(class_id=4), detection(category_id=9)]
    got = read(path, [entry(detections=found)], unnamed).detections
    assert got.category_ids.tolist() == [1, 9, 9]
    alone = read(path, [entry()], unnamed).detections
    assert score(unnamed, got) == score(unnamed, alone)


def test_zero_width_warns_with_the_count(path: Path, fixtures: FixtureSet) -> None:
    found = read(path, [entry(detections=[detection(bbox=[0.2, 0.2, 0, 0.1]), detection()])], fixtures)
    assert any("zero width or height" in w and "1 of 2" in w for w in found.warnings)
