"""A run against a baseline: findings, statuses, waivers and exit codes, without measuring anything."""

import dataclasses
import datetime
import json

import pytest

from bench.across import gating
from bench.across.baselines import load_side, store_run
from bench.commands import baseline as baseline_verb
from bench.errors import InputError
from bench.events import Silent
from bench.matrix import Request
from bench.results import AccuracyResult, ArtifactRecord, CellResult, SpeedResult, SuiteResult
from bench.tests.sample_runs import SHA, Runs, make_suite
from bench.tests.sample_suite import cell_id
from bench.types import Cell
from bench.waivers import Waiver

TODAY = datetime.date(2026, 9, 1)
INT8 = "fake-onnxrt-cpu-int8-fakes-b1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("runs"))
    made.baseline = made.folder / "stored"
    for number, ratio in enumerate((1.998, 2.0, 2.003)):
        store_run(made.baseline, made.write(f"b{number}", make_suite("x", ratio=ratio)))
    return made


@pytest.fixture
def gate(runs):
    def go(name, *, ratio=2.0, waivers=(), missed=None, rounds=20, change=lambda suite: suite):
        folder = runs.write(name, make_suite(name, ratio=ratio), missed=missed)
        suite = change(as_result(json.loads((folder / "suite.json").read_text())))
        request = Request(resamples=200, waivers=waivers, rounds=rounds)
        plans = [type("Plan", (), {"fixtures": runs.fixtures})]
        base = gating.load_baseline(runs.baseline)
        result, comparison = gating.gate(suite, folder, base, plans, request, today=TODAY, events=Silent())
        assert json.loads((folder / "comparison.json").read_text()) == comparison
        return result, {c.cell.id: c for c in result.cells}

    return go


def as_result(document):
    """The dataclasses of a written suite, as far as a gate reads them."""
    cells = []
    for record in document["cells"]:
        accuracy, speed, artifact = record["accuracy"], record["speed"], record["artifact"]
        cells.append(
            CellResult(
                cell=Cell(**record["cell"]),
                role=record["role"],
                status=record["status"],
                reason=record["reason"],
                artifact=artifact and ArtifactRecord(**artifact),
                accuracy=accuracy
                and AccuracyResult(metric="AP", images=accuracy["images"], stats=accuracy["stats"], verdict="passed"),
                speed=speed
                and SpeedResult(
                    latency_ms=speed["latency_ms"],
                    fps=1.0,
                    samples=1,
                    includes="",
                    ratio=speed["ratio"],
                    ratio_ci95=speed.get("ratio_ci95"),
                    verdict=speed["verdict"],
                ),
            )
        )
    head = {f.name: document[f.name] for f in dataclasses.fields(SuiteResult) if f.name in document}
    return SuiteResult(**{**head, "cells": tuple(cells)})


def test_the_same_again_changes_nothing(gate):
    result, cells = gate("same")
    assert result.exit_code == 0
    assert all(not c.findings for c in result.cells)
    assert cells[INT8].status == "passed"


def test_a_slower_cell_fails_by_its_speed_finding_only(gate):
    result, cells = gate("slow", ratio=1.7)
    assert result.exit_code == 1
    assert cells[INT8].status == "failed"
    (finding,) = cells[INT8].findings
    assert (finding.check, finding.status) == ("baseline-speed", "failed")
    assert "wholly below" in cells[INT8].reason
    assert len(cells[INT8].reason_short) <= 22


def test_lost_accuracy_fails_by_its_own_finding(gate):
    result, cells = gate("lossy", missed={"onnxrt int8": 0.3})
    assert result.exit_code == 1
    assert [f.check for f in cells[INT8].findings] == ["baseline-accuracy"]
    assert [c.status for c in result.cells if c.cell.id != INT8] == ["passed", "passed", "skipped"]


def test_an_undecided_finding_takes_the_green_away_and_a_failure_stays_one(gate):
    result, cells = gate("edge", ratio=1.945)
    assert (cells[INT8].status, result.exit_code) == ("undecided", 3)

    def broken(suite):
        cells = [dataclasses.replace(c, status="failed", reason="own") if c.cell.id == INT8 else c for c in suite.cells]
        return dataclasses.replace(suite, cells=tuple(cells))

    result, cells = gate("both", ratio=1.945, change=broken)
    assert (cells[INT8].status, cells[INT8].reason, result.exit_code) == ("failed", "own", 1)


def test_a_waiver_for_every_finding_holds_the_cell_and_one_for_another_check_does_not(gate):
    def waiver(check):
        return Waiver(cell="*int8*", check=check, reason="known", expires=datetime.date(2026, 12, 1))

    _, cells = gate("waived", ratio=1.7, waivers=(waiver("baseline-speed"),))
    assert cells[INT8].status == "waived"
    assert "Waived until 2026-12-01: known" in cells[INT8].reason
    _, cells = gate("not", ratio=1.7, waivers=(waiver("baseline-accuracy"),))
    assert cells[INT8].status == "failed"
    _, cells = gate("half", ratio=1.7, missed={"onnxrt int8": 0.3}, waivers=(waiver("baseline-speed"),))
    assert cells[INT8].status == "failed"
    assert "Loses" in cells[INT8].reason
    assert "wholly below" not in cells[INT8].reason


def test_a_cell_that_was_not_asked_for_is_not_judged_and_one_that_cannot_run_now_is_exit_3(gate, runs):
    def narrowed(suite):
        return dataclasses.replace(suite, cells=tuple(c for c in suite.cells if c.cell.id != INT8))

    assert gate("narrow", change=narrowed)[0].exit_code == 0
    comparison = json.loads((runs.folder / "narrow" / "comparison.json").read_text())
    assert comparison["exit_code"] == 0
    assert {c["id"]: c["reason_short"] for c in comparison["cells"]}[INT8] == "not asked for"

    def idle(suite):
        gone = {"status": "skipped", "reason": "no runtime", "accuracy": None, "speed": None}
        cells = [dataclasses.replace(c, **gone) if c.cell.id == INT8 else c for c in suite.cells]
        return dataclasses.replace(suite, cells=tuple(cells))

    assert gate("idle", change=idle)[0].exit_code == 3


def test_without_rounds_speed_is_left_out_on_purpose(gate):
    result, cells = gate("untimed", ratio=0.1, rounds=0)
    assert (cells[INT8].status, result.exit_code) == ("passed", 0)


def test_a_baseline_with_a_predictions_file_that_is_none_ends_before_the_run(runs, tmp_path):
    folder = runs.write("cut")
    (folder / "predictions" / f"{INT8}.json").write_text("[{")
    with pytest.raises(InputError, match="int8"):
        gating.load_baseline(folder)


def test_an_interrupted_baseline_keeps_the_runs_that_were_finished(runs, tmp_path, monkeypatch):
    import bench.running

    folders = iter([runs.write("k0"), runs.write("k1")])

    def measure(request, *, events):
        assert request.baseline is None
        folder = next(folders, None)
        if folder is None:
            raise KeyboardInterrupt
        return bench.running.Outcome(suite=load_side(folder).suite, folder=folder, page=folder / "index.html")

    monkeypatch.setattr(bench.running, "run_and_report", measure)
    out = tmp_path / "base"
    with pytest.raises(KeyboardInterrupt):
        baseline_verb.baseline_command({}, config=None, runs=3, out=out, add=[], quiet=True)
    assert [r["run_id"] for r in load_side(out).runs] == ["k0", "k1"]
    assert {cell_id(c) for c in load_side(out).suite["cells"]} >= {INT8}
    assert SHA["onnx"] in {c["artifact_sha256"] for c in load_side(out).runs[0]["cells"]}
