"""Profiles and the files' own arithmetic explain; whatever goes wrong there is a note."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import examine, testing
from bench.errors import ArtifactError, LaneError
from bench.events import Silent
from bench.lanes import Limits
from bench.testing.artifacts import contract_artifact
from bench.tests.record_fakes import TIMES, record
from bench.types import Cell, Sample
from bench.worker import Worker

SAMPLE = Sample(image_id=1, path=Path("x.png"), width=1, height=1)


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class FakeLane:
    """Answers every command with ``answer`` or raises it."""

    def __init__(self, answer=TIMES):
        self.answer, self.ended, self.calls = answer, None, []

    def call(self, command, **arguments):
        self.calls.append((command, arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self):
        self.ended = self.ended or "closed"

    def kill(self):
        self.ended = self.ended or "killed"


def profile(records, lanes, opened=None, time_left=lambda: True):
    events = Notes()

    def open_lane(r):
        lane = opened or FakeLane()
        lanes[str(r.cell)] = lane
        return lane

    examine.profile_cells(records, lanes, open_lane=open_lane, sample=SAMPLE, events=events, time_left=time_left)
    return events.notes


def test_a_lower_precision_and_its_own_fp32_are_profiled_and_nobody_else():
    records = [record("fp32"), record("int8"), record("fp32", "torch"), record("fp32", "openvino")]
    lanes = {str(r.cell): FakeLane() for r in records}
    assert profile(records, lanes) == []
    assert [bool(r.node_times) for r in records] == [True, True, False, False]
    assert all(lane.ended is None for lane in lanes.values()), "who was open stays open"


@pytest.mark.parametrize(
    "changes", [{"mode": "emulated"}, {"profiles": False}, {"rounds": False}], ids=["emulated", "silent", "not timed"]
)
def test_cells_with_nothing_to_explain_are_not_opened(changes):
    records = [record("fp32"), record("int8", **changes)]
    lanes = {}
    assert profile(records, lanes) == []
    assert not any(r.node_times for r in records)
    assert lanes == {}


def test_a_cell_without_fp32_in_its_runtime_is_not_profiled():
    records = [record("fp32", "torch"), record("int8")]
    assert profile(records, {}) == []
    assert not any(r.node_times for r in records)


def test_lanes_that_the_timing_closed_are_opened_and_closed_again():
    opened = FakeLane()
    lanes = {}
    records = [record("fp32"), record("int8")]
    assert profile(records, lanes, opened) == []
    assert all(r.node_times for r in records)
    assert (lanes, opened.ended) == ({}, "closed")


@pytest.mark.parametrize("error", [LaneError("it crashed"), ArtifactError("no trace")])
def test_a_failed_profile_is_a_note_and_leaves_the_cell_as_it_is(error):
    records = [record("fp32"), record("int8")]
    bad = FakeLane(error)
    lanes = {str(records[0].cell): FakeLane(), str(records[1].cell): bad}
    (note,) = profile(records, lanes)
    assert note.startswith(f"No node times of {records[1].cell}: ")
    assert records[0].node_times == TIMES
    assert records[1].node_times == ()
    assert records[1].blocked is None
    assert (bad.ended, str(records[1].cell) in lanes) == ("killed", False)


def test_a_used_up_time_budget_profiles_nothing_and_says_so():
    records = [record("fp32"), record("int8")]
    assert profile(records, {}, time_left=lambda: False) == [
        "No node times of 2 cells: the time budget was used up."
    ]  # fmt: skip


@pytest.fixture
def simulate(monkeypatch, tmp_path):
    def go(records, answer=("told", [{"x": 1}]), time_left=lambda: True):
        made = []

        def lane(**arguments):
            made.append(FakeLane(answer))
            return made[-1]

        monkeypatch.setattr(examine, "Lane", lane)
        events = Notes()
        found = examine.simulate_files(
            records, adapter="a", samples=[SAMPLE], log=tmp_path / "log", limits=Limits(), events=events,
            time_left=time_left,
        )  # fmt: skip
        return found, events.notes, made

    return go


def test_each_file_is_simulated_once_and_fp32_only_when_shared(simulate):
    records = [
        record("fp32", sha="1" * 64), record("fp32", "openvino", sha="1" * 64), record("int8", sha="2" * 64),
        record("fp32", "torch", sha="3" * 64), record("int8", "openvino", sha="4" * 64, raw=False),
    ]  # fmt: skip
    found, notes, made = simulate(records)
    assert sorted(found) == ["1" * 64, "2" * 64], "one fp32 file alone and a cell that gave nothing are left out"
    assert notes == []
    assert [command for lane in made for command, _ in lane.calls] == ["simulate"] * 2
    assert [lane.ended for lane in made] == ["closed"]


def test_weights_have_no_arithmetic_of_their_own(simulate):
    torch = record("bf16", "torch")
    torch.artifact = replace(torch.artifact, kind="weights")
    assert simulate([torch]) == ({}, [], [])


def test_a_file_that_cannot_be_simulated_is_a_note_and_says_why(simulate):
    found, notes, made = simulate([record("bf16", sha="5" * 64)], ArtifactError("no bf16 convolution"))
    assert found == {"5" * 64: ("no bf16 convolution", None)}
    assert notes == ["The bf16 file is not compared with its own arithmetic: no bf16 convolution"]
    assert [lane.ended for lane in made] == ["closed"]


def test_a_lane_that_dies_is_replaced_for_the_next_file(simulate):
    found, notes, made = simulate([record("fp16", sha="5" * 64), record("int8", sha="6" * 64)], LaneError("SIGSEGV"))
    assert [outputs for _, outputs in found.values()] == [None, None]
    assert len(notes) == 2
    assert [lane.ended for lane in made] == ["killed", "killed"]


def test_without_time_nothing_is_simulated(simulate):
    found, _, made = simulate([record("int8", sha="6" * 64)], time_left=lambda: False)
    assert found == {"6" * 64: ("the time budget was used up", None)}
    assert made == []


@pytest.fixture
def image(tmp_path):
    return testing.fake_fixtures(tmp_path / "images", 1).samples[0]


def test_a_lane_answers_for_a_runtime_that_says_and_for_one_that_does_not(tmp_path, image):
    pytest.importorskip("onnxruntime", reason="a runtime that says where its time goes")
    cell = Cell(model="fake", backend="x", device="cpu", precision="fp32", fixtures="fake")
    file = contract_artifact("onnx", tmp_path, side=32)
    spec = testing.fake_adapter.spec
    numpy = replace(file, kind="weights", path=spec.default_weights, inputs=spec.inputs, outputs=spec.outputs)
    for backend, artifact, says in (
        ("onnxrt", file, True),
        ("bench.testing:fake_backend", numpy, False),
        ("bench.testing:shifted_backend", numpy, False),  # wrapped, without a profiler
    ):
        worker = Worker(lambda done, total: None)
        loaded = worker.load(
            adapter="bench.testing:fake_adapter", backend=backend, cell=cell, artifact=artifact, weights=None, seed=0,
            threads=1, first=image,
        )  # fmt: skip
        assert loaded["profiles"] is says
        assert bool(worker.profile(sample=image, batch=2)) is says
        worker.close()
    told, (outputs,) = worker.simulate(adapter="bench.testing:fake_adapter", path=file.path, samples=[image])
    assert "graph optimisation off" in told
    assert outputs["maps"].shape == (1, 4, 32, 32)
