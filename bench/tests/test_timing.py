import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.timing import STEPS_PER_ROUND, latency_stats, run_rounds, speed_ratio, steps_for, time_steps

times = st.floats(0.01, 1e4)


def test_every_step_is_a_sample():
    calls = []
    assert len(time_steps(lambda: calls.append(1), 7)) == 7
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("step_ms", "steps"), [(None, 5), (math.nan, 5), (0.0, 5), (0.03, 25), (2.0, 25), (2.5, 20), (9.0, 6), (200.0, 5)]
)
def test_a_fast_lane_has_longer_turns(step_ms, steps):
    assert steps_for(step_ms) == steps


def test_percentiles_without_enough_samples_are_not_printed():
    assert latency_stats([1.0] * 63)["p90"] is None
    assert latency_stats([1.0] * 64)["p90"] == 1.0
    assert latency_stats([1.0] * 661)["p99"] is None
    assert latency_stats([1.0] * 662)["p99"] == 1.0


def test_an_outlier_stays_in_the_mean():
    assert latency_stats([1.0, 1.0, 100.0])["mean"] == 34.0


@given(st.lists(st.tuples(times, times), min_size=1, max_size=20))
def test_a_ratio_inverts_when_the_roles_swap(rounds):
    a, b = [[x] for x, _ in rounds], [[y] for _, y in rounds]
    assert speed_ratio(a, b) == pytest.approx(1 / speed_ratio(b, a))


@given(st.lists(times, min_size=3, max_size=9), st.floats(0.1, 10))
def test_drift_of_the_host_cancels(drift, factor):
    reference = [[d * 10] for d in drift]
    candidate = [[d * 10 / factor] for d in drift]
    assert math.isclose(speed_ratio(reference, candidate), factor, rel_tol=1e-9)


def test_rounds_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        speed_ratio([[1.0]], [[1.0], [1.0]])


def test_rounds_are_shuffled_and_hold_every_lane():
    log = []

    def timer(name):
        def run(steps):
            log.append((name, steps))
            return [1.0] * steps

        return run

    rounds = list(run_rounds({n: timer(n) for n in "abcd"}, rounds=12, seed=3))
    assert len({tuple(r["order"]) for r in rounds}) > 3
    assert all(sorted(r["samples_ms"]) == list("abcd") for r in rounds)
    assert all(len(s) == STEPS_PER_ROUND for r in rounds for s in r["samples_ms"].values())
    assert log[0][1] == 1, "one unmeasured step comes first"


def test_the_same_seed_gives_the_same_order():
    timers = dict.fromkeys("abc", lambda steps: [1.0] * steps)
    orders = [[r["order"] for r in run_rounds(timers, rounds=5, seed=s)] for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_rounds_end_when_told_to():
    assert len(list(run_rounds({"a": lambda n: [1.0] * n}, rounds=9, seed=0, go_on=lambda done: done < 2))) == 2
