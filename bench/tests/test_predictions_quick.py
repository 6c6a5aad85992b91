"""The quick reader gives what the exact one gives, or leaves the file to it."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.predictions import exact, quick, read_predictions, typed
from bench.predictions.columns import Columns
from bench.predictions.document import parse_document
from bench.predictions.fields import BOX_KEYS
from bench.tests.sample_predictions import detection, entry, fixture_set, result
from bench.types import FixtureSet

POSE_NAMES = ["nose", "tail"]


def pose_set() -> FixtureSet:
    plain = fixture_set()
    categories = tuple({**c, "keypoints": POSE_NAMES, "sigmas": [0.1, 0.1]} for c in plain.categories)
    return replace(plain, categories=categories)


number = st.one_of(
    st.floats(0, 90),
    st.integers(0, 90),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        [1e-320, 5e-324, 1.7976931348623157e308, 2**53 + 1, 2**64 + 1, 10**25, -0.0, 0.1 + 0.2, 1e22, 1e23]
    ),
)
odd = st.sampled_from(
    [
        None,
        True,
        "nan",
        "0.5",
        [],
        {},
        float("nan"),
        float("inf"),
        10**400,
        -1,
        2**63,
        2**70,
        "caf\xe9",
        'a"b',
        "\ud800",
    ]
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 30).flatmap(lambda n: odd if n == 0 else usual)


@st.composite
def items(draw: st.DrawFn, form: str, bbox_format: str, strange: bool) -> dict[str, Any]:
    value = mostly if strange else (lambda usual: usual)
    numbers = [draw(value(number)) for _ in range(4)]
    as_object = draw(st.booleans()) if strange else False
    item: dict[str, Any] = {
        "score": draw(value(number)),
        "bbox": dict(zip(BOX_KEYS[bbox_format], numbers, strict=True)) if as_object else numbers,
    }
    if form == "coco":
        item["image_id"] = draw(value(st.sampled_from([10, 20, 30])))
        item["category_id"] = draw(value(st.sampled_from([1, 3, 7])))
    else:
        if draw(st.booleans()):
            item["category_id"] = draw(value(st.sampled_from([1, 3, 7])))
        if "category_id" not in item or draw(st.booleans()):
            item["class_id"] = draw(value(st.integers(0, 2)))
    if draw(st.booleans()):
        item["keypoints"] = draw(value(st.lists(value(number), min_size=6, max_size=6)))
    if strange:
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            item[draw(st.sampled_from(["id", "area", "iscrowd", "extra", "keypoints", "x"]))] = draw(value(number))
        if draw(st.integers(0, 15)) == 0:
            del item[draw(st.sampled_from(sorted(item)))]
    return dict(draw(st.permutations(sorted(item.items(), key=lambda pair: pair[0]))))


@st.composite
def documents(draw: st.DrawFn, strange: bool) -> tuple[str, str | None]:
    """The text of a file and the box format asked for."""
    form = draw(st.sampled_from(["coco", "entries", "wrapped", "map"]))
    bbox_format = draw(st.sampled_from(sorted(BOX_KEYS)))
    found = st.lists(items(form, bbox_format, strange), max_size=4)
    if form == "coco":
        document: Any = draw(found)
    elif form == "map":
        document = draw(st.dictionaries(st.sampled_from(["a.jpg", "images/b.jpg", "30"]), found, max_size=3))
        if strange and draw(st.integers(0, 8)) == 0:
            document[draw(st.sampled_from(["predictions", "schema", "annotations", "images"]))] = draw(found)
    else:
        listed = []
        for _ in range(draw(st.integers(0 if form == "wrapped" else 1, 3))):
            one = {"image": draw(st.sampled_from(["a.jpg", "b.jpg", "30", 10])), "detections": draw(found)}
            if draw(st.booleans()):
                one["image_id"] = draw(
                    mostly(st.sampled_from([10, 20, None])) if strange else st.sampled_from([10, 20])
                )
                if strange and draw(st.booleans()):
                    del one["image"]
            listed.append(one)
        document = listed
        if form == "wrapped":
            document = {"schema_version": 1, "predictions": listed, "meta": {"model": "m", "size": {"hw": [1, 2]}}}
    text = json.dumps(document, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    if strange and draw(st.integers(0, 3)) == 0:
        text = broken(draw, text)
    return text, bbox_format


def broken(draw: st.DrawFn, text: str) -> str:
    """A name twice, another spelling of one, a cut, or a stray character."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return text.replace('"score"', '"score": 0.25, "score"', 1)
    if kind == 1:
        return text.replace('"score"', '"sc\\u006fre"', 1)
    at = draw(st.integers(0, len(text)))
    return text[:at] if kind == 2 else text[:at] + draw(st.sampled_from(list(' ,"}]0\n\x0b'))) + text[at:]


def columns_equal(ours: Columns, theirs: Columns) -> None:
    for name in ("samples", "category_ids", "scores", "boxes", "has_box"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.dtype == other.dtype, name
        np.testing.assert_array_equal(mine, other, err_msg=name)
        if mine.dtype == np.float64:
            np.testing.assert_array_equal(np.signbit(mine), np.signbit(other))
    for name in ("form", "meta", "bbox_format", "keypoints", "listed"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.notes.sentences() == theirs.notes.sentences()
    rows = range(len(ours.scores))
    assert [ours.place(row) for row in rows] == [theirs.place(row) for row in rows]


@settings(max_examples=400, deadline=None)
@given(made=documents(strange=True), pose=st.booleans(), piece=st.sampled_from([1, 60, 200, 1 << 18]))
def test_what_the_quick_reader_takes_the_exact_one_reads_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[str, str | None], pose: bool, piece: int
) -> None:
    text, asked = made
    fixtures, data = (pose_set() if pose else fixture_set()), text.encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typed, "PIECE_BYTES", piece)
        found = quick.read_columns(data, fixtures, asked, keypoints=pose)
    if found is not None:
        document = parse_document(tmp_path_factory.getbasetemp() / "p.json", data)
        columns_equal(found, exact.read_columns(document, fixtures, asked, keypoints=pose))


@settings(max_examples=150, deadline=None)
@given(made=documents(strange=False), pose=st.booleans(), piece=st.sampled_from([1, 60, 1 << 18]))
def test_the_quick_reader_takes_well_formed_files_of_every_form(
    made: tuple[str, str | None], pose: bool, piece: int
) -> None:
    text, asked = made
    try:
        exact.read_columns(json.loads(text), fixture_set(), asked, keypoints=pose)
    except InputError:
        return  # a finite number of more than float64 holds
    if any(str(large) in text for large in (2**70, 10**25)):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typed, "PIECE_BYTES", piece)
        assert quick.read_columns(text.encode(), fixture_set(), asked, keypoints=pose) is not None


@pytest.mark.parametrize(
    ("document", "asked"),
    [
        ([result()], None),
        ([result(id=1, area=1200.0, iscrowd=0)], None),
        ([result(bbox={"x": 1, "y": 2, "w": 3, "h": 4}), result(bbox={"x": 1, "y": 2, "w": 3.5, "h": 4})], None),
        ([entry(), entry(image="b.jpg", detections=[])], None),
        ({"a.jpg": [detection()], "b.jpg": []}, None),
        ({"schema_version": 1, "predictions": [entry(image_id=10)], "meta": {"bbox_format": "cxcywh_norm"}}, None),
        ([], None),
        ({}, None),
    ],
)
def test_files_as_tools_write_them_need_no_exact_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, document: Any, asked: str | None
) -> None:
    monkeypatch.setattr(exact, "read_columns", lambda *a, **k: pytest.fail("the exact reader was needed"))
    (tmp_path / "p.json").write_text(json.dumps(document))
    read_predictions(tmp_path / "p.json", fixture_set(), bbox_format=asked)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('[{"image_id":10,"category_id":1,"bbox":[1,2,3,4],"score":0.5,"score":0.9}]', False),
        ('[{"image_id":10,"category_id":1,"bbox":[1,2,3,4],"score":0.5,"sc\\u006fre":0.9}]', False),
        ('[{"image_id":10,"category_id":1,"bbox":[1,2,3,4],"sc\\u006fre":0.5}]', True),
        ('{"a.jpg": [], "a.jpg": []}', False),
        ('{"predictions": [], "meta": {"model": "a", "model": "b"}}', False),
        ('{"predictions": [], "predictions": []}', False),
        ('{"predictions": [{"image": "a.jpg", "image": "b.jpg", "detections": []}]}', False),
    ],
)
def test_a_name_given_twice_is_left_to_the_exact_reader(text: str, taken: bool) -> None:
    assert (quick.read_columns(text.encode(), fixture_set(), None, keypoints=False) is not None) is taken


def test_two_rows_cannot_hide_a_repeat_behind_a_missing_box() -> None:
    rows = '{"image_id":10,"category_id":1,"bbox":[1,2,3,4],"score":0.5,"score":0.9}'
    rows += ',{"image_id":10,"category_id":1,"score":1}'
    assert quick.read_columns(f"[{rows}]".encode(), fixture_set(), None, keypoints=False) is None


ONE = '{"image_id":10,"category_id":1,"bbox":[1,2,3,4],"score":0.5}'


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (f"[{ONE},{ONE},{ONE}]", 3),
        (f" [ {ONE} ,\n{ONE},\n {ONE} ] \n", 3),
        (f"[{ONE}, {ONE},]", None),
        (f"[{ONE},,{ONE}]", None),
        (f"[{ONE},{ONE}] ]", None),
        (f"[{ONE},{ONE}]]", None),
        (f"[{ONE},{ONE}] x", None),
        (f"[[{ONE},{ONE}]", None),
        (f"[{ONE},{ONE}", None),
        (f"\x0b[{ONE},{ONE}]", None),
        (f"[{ONE} {ONE}]", None),
        (f"[,{ONE},{ONE}]", None),
    ],
)
@pytest.mark.parametrize("piece", [1, 70, 1 << 18])
def test_a_list_in_pieces_is_json_exactly_when_the_whole_is(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int | None, piece: int
) -> None:
    monkeypatch.setattr(typed, "PIECE_BYTES", piece)
    found = quick.read_columns(text.encode(), fixture_set(), None, keypoints=False)
    assert (None if found is None else len(found.scores)) == count


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("text", ["[]", '[{"image_id":11}]', "[nope"])
def test_the_collector_is_left_as_it_was(tmp_path: Any, enabled: bool, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        try:
            read_predictions(tmp_path / "p.json", fixture_set())
        except InputError:
            assert text != "[]"
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


# keypoints


def points(**changes: Any) -> dict[str, Any]:
    return result(**{"keypoints": [12.0, 15.0, 0.9, 40.0, 30.0, 0.8], **changes})


def read_pose(path: Any, document: Any, **options: Any) -> Any:
    path.write_text(json.dumps(document))
    return read_predictions(path, pose_set(), **options)


def test_keypoints_are_read_where_the_set_has_some_and_left_alone_elsewhere(tmp_path: Any) -> None:
    found = read_pose(tmp_path / "p.json", [points()]).detections
    assert found.keypoints_xyv.tolist() == [[[12, 15, 0.9], [40, 30, 0.8]]]
    assert read_pose(tmp_path / "p.json", [points()], keypoints=False).detections.keypoints_xyv is None
    odd_ones = [result(keypoints="none"), result()]
    (tmp_path / "p.json").write_text(json.dumps(odd_ones))
    assert read_predictions(tmp_path / "p.json", fixture_set()).detections.keypoints_xyv is None


def test_a_result_without_a_box_takes_the_extent_of_its_keypoints(tmp_path: Any) -> None:
    bare = points()
    del bare["bbox"]
    found = read_pose(tmp_path / "p.json", [bare, points()]).detections
    assert found.boxes_xywh.tolist() == [[12, 15, 28, 15], [10, 10, 40, 30]]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([points(), result()], r"result 1: has no keypoints, its category has 2 .*--task detect"),
        ([points(keypoints=[1, 2, 3])], r"result 0: has 3 keypoint numbers, its category has 2 keypoints"),
        (
            [points(keypoints=[1, 2, 3, 4])],
            r"result 0: field 'keypoints' must be a list of x, y, score .* got 4 numbers",
        ),
        ([points(keypoints=[])], r"got 0 numbers"),
        ([points(keypoints=[1, 2, 3, 4, float("nan"), 6])], r"result 0: field 'keypoint 1 y' is nan, not finite"),
        ([points(keypoints=[1, 2, "nan", 4, 5, 6])], r"field 'keypoint 0 score' is 'nan', not finite"),
        ([points(keypoints=[1, 2, 3, 4, 5, "6"])], r"field 'keypoint 1 score' must be a number, got text"),
        ([{"image_id": 10, "category_id": 1, "score": 1}], r"result 0: field 'bbox' is missing"),
    ],
)
def test_bad_keypoints_are_refused_with_their_place(tmp_path: Any, document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pose(tmp_path / "p.json", document)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 2**16 - 1, 2**16])
def test_tuples_become_rows_whatever_the_length_of_their_list(count: int) -> None:
    """At 16 and at 65,536 the mark before a MessagePack list takes more bytes."""
    wanted = np.random.default_rng(count).normal(size=(count, 4)) * 1e3
    wanted[:1] = (-0.0, 5e-324, 1.7976931348623157e308, 3.0)
    rows = typed.fours([tuple(row) for row in wanted.tolist()])
    assert (rows.shape, rows.dtype.str) == ((count, 4), "<f8")
    assert rows.tobytes() == wanted.tobytes()
