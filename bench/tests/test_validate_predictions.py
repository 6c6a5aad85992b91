"""Broken predictions files: each violation has its JSON path and says what to write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError, UsageError
from bench.predictions import read_predictions
from bench.predictions.fields import BOX_KEYS
from bench.tests.sample_predictions import detection, entry, fixture_set, result
from bench.tests.test_predictions_bad import BAD_FILES
from bench.types import FixtureSet
from bench.violations import Explanation, explain_file
from bench.violations.files import PREDICTIONS
from bench.violations.schemas import load_schema

NAN = float("nan")
POSE = {"R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "rot6d": [1, 0, 0, 0, 1, 0], "depth": 1.5, "t_xyz": [0, 0, 1.5]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.json"


@pytest.fixture
def fixtures() -> FixtureSet:
    return fixture_set()


def explain(path: Path, document: Any, **options: Any) -> Explanation:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return explain_file(path, **options)


def in_entry(**changes: Any) -> list[Any]:
    return [entry(detections=[detection(), detection(**changes)])]


def without(item: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in names}


def wrapped(**changes: Any) -> dict[str, Any]:
    return {"schema_version": 1, "predictions": [entry()], "meta": {}, **changes}


SECOND = "$[0].detections[1]"
BOX = {"cx": 0.5, "cy": 0.5, "w": 0.1, "h": 0.1}
CORPUS: dict[str, tuple[Any, str, str, str]] = {
    # name: document, path, what is found or wrong, fix
    "score in quotes": (in_entry(score="0.5"), f"{SECOND}.score", 'the string "0.5"', "remove the quotes: 0.5"),
    "score with a comma": (in_entry(score="0,5"), f"{SECOND}.score", 'the string "0,5"', "write 0.5"),
    "score is a word": (in_entry(score="high"), f"{SECOND}.score", 'the string "high"', "give a number, without"),
    "score is nan in words": (in_entry(score="nan"), f"{SECOND}.score", 'the string "nan"', "repair the model"),
    "score is NaN": (in_entry(score=NAN), f"{SECOND}.score", "the number NaN", "repair the model"),
    "score is Infinity": (in_entry(score=float("inf")), f"{SECOND}.score", "the number Infinity", "repair the model"),
    "score is null": (in_entry(score=None), f"{SECOND}.score", "null", "give a number"),
    "score is true": (in_entry(score=True), f"{SECOND}.score", "true", "give a number"),
    "score is a list": (in_entry(score=[0.5]), f"{SECOND}.score", "the list [0.5]", "take it out of the list: 0.5"),
    "score of 400 digits": (in_entry(score=10**400), f"{SECOND}.score", "of more than 40 digits", "give a number"),
    "score misspelt": (
        [entry(detections=[{**without(detection(), "score"), "scroe": 1}])],
        "$[0].detections[0].score",
        "the field \"scroe\" instead",
        "rename it to score",
    ),
    "score called confidence": (
        [entry(detections=[{**without(detection(), "score"), "confidence": 1}])],
        "$[0].detections[0].score",
        "is missing",
        "rename it to score",
    ),
    "no score": (
        [entry(detections=[without(detection(), "score")])], "$[0].detections[0].score", "is missing",
        "add it: a number",
    ),
    "no box": (
        [entry(detections=[without(detection(), "bbox")])], "$[0].detections[0].bbox", "is missing",
        "add it: an object with cx, cy, w, h or a list",
    ),
    "no class": (
        [entry(detections=[without(detection(), "class_id")])], "$[0].detections[0].class_id", "is missing",
        "add it: a whole number >= 0",
    ),
    "class called label": (
        [entry(detections=[{**without(detection(), "class_id"), "label": 1}])], "$[0].detections[0].class_id",
        "the field \"label\" instead", "rename it to class_id",
    ),
    "class with a point": (in_entry(class_id=1.0), f"{SECOND}.class_id", "the number 1.0", "write 1"),
    "class of a half": (in_entry(class_id=1.5), f"{SECOND}.class_id", "the number 1.5", "give a whole number"),
    "class in quotes": (in_entry(class_id="1"), f"{SECOND}.class_id", 'the string "1"', "remove the quotes: 1"),
    "class by name": (in_entry(class_id="cat"), f"{SECOND}.class_id", 'the string "cat"', "give a number"),
    "negative class": (in_entry(class_id=-1), f"{SECOND}.class_id", "the number -1", "give a number"),
    "box width in quotes": (
        in_entry(bbox={**BOX, "w": "0.5"}), f"{SECOND}.bbox.w", "a finite number >= 0; found the string \"0.5\"",
        "remove the quotes: 0.5",
    ),
    "box with NaN": (in_entry(bbox=[0.1, NAN, 0.1, 0.1]), f"{SECOND}.bbox[1]", "the number NaN", "repair the model"),
    "box of three": (in_entry(bbox=[0.1, 0.1, 0.1]), f"{SECOND}.bbox", "4 numbers (cx, cy, w, h)", "give all 4"),
    "box of eight": (in_entry(bbox=[0.1] * 8), f"{SECOND}.bbox", "a list of 8", "one box per detection"),
    "box is text": (in_entry(bbox="1,2,3,4"), f"{SECOND}.bbox", 'the string "1,2,3,4"', "give an object with cx"),
    "box is null": (in_entry(bbox=None), f"{SECOND}.bbox", "null", "give an object with cx"),
    "width misnamed": (
        in_entry(bbox={**without(BOX, "w"), "width": 0.1}), f"{SECOND}.bbox.w", "the field \"width\" instead",
        "rename it to w",
    ),
    "height missing": (in_entry(bbox=without(BOX, "h")), f"{SECOND}.bbox.h", "is missing", "add it: a number"),
    "negative width": (in_entry(bbox={**BOX, "w": -0.1}), f"{SECOND}.bbox.w", "the number -0.1", "without its sign"),
    "negative height in a list": (in_entry(bbox=[0.5, 0.5, 0.1, -0.1]), f"{SECOND}.bbox[3]", "-0.1", "without its"),
    "one box with other keys": (
        in_entry(bbox={"x1": 1, "y1": 1, "x2": 5, "y2": 5}) + [entry()] * 3, f"{SECOND}.bbox",
        "must have cx, cy, w, h", "say --bbox-format xyxy_abs",
    ),
    "pixels read as normalised": (
        [entry(detections=[detection(bbox=[30, 45, 40, 30])])], "$[0].detections[0].bbox[1]",
        "read as cxcywh_norm; found the number 45, and so in 1 of 1", "looks like pixels: --bbox-format cxcywh_abs",
    ),
    "pixels in an object": (
        wrapped(predictions=[entry(detections=[detection(bbox={"cx": 30, "cy": 25, "w": 40, "h": 30})])]),
        "$.predictions[0].detections[0].bbox.w", "within 0 and 1",
        'looks like pixels: --bbox-format cxcywh_abs, or write "bbox_format": "cxcywh_abs" in meta',
    ),
    "corners read as normalised centres": (
        [entry(detections=[detection(bbox=[10, 20, 40, 30])])], "$[0].detections[0].bbox[2]", "within 0 and 1",
        "--bbox-format xyxy_abs (or cxcywh_abs, xywh_abs)",
    ),
    "normalised read as pixels": (
        [result(bbox=[0.1, 0.1, 0.2, 0.2])], "$[0].bbox", "no number above 0.2", "--bbox-format cxcywh_norm",
    ),
    "corners in the wrong order": (
        wrapped(meta={"bbox_format": "xyxy_abs"}, predictions=[entry(detections=[detection(bbox=[50, 10, 40, 30])])]),
        "$.predictions[0].detections[0].bbox[2]", "must be >= x1, which is 50; found the number 40",
        "swap x1 and x2, or, if these are x, y, width, height, say --bbox-format xywh_abs",
    ),
    "keypoints of four": (in_entry(keypoints=[1, 2, 3, 4]), f"{SECOND}.keypoints", "4 numbers", "third number"),
    "keypoint in quotes": (in_entry(keypoints=[1, "2", 3]), f"{SECOND}.keypoints[1]", '"2"', "remove the quotes: 2"),
    "keypoint without v": (
        in_entry(keypoints=[{"x": 1, "y": 2}]), f"{SECOND}.keypoints[0].v", "is missing", "add it: a number",
    ),
    "no keypoints in the list": (in_entry(keypoints=[]), f"{SECOND}.keypoints", "an empty list", "a flat list of x"),
    "rotation of two rows": (in_entry(R=POSE["R"][:2]), f"{SECOND}.R", "a list of 2", "3 lists of 3 numbers"),  # type: ignore[index]
    "rotation in quotes": (
        in_entry(R=[[1, 0, 0], [0, "1", 0], [0, 0, 1]]), f"{SECOND}.R[1][1]", '"1"', "remove the quotes: 1",
    ),
    "rot6d of nine": (in_entry(rot6d=[0] * 9), f"{SECOND}.rot6d", "a list of 9", "a list of 6 numbers"),
    "depth in quotes": (in_entry(depth="1.5"), f"{SECOND}.depth", '"1.5"', "remove the quotes: 1.5"),
    "translation of two": (in_entry(t_xyz=[1, 2]), f"{SECOND}.t_xyz", "[1, 2]", "a list of 3 numbers"),
    "mask_path is a number": (in_entry(mask_path=3), f"{SECOND}.mask_path", "the number 3", "path of a file"),
    "field twice": (
        '[{"image": "a.jpg", "detections": [{"class_id": 1, "score": 1, "score": 2, "bbox": [0.1, 0.1, 0.1, 0.1]}]}]',
        "$[0].detections[0].score", "given twice", "keep one of the two",
    ),
    "detection is null": ([entry(detections=[None])], "$[0].detections[0]", "null", "an object with class_id"),
    "entry is a list": ([entry(), []], "$[1]", "an empty list", "an object with image and detections"),
    "entry without image": ([{"detections": []}], "$[0].image", "is missing", "the file name of the image"),
    "image misnamed": (
        [entry(), {"file_name": "b.jpg", "detections": []}], "$[1].image", "the field \"file_name\" instead",
        "rename it to image",
    ),
    "detections misspelt": (
        [{"image": "a.jpg", "detection": []}], "$[0].detections", "the field \"detection\" instead", "rename it to",
    ),
    "image is a list": ([entry(image=["a.jpg"])], "$[0].image", "a list of 1", "a file name in quotes"),
    "image_id in quotes": ([entry(image_id="10")], "$[0].image_id", 'the string "10"', "a whole number"),
    "detections is an object": ([entry(detections={})], "$[0].detections", "{}", "a list of detections, [] for none"),
    "map to an object": ({"a.jpg": detection()}, '$["a.jpg"]', "an object with class_id", "a list of detections"),
    "map to a broken detection": (
        {"a.jpg": [detection(score=None)]}, '$["a.jpg"][0].score', "null", "give a number",
    ),
    "schema_version in quotes": (wrapped(schema_version="1"), "$.schema_version", '"1"', "write 1, without quotes"),
    "schema_version zero": (wrapped(schema_version=0), "$.schema_version", "the number 0", "write 1"),
    "schema_version true": (wrapped(schema_version=True), "$.schema_version", "true", "write 1"),
    "predictions misspelt": (
        {"schema_version": 1, "prediction": [entry()]}, "$.predictions", "the field \"prediction\" instead",
        "rename it to predictions",
    ),
    "predictions is an object": (wrapped(predictions={}), "$.predictions", "{}", "a list of entries"),
    "meta is a list": (wrapped(meta=[]), "$.meta", "an empty list", "an object"),
    "unknown format in meta": (
        wrapped(meta={"bbox_format": "xywh"}), "$.meta.bbox_format", 'the string "xywh"', 'write "xywh_abs"',
    ),
    "bad hash in meta": (
        wrapped(meta={"protocol_hash": "abc"}), "$.meta.protocol_hash", 'the string "abc"', "a sha256: 64 digits",
    ),
    "meta number in quotes": (
        wrapped(meta={"max_detections": "300"}), "$.meta.max_detections", '"300"', "remove the quotes: 300",
    ),
    "COCO result without id": (
        [result(), without(result(), "image_id")], "$[1].image_id", "is missing", "add it: a whole number",
    ),
    "COCO category as a float": ([result(category_id=1.0)], "$[0].category_id", "the number 1.0", "write 1"),
    "COCO result is a number": ([result(), 3], "$[1]", "the number 3", "an object with image_id, category_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPUS)
def test_a_broken_file_is_explained_by_path_and_fix(path: Path, name: str) -> None:
    document, place, problem, fix = CORPUS[name]
    explained = explain(path, document)
    assert explained.label == PREDICTIONS
    found = {v.path: v for v in explained.violations}
    assert place in found, [str(v) for v in explained.violations]
    assert problem in f"{found[place].problem}; found {found[place].found}"
    assert fix in found[place].fix
    assert explained.total == 1, [str(v) for v in explained.violations]


IN_SET: dict[str, tuple[Any, str, str, str]] = {
    "class beyond the set": (
        in_entry(class_id=3), f"{SECOND}.class_id", "is outside 0 to 2", "sparse COCO ids go in category_id",
    ),
    "category beyond the set": (
        [result(), result(category_id=2)], "$[1].category_id", "is not one of the 3 categories", "go in class_id",
    ),
    "unknown image": ([entry(), entry(image="bb.jpg")], "$[1].image", "not an image of 'tiny'", "did you mean 'b.jpg'"),
    "unknown image in a map": (
        {"0001.png": []}, '$["0001.png"]', "not an image of 'tiny'", "the set that it was made for",
    ),
    "unknown image id": ([result(image_id=11)], "$[0].image_id", "the number 11", "the set that it was made for"),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_SET)
def test_images_and_classes_are_looked_up_in_the_set_that_is_given(path: Path, fixtures: FixtureSet, name: str) -> None:
    document, place, problem, fix = IN_SET[name]
    assert explain(path, document).total == 0
    explained = explain(path, document, fixtures=fixtures)
    (violation,) = explained.violations
    assert violation.path == place
    assert problem in f"{violation.problem}; found {violation.found}"
    assert fix in violation.fix


def test_a_file_name_of_two_images_needs_its_folder(path: Path) -> None:
    explained = explain(path, [entry(image="a.jpg")], fixtures=fixture_set(("x/a.jpg", "y/a.jpg")))
    assert explained.violations[0].path == "$[0].image"
    assert "may be any of 2 files" in explained.violations[0].problem
    assert explained.violations[0].fix == "give more of the path, or the image id"


# agreement: with the reader, and with the schema


@pytest.mark.parametrize("name", BAD_FILES)
def test_whatever_the_reader_refuses_has_a_violation_and_a_fix(path: Path, fixtures: FixtureSet, name: str) -> None:
    document, _ = BAD_FILES[name]
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, encoding="utf-8")
    try:
        explained = explain_file(path, fixtures=fixtures)
    except UsageError as error:  # another document of this project: the set says nothing about it
        assert name == "another document", error  # noqa: PT017
        return
    except InputError as error:  # not even the beginning of a JSON file
        assert re.search("has no JSON|byte 0 is|byte 1 is", str(error))  # noqa: PT017
        return
    keys_of_another_format = "keys of another format" in name
    assert explained.total or keys_of_another_format, name
    assert all(v.fix and v.path.startswith("$") for v in explained.violations)
    if keys_of_another_format:  # the option is the evaluator's: the format is told instead
        assert "score the file with --bbox-format xyxy_abs" in explained.notes[0]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.sampled_from(["nan", "a.jpg", "0.5", ""]),
    st.lists(st.floats(0, 1), max_size=9), st.just({}), st.just([]),
)  # fmt: skip
FIELDS = ["class_id", "category_id", "score", "bbox", "keypoints", "image", "image_id", "detections", "meta",
          "schema_version", "predictions", "R", "depth", "t_xyz", "rot6d", "w", "cx", "bbox_format"]  # fmt: skip


def spoil(value: Any, data: st.DataObject, name: str, replacement: Any) -> Any:
    """Replace, remove or add a field in one of the objects of a document."""
    objects: list[dict[str, Any]] = []

    def collect(inner: Any) -> None:
        if isinstance(inner, dict):
            objects.append(inner)
        for child in inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ():
            collect(child)

    collect(value)
    target = data.draw(st.sampled_from(objects))
    if name in target and data.draw(st.booleans()):
        del target[name]
    else:
        target[name] = replacement
    return value


@settings(deadline=None, max_examples=150)
@given(data=st.data(), form=st.sampled_from(["coco", "entries", "wrapped"]), name=st.sampled_from(FIELDS), value=VALUES)
def test_what_is_said_to_be_valid_satisfies_the_schema_and_can_be_read(
    data: st.DataObject, form: str, name: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents: dict[str, Any] = {
        "coco": [result(), result(**POSE)],
        "entries": [entry(detections=[detection(), detection(**POSE)]), entry(image="b.jpg")],
        "wrapped": wrapped(predictions=[entry(detections=[detection(**POSE)])], meta={"model": "m"}),
    }
    document = spoil(json.loads(json.dumps(documents[form])), data, name, value)
    path = tmp_path_factory.mktemp("spoilt") / "predictions.json"
    fixtures = fixture_set()
    explained = explain(path, document, fixtures=fixtures)
    if explained.total:
        return
    schema = load_schema("predictions")
    jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text()))
    read_predictions(path, fixtures, bbox_format=explained.bbox_format)


@pytest.mark.parametrize("bbox_format", BOX_KEYS)
@pytest.mark.parametrize("as_object", [True, False])
def test_a_sound_file_of_any_format_is_valid(
    path: Path, fixtures: FixtureSet, bbox_format: str, as_object: bool
) -> None:
    numbers = {"cxcywh_norm": [0.15, 0.25, 0.2, 0.3], "cxcywh_abs": [30, 25, 40, 30], "xywh_abs": [10, 10, 40, 30],
               "xyxy_abs": [10, 10, 50, 40]}[bbox_format]  # fmt: skip
    box = dict(zip(BOX_KEYS[bbox_format], numbers, strict=True)) if as_object else numbers
    found = [detection(bbox=box, keypoints=[1, 2, 0.5], depth="nan", **without(POSE, "depth"))]
    for document in ([entry(detections=found)], wrapped(predictions=[entry(detections=found)]), {"a.jpg": found},
                     [result(bbox=box)]):  # fmt: skip
        explained = explain(path, document, bbox_format=bbox_format, fixtures=fixtures)
        assert explained.violations == ()


def test_what_the_harness_writes_is_valid(path: Path, fixtures: FixtureSet) -> None:
    import numpy as np

    from bench.predictions import write_predictions
    from bench.types import Prediction

    found = Prediction(boxes_xyxy=np.float32([[10, 10, 50, 40]]), scores=np.float32([0.9]), labels=np.int64([1]))
    for wrap in (True, False):
        write_predictions(path, {10: found}, fixtures, (1, 3, 7), wrap=wrap, meta={"model": "m"})
        assert explain_file(path, fixtures=fixtures).violations == ()


# notes: allowed, and probably not meant


def test_notes_tell_what_is_not_read_or_counts_twice(path: Path, fixtures: FixtureSet) -> None:
    document = {
        "schema_versoin": 1,
        "schema_version": 3,
        "predictions": [entry(detections=[detection(keypoint=[1, 2, 3])]), entry(image=r"x\a.jpg")],
    }
    notes = explain(path, document, fixtures=fixtures).notes
    assert notes == (
        "schema_version 3 is later than 1 and is read as 1",
        "the field 'keypoint' of detections is not read: is keypoints meant?",
        "$.predictions[1].image means an image that has an entry already at $.predictions[0].image: both count",
        "2 images of 'tiny' have no entry: they count as without detections",
    )


def test_without_a_set_the_file_says_that_images_were_not_looked_up(path: Path) -> None:
    assert explain(path, [entry(image="nowhere.jpg")]).notes == (
        "images and classes were not looked up: give the set with --fixtures",
    )


def test_violations_beyond_the_limit_are_counted(path: Path) -> None:
    explained = explain(path, [result(score="1")] * 50, limit=3)
    assert [v.path for v in explained.violations] == ["$[0].score", "$[1].score", "$[2].score"]
    assert (explained.more, explained.total) == (47, 50)


def test_a_hundred_thousand_broken_detections_take_seconds(path: Path) -> None:
    import time

    broken = json.dumps(detection(score="0.5"))
    path.write_text('[{"image": "a.jpg", "detections": [' + ",".join([broken] * 100_000) + "]}]")
    began = time.perf_counter()
    assert explain_file(path).total == 100_000
    assert time.perf_counter() - began < 20
