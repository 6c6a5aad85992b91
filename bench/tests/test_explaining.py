from dataclasses import replace

import numpy as np
import pytest

from bench.explaining import agreements, kept_agreement, set_beside_fp32
from bench.results import STAT_NAMES, AccuracyResult, CellResult, SpeedResult, TimingCheck
from bench.tests.record_fakes import TIMES, record
from bench.types import NodeTime
from bench.verdicts import findings, is_wrong

RNG = np.random.default_rng(0)
TRUTH = [{"y": RNG.normal(size=(1, 50))} for _ in range(2)]


def run_of(precision, backend, outputs=TRUTH, **more):
    found = record(precision, backend, **more)
    found.raw = outputs
    return found


def accuracy(verdict):
    stats = dict.fromkeys(STAT_NAMES, 0.5)
    return AccuracyResult(metric="AP", images=9, stats=stats, verdict=verdict, delta=-0.1, reason="Loses.")


def wrong_openvino():
    records = [
        run_of("int8", "onnxrt"),
        run_of("int8", "openvino", [{"y": RNG.normal(size=(1, 50))} for _ in range(2)]),
    ]
    return records, agreements(records, {"1" * 64: ("told", TRUTH)}, {})


def test_cells_of_one_file_are_compared_and_the_wrong_one_is_named():
    records, found = wrong_openvino()
    assert found[str(records[0].cell)].verdict == "agrees"
    assert found[str(records[1].cell)].verdict == "apart"
    assert found[str(records[1].cell)].sentence.startswith("openvino disagrees with onnxrt and")


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [(0.5, 0.5, "undecided"), (0.5, 0.496, "undecided"), (0.5, 0.49, "apart"), (0.5, 0.0, "apart"),
     (0.5, None, "apart"), (None, 0.5, "apart"), (0.5, float("nan"), "apart")],
)  # fmt: skip
def test_a_runtime_whose_detections_score_as_well_may_have_another_order(right, wrong, verdict):
    records, _ = wrong_openvino()
    names = [str(record.cell) for record in records]
    found = agreements(records, {"1" * 64: ("told", TRUTH)}, dict(zip(names, (right, wrong), strict=True)))
    assert found[names[1]].verdict == verdict
    assert ("another order" in found[names[1]].sentence) == (verdict == "undecided")
    assert found[names[0]].verdict == "agrees"


def test_cells_of_other_files_are_not_compared():
    records = [run_of("int8", "onnxrt"), run_of("int8", "openvino", sha="2" * 64)]
    assert agreements(records, {}, {}) == {}


def test_the_finding_fails_the_cell_by_name_unless_its_accuracy_passed():
    records, found = wrong_openvino()
    apart = found[str(records[1].cell)]
    rest = {"attestation": None, "parity": [], "speed": None, "emulated": False, "min_ap": None, "max_latency_ms": None}
    first, second = findings(agreement=apart, accuracy=accuracy("failed"), **rest)
    assert (first.check, first.status, first.short) == ("agreement", "failed", "runtime disagrees")
    assert "the runtime is wrong, not the file" in first.reason
    assert second.check == "accuracy"
    assert findings(agreement=apart, accuracy=accuracy("passed"), **rest) == []
    assert [f.check for f in findings(agreement=apart, accuracy=accuracy("undecided"), **rest)] == [
        "agreement", "accuracy"
    ]  # fmt: skip
    agreeing = found[str(records[0].cell)]
    assert [f.check for f in findings(agreement=agreeing, accuracy=accuracy("failed"), **rest)] == ["accuracy"]
    assert not is_wrong(None, accuracy("failed"))


def test_a_file_that_one_cell_ran_is_kept_only_when_that_cell_failed():
    alone = run_of("int8", "onnxrt")
    found = agreements([alone], {"1" * 64: ("told", TRUTH)}, {})[str(alone.cell)]
    assert kept_agreement(found, [], accuracy("passed")) is None
    assert kept_agreement(found, [], accuracy("failed")) is found
    records, shared = wrong_openvino()
    assert kept_agreement(shared[str(records[0].cell)], [], accuracy("passed")) is not None


def test_two_devices_of_one_runtime_are_told_apart():
    records = [run_of("int8", "onnxrt"), run_of("int8", "onnxrt", [{"y": RNG.normal(size=(1, 50))} for _ in range(2)])]
    cell = replace(records[1].planned.cell, device="cuda:0")
    records[1].planned = replace(records[1].planned, cell=cell)
    found = agreements(records, {"1" * 64: ("told", TRUTH)}, {})
    assert found[str(cell)].sentence.startswith("onnxrt cuda:0 disagrees with onnxrt cpu and")


def timed(precision, ms, ratio=2.0, backend="onnxrt"):
    found = record(precision, backend)
    found.rounds = [
        {"round": n, "opening": 1 + n // 5, "samples_ms": [ms * (1 + 0.001 * (n % 3))] * 5} for n in range(20)
    ]
    latency = {"p50": ms, "p90": None, "p99": None, "mean": ms}
    speed = SpeedResult(latency_ms=latency, fps=1.0, samples=100, includes="x", ratio=ratio)
    return found, CellResult(cell=found.cell, role="candidate", status="passed", speed=speed)


def beside(*pairs):
    return set_beside_fp32([result for _, result in pairs], [found for found, _ in pairs])


@pytest.mark.parametrize(("ms", "word"), [(4.0, "slower"), (1.0, "faster"), (2.01, "same")])
def test_a_lower_precision_is_compared_with_its_own_fp32_by_an_interval(ms, word):
    fp32, int8 = beside(timed("fp32", 2.0), timed("int8", ms))
    assert fp32.speed.against_fp32 is None
    found = int8.speed.against_fp32
    assert found.verdict == word
    assert found.cell == fp32.cell.id
    assert found.ratio == pytest.approx(2.0 / ms, rel=0.01)
    assert found.ratio_ci95[0] <= found.ratio <= found.ratio_ci95[1]


def test_few_rounds_decide_nothing():
    fp32, int8 = timed("fp32", 2.0), timed("int8", 4.0)
    int8[0].rounds = int8[0].rounds[:4]
    assert beside(fp32, int8)[1].speed.against_fp32.verdict == "undecided"


@pytest.mark.parametrize("which", [0, 1], ids=["fp32", "int8"])
def test_wrong_outputs_are_called_slower_and_never_faster(which):
    slow, fast = [timed("fp32", 2.0), timed("int8", 4.0)], [timed("fp32", 2.0), timed("int8", 1.0)]
    slow[which] = timed(("fp32", "int8")[which], (2.0, 4.0)[which], ratio=None)
    fast[which] = timed(("fp32", "int8")[which], (2.0, 1.0)[which], ratio=None)
    assert beside(*slow)[1].speed.against_fp32.verdict == "slower"
    assert beside(*fast)[1].speed.against_fp32 is None


@pytest.mark.parametrize("which", [0, 1], ids=["fp32", "int8"])
@pytest.mark.parametrize("why", ["emulated", "label", "check"])
def test_a_latency_that_is_not_of_its_label_is_not_compared(which, why):
    pairs = [timed("fp32", 2.0), timed("int8", 4.0)]
    found, result = pairs[which]
    if why == "emulated":
        found.planned = replace(found.planned, mode="emulated")
    elif why == "label":
        found.attestation = "Requested int8, observed fp32."
    else:
        check = TimingCheck(name="timed outputs", passed=False, value=1.0, limit=0.0, explain="They differ.")
        pairs[which] = found, replace(result, speed=replace(result.speed, checks=(check,)))
    assert beside(*pairs)[1].speed.against_fp32 is None


def test_another_runtime_is_no_comparison():
    assert beside(timed("fp32", 2.0, backend="openvino"), timed("int8", 4.0))[1].speed.against_fp32 is None


def test_nodes_stand_beside_those_of_the_own_fp32():
    fp32, int8 = timed("fp32", 2.0), timed("int8", 4.0)
    fp32[0].node_times = TIMES
    int8[0].node_times = (NodeTime(name="a", operator="QLinearConv", ms=3.0, precision="int8"),)
    results = beside(fp32, int8)
    assert results[0].nodes.slowest[0].fp32_ms is None
    assert (results[1].nodes.slowest[0].ms, results[1].nodes.slowest[0].fp32_ms) == (3.0, 1.0)
