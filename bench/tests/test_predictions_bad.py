from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError, UsageError
from bench.predictions import read_predictions
from bench.tests.sample_predictions import detection, entry, fixture_set, read, result
from bench.types import FixtureSet


@pytest.fixture
def fixtures() -> FixtureSet:
    return fixture_set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.json"


def bad_files() -> dict[str, tuple[Any, str]]:
    nan, inf = float("nan"), float("inf")
    deep = '[{"image_id": ' + "[" * 100_000
    return {
        "unknown image id": ([result(), result(image_id=11)], r"result 1: image_id 11 is not in fixture set 'tiny'"),
        "unknown image name": ([entry(image="aa.jpg")], r"entry 0: image 'aa.jpg' is not in .* Did you mean 'a.jpg'"),
        "unknown image in a map": ({"zzzzzz": [detection()]}, r"entry 'zzzzzz': image 'zzzzzz' is not in"),
        "unknown category": (
            [result(category_id=2)],
            r"result 0: category_id 2 is not one of the 3 categories .*1 to 7",
        ),
        "label too large": (
            [entry(detections=[detection(class_id=3)])],
            r"entry 0, detection 0: class_id 3 is outside 0 to 2",
        ),
        "negative label": ([entry(detections=[detection(class_id=-1)])], r"class_id -1 is outside 0 to 2"),
        "unknown category in an entry": ([entry(detections=[detection(category_id=9)])], r"detection 0: category_id 9"),
        "bare NaN score": ([result(), result(score=nan)], r"result 1: field 'score' is nan, not finite"),
        "bare Infinity score": ([result(score=inf)], r"result 0: field 'score' is inf, not finite"),
        "text nan score": ([result(score="nan")], r"result 0: field 'score' is 'nan', not finite"),
        "text -inf coordinate": ([result(bbox=[1, "-inf", 3, 4])], r"result 0: field 'bbox y' is '-inf', not finite"),
        "number beyond float64": ([result(score=10**400)], r"result 0: field 'score' is inf"),
        "1e999": (
            '[{"image_id":10,"category_id":1,"bbox":[1,1,2,1e999],"score":1}]',
            r"result 0: field 'bbox h' is inf",
        ),
        "NaN coordinate": (
            {"a.jpg": [detection(bbox=[0.1, nan, 0.1, 0.1])]},
            r"entry 'a.jpg', detection 0: field 'bbox cy' is nan",
        ),
        "negative width": ([result(bbox=[10, 10, -4, 3])], r"result 0: bbox \(10, 10, -4, 3\) has negative width"),
        "negative height": (
            [entry(detections=[detection(bbox=[0.5, 0.5, 0.1, -0.1])])],
            r"entry 0, detection 0: bbox .* negative height",
        ),
        "score is text": ([result(score="0.9")], r"result 0: field 'score' must be a number, got text, '0.9'"),
        "score is true": ([result(score=True)], r"result 0: field 'score' must be a number, got a truth value"),
        "score is null": ([result(score=None)], r"result 0: field 'score' must be a number, got null"),
        "image_id is a float": (
            [result(image_id=10.0)],
            r"result 0: field 'image_id' must be an integer, got a number, 10.0",
        ),
        "image_id is text": ([result(image_id="10")], r"result 0: field 'image_id' must be an integer, got text"),
        "category_id is true": ([result(category_id=True)], r"result 0: field 'category_id' must be an integer"),
        "class_id is text": (
            [entry(detections=[detection(class_id="cat")])],
            r"field 'class_id' must be an integer, got text",
        ),
        "bbox of three": ([result(bbox=[1, 2, 3])], r"result 0: field 'bbox' must be 4 numbers or an object"),
        "bbox of text": ([result(bbox="1,2,3,4")], r"result 0: field 'bbox' must be 4 numbers .* got text"),
        "bbox holds a list": ([result(bbox=[1, 2, 3, [4]])], r"result 0: field 'bbox h' must be a number, got a list"),
        "bbox with the keys of another format": (
            [entry(detections=[detection(bbox={"x1": 1, "y1": 1, "x2": 5, "y2": 5})])],
            r"bbox as cxcywh_norm needs cx, cy, w, h, got x1, x2, y1, y2; .* xyxy_abs: say so with --bbox-format",
        ),
        "a field is missing": (
            [{"image_id": 10, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            r"result 0: field 'score' is missing",
        ),
        "no class": (
            [entry(detections=[{"score": 1, "bbox": [0, 0, 0, 0]}])],
            r"detection 0: field 'class_id' is missing",
        ),
        "no box": ([entry(detections=[{"score": 1, "class_id": 1}])], r"detection 0: field 'bbox' is missing"),
        "item is a number": ([result(), 3], r"result 1: the item must be an object, got a number, 3"),
        "entry is a list": ([entry(), []], r"entry 1 must be an object, got a list"),
        "entry without detections": (
            [entry(), {"image": "b.jpg"}],
            r"entry 1: fields 'image' and 'detections' are needed, got image",
        ),
        "entry names no image": ([{"detections": []}], r"entry 0: fields 'image' and 'detections' are needed"),
        "image is a list": (
            [entry(image=["a.jpg"])],
            r"entry 0: field 'image' must be a file name or an integer id, got a list",
        ),
        "detections is an object": (
            [entry(detections={})],
            r"entry 0: field 'detections' must be a list, got an object",
        ),
        "map of objects": ({"a.jpg": detection()}, r"entry 'a.jpg': field 'detections' must be a list, got an object"),
        "detection is null": ([entry(detections=[None])], r"entry 0, detection 0: it must be an object, got null"),
        "predictions is an object": ({"predictions": {}}, r"field 'predictions' must be a list, got an object"),
        "schema_version is text": (
            {"schema_version": "1", "predictions": []},
            r"field 'schema_version' must be an integer",
        ),
        "schema_version is zero": (
            {"schema_version": 0, "predictions": []},
            r"field 'schema_version' must be an integer of at least 1",
        ),
        "meta is a list": ({"predictions": [], "meta": []}, r"field 'meta' must be an object, got a list"),
        "meta names an unknown format": (
            {"predictions": [], "meta": {"bbox_format": "yxyx"}},
            r"'meta.bbox_format' is text, 'yxyx'; known: cx",
        ),
        "ground truth": ({"images": [], "annotations": []}, r"is COCO ground truth, not predictions"),
        "another document": ({"schema": "suite_result/1"}, r"is a suite_result/1 document, not predictions"),
        "image given twice in a map": ('{"a.jpg": [], "a.jpg": []}', r"the name 'a.jpg' is given twice in one object"),
        "truncated": (
            '[{"image_id": 10,\n "category_id": ',
            r"not JSON at line 2, column 17: Expecting value .*cut off",
        ),
        "trailing comma": ('[{"image_id": 10},]', r"not JSON at line 1, column 19"),
        "trailing text": ("[]\n[]", r"not JSON at line 2, column 1: Extra data"),
        "top level is a number": ("3", r"byte 0 is b'3', JSON predictions begin with"),
        "top level is text": (' "abc"', r"byte 1 is b'\"', JSON predictions begin with"),
        "an integer of 5000 digits": ('[{"image_id": 1' + "0" * 5000 + "}]", r"holds a number that cannot be read"),
        "nothing": ("", r"has no JSON"),
        "blank": (" \n ", r"has no JSON"),
        "deeply nested": (deep, r"nested too deeply"),
        "normalised boxes read as pixels": (
            [result(bbox=[0.1, 0.2, 0.3, 0.4])],
            r"all 1 boxes lie within 0.4, but .*--bbox-format cxcywh_norm",
        ),
        "pixels read as normalised": (
            [entry(detections=[detection(bbox=[30, 25, 40, 30])])],
            r"entry 0, detection 0: bbox has the value 40, .*--bbox-format cxcywh_abs",
        ),
    }


BAD_FILES = bad_files()


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_file_place_and_remedy(path: Path, fixtures: FixtureSet, name: str) -> None:
    document, message = BAD_FILES[name]
    with pytest.raises(InputError, match=message) as caught:
        read(path, document, fixtures)
    assert str(caught.value).startswith(str(path))


def test_corners_in_the_wrong_order_are_refused_with_the_likely_format(path: Path, fixtures: FixtureSet) -> None:
    with pytest.raises(InputError, match=r"result 1: bbox \(50, 10, 40, 30\) has x2 < x1; .*--bbox-format xywh_abs"):
        read(path, [result(bbox=[10, 10, 40, 30]), result(bbox=[50, 10, 40, 30])], fixtures, "xyxy_abs")


def test_a_box_that_overflows_in_pixels_is_refused(path: Path, fixtures: FixtureSet) -> None:
    with pytest.raises(InputError, match=r"result 0: field 'bbox width' is inf, not finite once in pixels"):
        read(path, [result(bbox=[-1e308, 0, 1e308, 1])], fixtures, "xyxy_abs")


def test_bytes_that_are_not_utf8_are_refused_with_their_position(path: Path, fixtures: FixtureSet) -> None:
    path.write_bytes(b'{\n"caf\xe9.jpg": []}')
    with pytest.raises(InputError, match=r"byte 6 \(line 2\) is not UTF-8"):
        read_predictions(path, fixtures)
    path.write_bytes("[]".encode("utf-16"))
    with pytest.raises(InputError, match=r"byte 0 is b'\\xff'"):
        read_predictions(path, fixtures)


def test_a_byte_order_mark_is_read_over(path: Path, fixtures: FixtureSet) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([result()]).encode())
    assert len(read_predictions(path, fixtures).detections) == 1


@pytest.mark.parametrize("head", [b"\0", b"[", b'[{"image_id": 10}, '])
def test_two_gigabytes_of_garbage_are_refused_at_once(path: Path, fixtures: FixtureSet, head: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(2 << 30)
    began = time.perf_counter()
    with pytest.raises(InputError, match=r"byte 0 is|has 2.00 GiB, files over 1.00 GiB are refused"):
        read_predictions(path, fixtures)
    assert time.perf_counter() - began < 1


def test_a_folder_a_missing_file_and_a_pipe_are_refused(tmp_path: Path, fixtures: FixtureSet) -> None:
    import os

    with pytest.raises(InputError, match="is a folder"):
        read_predictions(tmp_path, fixtures)
    with pytest.raises(InputError, match="No such file"):
        read_predictions(tmp_path / "absent.json", fixtures)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_predictions(tmp_path / "pipe", fixtures)


def test_an_unknown_box_format_is_a_usage_error_that_suggests_the_nearest(path: Path, fixtures: FixtureSet) -> None:
    with pytest.raises(UsageError, match=r"--bbox-format 'xywh' does not exist. Did you mean 'xywh_abs'"):
        read(path, [], fixtures, "xywh")


def test_boxes_without_extent_say_nothing_about_the_unit(path: Path, fixtures: FixtureSet) -> None:
    assert len(read(path, [result(bbox=[0, 0, 0, 0])], fixtures).detections) == 1
