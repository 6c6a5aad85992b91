"""The prover catches what is planted, says so when a gate is blind, and proves nothing when honest cells fail."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from bench import judging
from bench.cli import app
from bench.commands.prove import document, summary
from bench.errors import UsageError
from bench.proving import prover
from bench.proving.cells import stages
from bench.proving.faults import BENIGN, FAULTS
from bench.proving.files import EDITS
from bench.proving.prover import Catch, Fault, Proof, Shown, caught_by, prove
from bench.registry import load_adapter, load_backend
from bench.results import AccuracyResult, CellResult, Failure, Finding, ParityResult, SpeedResult, TimingCheck
from bench.types import Adapter, Backend, Cell

FAULT = Fault(name="a fault", planted="somehow", expected=("tensors", "accuracy"))
CELL = Cell(model="m", backend="b", device="cpu", precision="fp32", fixtures="f")


def named(name, **fields):
    found = [f for f in FAULTS if f.name == name and all(getattr(f, k) == v for k, v in fields.items())]
    return found[0]


def run(faults, benign=(), *, runs=0, made=stages):
    return prove(made, faults, benign, benign_runs=runs, watch=lambda text, done, total: None)


def shown(*checks, status="failed", fault=FAULT):
    return Shown(fault=fault, status=status, caught=tuple(Catch(check=c, sentence="in [0.1, 0.2]") for c in checks))


HONEST = shown(status="passed", fault=Fault(name="honest", planted="nothing", expected=()))


def test_faults_of_outputs_keypoints_and_shared_preprocessing_are_caught_by_the_checks_that_must_see_them():
    faults = [named("scores shifted by 0.01"), named("left-right swapped keypoints", precision="fp32"),
              named("RGB/BGR swap", adapter="bench.testing.faults:rgb_adapter")]  # fmt: skip
    proof = run(faults)
    assert [s.status for s in proof.honest] == ["passed", "passed"]
    assert [s.ok for s in proof.faults] == [True] * 3
    assert [c.check for c in proof.faults[2].caught] == ["committed hashes"], "nothing else can see it"
    assert proof.exit_code == 0


def test_faults_of_time_and_gain_are_caught_and_a_change_that_is_none_raises_nothing():
    faults = [named("cached outputs"), named("faster on repeated input"),
              named("ground truth leaked", precision="int8")]  # fmt: skip
    proof = run(faults, [b for b in BENIGN if b.stage == "detector"], runs=3)
    assert [(s.fault.name, s.ok) for s in proof.faults] == [(f.name, True) for f in faults]
    assert [(s.fault.name, s.status) for s in proof.benign] == [
        (b.name, "passed") for b in BENIGN if b.stage == "detector"
    ]
    assert proof.exit_code == 0


def test_faults_in_predictions_files_are_caught_by_the_command_that_reads_them():
    proof = run([f for f in FAULTS if f.stage == "files"])
    assert [(s.fault.name, s.status, s.ok) for s in proof.faults] == [
        ("NaN in outputs", "refused", True),
        ("a dropped image", "refused", True),
        ("predictions for the wrong image", "failed", True),
        ("ground truth leaked", "failed", True),
    ]
    assert "000021.png" in proof.faults[1].caught[0].sentence


def test_a_gate_made_blind_is_found_out_although_another_check_fails_the_cell(monkeypatch):
    see = judging.compare_predictions

    def blind(*args, **kwargs):
        row, differences = see(*args, **kwargs)
        return replace(row, passed=True), differences

    monkeypatch.setattr(judging, "compare_predictions", blind)
    proof = run([named("scores shifted by 0.01")])
    assert (proof.faults[0].status, proof.faults[0].ok) == ("failed", False)
    assert proof.exit_code == 1
    assert any("NOT CAUGHT scores shifted by 0.01" in line and "predictions saw nothing" in line
               for line in summary(proof))  # fmt: skip


def test_nothing_is_proven_when_the_cell_without_a_fault_does_not_pass():
    def few(folder, names):
        made = stages(folder, names)
        return {**made, "detector": replace(made["detector"], fixtures=made["detector"].fixtures.take(5))}

    proof = run([named("NaN in outputs")], made=few)
    assert (proof.honest[0].status, proof.faults) == ("undecided", ())
    assert proof.exit_code == 1
    assert summary(proof)[0].startswith("Nothing is proven")


def test_a_fault_that_cannot_be_planted_here_is_listed_with_the_reason_and_is_exit_3():
    made = {"detector": "no runtime here"}
    proof = run([FAULT], made=lambda folder, names: made)
    assert (proof.faults[0].status, proof.exit_code) == ("not shown", 3)
    assert summary(proof)[-1] == "Not shown here: a fault (somehow). no runtime here"
    assert document(proof)["faults"][0]["ok"] is None


@pytest.mark.parametrize(
    ("proof", "code"),
    [
        (Proof(honest=(HONEST,), faults=(shown("tensors", "accuracy", "predictions"),)), 0),
        (Proof(honest=(HONEST,), faults=(shown("tensors"),)), 1),
        (Proof(honest=(HONEST,), faults=(shown(status="passed"),)), 1),
        (Proof(honest=(HONEST,), faults=(shown("tensors", "accuracy"), shown(status="not shown"))), 3),
        (Proof(honest=(HONEST,), faults=(shown("tensors"), shown(status="not shown"))), 1),
        (Proof(honest=(HONEST,), benign=(shown(fault=BENIGN[0], status="undecided"),)), 1),
        (Proof(honest=(HONEST,), benign=(shown(fault=BENIGN[0], status="passed"),)), 0),
        (Proof(honest=(shown(fault=HONEST.fault),)), 1),
        (Proof(honest=(HONEST,)), 3),
    ],
)
def test_exit_codes(proof, code):
    assert proof.exit_code == code


def row(level, name, passed):
    return ParityResult(level=level, name=name, total=1, mismatched=1, passed=passed, explain=name)


def test_every_failed_check_of_a_cell_is_named_and_those_that_only_report_are_not():
    rows = [row("preprocess", "committed tensor hashes", False), row("preprocess", "input tensors", False),
            row("tensor", "boxes", False), row("tensor", "scores", None), row("prediction", "detections", False),
            row("prediction", "scoring", False)]  # fmt: skip
    accuracy = AccuracyResult(metric="AP", images=40, stats={}, verdict="suspicious", reason="gains")
    check = TimingCheck(name="timed outputs", passed=False, value=1.0, limit=0.0, explain="other outputs")
    speed = SpeedResult(latency_ms={}, fps=1.0, samples=1, includes="", checks=(check,))
    found = Finding(check="attestation", status="failed", reason="ran on npu", short="")
    cell = CellResult(cell=CELL, role="candidate", status="failed", parity=tuple(rows), accuracy=accuracy, speed=speed,
                      findings=(found,))  # fmt: skip
    assert [c.check for c in caught_by(cell)] == ["attestation", "committed hashes", "input hashes", "tensors",
                                                  "predictions", "scoring", "accuracy", "timed outputs"]  # fmt: skip
    assert caught_by(replace(cell, status="undecided")) == (), "a cell that does not fail has caught nothing"


def test_a_dead_lane_and_a_broken_protocol_are_told_apart():
    failure = Failure(stage="sample", signal="SIGSEGV (signal 11)", after_s=1.0, stderr_tail="")
    dead = CellResult(cell=CELL, role="candidate", status="error", reason="killed", failure=failure)
    assert [c.check for c in caught_by(dead)] == ["lane"]
    assert [c.check for c in caught_by(replace(dead, failure=None))] == ["contract"]


@pytest.mark.parametrize("fault", [*FAULTS, *BENIGN], ids=lambda f: f"{f.name}: {f.planted}")
def test_every_fault_has_a_saboteur_that_a_lane_can_load(fault):
    if fault.stage == "files":
        assert fault.backend in EDITS
        return
    module = {"graph": "bench.testing.graphs"}.get(fault.stage, "bench.testing.faults")
    target = fault.backend if ":" in fault.backend else f"{module}:{fault.backend}_backend"
    assert isinstance(load_backend(target), Backend)
    if fault.adapter is not None:
        assert isinstance(load_adapter(fault.adapter), Adapter)
    assert (fault in FAULTS) is bool(fault.expected)


NAMED_BY_THE_ISSUE = """NaN in outputs
infinity in outputs
wrong shape
extra boxes
missing boxes
swapped classes
scores shifted by 0.01
RGB/BGR swap
missing normalisation
letterbox off by half a pixel
resize with another interpolation
boxes in another format
transposed keypoints
left-right swapped keypoints
int8 scale of one layer doubled
fp16 overflow
wrong provider
wrong precision
random weights
stale artefact
cached outputs
slow, then fast
faster on repeated input
a dropped image
predictions for the wrong image
ground truth leaked
crash
hang
out of memory"""


def test_every_fault_that_the_issue_names_is_planted():
    assert set(NAMED_BY_THE_ISSUE.splitlines()) <= {f.name for f in FAULTS}


def test_the_command_prints_what_caught_what_and_its_json_holds_it(monkeypatch):
    monkeypatch.setattr("bench.commands.prove.prove", lambda *args, **kwargs: Proof(
        honest=(HONEST,), faults=(shown("tensors", "accuracy"), shown("tensors"))))  # fmt: skip
    result = CliRunner().invoke(app, ["doctor", "--prove"])
    assert result.exit_code == 1
    assert "1 of 2 planted faults were caught" in result.output
    assert "accuracy saw nothing" in result.output
    assert "[0.1, 0.2]" in result.output, "brackets are text"
    asked = CliRunner().invoke(app, ["doctor", "--prove", "--json"])
    assert [f["ok"] for f in json.loads(asked.output)["faults"]] == [True, False]


def test_an_unknown_fault_is_a_usage_error():
    result = CliRunner().invoke(app, ["doctor", "--prove", "--only", "mising boxes"])
    assert isinstance(result.exception, UsageError)
    assert "Did you mean 'missing boxes'?" in str(result.exception)


def test_a_stage_asks_for_a_backend_that_is_not_here():
    fault = Fault(name="f", planted="p", expected=(), stage="graph", requires="openvino")
    made = {"graph": replace_stage(absent={"openvino": "openvino is not installed"})}
    assert prover.Prover(made, None).show(fault).reason == "openvino is not installed"


def replace_stage(**fields):
    return prover.Stage(
        name="graph", adapter="a", spec=None, weights=None, fixtures=None, labels_to_categories=(), reference=None,
        candidates="m", **fields,
    )  # fmt: skip
