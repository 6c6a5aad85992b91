from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.paths import REPOSITORY
from bench.predictions import read_predictions, write_predictions
from bench.scoring import from_predictions, score
from bench.tests.sample_predictions import entry, fixture_set, read, result
from bench.types import FixtureSet, Prediction

CATEGORY_IDS = (7, 1, 3)
"""Of label 0, 1, 2: not in ascending order, as when a model orders its classes its own way."""
META = {"model": "tiny", "precision": "fp32", "artifact_sha256": "a" * 64, "preprocess": {"input_hw": (64, 64)}}


@pytest.fixture
def fixtures() -> FixtureSet:
    return fixture_set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.json"


coordinate = st.floats(0, 199, width=32)


@st.composite
def predictions(draw: st.DrawFn) -> dict[int, Prediction]:
    made = {}
    for image_id in draw(st.sets(st.sampled_from([10, 20, 30]))):
        count = draw(st.integers(0, 5))
        corners = np.array(draw(st.lists(st.tuples(*[coordinate] * 4), min_size=count, max_size=count)), np.float32)
        corners = corners.reshape(-1, 2, 2)
        boxes = np.concatenate((corners.min(axis=1), corners.max(axis=1) + np.float32(2)), axis=1)
        scores = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))
        labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        made[image_id] = Prediction(boxes, np.array(scores, np.float32), np.array(labels, np.int64))
    return made


@settings(max_examples=40, deadline=None)
@given(made=predictions(), wrap=st.booleans())
def test_scoring_a_written_file_gives_the_numbers_of_the_run_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, made: dict[int, Prediction], wrap: bool
) -> None:
    fixtures, path = fixture_set(), tmp_path_factory.mktemp("written") / "p.json"
    write_predictions(path, made, fixtures, CATEGORY_IDS, wrap=wrap, meta=META)
    own, got = from_predictions(made, CATEGORY_IDS), read_predictions(path, fixtures)
    for column in ("image_ids", "category_ids", "boxes_xywh", "scores"):
        np.testing.assert_array_equal(getattr(got.detections, column), getattr(own, column))
    assert score(fixtures, got.detections) == score(fixtures, own)
    schema = json.loads((REPOSITORY / "schemas" / "predictions.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text()))


@settings(max_examples=40, deadline=None)
@given(made=predictions(), bbox_format=st.sampled_from(["cxcywh_norm", "cxcywh_abs", "xywh_abs", "xyxy_abs"]),
       form=st.sampled_from(["coco", "entries", "wrapped", "map"]), as_object=st.booleans())  # fmt: skip
def test_boxes_written_in_any_form_and_format_come_back(
    tmp_path_factory: pytest.TempPathFactory, made: dict[int, Prediction], bbox_format: str, form: str, as_object: bool
) -> None:
    fixtures, path = fixture_set(), tmp_path_factory.mktemp("forms") / "p.json"
    names = {s.image_id: s.path.name for s in fixtures.samples}
    keys = {"cx": ("cx", "cy", "w", "h"), "xy": ("x", "y", "w", "h"), "xx": ("x1", "y1", "x2", "y2")}
    keys = keys["cx" if bbox_format[0] == "c" else "xx" if bbox_format.startswith("xyxy") else "xy"]
    entries = {}
    for image_id in sorted(made):
        entries[image_id] = []
        rows = zip(
            made[image_id].boxes_xyxy.tolist(),
            made[image_id].scores.tolist(),
            made[image_id].labels.tolist(),
            strict=True,
        )
        for (x1, y1, x2, y2), value, label in rows:
            box = {
                "cxcywh_norm": [(x1 + x2) / 400, (y1 + y2) / 200, (x2 - x1) / 200, (y2 - y1) / 100],
                "cxcywh_abs": [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
                "xywh_abs": [x1, y1, x2 - x1, y2 - y1],
                "xyxy_abs": [x1, y1, x2, y2],
            }[bbox_format]
            bbox = dict(zip(keys, box, strict=True)) if as_object else box
            entries[image_id].append({"category_id": CATEGORY_IDS[label], "score": value, "bbox": bbox})
    listed = [{"image": names[i], "detections": found} for i, found in entries.items()]
    document = {
        "coco": [{"image_id": i, **d} for i, found in entries.items() for d in found],
        "entries": listed,
        "wrapped": {"schema_version": 1, "predictions": listed, "meta": {}},
        "map": {names[i]: found for i, found in entries.items()},
    }[form]
    schema = json.loads((REPOSITORY / "schemas" / "predictions.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    got, own = read(path, document, fixtures, bbox_format).detections, from_predictions(made, CATEGORY_IDS)
    np.testing.assert_array_equal(got.image_ids, own.image_ids)
    np.testing.assert_array_equal(got.category_ids, own.category_ids)
    np.testing.assert_array_equal(got.scores, own.scores)
    np.testing.assert_allclose(got.boxes_xywh, own.boxes_xywh, rtol=0, atol=1e-10)


def one(box: tuple[float, ...] = (1, 2, 30, 40), value: float = 0.5, label: int = 0) -> Prediction:
    return Prediction(np.array([box], np.float32), np.array([value], np.float32), np.array([label]))


def test_the_wrapped_form_records_what_made_it(path: Path, fixtures: FixtureSet) -> None:
    write_predictions(path, {10: one()}, fixtures, CATEGORY_IDS, wrap=True, meta=META)
    document = json.loads(path.read_text())
    assert document["schema_version"] == 1
    assert document["meta"]["schema"] == "predictions/1"
    assert document["meta"]["bbox_format"] == "xyxy_abs"
    assert document["meta"]["preprocess"] == {"input_hw": [64, 64]}
    assert document["meta"]["artifact_sha256"] == "a" * 64
    assert document["predictions"] == [
        {"image": "a.jpg", "image_id": 10,
         "detections": [{"class_id": 0, "category_id": 7, "score": 0.5, "bbox": [1.0, 2.0, 30.0, 40.0]}]}
    ]  # fmt: skip


def test_a_nan_is_written_as_a_word_never_bare_and_refused_when_scored(path: Path, fixtures: FixtureSet) -> None:
    schema = json.loads((REPOSITORY / "schemas" / "predictions.json").read_text())
    for wrap, place in ((False, "result 0"), (True, "entry 0, detection 0")):
        write_predictions(path, {10: one(value=float("nan"))}, fixtures, CATEGORY_IDS, wrap=wrap, meta=META)
        assert '"score": "nan"' in path.read_text()
        jsonschema.Draft202012Validator(schema).validate(json.loads(path.read_text()))
        with pytest.raises(InputError, match=f"{place}: field 'score' is 'nan', not finite"):
            read_predictions(path, fixtures)


def test_keypoints_travel_with_their_detection(path: Path, fixtures: FixtureSet) -> None:
    box = one()
    prediction = Prediction(box.boxes_xyxy, box.scores, box.labels, np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    write_predictions(path, {10: prediction}, fixtures, CATEGORY_IDS, wrap=False, meta={})
    assert json.loads(path.read_text())[0]["keypoints"] == [0, 1, 2, 3, 4, 5]


def test_nothing_is_written_for_an_unknown_image_or_label_and_an_old_file_stays(
    path: Path, fixtures: FixtureSet
) -> None:
    path.write_text("old")
    with pytest.raises(InputError, match="image_id 11 is not in fixture set 'tiny'; nothing was written"):
        write_predictions(path, {11: one()}, fixtures, CATEGORY_IDS, wrap=False, meta={})
    for wrap in (False, True):
        with pytest.raises(InputError, match="image 10, detection 0: label 3 has no category"):
            write_predictions(path, {10: one(label=3)}, fixtures, CATEGORY_IDS, wrap=wrap, meta={})
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "document", [[result(), entry()], {"predictions": [result()]}, [entry(detections=[{}])], {"a.jpg": [3]}, 3]
)
def test_the_schema_refuses_what_is_none_of_the_forms(document: Any) -> None:
    schema = json.loads((REPOSITORY / "schemas" / "predictions.json").read_text())
    assert not jsonschema.Draft202012Validator(schema).is_valid(document)
