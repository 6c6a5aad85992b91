import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.timing import (
    STEPS_PER_ROUND,
    STEPS_PER_TURN,
    latency_stats,
    run_rounds,
    speed_ratio,
    steps_for,
    time_steps,
    turns_of,
)

times = st.floats(0.01, 1e4)


def test_every_step_is_a_sample():
    calls = []
    assert len(time_steps(lambda: calls.append(1), 7)) == 7
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("step_ms", "steps"), [(None, 5), (math.nan, 5), (0.0, 5), (0.03, 25), (2.0, 25), (2.5, 20), (9.0, 6), (200.0, 5)]
)
def test_a_fast_lane_runs_more_steps_in_a_round(step_ms, steps):
    assert steps_for(step_ms) == steps


@pytest.mark.parametrize(
    ("steps", "in_time"),
    [
        ([5], ["0:0-5"]),
        ([5, 5], ["0:0-5", "1:0-5"]),
        ([10, 10], ["0:0-5", "1:0-5", "1:5-10", "0:5-10"]),
        ([15, 5], ["0:0-5", "1:0-5", "0:5-10", "0:10-15"]),
        ([25, 13], ["0:0-5", "1:0-4", "0:5-10", "0:10-15", "1:4-8", "0:15-20", "0:20-25", "1:8-13"]),
        ([], []),
    ],
)
def test_lanes_take_turns_within_a_round(steps, in_time):
    assert [f"{lane}:{own.start}-{own.stop}" for lane, own in turns_of(steps)] == in_time


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_turns_hold_every_step_once_in_order_and_are_alike(steps):
    found = turns_of(steps)
    for lane, count in enumerate(steps):
        own = [r for number, r in found if number == lane]
        assert [i for r in own for i in r] == list(range(count))
        lengths = {len(r) for r in own}
        assert max(lengths) <= STEPS_PER_TURN
        assert max(lengths) - min(lengths) <= 1
    assert len(found) == sum(-(-count // STEPS_PER_TURN) for count in steps)


@given(st.integers(1, 60), st.integers(2, 5))
def test_a_steady_drift_hits_lanes_of_as_many_steps_alike(steps, lanes):
    """Over two passes every lane is at the same place on average."""
    found = [lane for lane, _ in turns_of([steps] * lanes)]
    passes = [found[i : i + lanes] for i in range(0, len(found), lanes)]
    assert all(sorted(p) == list(range(lanes)) for p in passes)
    for first, second in zip(passes[::2], passes[1::2], strict=False):
        assert second == first[::-1]


@given(st.lists(st.integers(1, 60), min_size=2, max_size=4))
def test_few_turns_lie_in_the_middle_of_many(steps):
    found = turns_of(steps)
    middle = [sum(i for i, (lane, _) in enumerate(found) if lane == n) / sum(lane == n for lane, _ in found)
              for n in range(len(steps))]  # fmt: skip
    assert max(middle) - min(middle) <= 2 * len(steps)


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
