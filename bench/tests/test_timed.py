from __future__ import annotations

import numpy as np
import pytest

from bench import testing
from bench.passes import accuracy_pass
from bench.testing.saboteurs import sabotage
from bench.timed import TimedBatches, shifted
from bench.types import Artifact, Cell


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return testing.fake_fixtures(tmp_path_factory.mktemp("fake"), 10).samples


def opened(backend=testing.fake_backend, batch=1):
    adapter = testing.fake_adapter
    artifact = Artifact(kind="weights", path=adapter.spec.default_weights, sha256="0" * 64, precision="fp32",
                        inputs=adapter.spec.inputs, outputs=adapter.spec.outputs,
                        build=lambda: adapter.build(adapter.spec.default_weights))  # fmt: skip
    cell = Cell(model="fake", backend=backend.name, device="cpu", precision="fp32", fixtures="fake", batch=batch)
    return backend.open(artifact, cell, threads=1)


def turns(backend, samples, *, batch=1, count=9):
    """The accuracy pass, then rounds in the same runner."""
    runner = opened(backend, batch)
    done = accuracy_pass(runner, testing.fake_adapter, samples, batch=batch)
    timed = TimedBatches(runner, testing.fake_adapter, samples, batch=batch, expected=done.kept)
    timed.warm_up(5)
    return done, [timed.round(number=n, steps=5) for n in range(1, count + 1)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_an_honest_runner_gives_the_outputs_of_the_accuracy_pass_in_every_round(samples, batch):
    done, rounds = turns(testing.fake_backend, samples, batch=batch)
    assert len(done.kept) == min(4, len(samples) // batch)
    assert set(done.repeat_noise.values()) == {0.0}
    for turn in rounds:
        assert turn["differences"] == {"boxes": 0.0, "scores": 0.0}
        assert len(turn["samples_ms"]) == 5
        assert len(turn["fresh_ms"]) == len(turn["repeated_ms"]) == 1


def test_the_images_are_told_apart(samples):
    kept = accuracy_pass(opened(), testing.fake_adapter, samples).kept
    for i in range(4):
        for j in range(i):
            assert np.abs(kept[i]["boxes"] - kept[j]["boxes"]).max() > 0.1


def test_a_runner_that_stops_working_is_seen_in_the_rounds_after(samples):
    lazy = sabotage(testing.fake_backend, name="lazy", works=lambda runs: runs < 60)
    _, rounds = turns(lazy, samples)
    wrong = [max(r["differences"].values()) > 0.1 for r in rounds]
    assert not any(wrong[:2])
    assert sum(wrong[6:]) >= 2


def test_a_runner_that_always_answers_with_its_first_output_is_seen(samples):
    first = {}

    def stuck(outputs):
        first.setdefault("outputs", outputs)
        return first["outputs"]

    honest = accuracy_pass(opened(), testing.fake_adapter, samples)
    runner = opened(sabotage(testing.fake_backend, name="stuck", change=stuck))
    timed = TimedBatches(runner, testing.fake_adapter, samples, batch=1, expected=honest.kept)
    found = [max(timed.round(number=n, steps=5)["differences"].values()) for n in range(8)]
    assert sum(f > 0.1 for f in found) == 6, "two of eight rounds end on the image that it remembers"


def test_every_round_steps_over_all_batches_and_lanes_see_the_same_ones(samples):
    seen = {"a": [], "b": []}

    def lane(name):
        def note(outputs):
            seen[name].append(float(outputs["boxes"].sum()))
            return outputs

        runner = opened(sabotage(testing.fake_backend, name=name, change=note))
        return TimedBatches(runner, testing.fake_adapter, samples, batch=1, expected=[{}] * 4)

    a, b = lane("a"), lane("b")
    for number in range(1, 13):
        a.round(number=number, steps=5)
        b.round(number=number, steps=5)
    assert seen["a"] == seen["b"]
    assert len(set(seen["a"])) == 4


@pytest.mark.parametrize("batches", [1, 3, 4])
def test_a_round_in_turns_runs_the_steps_of_a_round_in_one_go_on_the_same_bindings(samples, batches):
    """But for the unmeasured step before each turn; its outputs are fetched once, after the last."""
    steps = {"whole": [], "turns": []}

    def lane(name):
        timed = TimedBatches(opened(), testing.fake_adapter, samples[:batches], batch=1)
        timed._bound = [Noting(bound, place, steps[name]) for place, bound in enumerate(timed._bound)]
        return timed

    whole, turns = lane("whole"), lane("turns")
    for number in range(1, 8):
        for seen in steps.values():
            seen.clear()
        one = whole.round(number=number, steps=12)
        parts = [turns.turn(number=number, first=f, steps=4) for f in (0, 4)]
        last = turns.round(number=number, first=8, steps=4)
        assert len(one["samples_ms"]) == len([*parts[0], *parts[1], *last["samples_ms"]]) == 12
        places = steps["turns"]
        assert [*places[1:5], *places[6:10], *places[11:15]] == steps["whole"][1:13], "the first of each is not timed"
        assert places[15:] == steps["whole"][13:], "one fresh and one repeated input, after the last"
        assert one["differences"].keys() == last["differences"].keys()


class Noting:
    """A bound runner that writes down its place at every step."""

    def __init__(self, bound, place, seen):
        self._bound, self._place, self._seen = bound, place, seen

    def step(self):
        self._seen.append(self._place)
        self._bound.step()

    def __getattr__(self, name):
        return getattr(self._bound, name)


def test_fewer_images_than_the_batch_are_repeated_and_compared_with_nothing(samples):
    done, rounds = turns(testing.fake_backend, samples[:3], batch=4, count=2)
    assert done.kept == ()
    assert rounds[0]["differences"] == {}
    assert len(rounds[0]["samples_ms"]) == 5


def test_a_non_finite_output_makes_its_repeat_noise_nan(samples):
    done, rounds = turns(testing.nan_backend, samples, count=1)
    assert np.isnan(list(done.repeat_noise.values())).all()
    assert np.isnan(list(rounds[0]["differences"].values())).all()


def test_an_output_that_changes_from_run_to_run_is_measured(samples):
    count = iter(range(1000))
    noisy = sabotage(testing.fake_backend, name="noisy", change=lambda o: {**o, "boxes": o["boxes"] + next(count)})
    noise = turns(noisy, samples, count=1)[0].repeat_noise
    assert noise == pytest.approx({"boxes": len(samples), "scores": 0.0})


def test_shifted_images_are_all_different_and_of_the_same_values():
    feeds = {"images": np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5), "sizes": np.array([4, 5])}
    made = [shifted(feeds, number) for number in range(1, 20)]
    assert len({m["images"].tobytes() for m in [feeds, *made]}) == 20
    for one in made:
        assert sorted(one["images"].ravel()) == sorted(feeds["images"].ravel())
        assert one["sizes"] is feeds["sizes"]
    assert shifted({"ids": np.zeros((1, 3, 4), np.int64)}, 1) is None
    assert shifted({"vector": np.zeros((1, 3), np.float32)}, 1) is None


def test_another_build_is_held_to_its_own_outputs_and_its_distance_is_told(samples):
    shifted_build = sabotage(
        testing.fake_backend, name="rebuilt", change=lambda o: {**o, "scores": o["scores"] + np.float32(0.25)}
    )
    done = accuracy_pass(opened(), testing.fake_adapter, samples)
    runner = opened(shifted_build)
    timed = TimedBatches(runner, testing.fake_adapter, samples, batch=1, expected=done.kept)
    strict = [timed.round(number=n, steps=5)["differences"]["scores"] for n in range(1, 4)]
    assert max(strict) > 0.2
    timed = TimedBatches(runner, testing.fake_adapter, samples, batch=1, expected=done.kept)
    apart = timed.expect_own(runner)
    assert apart["scores"] == pytest.approx(0.25, abs=1e-6)
    assert apart["boxes"] == 0.0
    own = [timed.round(number=n, steps=5)["differences"] for n in range(1, 6)]
    assert own == [{"boxes": 0.0, "scores": 0.0}] * 5
