"""Whole runs over the fakes: what is honest passes, each saboteur is caught by name, nothing else is lost."""

import _thread
import dataclasses
import datetime
import json
import signal
import threading

import pytest

from bench import testing
from bench.engine import open_folder, run
from bench.errors import InputError
from bench.events import Silent
from bench.lanes import Limits
from bench.matrix import ModelPlan, Request, plan_cells
from bench.probe import probe
from bench.registry import Reference
from bench.schema import write_suite
from bench.waivers import Waiver

IMAGES = 32
BASE = Request(reference=("fake", "fp32", "cpu"), rounds=2, max_rounds=2, limits=Limits(silence_s=60))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_fixtures(tmp_path_factory.mktemp("fake"), IMAGES)


@pytest.fixture
def go(images, tmp_path):
    """Run the fake model through the named fakes and return the suite and its folder."""

    def start(*names, fixtures=None, events=None, spec=testing.fake_adapter.spec, **changes):
        request = dataclasses.replace(BASE, out=tmp_path / "reports", **{"precisions": ("fp32",), **changes})
        targets = [f"bench.testing:{n}_backend" for n in ("fake", *[n for n in names if n != "fake"])]
        folder = open_folder(request.out)
        facts = probe(
            targets,
            asked=targets,
            devices=["cpu"],
            precisions=["fp64", "fp32", "fp16", "int8"],
            logs=folder.path / "logs",
        )
        chosen = fixtures or images
        cells, golden = plan_cells(spec, fixtures_name=chosen.name, has_module=True, request=request, backends=facts)
        plan = ModelPlan(
            adapter=Reference(name="fake", target="bench.testing:fake_adapter"),
            spec=spec,
            weights=spec.default_weights,
            fixtures=chosen,
            labels_to_categories=(1, 2, 3),
            calibration=None,
            calibration_label=None,
            cells=cells,
            golden=golden,
        )
        suite = run([plan], request, folder, events=events)
        write_suite(suite, folder.path / "suite.json")
        return suite, folder.path

    return start


def cell(suite, backend, precision="fp32"):
    (found,) = [c for c in suite.cells if (c.cell.backend, c.cell.precision) == (backend, precision)]
    return found


def test_an_honest_backend_passes_in_every_judged_precision(go):
    suite, folder = go(precisions=("fp32", "fp16", "int8"))
    reference = cell(suite, "fake")
    assert reference.role == "reference"
    assert reference.status == "passed"
    assert reference.accuracy.stats["AP"] == pytest.approx(1.0)
    assert [p.passed for p in reference.parity] == [None, None], "the yardstick is not measured by its own error"
    assert len(reference.speed.rounds) == 2
    assert reference.speed.samples == 5 + 25, "a fast lane's turns are longer once its latency is known"
    fp16 = cell(suite, "fake", "fp16")
    assert fp16.speed.verdict == "emulated"
    assert fp16.speed.ratio is None
    assert fp16.observed.emulated
    assert fp16.status == "passed"
    int8 = cell(suite, "fake", "int8").accuracy
    assert int8.verdict == "passed"
    assert int8.ci95[0] <= int8.delta <= int8.ci95[1]
    checked = [c.cell.precision for c in suite.cells if c.accuracy.cross_check is not None]
    assert checked == ["fp16"], "one candidate is scored again by a stranger"
    assert suite.exit_code == 0
    assert len(list((folder / "predictions").glob("*.json"))) == 3


def test_another_honest_fp32_backend_passes_with_a_ratio(go):
    suite, _ = go("slow")
    slow = cell(suite, "fake-slow")
    assert slow.status == "passed"
    assert 0 < slow.speed.ratio < 0.5
    assert [p.level for p in slow.parity] == ["preprocess", "tensor", "tensor", "prediction"]
    assert all(p.passed for p in slow.parity)
    assert suite.exit_code == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", "finite"),
        ("inf", "finite"),
        ("extra_boxes", "scores"),
        ("missing_boxes", "scores"),
        ("shifted", "boxes"),
        ("mislabelled", "observed bf16"),
        ("wrong_provider", "ran on npu"),
    ],
)
def test_a_saboteur_fails_and_the_reason_says_how(go, name, words):
    suite, _ = go(name)
    backend = getattr(testing, f"{name}_backend")
    caught = cell(suite, backend.name)
    assert caught.status == "failed"
    assert words in caught.reason
    if name in ("missing_boxes", "shifted", "extra_boxes"):
        assert [p.passed for p in caught.parity if p.level == "prediction"] == [False], "judged by itself, too"
    assert suite.exit_code == 1
    assert caught.speed is None or caught.speed.ratio is None or name in ("mislabelled", "wrong_provider")
    assert cell(suite, "fake").status == "passed"


def test_a_failed_cell_shows_its_worst_images(go):
    suite, _ = go("missing_boxes")
    flips = cell(suite, "fake-missing").flips
    assert 1 <= len(flips) <= 4
    assert flips[0].ref
    assert not flips[0].cand
    assert len(flips[0].thumb) < 16_000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crashing", r"SIGKILL (signal 9)"),
        ("segfault", r"SIGSEGV (signal 11)"),
        ("raising", "the runtime gave up"),
        ("wrong_shape", "output boxes"),
    ],
)
def test_a_lane_that_dies_is_an_error_and_takes_nobody_with_it(go, name, words):
    suite, folder = go(name)
    dead = cell(suite, getattr(testing, f"{name}_backend").name)
    assert dead.status in ("error", "failed")
    assert words in dead.reason
    assert suite.exit_code == 1
    kept = cell(suite, "fake")
    assert kept.status == "passed"
    assert kept.speed.samples == 5 + 25
    assert (folder / "predictions" / f"{kept.cell.id}.json").is_file()


def test_a_crash_is_recorded_with_stage_and_signal(go):
    failure = cell(go("crashing")[0], "fake-crash").failure
    assert failure.signal == "SIGKILL (signal 9)"
    assert failure.stage == "sample"


def test_a_hang_is_ended_and_names_the_limit(go):
    suite, _ = go("hanging", limits=Limits(silence_s=1.5))
    hung = cell(suite, "fake-hang")
    assert hung.status == "error"
    assert "no answer for 1.5 s (--lane-timeout S)" in hung.reason
    assert cell(suite, "fake").status == "passed"


def test_a_lane_that_eats_memory_is_ended_and_names_the_limit(go):
    suite, _ = go("hungry", limits=Limits(silence_s=60, memory_gb=0.6))
    full = cell(suite, "fake-hungry")
    assert full.status == "error"
    assert "limit 0.6 GB (--lane-memory GB)" in full.reason
    assert cell(suite, "fake").status == "passed"


def test_an_unavailable_backend_is_skipped_with_its_remedy_and_fails_when_required(go):
    suite, _ = go("unavailable")
    skipped = cell(suite, "fake-unavailable")
    assert skipped.status == "skipped"
    assert "pip install nowhere" in skipped.reason
    suite, _ = go("unavailable", require_backends=("fake-unavailable",))
    assert cell(suite, "fake-unavailable").status == "failed"
    assert suite.exit_code == 1


def test_a_run_without_a_candidate_is_not_green(go):
    assert go("unavailable")[0].exit_code == 3


def test_few_images_leave_the_accuracy_undecided(go, images):
    suite, _ = go("slow", fixtures=images.take(5))
    assert cell(suite, "fake-slow").status == "undecided"
    assert suite.exit_code == 3


def test_limits_given_by_the_user_fail_a_cell(go):
    suite, _ = go("slow", max_latency_ms=10.0, min_ap=1.1)
    checks = {f.check for f in cell(suite, "fake-slow").findings}
    assert checks == {"min-ap", "max-latency"}


def test_a_waiver_makes_a_known_failure_visible_as_waived(go):
    waiver = Waiver(cell="fake-fake-shifted-*", check="any", reason="upstream bug", expires=datetime.date(2999, 1, 1))
    suite, _ = go("shifted", waivers=(waiver,))
    waived = cell(suite, "fake-shifted")
    assert waived.status == "waived"
    assert "upstream bug" in waived.reason
    assert suite.exit_code == 0


def test_a_waiver_of_one_check_does_not_hide_another_failure_beside_it(go):
    def waiver(check):
        return Waiver(cell="fake-fake-missing-*", check=check, reason="known", expires=datetime.date(2999, 1, 1))

    suite, _ = go("missing_boxes", waivers=(waiver("parity"),))
    failed = cell(suite, "fake-missing")
    assert {f.check for f in failed.findings} == {"parity", "accuracy"}
    assert failed.status == "failed"
    suite, _ = go("missing_boxes", waivers=(waiver("parity"), waiver("accuracy")))
    assert cell(suite, "fake-missing").status == "waived"


class _Interrupter(Silent):
    def __init__(self, backend):
        self.backend = backend

    def stage(self, text):
        if self.backend in text:
            threading.Timer(0.1, _thread.interrupt_main).start()


@pytest.fixture
def interruptible():
    """A test run in the background of a script inherits an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_is_finished(go):
    suite, folder = go("hanging", events=_Interrupter("fake-hang"))
    assert suite.interrupted
    assert suite.exit_code == 130
    assert cell(suite, "fake").accuracy.stats["AP"] == pytest.approx(1.0)
    assert "ended before" in cell(suite, "fake-hang").reason
    assert json.loads((folder / "suite.json").read_text())["interrupted"] is True


def test_a_used_up_time_budget_skips_the_rest_and_says_so(go):
    suite, _ = go("slow", time_budget_s=0.0)
    assert {c.status for c in suite.cells} == {"skipped"}
    assert "time budget of 0 s" in suite.cells[0].reason
    assert suite.exit_code == 3


def test_a_report_folder_that_cannot_be_made_is_said_before_anything_runs(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(InputError, match="--out DIR"):
        open_folder(blocker)


def test_two_runs_at_the_same_second_have_their_own_folders(tmp_path):
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert open_folder(tmp_path, now=now).path != open_folder(tmp_path, now=now).path
