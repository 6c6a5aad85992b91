"""From detections with poses to the status of a cell."""

import datetime
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.judging import judge_model
from bench.matrix import Request
from bench.passes import Pass
from bench.results import PoseResult
from bench.schema import to_json, validate
from bench.tests.record_fakes import record
from bench.tests.sample_poses import found_poses, posed_set
from bench.tests.test_schema import suite
from bench.types import ModelSpec, Prediction, TensorSpec
from bench.verdicts import exit_code

SET = posed_set(images=60)
SPEC = ModelSpec(
    name="m", task="detect", image_hw=(8, 8), class_names=("plain", "pointed"), default_fixtures="posed",
    inputs=(TensorSpec(name="x", shape=("batch", 1), dtype="float32"),), outputs=(), oks_sigmas=(0.1, 0.1),
)  # fmt: skip
NOISE = {"degrees": 6, "depth_share": 0.04, "shift_px": 1}


def finished(predictions, *, role="candidate", backend="onnxrt", precision="int8"):
    made = record(precision, backend, rounds=False, raw=False)
    made.planned = replace(made.planned, role=role)
    made.accuracy = Pass(
        predictions=predictions,
        feed_hashes=dict.fromkeys(predictions, "0" * 64),
        pre_ms=[1.0],
        run_ms=[1.0],
        post_ms=[1.0],
        wall_s=1.0,
    )
    made.artifact = None
    return made


def judged(candidate, reference=None, fixtures=SET, spec=SPEC):
    reference = found_poses(SET, **NOISE) if reference is None else reference
    run = SimpleNamespace(
        plan=SimpleNamespace(spec=spec, fixtures=fixtures, labels_to_categories=(1, 2)),
        records=[finished(reference, role="reference", backend="torch", precision="fp32"), finished(candidate)],
        golden_raw=None,
        yardsticks={},
        own_arithmetic={},
        noise={},
    )
    cells = judge_model(run, Request(resamples=200, cross_check="none"), today=datetime.date(2026, 1, 1))
    validate(to_json(suite(cells=tuple(cells))), "suite_result", where="test")
    return cells


def changed(predictions, name, change):
    """The same predictions with one attribute changed."""
    return {
        image: replace(p, attributes={**p.attributes, name: change(np.array(p.attributes[name]))})
        for image, p in predictions.items()
    }


def test_the_same_poses_pass_and_both_cells_carry_their_numbers():
    reference, candidate = judged(found_poses(SET, **NOISE))
    assert isinstance(reference.pose, PoseResult)
    assert reference.pose.verdict == "reference"
    assert candidate.pose.verdict == candidate.status == reference.status == "passed"
    assert candidate.pose.matched == candidate.pose.objects == 180


def test_worse_rotations_fail_a_cell_whose_boxes_are_the_same():
    _, candidate = judged(found_poses(SET, degrees=20, depth_share=0.04, shift_px=1))
    assert candidate.accuracy.verdict == "passed"
    assert candidate.status == "failed"
    assert [f.check for f in candidate.findings] == ["pose"]
    assert candidate.reason.startswith("Poses: rotation, median +")
    assert exit_code([candidate]) == 1


def test_one_rotation_that_is_nan_fails_a_cell():
    predictions = found_poses(SET, **NOISE)
    first = next(iter(predictions))
    one = changed({first: predictions[first]}, "rotation", lambda r: np.concatenate([r[:1] * np.nan, r[1:]]))
    _, candidate = judged({**predictions, **one})
    assert candidate.status == "failed"
    assert candidate.reason_short == "poses broken"
    assert candidate.pose.broken["rotation"] == 1


def test_a_nan_in_the_reference_fails_the_reference():
    reference, candidate = judged(found_poses(SET), changed(found_poses(SET), "depth_m", lambda d: d * np.nan))
    assert reference.status == "failed"
    assert reference.pose.broken["depth"] == 180
    assert candidate.status == "failed"


def test_a_candidate_without_any_pose_fails_beside_a_reference_that_has_them():
    bare = {i: replace(p, attributes=None) for i, p in found_poses(SET, **NOISE).items()}
    _, candidate = judged(bare)
    assert candidate.status == "failed"
    assert candidate.pose.broken["rotation"] == candidate.pose.matched == 180


def test_a_model_without_poses_has_no_block():
    bare = {i: replace(p, attributes=None, keypoints_xys=None) for i, p in found_poses(SET).items()}
    cells = judged(bare, bare, spec=replace(SPEC, oks_sigmas=()))
    assert [c.pose for c in cells] == [None, None]
    assert {c.status for c in cells} == {"passed"}


def test_a_truth_that_cannot_be_is_a_fault_of_the_cell_and_loses_no_other_result():
    broken = ({**SET.annotations[0], "rotation": [[9] * 3] * 3}, *SET.annotations[1:])
    cells = judged(found_poses(SET, **NOISE), fixtures=replace(SET, annotations=broken))
    for cell in cells:
        assert cell.status == "failed"
        assert "annotation 1: field 'rotation' is no rotation matrix" in cell.reason
        assert cell.accuracy is not None


def test_a_set_without_true_poses_gives_no_block():
    plain = tuple({k: v for k, v in a.items() if k not in ("rotation", "depth_m")} for a in SET.annotations)
    _, candidate = judged(found_poses(SET, **NOISE), fixtures=replace(SET, annotations=plain))
    assert candidate.pose is None


@pytest.mark.parametrize("name", ["rotation", "depth_m"])
def test_an_attribute_in_some_images_only_cannot_be_scored(name):
    predictions = found_poses(SET, **NOISE)
    first = next(iter(predictions))
    less = {k: v for k, v in predictions[first].attributes.items() if k != name}
    predictions[first] = replace(predictions[first], attributes=less)
    _, candidate = judged(predictions)
    assert candidate.status == "failed"
    assert f"attribute '{name}'" in candidate.reason
    assert isinstance(predictions[first], Prediction)
