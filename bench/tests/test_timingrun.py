"""Timing over real lanes and fakes: openings, limits, what is caught while timed, and what a failing lane keeps."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from bench import testing
from bench.events import Silent
from bench.judging import judge_model
from bench.lanes import Limits
from bench.matrix import ModelPlan, Request, plan_cells
from bench.modelrun import ModelRun
from bench.probe import probe
from bench.record import Record
from bench.registry import Reference
from bench.speed import judge_speed
from bench.timingrun import TimingRun

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


def test_a_lane_is_a_new_process_in_every_opening(images, tmp_path):
    opened = []
    record = Record(planned=_planned())

    class Lane:
        def __init__(self):
            self.pid, self.closed = len(opened) + 1, False
            opened.append(self)

        def call(self, command, **arguments):
            assert not self.closed
            return {"round": turn(), "hold": None, "peak": 100.0 / self.pid}[command]

        def close(self):
            self.closed = True

    lanes = {str(record.cell): Lane()}

    def open_lane(record):
        lanes[str(record.cell)] = Lane()

    request = dataclasses.replace(BASE, rounds=20, max_rounds=20, openings=4)
    timing = TimingRun([record], lanes, open_lane=open_lane, fail=None, samples=images.samples, events=Silent(),
                       request=request, deadline=None)  # fmt: skip
    timing.run()
    assert [lane.closed for lane in opened] == [True, True, True, False]
    assert len(record.rounds) == 20
    assert record.peak_rss_mb == 100.0, "the highest of all openings"


def turn():
    return {"samples_ms": [1.0] * 5, "fresh_ms": [], "repeated_ms": [], "differences": {}}


def _planned():
    from bench.matrix import PlannedCell
    from bench.types import Cell

    cell = Cell(model="m", backend="b", device="cpu", precision="fp32", fixtures="f")
    return PlannedCell(cell=cell, role="reference", backend=Reference(name="b", target="b"), artifact_kind="weights",
                       measures_speed=True, mode="native")  # fmt: skip


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


def test_a_time_budget_ends_the_rounds_and_says_so(images, tmp_path):
    record = Record(planned=_planned())

    class Lane:
        pid = 1

        def call(self, command, **arguments):
            return turn()

    timing = TimingRun([record], {str(record.cell): Lane()}, open_lane=None, fail=None, samples=images.samples,
                       request=dataclasses.replace(BASE, time_budget_s=7.0), events=Silent(), deadline=0.0)  # fmt: skip
    timing.run()
    assert len(record.rounds) == 2
    assert record.stopped == "The time budget of 7 s was used up."


def test_few_rounds_are_never_one_per_opening(go):
    _, (_, candidate) = go(fake("honest"), rounds=4, max_rounds=4, openings=4)
    assert (candidate.speed.openings, candidate.speed.rounds_run) == (2, 4)
    assert "4 rounds are too few" in candidate.speed.reason
