from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.speed import (
    BAND,
    check_repeated_input,
    check_timed_outputs,
    judge_speed,
    log_ratios,
    max_difference,
    median_interval,
    output_limits,
)


def rounds(values_ms, *, openings=4, **extra):
    """One round per value, five equal samples, spread over openings in order."""
    per = -(-len(values_ms) // openings)
    return [
        {"round": i + 1, "opening": i // per + 1, "samples_ms": [v] * 5, **{k: [x[i]] for k, x in extra.items()}}
        for i, v in enumerate(values_ms)
    ]


def noisy(ratio=1.0, *, count=20, openings=4, within=0.01, between=0.0, seed=0, drift=0.0):
    """Reference and candidate rounds; the candidate is ``ratio`` times as fast."""
    rng = np.random.default_rng(seed)
    host = np.exp(np.cumsum(rng.normal(0, drift, count)))
    session = np.repeat(rng.normal(0, between, openings), -(-count // openings))[:count]
    reference = 10 * host * np.exp(rng.normal(0, within, count))
    candidate = 10 * host / ratio * np.exp(session + rng.normal(0, within, count))
    return rounds(reference, openings=openings), rounds(candidate, openings=openings)


@pytest.mark.parametrize(("ratio", "word"), [(1.0, "same"), (1.1, "faster"), (0.9, "slower"), (1.01, "same")])
def test_the_three_answers(ratio, word):
    judged = judge_speed(*noisy(ratio))
    assert judged.verdict == word
    assert judged.ratio == pytest.approx(ratio, rel=0.01)
    assert judged.reason is None


def test_an_interval_that_excludes_1_inside_the_band_is_the_same_speed():
    judged = judge_speed(*noisy(1.015, within=0.002))
    assert judged.ci95[0] > 1.0
    assert judged.verdict == "same"


def test_an_interval_that_excludes_1_and_reaches_over_the_edge_is_undecided():
    judged = judge_speed(*noisy(1.03, within=0.004))
    assert judged.ci95[0] > 1.0
    assert judged.verdict == "undecided"
    assert "neither inside nor outside" in judged.reason


def test_the_whole_interval_must_lie_outside_not_the_point():
    judged = judge_speed(*noisy(1.06, within=0.15, seed=3))
    assert judged.ratio > 1 + BAND
    assert judged.verdict == "undecided"


def test_drift_of_the_host_cancels():
    reference, candidate = noisy(1.0, drift=0.2)
    spread = max(r["samples_ms"][0] for r in reference) / min(r["samples_ms"][0] for r in reference)
    assert spread > 1.5
    assert judge_speed(reference, candidate).verdict == "same"


def test_variance_between_openings_widens_the_interval_and_more_rounds_do_not_narrow_it():
    def width(**kinds):
        low, high = judge_speed(*noisy(within=0.002, **kinds)).ci95
        return math.log(high / low)

    quiet = width()
    assert quiet == pytest.approx(2 * 1.96 * 0.007 / 2, rel=0.05), "the floor of the spread between openings"
    assert width(between=0.03, seed=1) > 3 * quiet
    assert width(between=0.03, seed=1, count=60) > 3 * quiet
    assert width(between=0.03, seed=1, count=60, openings=12) < width(between=0.03, seed=1, count=60)


def test_few_rounds_and_few_openings_are_undecided_however_clear():
    few = judge_speed(*noisy(2.0, count=9, openings=3))
    assert (few.verdict, few.rounds) == ("undecided", 9)
    assert "9 rounds are too few" in few.reason
    assert few.ratio == pytest.approx(2.0, rel=0.02)
    single = judge_speed(*noisy(2.0, openings=1))
    assert single.verdict == "undecided"
    assert "1 opening cannot show" in single.reason
    assert judge_speed(*noisy(2.0, count=10, openings=3)).verdict == "faster"


def test_only_rounds_that_both_took_part_in_count():
    reference, candidate = noisy(1.0, count=24)
    for entry in candidate[4:]:
        entry["samples_ms"] = []
    assert judge_speed(reference, candidate).rounds == 4
    assert judge_speed(reference, []).verdict == "undecided"
    assert judge_speed(reference, []).ratio is None
    assert [g.size for g in log_ratios(reference[2:], noisy(count=24)[1])] == [4, 6, 6, 6]


@pytest.mark.parametrize("bad", [math.nan, 0.0, -1.0, math.inf])
def test_a_latency_that_is_no_positive_number_gives_no_verdict(bad):
    reference, candidate = noisy()
    candidate[3]["samples_ms"] = [bad] * 5
    judged = judge_speed(reference, candidate)
    assert judged.verdict == "undecided"
    assert judged.ratio is None
    assert "not a positive finite number" in judged.reason


def test_a_lane_that_speeds_up_within_every_opening_is_undecided():
    reference, candidate = noisy(3.0)
    for entry in candidate:
        if (entry["round"] - 1) % 5 < 2:
            entry["samples_ms"] = [v * 3 for v in entry["samples_ms"]]  # slow, then fast
    judged = judge_speed(reference, candidate)
    assert judged.verdict == "undecided"
    assert "still changing while it is timed" in judged.reason


def test_a_lane_that_speeds_up_once_in_the_middle_of_the_run_is_undecided():
    reference, candidate = noisy(1.0)
    for entry in candidate[10:]:
        entry["samples_ms"] = [v / 2 for v in entry["samples_ms"]]
    assert judge_speed(reference, candidate).verdict == "undecided"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.5, 2.0))
def test_the_ratio_inverts_when_the_roles_swap(seed, ratio):
    reference, candidate = noisy(ratio, seed=seed)
    forward, backward = judge_speed(reference, candidate), judge_speed(candidate, reference)
    assert forward.ratio == pytest.approx(1 / backward.ratio)
    assert forward.ci95[0] <= forward.ratio <= forward.ci95[1]


def test_intervals_hold_the_truth_and_a_cell_is_the_same_as_itself():
    held, words = 0, []
    for seed in range(200):
        judged = judge_speed(*noisy(1.0, within=0.01, between=0.007, seed=seed))
        held += judged.ci95[0] <= 1.0 <= judged.ci95[1]
        words.append(judged.verdict)
    assert held >= 186  # 93 %
    assert words.count("faster") + words.count("slower") == 0
    assert words.count("same") >= 190


def test_openings_of_different_length_are_resampled_as_they_are():
    groups = [np.array([0.1]), np.array([0.1, 0.1, 0.1]), np.full(7, 0.1)]
    point, (low, high) = median_interval(groups)
    assert point == pytest.approx(low) == pytest.approx(high) == pytest.approx(math.exp(0.1))


def repeated(ratio, *, count=20, spread=0.02, seed=0):
    rng = np.random.default_rng(seed)
    fresh = 10 * np.exp(rng.normal(0, spread, count))
    seen = 10 / ratio * np.exp(rng.normal(0, spread, count))
    return rounds([10.0] * count, fresh_ms=fresh, repeated_ms=seen)


@pytest.mark.parametrize(("ratio", "passed"), [(1.0, True), (0.8, True), (1.05, True), (1.3, False), (50.0, False)])
def test_a_runtime_that_is_faster_on_an_input_it_has_seen_is_flagged(ratio, passed):
    check = check_repeated_input(repeated(ratio))
    assert check.passed is passed
    assert check.value == pytest.approx(ratio, rel=0.02)
    assert ("cached" in check.explain) is not passed


def test_a_repeated_input_near_the_limit_or_on_few_pairs_is_not_told():
    near = check_repeated_input(repeated(1.10, spread=0.05))
    assert near.passed is None
    assert "Too noisy" in near.explain
    few = check_repeated_input(repeated(50.0, count=5))
    assert few.passed is None
    assert "5 pairs are too few" in few.explain
    assert check_repeated_input(rounds([1.0] * 20)).passed is None
    assert check_repeated_input(repeated(50.0, count=6)).passed is False


def test_a_nan_latency_of_the_repeated_input_fails():
    entries = repeated(1.0)
    entries[0]["fresh_ms"] = [math.nan]
    assert check_repeated_input(entries).passed is False


KEPT = [{"scores": np.array([[0.0, 1.0]]), "labels": np.array([[3, 4]])}] * 2


def test_limits_scale_with_the_outputs_and_with_the_repeat_noise():
    limits = output_limits(KEPT, {"scores": 0.0, "labels": 0.0})
    assert limits["scores"] == pytest.approx(1e-5 * math.sqrt(0.5))
    assert output_limits(KEPT, {"scores": 1e-3})["scores"] == pytest.approx(1e-2)
    assert math.isinf(output_limits(KEPT, {"scores": 0.1})["scores"])
    assert math.isnan(output_limits(KEPT, {"scores": math.nan})["scores"])


def test_one_late_difference_fails_and_names_output_and_round():
    limits = {"scores": 1e-3, "boxes": 1.0}
    found = [{"round": i, "differences": {"scores": 1e-4, "boxes": 0.5}} for i in range(1, 21)]
    check = check_timed_outputs(found, limits)
    assert (check.passed, check.value, check.limit) == (True, 0.5, 1.0)
    found[18]["differences"]["scores"] = 2e-3
    check = check_timed_outputs(found, limits)
    assert (check.passed, check.value, check.limit) == (False, 2e-3, 1e-3)
    assert "scores in round 19 of 20 differ by 0.002, allowed 0.001" in check.explain


def test_nan_fails_the_timed_outputs_on_either_side():
    found = [{"round": 1, "differences": {"scores": 0.0}}, {"round": 2, "differences": {"scores": math.nan}}]
    assert check_timed_outputs(found, {"scores": 1.0}).passed is False
    assert check_timed_outputs(found[:1], {"scores": math.nan}).passed is False


def test_outputs_that_could_not_be_compared_are_not_passed():
    assert check_timed_outputs([], {"scores": 1.0}).passed is None
    assert check_timed_outputs([{"round": 1, "differences": {}}], {"scores": 1.0}).passed is None
    loose = check_timed_outputs([{"round": 1, "differences": {"scores": 0.0}}], {"scores": math.inf})
    assert loose.passed is None
    assert "from run to run" in loose.explain


def test_no_difference_at_all_is_allowed_where_the_output_is_zero():
    exact = {"round": 1, "differences": {"scores": 0.0}}
    assert check_timed_outputs([exact], {"scores": 0.0}).passed is True
    assert check_timed_outputs([{"round": 1, "differences": {"scores": 1e-30}}], {"scores": 0.0}).passed is False


def test_the_largest_difference_is_nan_for_another_shape_nan_or_infinity():
    value = np.array([1.0, 2.0], np.float32)
    assert max_difference(value, value) == 0.0
    assert max_difference(np.array([1, 9]), np.array([1, 2])) == 7.0
    assert max_difference(np.zeros((0, 4)), np.zeros((0, 4))) == 0.0
    for wrong in (None, value[:1], np.array([1.0, np.nan]), np.array([1.0, np.inf])):
        assert math.isnan(max_difference(wrong, value))
    infinite = np.array([np.inf])
    assert math.isnan(max_difference(infinite, infinite))
