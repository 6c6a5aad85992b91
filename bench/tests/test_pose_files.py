import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ContractError, InputError
from bench.posing import measure, pose_truth
from bench.predictions import read_predictions, write_predictions
from bench.schema import validate_file
from bench.scoring import from_predictions
from bench.tests.sample_poses import found_poses, posed_set
from bench.types import POSE_ATTRIBUTES

SET = posed_set(images=4)
TRUTH = SET.annotations[0]
IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def detection(**changes):
    return {"class_id": 0, "score": 0.9, "bbox": TRUTH["bbox"], **changes}


def read(tmp_path, *detections, fixtures=SET):
    path = tmp_path / "predictions.json"
    entry = {"image": "0.png", "detections": list(detections)}
    path.write_text(json.dumps([entry]))
    return read_predictions(path, fixtures, bbox_format="xywh_abs").detections


@pytest.mark.parametrize("wrap", [True, False])
def test_a_written_file_gives_the_poses_back_bit_for_bit(tmp_path, wrap):
    found = found_poses(SET, degrees=9, depth_share=0.1)
    path = tmp_path / "predictions.json"
    write_predictions(path, found, SET, (1, 2), wrap=wrap, meta={})
    again, direct = read_predictions(path, SET).detections, from_predictions(found, (1, 2))
    assert set(again.attributes) == {"rotation", "depth_m", "center_px"}
    for name, column in direct.attributes.items():
        np.testing.assert_array_equal(again.attributes[name], column)
    assert validate_file(path) == "predictions/1" if wrap else True


def test_a_pose_that_is_not_finite_travels_as_a_word_and_is_still_the_worst(tmp_path):
    found = found_poses(SET)
    first = found[1]
    broken = {name: np.array(column) for name, column in first.attributes.items()}
    broken["rotation"][0, 1, 1], broken["depth_m"][0] = np.nan, np.inf
    path = tmp_path / "predictions.json"
    write_predictions(path, {**found, 1: replace(first, attributes=broken)}, SET, (1, 2), wrap=True, meta={})
    assert '"nan"' in path.read_text()
    validate_file(path)
    posed = measure(pose_truth(SET), read_predictions(path, SET).detections)
    assert posed.quantities["rotation"].broken.sum() == posed.quantities["depth"].broken.sum() == 1
    assert posed.quantities["rotation"].value.max() == 180


def test_six_numbers_are_the_first_two_rows_of_the_rotation(tmp_path):
    six = [*TRUTH["rotation"][0], *TRUTH["rotation"][1]]
    rotation = read(tmp_path, detection(rot6d=six)).attributes["rotation"]
    np.testing.assert_allclose(rotation[0], TRUTH["rotation"], atol=1e-12)


def test_the_matrix_counts_where_both_are_given(tmp_path):
    table = read(tmp_path, detection(rot6d=[0, 1, 0, 1, 0, 0], R=IDENTITY), detection(rot6d=[0, 1, 0, 1, 0, 0]))
    np.testing.assert_array_equal(table.attributes["rotation"][0], np.eye(3))
    np.testing.assert_array_equal(table.attributes["rotation"][1], [[0, 1, 0], [1, 0, 0], [0, 0, -1]])


def test_a_detection_that_lacks_what_others_have_is_kept_as_nan(tmp_path):
    table = read(tmp_path, detection(depth=1.5, t_xyz=[0, 0, 1.5]), detection())
    np.testing.assert_array_equal(table.attributes["depth_m"], [1.5, np.nan])
    assert np.isnan(table.attributes["translation_m"][1]).all()


def test_a_file_without_poses_has_no_attributes(tmp_path):
    assert read(tmp_path, detection()).attributes == {}


def test_poses_are_not_read_where_the_set_has_none(tmp_path):
    plain = tuple({k: v for k, v in a.items() if k not in ("rotation", "depth_m")} for a in SET.annotations)
    table = read(tmp_path, detection(R="whatever", depth=[]), fixtures=replace(SET, annotations=plain))
    assert table.attributes == {}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"R": [1, 0, 0]}, "field 'R' must be a list of 3 numbers, got a number"),
        ({"R": IDENTITY[:2]}, "field 'R' must be a list of 3 lists of 3 numbers, got 2 of them"),
        ({"R": [[1, 0, "x"], *IDENTITY[1:]]}, "field 'R' must be a number, got text"),
        ({"rot6d": [1, 0, 0, 0, 1]}, "field 'rot6d' must be a list of 6 numbers, got 5 of them"),
        ({"depth": "far"}, "field 'depth' must be a number, got text"),
        ({"depth": True}, "field 'depth' must be a number, got a truth value"),
        ({"t_xyz": {"x": 1}}, "field 't_xyz' must be a list of 3 numbers, got an object"),
        ({"center_px": []}, "field 'center_px' must be a list of 2 numbers, got 0 of them"),
    ],
)
def test_a_pose_of_another_shape_is_refused_with_its_place(tmp_path, changes, told):
    with pytest.raises(InputError, match="entry 0, detection 1") as refused:
        read(tmp_path, detection(), detection(**changes))
    assert told in str(refused.value)


def test_keypoints_are_taken_as_objects_too(tmp_path):
    flat = [10.0, 11.0, 2.0, 30.0, 31.0, 1.0]
    objects = [{"x": 10, "y": 11, "v": 2}, {"x": 30, "y": 31, "score": 1}]
    table = read(tmp_path, detection(class_id=1, keypoints=objects), detection(class_id=1, keypoints=flat))
    np.testing.assert_array_equal(table.keypoints_xyv[0], table.keypoints_xyv[1])


@pytest.mark.parametrize("point", [{"x": 1, "y": 2}, {"x": 1, "v": 2}, {}])
def test_a_keypoint_object_that_lacks_a_number_is_refused(tmp_path, point):
    with pytest.raises(InputError, match="keypoint 1 needs x, y and v"):
        read(tmp_path, detection(class_id=1, keypoints=[{"x": 10, "y": 11, "v": 2}, point]))


def test_an_attribute_without_a_field_of_its_own_is_written_under_its_name(tmp_path):
    found = found_poses(SET)
    found[1] = replace(found[1], attributes={**found[1].attributes, "log_sigma": np.array([0.5, 0.6, 0.7])})
    path = tmp_path / "predictions.json"
    write_predictions(path, found, SET, (1, 2), wrap=True, meta={})
    document = json.loads(path.read_text())
    assert [d["log_sigma"] for d in document["predictions"][0]["detections"]] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("name", ["score", "bbox", "depth", "R", "rot6d", "keypoints"])
def test_an_attribute_may_not_take_the_name_of_another_field(tmp_path, name):
    found = found_poses(SET)
    found[1] = replace(found[1], attributes={name: np.zeros(3)})
    with pytest.raises(ContractError, match="name of another field"):
        write_predictions(tmp_path / "p.json", found, SET, (1, 2), wrap=True, meta={})


@pytest.mark.parametrize("name", ["rotation", "depth_m", "log_sigma"])
def test_an_attribute_without_a_row_for_every_detection_is_refused(tmp_path, name):
    found = found_poses(SET)
    found[1] = replace(found[1], attributes={name: np.zeros((2, *POSE_ATTRIBUTES.get(name, ())))})
    with pytest.raises(ContractError, match=f"attribute '{name}' must be"):
        write_predictions(tmp_path / "p.json", found, SET, (1, 2), wrap=True, meta={})


@given(st.floats(allow_nan=True, allow_infinity=True), st.lists(st.floats(), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_any_floats_survive_a_file(tmp_path_factory, depth, translation):
    found = found_poses(SET)
    attributes = {"depth_m": np.full(3, depth), "translation_m": np.array([translation] * 3)}
    path = tmp_path_factory.mktemp("poses") / "p.json"
    write_predictions(path, {1: replace(found[1], attributes=attributes)}, SET, (1, 2), wrap=True, meta={})
    again = read_predictions(path, SET).detections.attributes
    for name, column in attributes.items():
        np.testing.assert_array_equal(again[name], column)
