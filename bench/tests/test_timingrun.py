"""Timing over real lanes and fakes: openings, limits, what is caught while timed, and what a failing lane keeps."""

from __future__ import annotations

import dataclasses
import datetime

import psutil
import pytest

from bench import testing
from bench.cores import usable_cores
from bench.errors import LaneError, Unavailable
from bench.events import Silent
from bench.judging import judge_model
from bench.lanes import Lane, Limits
from bench.matrix import ModelPlan, PlannedCell, Request, plan_cells
from bench.modelrun import ModelRun
from bench.probe import probe
from bench.record import Record
from bench.registry import Reference
from bench.speed import judge_speed
from bench.timingrun import TimingRun
from bench.types import Cell

BASE = Request(
    reference=("fake", "fp32", "cpu"), precisions=("fp32",), rounds=12, max_rounds=12, openings=3,
    limits=Limits(silence_s=60), resamples=0, cross_check="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_fixtures(tmp_path_factory.mktemp("fake"), 32)


@pytest.fixture
def go(images, tmp_path):
    """Measure and judge the fake reference and named candidates; returns the run and its cells."""

    def start(*targets, fixtures=None, **changes):
        request = dataclasses.replace(BASE, **changes)
        wanted = ["bench.testing:fake_backend", *targets]
        facts = probe(wanted, asked=wanted, devices=["cpu"], precisions=["fp64", "fp32", "fp16"], logs=tmp_path)
        spec = testing.fake_adapter.spec
        chosen = fixtures or images
        cells, _ = plan_cells(spec, fixtures_name="fake", has_module=True, request=request, backends=facts)
        plan = ModelPlan(
            adapter=Reference(name="fake", target="bench.testing:fake_adapter"), spec=spec,
            weights=spec.default_weights, fixtures=chosen, labels_to_categories=(1, 2, 3), calibration=None,
            calibration_label=None, cells=cells, golden=None,
        )  # fmt: skip
        run = ModelRun(plan, request, folder=tmp_path, events=Silent())
        run.measure(lambda record: None)
        return run, judge_model(run, request, today=datetime.date(2026, 1, 1))

    return start


def fake(name):
    return f"bench.tests.timing_fakes:{name}_backend"


def checks(cell):
    return {c.name: c.passed for c in cell.speed.checks}


def test_lanes_are_opened_anew_and_every_round_has_every_lane(go):
    run, (reference, candidate) = go(fake("honest"))
    for cell in (reference, candidate):
        assert (cell.speed.openings, cell.speed.rounds_run, cell.speed.samples) == (3, 12, 5 + 11 * 25)
        assert [r["opening"] for r in cell.speed.rounds] == [1] * 4 + [2] * 4 + [3] * 4
        assert checks(cell)["timed outputs"] is True
    assert [r["round"] for r in candidate.speed.rounds] == list(range(1, 13))
    assert {r["order"] for r in candidate.speed.rounds} == {1, 2}
    assert candidate.speed.ratio is not None
    assert candidate.speed.ratio_ci95[0] < candidate.speed.ratio < candidate.speed.ratio_ci95[1]
    assert candidate.speed.stopped
    assert run.noise["rounds"] == 12
    assert not run._lanes


class FakeLane:
    """Answers what a timed lane is asked, and writes it down."""

    def __init__(self, pid=1, *, step_ms=1.0, fails=None):
        self.pid, self.closed, self.step_ms, self.calls = pid, False, step_ms, []
        self.fails = fails or {}

    def call(self, command, **arguments):
        assert not self.closed
        self.calls.append((command, arguments))
        if command in self.fails:
            raise self.fails[command]
        if command == "turn":
            return self._samples(**arguments)
        if command == "round":
            return {"samples_ms": self._samples(**arguments), "fresh_ms": [], "repeated_ms": [], "differences": {}}
        return {"hold": None, "stay_on": None, "peak": 100.0 / self.pid}[command]

    def _samples(self, *, number, first, steps):
        """Each step takes a little longer than the one before it, so that the order can be read."""
        return [self.step_ms * (1 + (first + i) / 1000) for i in range(steps)]

    def close(self):
        self.closed = True


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def timing_of(images, lanes, *, events=None, open_lane=None, fail=None, devices=(), **changes):
    """A timing of fake lanes, and the records of their cells, the reference first."""
    records = [
        Record(planned=_planned(name, device)) for name, device in zip(lanes, [*devices, *["cpu"] * 9], strict=False)
    ]
    by_name = {str(r.cell): lane for r, lane in zip(records, lanes.values(), strict=True)}
    request = dataclasses.replace(BASE, **changes)
    timing = TimingRun(records, by_name, open_lane=open_lane, fail=fail, samples=images.samples, request=request,
                       events=events or Silent(), deadline=None)  # fmt: skip
    return timing, records


def test_a_lane_is_a_new_process_in_every_opening(images):
    opened = [FakeLane(1)]

    def open_lane(record):
        opened.append(FakeLane(len(opened) + 1))
        timing._lanes[str(record.cell)] = opened[-1]

    timing, (record,) = timing_of(images, {"b": opened[0]}, open_lane=open_lane, rounds=20, max_rounds=20, openings=4)
    timing.run()
    assert [lane.closed for lane in opened] == [True, True, True, False]
    assert len(record.rounds) == 20
    assert record.peak_rss_mb == 100.0, "the highest of all openings"


def test_fast_and_slow_lanes_take_turns_and_their_samples_keep_the_order_of_the_steps(images):
    lanes = {"slow": FakeLane(1, step_ms=100.0), "fast": FakeLane(2, step_ms=1.0)}
    asked = []
    for name, lane in lanes.items():
        lane.call = lambda command, n=name, own=lane.call, **a: (
            asked.append((n, command, a.get("number"))) or own(command, **a)
        )
    timing, records = timing_of(images, lanes, rounds=10, max_rounds=10, openings=1)
    timing.run()
    for record, step_ms, most in zip(records, (100.0, 1.0), (5, 25), strict=True):
        assert [len(r["samples_ms"]) for r in record.rounds] == [5] + [most] * 9
        for entry in record.rounds:
            assert entry["samples_ms"] == sorted(entry["samples_ms"])
            assert entry["samples_ms"][0] == step_ms, "it begins with the first step"
    of_one = [(name, command) for name, command, number in asked if number == 4]
    assert sorted(of_one) == [("fast", "round")] + [("fast", "turn")] * 4 + [("slow", "round")]
    assert of_one.index(("slow", "round")) in (2, 3), "in the middle of five turns"


def test_all_lanes_of_a_round_share_a_core_and_leave_it_at_the_end(images, monkeypatch):
    monkeypatch.setattr("bench.timingrun.shareable_cores", lambda threads: (3, 5, 8))
    monkeypatch.setattr("bench.timingrun.usable_cores", lambda: (3, 4, 5, 8))
    lanes = {"a": FakeLane(1), "b": FakeLane(2), "gpu": FakeLane(3)}
    timing, _ = timing_of(images, lanes, devices=("cpu", "cpu", "cuda"), rounds=30, max_rounds=30, openings=1)
    timing.run()
    held = {name: [a["cores"] for command, a in lane.calls if command == "stay_on"] for name, lane in lanes.items()}
    assert held["a"] == held["b"]
    assert held["gpu"] == [], "what waits for a GPU is placed by the kernel"
    assert len(held["a"]) == 31
    assert set(held["a"][:-1]) == {(3,), (5,), (8,)}
    assert held["a"][-1] == (3, 4, 5, 8)


def test_lanes_are_left_alone_where_no_core_can_be_shared(images, monkeypatch):
    monkeypatch.setattr("bench.timingrun.shareable_cores", lambda threads: () if threads == 2 else (0, 1))
    lane = FakeLane()
    timing, (record,) = timing_of(images, {"a": lane}, threads=2, openings=1)
    timing.run()
    assert len(record.rounds) == 12
    assert not [c for c, _ in lane.calls if c == "stay_on"]


def test_a_kernel_that_refuses_is_told_of_once_and_the_rounds_go_on(images, monkeypatch):
    monkeypatch.setattr("bench.timingrun.shareable_cores", lambda threads: (0, 1))
    lane, events = FakeLane(fails={"stay_on": Unavailable("cores [1]: Operation not permitted")}), Notes()
    timing, (record,) = timing_of(images, {"a": lane}, events=events, openings=1)
    timing.run()
    assert len(record.rounds) == 12
    assert [c for c, _ in lane.calls].count("stay_on") == 1
    assert events.notes == ["The lanes do not share a core, the kernel places them: cores [1]: Operation not permitted"]


@pytest.mark.parametrize("command", ["stay_on", "turn", "round"])
def test_a_lane_that_dies_in_a_round_fails_its_cell_alone(images, monkeypatch, command):
    monkeypatch.setattr("bench.timingrun.shareable_cores", lambda threads: (0, 1))
    lanes = {"a": FakeLane(1, step_ms=2.0), "b": FakeLane(2, step_ms=2.0)}
    failed = []

    def fail(record, error):
        failed.append((record.cell.backend, str(error)))
        del timing._lanes[str(record.cell)]

    timing, (a, b) = timing_of(images, lanes, fail=fail, openings=1)
    lanes["b"].fails[command] = LaneError("It died.")
    timing.run()
    assert failed == [("b", "It died.")]
    assert len(a.rounds) == 12
    assert len(b.rounds) == (1 if command == "turn" else 0), "the first round is one turn of five"


@pytest.mark.skipif(len(usable_cores()) < 2, reason="a lane needs cores to choose from")
def test_a_real_lane_stays_where_it_is_put(tmp_path):
    with Lane(name="put", log=tmp_path / "lane.log") as lane:
        for cores in [usable_cores()[:1], usable_cores()[1:2], usable_cores()]:
            lane.call("stay_on", cores=cores)
            assert tuple(sorted(psutil.Process(lane.pid).cpu_affinity())) == cores


def test_a_real_lane_whose_kernel_refuses_says_so_and_lives_on(tmp_path):
    with Lane(name="put", log=tmp_path / "lane.log") as lane:
        with pytest.raises(Unavailable, match=r"cores \[1000000\]: "):
            lane.call("stay_on", cores=(1_000_000,))
        assert lane.call("peak") > 0


def _planned(backend="b", device="cpu"):
    cell = Cell(model="m", backend=backend, device=device, precision="fp32", fixtures="f")
    return PlannedCell(cell=cell, role="reference", backend=Reference(name=backend, target=backend),
                       artifact_kind="weights", measures_speed=True, mode="native")  # fmt: skip


def test_a_clearly_slower_cell_stops_at_the_least_number_of_rounds_and_says_why(go):
    _, (reference, slow) = go("bench.testing:slow_backend", max_rounds=60)
    assert slow.speed.verdict == "slower"
    assert slow.speed.rounds_run == 12
    assert slow.speed.stopped == "Decided after 12 rounds: the interval lies outside the band of ±3 %."
    assert reference.speed.rounds_run == 12
    assert "Every cell that is compared with it" in reference.speed.stopped


def test_what_stays_undecided_goes_on_to_the_limit_in_new_openings(go, monkeypatch):
    def judge(reference, candidate):
        real = judge_speed(reference, candidate)
        return real if real.ratio < 0.1 else dataclasses.replace(real, verdict="undecided")

    monkeypatch.setattr("bench.timingrun.judge_speed", judge)
    _, (reference, slow, honest) = go("bench.testing:slow_backend", fake("honest"), rounds=12, max_rounds=24)
    assert slow.speed.rounds_run == 12
    assert (honest.speed.rounds_run, honest.speed.openings) == (24, 6)
    assert reference.speed.rounds_run == 24
    assert honest.speed.stopped == "The limit of 24 rounds was reached."


def test_an_emulated_cell_is_timed_and_has_no_ratio(go):
    _, cells = go(precisions=("fp32", "fp16"), max_rounds=60)
    emulated = cells[1].speed
    assert (emulated.verdict, emulated.ratio, emulated.rounds_run) == ("emulated", None, 12)
    assert "no ratio to decide" in emulated.stopped


@pytest.mark.parametrize("name", ["lazy", "coarser"])
def test_a_backend_that_is_honest_while_scored_and_not_while_timed_is_caught(go, name):
    _, (reference, caught) = go(fake(name), rounds=24, max_rounds=24)
    assert caught.parity[0].passed
    assert [p.passed for p in caught.parity if p.level == "prediction"] == [True]
    assert checks(caught)["timed outputs"] is False
    assert caught.speed.ratio is None
    assert caught.speed.verdict == "not judged"
    assert "not those of the accuracy pass" in caught.speed.reason
    assert checks(reference)["timed outputs"] is True


def test_a_backend_that_remembers_results_is_caught_with_right_outputs(go):
    _, (reference, caught) = go(fake("caching"))
    assert checks(caught) == {"timed outputs": True, "repeated input": False}
    assert caught.speed.ratio is None
    assert "cached" in caught.speed.reason
    assert checks(reference)["repeated input"] is not False


def test_a_reference_that_cheats_spoils_the_ratio_of_everybody(go):
    _, (reference, honest) = go(fake("lazy"), "bench.testing:fake_backend", reference=("timed-lazy", "fp32", "cpu"),
                                rounds=24, max_rounds=24)  # fmt: skip
    assert checks(reference)["timed outputs"] is False
    assert honest.speed.ratio is None
    assert "The reference's timing is not to be trusted" in honest.speed.reason


@pytest.mark.parametrize(("name", "words"), [("late", "gave up while timed"), ("once", "second session was refused")])
def test_a_lane_that_fails_while_timed_or_opened_again_keeps_its_accuracy(go, name, words, monkeypatch, tmp_path):
    monkeypatch.setenv("PARITY_TEST_MARKER", str(tmp_path / "marker"))
    run, cells = go(fake(name), fake("honest"))
    failed = next(r for r in run.records if r.cell.backend == f"timed-{name}")
    assert failed.blocked[0] == "error"
    assert words in failed.blocked[1]
    assert len(failed.accuracy.predictions) == 32
    assert failed.raw is not None
    others = [c for c in cells if c.cell.backend != f"timed-{name}"]
    assert {c.speed.rounds_run for c in others} == {12}
    assert {c.status for c in others} <= {"passed", "undecided"}


def test_a_time_budget_ends_the_rounds_and_says_so(images):
    timing, (record,) = timing_of(images, {"b": FakeLane()}, time_budget_s=7.0)
    timing._deadline = 0.0
    timing.run()
    assert len(record.rounds) == 2
    assert record.stopped == "The time budget of 7 s was used up."


def test_few_rounds_are_never_one_per_opening(go):
    _, (_, candidate) = go(fake("honest"), rounds=4, max_rounds=4, openings=4)
    assert (candidate.speed.openings, candidate.speed.rounds_run) == (2, 4)
    assert "4 rounds are too few" in candidate.speed.reason
