from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.posing import judge_pose, measure, pose_truth
from bench.posing.numbers import evaluate, numbers_of
from bench.posing.verdict import ERROR_FLOORS, ERROR_MARGINS
from bench.posing.wording import WORDS
from bench.results import CellResult, SuiteResult
from bench.schema import to_json, validate
from bench.scoring import from_predictions
from bench.scoring.bootstrap import resample_weights
from bench.tests.sample_poses import found_poses, posed_set, with_attribute

LABELS = (1, 2)
SHARES = ("matched_share", "rotation_within_10deg", "depth_within_5_percent", "translation_within_5_percent",
          "oks_mean_all", "pck_10_percent")  # fmt: skip


def table_of(fixtures, **how):
    return from_predictions(found_poses(fixtures, **how), LABELS)


def measured(fixtures, like=None, **how):
    return measure(pose_truth(fixtures), table_of(fixtures, **how), like=like)


def judged(candidate, reference, precision="fp32", **how):
    return judge_pose(precision, candidate, reference, **{"margins": {}, "resamples": 200, "seed": 0, **how})


def number(result, name):
    return next(n for n in result.numbers if n.name == name)


SET = posed_set(images=60)
REFERENCE = measured(SET, degrees=6, depth_share=0.04, shift_px=3)


def test_the_same_detections_pass_with_no_difference_and_an_interval_of_nothing():
    result = judged(measured(SET, like=REFERENCE, degrees=6, depth_share=0.04, shift_px=3), REFERENCE)
    assert result.verdict == "passed"
    assert result.reason is None
    assert all(n.delta == 0 and n.ci95 == (0, 0) for n in result.numbers)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"degrees": 18, "depth_share": 0.04, "shift_px": 3}, "rotation_median_deg"),
        ({"degrees": 6, "depth_share": 0.12, "shift_px": 3}, "depth_within_5_percent"),
        ({"degrees": 6, "depth_share": 0.04, "shift_px": 12}, "oks_mean_all"),
    ],
)
def test_poses_that_got_worse_fail_and_the_number_is_named(how, name):
    result = judged(measured(SET, like=REFERENCE, **how), REFERENCE)
    assert result.verdict == "failed"
    assert number(result, name).verdict == "failed"
    assert WORDS[name] in result.reason
    assert result.reason.count("worse") == 1


def test_a_model_that_detects_less_fails_by_its_shares_even_when_its_medians_are_the_same():
    fewer = measured(SET, like=REFERENCE, degrees=6, depth_share=0.04, shift_px=3, keep=lambda a: a["id"] % 4)
    result = judged(fewer, REFERENCE, "int8")
    assert result.verdict == "failed"
    assert number(result, "rotation_within_10deg").verdict == "failed"


def test_nothing_detected_fails():
    nothing = measured(SET, like=REFERENCE, keep=lambda a: False)
    result = judged(nothing, REFERENCE)
    assert result.verdict == "failed"
    assert result.matched == 0
    assert number(result, "rotation_median_deg").verdict == "failed"


def test_a_gain_beyond_the_margin_is_suspicious():
    result = judged(measured(SET, like=REFERENCE, degrees=1, depth_share=0.005, shift_px=0.5), REFERENCE)
    assert result.verdict == "suspicious"
    assert "does not get better" in result.reason


def test_a_difference_that_the_images_cannot_place_is_undecided():
    result = judged(measured(SET, like=REFERENCE, seed=3, degrees=6, depth_share=0.04, shift_px=3), REFERENCE)
    assert result.verdict == "undecided"
    assert "cannot decide" in result.reason


def test_errors_of_equal_size_are_not_called_different_because_there_are_several_numbers():
    how = {"degrees": 6, "depth_share": 0.04, "shift_px": 3}
    words = [judged(measured(SET, like=REFERENCE, seed=s, **how), REFERENCE).verdict for s in range(2, 14)]
    assert words.count("failed") + words.count("suspicious") <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["rotation", "depth_m"])
def test_one_pose_that_is_not_finite_fails_however_many_are_right(name, value):
    table = table_of(SET, degrees=6, depth_share=0.04, shift_px=3)
    row = REFERENCE.detection[5]
    broken = measure(REFERENCE.truth, with_attribute(table, name, row, value), like=REFERENCE)
    result = judged(broken, REFERENCE)
    assert result.verdict == "failed"
    assert result.broken[name.removesuffix("_m")] == 1
    assert "worst possible" in result.reason


def test_a_broken_pose_fails_the_reference_itself_too():
    table = table_of(SET)
    broken = measure(REFERENCE.truth, with_attribute(table, "rotation", REFERENCE.detection[5], np.nan))
    assert judged(broken, None).verdict == "failed"
    assert judged(REFERENCE, None).verdict == "reference"


def test_too_few_images_have_no_interval_and_decide_nothing():
    small = posed_set(images=20)
    reference = measured(small)
    result = judged(measured(small, like=reference), reference)
    assert result.verdict == "undecided"
    assert "at least 30" in result.reason


def test_what_the_reference_does_not_have_is_undecided_and_not_green():
    bare = measure(REFERENCE.truth, replace(table_of(SET), attributes={}))
    result = judged(measured(SET, like=bare), bare)
    assert result.verdict == "undecided"
    assert "the reference has no such pose" in result.reason


def test_poses_on_another_truth_are_refused():
    other = posed_set(images=60, seed=9)
    with pytest.raises(InputError, match="their truth differs"):
        judged(measured(other), REFERENCE)


def test_margins_of_medians_are_a_part_of_the_reference_and_never_below_what_the_truth_resolves():
    result = judged(measured(SET, like=REFERENCE, degrees=6, depth_share=0.04, shift_px=3), REFERENCE, "int8")
    median = number(result, "rotation_median_deg")
    assert median.margin == pytest.approx(ERROR_MARGINS["int8"] * median.reference)
    perfect = measured(SET)
    result = judged(measured(SET, like=perfect), perfect)
    assert number(result, "rotation_median_deg").margin == ERROR_FLOORS["deg"]


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_a_resample_gives_the_numbers_of_the_set_with_its_images_drawn(seed):
    weights = next(resample_weights(12, 1, seed))
    small = posed_set(images=12)
    posed = measured(small, degrees=9, depth_share=0.06, shift_px=5, keep=lambda a: a["id"] % 5)
    quick = {name: found[0] for name, found in evaluate(posed, [weights]).items()}
    brute = {name: found[0] for name, found in evaluate(duplicated(small, weights), [np.ones(12, int)]).items()}
    for name, value in brute.items():
        assert quick[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


def duplicated(fixtures, weights):
    """The set with every image as often as it was drawn, as a set of its own."""
    predictions = found_poses(fixtures, degrees=9, depth_share=0.06, shift_px=5, keep=lambda a: a["id"] % 5)
    samples, annotations, copies = [], [], {}
    for sample, times in zip(fixtures.samples, weights.tolist(), strict=True):
        for _ in range(times):
            fresh = len(samples) + 1
            samples.append(replace(sample, image_id=fresh))
            copies[fresh] = predictions[sample.image_id]
            annotations += [
                {**a, "id": 1000 * fresh + a["id"], "image_id": fresh}
                for a in fixtures.annotations
                if a["image_id"] == sample.image_id
            ]
    copy = replace(fixtures, samples=tuple(samples), annotations=tuple(annotations))
    return measure(pose_truth(copy), from_predictions(copies, LABELS))


def test_the_interval_is_the_percentile_interval_of_paired_draws_by_brute_force():
    candidate = measured(SET, like=REFERENCE, seed=3, degrees=7, depth_share=0.05, shift_px=4)
    result = judged(candidate, REFERENCE, resamples=150, seed=11)
    generator = np.random.default_rng(11)
    drawn = [generator.integers(0, 60, 60) for _ in range(150)]
    for name, one in (("rotation_within_10deg", "rotation"), ("depth_median_m", "depth")):
        draws = []
        for images in drawn:
            sides = []
            for posed in (candidate, REFERENCE):
                quantity, image = posed.quantities[one], posed.truth.image
                rows = np.concatenate([np.flatnonzero(image == i) for i in images])
                if name.endswith("median_m"):
                    sides.append(np.median(quantity.value[rows][quantity.found[rows]]))
                else:
                    right = quantity.found[rows] & (quantity.value[rows] <= 10)
                    sides.append(right.sum() / quantity.counts[rows].sum())
            draws.append(sides[0] - sides[1])
        np.testing.assert_allclose(number(result, name).ci95, np.percentile(draws, [2.5, 97.5]), atol=1e-12)


def test_the_resamples_are_those_of_the_accuracy(monkeypatch):
    from bench.scoring import bootstrap, match, paired_bootstrap

    asked = []
    original = bootstrap.resample_weights
    monkeypatch.setattr(bootstrap, "resample_weights", lambda *a: (asked.append(a), original(*a))[1])
    monkeypatch.setattr("bench.posing.verdict.resample_weights", bootstrap.resample_weights)
    matched = match(SET, table_of(SET))
    paired_bootstrap(matched, matched, resamples=50, seed=4)
    judged(REFERENCE, REFERENCE, resamples=50, seed=4)
    assert asked == [(60, 50, 4)] * 3
    np.testing.assert_array_equal(matched.truth.image_ids, REFERENCE.truth.image_ids)


def test_every_judged_median_has_a_judged_share_beside_it():
    for quantity in ("rotation", "depth_relative", "translation_relative"):
        kinds = {n.kind for n in numbers_of(REFERENCE) if n.quantity == quantity and n.judged}
        assert kinds == {"median", "within"}


def test_shares_lie_in_0_to_1_and_are_of_all_objects():
    for name, found in evaluate(REFERENCE, [np.ones(60, int)]).items():
        if name in SHARES:
            assert 0 <= found[0] <= 1


def test_a_result_is_valid_under_the_schema_also_with_infinite_errors():
    table = with_attribute(table_of(SET), "depth_m", slice(None), np.nan)
    for posed in (REFERENCE, measure(REFERENCE.truth, table, like=REFERENCE)):
        result = judged(posed, REFERENCE)
        validate(suite_with(result), "suite_result", where="test")
    broken = suite_with(result)
    broken["cells"][0]["pose"]["numbers"][0].pop("verdict")
    with pytest.raises(InputError, match="verdict"):
        validate(broken, "suite_result", where="test")


def suite_with(pose):
    from bench.tests.test_schema import suite
    from bench.types import Cell

    cell = CellResult(
        cell=Cell(model="m", backend="b", device="cpu", precision="fp32", fixtures="f"),
        role="reference",
        status="passed",
        pose=pose,
    )
    made: SuiteResult = suite(cells=(cell,))
    return to_json(made)
