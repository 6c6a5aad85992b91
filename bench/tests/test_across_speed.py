"""Speed across runs: the interval, the three-way verdict, and how often it is wrong on runs with a known truth."""

import math

import numpy as np
import pytest

from bench.across.speed import BAND, judge_speed, t_quantile

QUIET = (1.998, 2.0, 2.003)


def test_the_quantile_is_student_s_table():
    # two-sided 95 %: 4.303 with 2 degrees of freedom, 2.776 with 4, 2.262 with 9
    assert [round(t_quantile(n), 3) for n in (2, 4, 9)] == [4.303, 2.776, 2.262]


def test_a_quiet_baseline_decides_all_three_ways():
    assert judge_speed(QUIET, 2.002, (1.99, 2.014)).verdict == "same"
    slower = judge_speed(QUIET, 1.8, (1.79, 1.81))
    assert slower.verdict == "slower"
    assert slower.change == pytest.approx(0.9, abs=1e-3)
    assert "wholly below" in slower.reason
    assert judge_speed(QUIET, 2.2, (2.19, 2.21)).verdict == "faster"
    edge = judge_speed(QUIET, 1.95, (1.94, 1.96))
    assert edge.verdict == "undecided"
    assert "neither inside nor outside" in edge.reason


def test_the_interval_is_the_prediction_interval_for_one_new_run():
    logs = np.log([1.9, 2.0, 2.1, 2.05])
    spread = logs.std(ddof=1)
    judged = judge_speed(np.exp(logs).tolist(), 2.0, (2.0, 2.0))
    half = 3.182 * spread * math.sqrt(1 + 1 / 4)
    centre = math.log(2.0) - logs.mean()
    assert np.log(judged.ci95) == pytest.approx([centre - half, centre + half], abs=1e-4)


def test_a_candidate_noisier_than_the_baseline_is_given_its_own_interval():
    judged = judge_speed(QUIET, 2.0, (1.8, 2.2))
    assert judged.verdict == "undecided"
    assert judged.ci95[0] < 0.91
    assert "time more rounds" in judged.reason


@pytest.mark.parametrize("ratios", [(2.0,), (2.0, 2.0)])
def test_fewer_than_three_runs_decide_nothing_however_slow_it_is(ratios):
    judged = judge_speed(ratios, 0.5, (0.49, 0.51))
    assert judged.verdict == "undecided"
    assert judged.ci95 is None
    assert "needs 3 baseline runs" in judged.reason
    assert judged.change == pytest.approx(0.25)


def test_a_ratio_without_its_own_interval_decides_nothing():
    assert judge_speed(QUIET, 1.0, None).verdict == "undecided"


def test_undecided_says_how_many_runs_would_decide():
    logs = np.array([-0.006, 0.0, 0.006])
    judged = judge_speed(np.exp(logs).tolist(), 1.0, (0.995, 1.005))
    assert judged.verdict == "undecided"
    assert "About 4 baseline runs would decide" in judged.reason
    assert "quieter host" in judge_speed((1.0, 1.1, 1.3), 1.0, (0.99, 1.01)).reason


@pytest.mark.parametrize("runs", [3, 5])
def test_a_new_run_of_the_same_code_is_hardly_ever_called_slower_or_faster(runs):
    # between-run sd 0.7 %, as re-opened sessions show; the interval must cover the truth 95 % of the time
    generator = np.random.default_rng(1)
    covered = wrong = 0
    for _ in range(4000):
        logs = generator.normal(0.0, 0.007, runs + 1)
        judged = judge_speed(np.exp(logs[:-1]).tolist(), math.exp(logs[-1]), (math.exp(logs[-1]),) * 2)
        covered += judged.ci95[0] <= 1.0 <= judged.ci95[1]
        wrong += judged.verdict in ("slower", "faster")
    assert 0.94 <= covered / 4000 <= 0.96
    assert wrong / 4000 <= 0.001


def test_a_run_ten_percent_slower_is_never_called_the_same_and_mostly_slower():
    generator = np.random.default_rng(2)
    words = []
    for _ in range(2000):
        logs = generator.normal(0.0, 0.007, 4)
        cand = math.exp(logs[-1] + math.log(0.9))
        words.append(judge_speed(np.exp(logs[:-1]).tolist(), cand, (cand * 0.99, cand * 1.01)).verdict)
    assert words.count("same") == words.count("faster") == 0
    assert words.count("slower") / 2000 > 0.85


def test_the_band_is_three_percent_both_ways():
    exact = (1.0, 1.0, 1.0)
    assert judge_speed(exact, 1.0, (1 / (1 + BAND), 1 + BAND)).verdict == "same"
    assert judge_speed(exact, 1.0, (1 / (1 + BAND) - 1e-6, 1 + BAND)).verdict == "undecided"


def test_a_wider_band_forgives_what_it_holds_and_no_more() -> None:
    assert judge_speed(QUIET, 1.9, (1.88, 1.92)).verdict == "slower"
    assert judge_speed(QUIET, 1.9, (1.88, 1.92), band=0.1).verdict == "same"
    slower = judge_speed(QUIET, 1.7, (1.68, 1.72), band=0.1)
    assert slower.verdict == "slower"
    assert "±10 % band" in str(slower.reason)
