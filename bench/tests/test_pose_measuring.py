from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.fixtures import resolve
from bench.posing import measure, pose_truth
from bench.posing.measuring import match_objects
from bench.posing.numbers import evaluate
from bench.posing.rotations import about_z, reversed_in_depth
from bench.scoring import Detections, from_predictions
from bench.tests.sample_poses import found_poses, posed_set, with_attribute
from bench.types import FixtureSet

LABELS = (1, 2)


def measured(fixtures, **how):
    truth = pose_truth(fixtures)
    assert truth is not None
    posed = measure(truth, from_predictions(found_poses(fixtures, **how), LABELS))
    assert posed is not None
    return posed


def numbers(posed):
    return {name: found[0] for name, found in evaluate(posed, [np.ones(len(posed.truth.image_ids), int)]).items()}


def changed(fixtures, **fields):
    first = {**fixtures.annotations[0], **fields}
    return replace(fixtures, annotations=(first, *fixtures.annotations[1:]))


def test_the_truth_as_prediction_has_no_error_and_finds_everything():
    found = numbers(measured(posed_set()))
    for name, value in found.items():
        if "median" in name or ("mean" in name and not name.startswith("oks")):
            assert value == pytest.approx(0, abs=1e-6), name
        else:
            assert value == pytest.approx(1, abs=1e-6), name


def test_all_numbers_are_there_when_everything_is_predicted():
    assert len(numbers(measured(posed_set()))) == 17


def test_an_object_is_matched_exactly_where_pycocotools_matches_it():
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    fixtures = posed_set(images=30)
    generator = np.random.default_rng(5)
    table = from_predictions(found_poses(fixtures), LABELS)
    table = table.take(np.repeat(np.arange(len(table)), 3))
    boxes = table.boxes_xywh + generator.normal(scale=12, size=(len(table), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    table = replace(table, boxes_xywh=boxes, scores=generator.random(len(table)))
    ours = match_objects(pose_truth(fixtures), table)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": s.image_id, "width": s.width, "height": s.height} for s in fixtures.samples],
            "categories": list(fixtures.categories),
            "annotations": [dict(a) for a in fixtures.annotations],
        }
        coco.createIndex()
        results = [
            {"image_id": int(i), "category_id": int(c), "bbox": b.tolist(), "score": float(s)}
            for i, c, b, s in zip(table.image_ids, table.category_ids, table.boxes_xywh, table.scores, strict=True)
        ]
        oracle = COCOeval(coco, coco.loadRes(results), "bbox")
        oracle.evaluate()
    theirs = {}
    for image in oracle.evalImgs:
        if image is not None and image["aRng"] == [0, 1e10]:
            theirs.update(zip(image["gtIds"], (int(d) for d in image["gtMatches"][0]), strict=True))
    expected = [theirs.get(a["id"], 0) - 1 for a in fixtures.annotations]  # its result ids count from 1
    assert 0 < expected.count(-1) < len(expected)
    assert ours.tolist() == expected


def test_each_object_is_taken_by_the_best_scoring_detection_that_overlaps_it_enough():
    fixtures = posed_set(images=1, per_image=1)
    truth = pose_truth(fixtures)
    box = np.array(fixtures.annotations[0]["bbox"], float)
    shifted = box + np.array([box[2] * 0.2, 0, 0, 0])
    far = box + np.array([box[2] * 0.6, 0, 0, 0])
    table = Detections(
        np.ones(3, np.int64), np.ones(3, np.int64), np.stack([far, shifted, box]), np.array([0.9, 0.8, 0.7])
    )
    assert match_objects(truth, table).tolist() == [1]
    assert match_objects(truth, table, iou=0.9).tolist() == [2]
    other_class = replace(table, category_ids=np.full(3, 2))
    assert match_objects(truth, other_class).tolist() == [-1]


def test_a_detection_takes_one_object_only():
    fixtures = posed_set(images=1, per_image=2)
    twins = tuple({**a, "category_id": 1, "bbox": fixtures.annotations[0]["bbox"]} for a in fixtures.annotations)
    truth = pose_truth(replace(fixtures, annotations=twins))
    table = Detections(np.ones(1, np.int64), np.ones(1, np.int64), np.array([twins[0]["bbox"]], float), np.array([0.9]))
    assert sorted(match_objects(truth, table).tolist()) == [-1, 0]


def test_crowd_regions_are_no_objects():
    fixtures = changed(posed_set(), iscrowd=1)
    assert len(pose_truth(fixtures)) == len(fixtures.annotations) - 1


@given(st.integers(1, 6), st.integers(0, 11))
@settings(max_examples=20, deadline=None)
def test_a_turn_that_the_class_declares_as_its_symmetry_is_no_error(order, times):
    fixtures = posed_set(images=4, symmetry=order)
    truth = pose_truth(fixtures)
    table = from_predictions(found_poses(fixtures), LABELS)
    turned = table.attributes["rotation"] @ about_z(np.array(2 * np.pi * times / order))
    error = measure(truth, replace(table, attributes={"rotation": turned})).quantities["rotation"].value
    plain = truth.category_ids == 1
    assert error[plain].max() < 1e-6
    if times % order:
        assert error[~plain].min() > 1  # the other class declares none


def test_the_picture_of_a_reversed_tilt_is_told_apart_from_a_wrong_rotation():
    fixtures = posed_set()
    table = from_predictions(found_poses(fixtures), LABELS)
    turned = reversed_in_depth(table.attributes["rotation"])
    found = numbers(measure(pose_truth(fixtures), replace(table, attributes={"rotation": turned})))
    assert found["rotation_median_deg"] > 30
    assert found["rotation_reversal_median_deg"] == pytest.approx(0, abs=1e-6)


def test_translation_comes_from_centre_depth_and_camera_or_as_predicted():
    fixtures = posed_set()
    truth = pose_truth(fixtures)
    table = from_predictions(found_poses(fixtures), LABELS)
    wanted = truth.translation_m
    fx, fy, cx, cy = fixtures.samples[0].camera
    first = fixtures.annotations[0]
    z = first["depth_m"]
    by_hand = [(first["center_px"][0] - cx) / fx * z, (first["center_px"][1] - cy) / fy * z, z]
    np.testing.assert_allclose(wanted[0], by_hand)
    posed = measure(truth, table)
    rows = posed.detection
    given = {"translation_m": np.zeros((len(table), 3))}
    given["translation_m"][rows] = wanted + np.array([0.3, 0.0, 0.4])
    as_predicted = measure(truth, replace(table, attributes=given))
    np.testing.assert_allclose(as_predicted.quantities["translation"].value, 0.5)
    share = as_predicted.quantities["translation_relative"].value
    np.testing.assert_allclose(share, 0.5 / np.linalg.norm(wanted, axis=1))


def test_without_a_camera_there_is_no_translation():
    fixtures = posed_set()
    blind = replace(fixtures, samples=tuple(replace(s, camera=None) for s in fixtures.samples))
    found = measure(pose_truth(blind), from_predictions(found_poses(blind), LABELS))
    assert "translation" not in found.quantities
    assert "depth" in found.quantities


def test_depth_error_is_in_metres_and_as_a_share():
    fixtures = posed_set()
    table = from_predictions(found_poses(fixtures), LABELS)
    deeper = replace(table, attributes={"depth_m": table.attributes["depth_m"] + 0.1})
    found = measure(pose_truth(fixtures), deeper).quantities
    np.testing.assert_allclose(found["depth"].value, 0.1)
    np.testing.assert_allclose(found["depth_relative"].value, 0.1 / pose_truth(fixtures).depth_m)


def test_keypoint_similarity_is_cocos_over_labelled_keypoints_only():
    fixtures = posed_set(images=1, per_image=2)
    pointed = dict(fixtures.annotations[1])
    pointed["keypoints"] = [*pointed["keypoints"][:5], 0]
    fixtures = replace(fixtures, annotations=(fixtures.annotations[0], pointed))
    table = from_predictions(found_poses(fixtures), LABELS)
    points = table.keypoints_xyv.copy()
    row = int(np.flatnonzero(table.category_ids == 2)[0])
    points[row, 0, :2] += [3.0, 4.0]
    points[row, 1, :2] = 1e6  # not labelled: of no consequence
    posed = measure(pose_truth(fixtures), replace(table, keypoints_xyv=points))
    expected = np.exp(-25 / (2 * pointed["area"] * (2 * 0.1) ** 2))
    assert posed.quantities["oks"].value[1] == pytest.approx(expected, rel=1e-9)
    assert posed.quantities["oks"].counts.tolist() == [False, True]
    assert posed.keypoints_within.tolist() == [0, 1]
    points[row, 1, :2] = pointed["keypoints"][3:5]  # right, and still not labelled
    posed = measure(pose_truth(fixtures), replace(table, keypoints_xyv=points))
    assert posed.keypoints_within.tolist() == posed.keypoints_labelled.tolist() == [0, 1]
    points[row, 0, :2] += 0.11 * max(pointed["bbox"][2:])
    posed = measure(pose_truth(fixtures), replace(table, keypoints_xyv=points))
    assert numbers(posed)["pck_10_percent"] == 0


def test_a_model_that_detects_less_gains_in_no_share():
    fixtures = posed_set(images=60)
    everything = numbers(measured(fixtures, degrees=8, depth_share=0.04, shift_px=4))
    fewer = numbers(measured(fixtures, degrees=8, depth_share=0.04, shift_px=4, keep=lambda a: a["id"] % 3))
    for name in ("matched_share", "rotation_within_10deg", "depth_within_5_percent", "oks_mean_all", "pck_10_percent"):
        assert fewer[name] < everything[name] - 0.1, name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pose_that_is_not_finite_is_the_worst_and_is_counted(value):
    fixtures = posed_set()
    table = from_predictions(found_poses(fixtures), LABELS)
    truth = pose_truth(fixtures)
    row = measure(truth, table).detection[0]
    for name in ("rotation", "depth_m", "center_px"):
        table = with_attribute(table, name, row, value)
    found = measure(truth, table).quantities
    assert found["rotation"].value[0] == found["rotation_reversal"].value[0] == 180
    for name in ("depth", "depth_relative", "translation", "translation_relative"):
        assert found[name].value[0] == np.inf, name
    assert all(found[name].broken.tolist() == [True] + [False] * (len(truth) - 1) for name in found if name != "oks")


def test_a_matrix_that_is_no_rotation_counts_as_the_worst():
    fixtures = posed_set()
    table = from_predictions(found_poses(fixtures), LABELS)
    stretched = replace(table, attributes={"rotation": 1.2 * table.attributes["rotation"]})
    found = measure(pose_truth(fixtures), stretched).quantities["rotation"]
    assert found.broken.all()
    assert (found.value == 180).all()


def test_the_worst_possible_lowers_every_number_it_enters():
    fixtures = posed_set()
    table = from_predictions(found_poses(fixtures, degrees=3, depth_share=0.02), LABELS)
    truth = pose_truth(fixtures)
    good = numbers(measure(truth, table))
    rows = measure(truth, table).detection[:30]
    bad = numbers(
        measure(truth, with_attribute(with_attribute(table, "rotation", rows, np.nan), "depth_m", rows, np.nan))
    )
    for name in ("rotation_mean_deg", "rotation_median_deg", "depth_median_m", "depth_mean_m", "translation_mean_m"):
        assert bad[name] > good[name], name
    for name in ("rotation_within_10deg", "depth_within_5_percent", "translation_within_5_percent"):
        assert bad[name] < good[name], name


def test_a_system_that_lacks_what_the_other_has_is_measured_as_broken():
    fixtures = posed_set()
    truth = pose_truth(fixtures)
    table = from_predictions(found_poses(fixtures), LABELS)
    reference = measure(truth, table)
    bare = measure(truth, replace(table, attributes={}, keypoints_xyv=None), like=reference)
    assert set(bare.quantities) == set(reference.quantities)
    assert all(q.broken.sum() == q.found.sum() > 0 for q in bare.quantities.values())
    assert measure(truth, replace(table, attributes={}, keypoints_xyv=None)) is None


def test_no_detections_at_all_are_measured_like_the_reference():
    fixtures = posed_set()
    reference = measured(fixtures)
    empty = Detections(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    found = numbers(measure(reference.truth, empty, like=reference))
    assert found["matched_share"] == found["rotation_within_10deg"] == 0
    assert np.isnan(found["rotation_median_deg"])


def test_a_set_without_poses_has_no_truth_of_them():
    fixtures = posed_set()
    plain = tuple({k: v for k, v in a.items() if k not in ("rotation", "depth_m")} for a in fixtures.annotations)
    assert pose_truth(replace(fixtures, annotations=plain)) is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rotation": [[1, 0], [0, 1]]}, "'rotation' must be 3 x 3 finite numbers"),
        ({"rotation": [[2, 0, 0], [0, 2, 0], [0, 0, 2]]}, "'rotation' is no rotation matrix"),
        ({"rotation": "up"}, "'rotation' must be"),
        ({"depth_m": 0}, "'depth_m' must be above 0"),
        ({"depth_m": float("nan")}, "'depth_m' must be a finite number"),
        ({"center_px": [1]}, "'center_px' must be 2 finite numbers"),
    ],
)
def test_an_impossible_true_pose_is_refused_with_its_annotation(fields, told):
    with pytest.raises(InputError, match=f"annotation 1: field {told}"):
        pose_truth(changed(posed_set(), **fields))


@pytest.mark.parametrize("value", [-1, 1.0, "4", True])
def test_a_symmetry_that_is_no_count_is_refused(value):
    fixtures = posed_set()
    odd = ({**fixtures.categories[0], "symmetry": value}, fixtures.categories[1])
    with pytest.raises(InputError, match="category 1: field 'symmetry' must be a whole number"):
        pose_truth(replace(fixtures, categories=odd))


def test_detections_of_an_unknown_image_are_refused():
    table = from_predictions(found_poses(posed_set()), LABELS)
    with pytest.raises(InputError, match="not in fixture set"):
        measure(pose_truth(posed_set(images=3)), table)


@pytest.fixture(scope="module")
def shapes() -> FixtureSet:
    return resolve("shapes").take(40)


def test_shapes_has_true_poses_cameras_and_the_symmetries_of_its_outlines(shapes):
    truth = pose_truth(shapes)
    assert truth.posed.all()
    assert np.isfinite(truth.translation_m).all()
    by_name = {c["name"]: c["symmetry"] for c in shapes.categories}
    assert [by_name[name] for name in ("disc", "square", "rounded_square", "cross")] == [0, 4, 4, 4]
    assert [by_name[name] for name in ("notched_disc", "star5", "star6", "quadruped")] == [1, 5, 6, 1]


def test_an_outline_of_shapes_is_unchanged_by_its_declared_turns_and_by_no_others():
    from fixtures.shapes.outlines import UNIT
    from fixtures.shapes.scene import KINDS

    generator = np.random.default_rng(0)
    points = generator.integers(-UNIT, UNIT, (2, 4000))
    for kind in KINDS[:-1]:
        for order in range(2, 9):
            turn = about_z(np.array(2 * np.pi / order))[:2, :2]
            u, v = np.round(turn @ points).astype(np.int32)
            apart = np.mean(kind.outline(u, v) != kind.outline(*points.astype(np.int32)))
            unchanged = kind.symmetry == 0 or kind.symmetry % order == 0
            # outlines are drawn in whole numbers: up to 0.5 % of the points lie on the other side of an edge
            assert (apart < 0.01) == unchanged, (kind.name, order, apart)


def test_the_truth_of_shapes_as_prediction_has_no_error(shapes):
    truth = pose_truth(shapes)
    table = Detections(
        truth.image_ids[truth.image],
        truth.category_ids,
        truth.boxes_xywh,
        np.linspace(1, 0.5, len(truth)),
        truth.keypoints_xyv,
        {"rotation": truth.rotation, "depth_m": truth.depth_m, "center_px": truth.center_px},
    )
    found = numbers(measure(truth, table))
    assert found["matched_share"] == found["rotation_within_10deg"] == found["pck_10_percent"] == 1
    assert found["rotation_median_deg"] < 1e-4
    assert found["translation_mean_m"] == 0
