import math
from dataclasses import replace

import pytest

from bench.results import STAT_NAMES, AccuracyResult, CellResult, CrossCheck, ParityResult, SpeedResult, TimingCheck
from bench.types import Cell
from bench.verdicts import exit_code, findings, margin_of, signed


def stats(ap):
    return dict.fromkeys(STAT_NAMES, ap)


def test_margins_are_the_larger_of_relative_and_floor():
    assert margin_of("fp32", 0.5, {}) == pytest.approx(0.0005)
    assert margin_of("fp32", 0.1, {}) == 0.0002
    assert margin_of("int8", 0.5, {}) == pytest.approx(0.005)
    assert margin_of("fp16", 0.1, {}) == 0.001
    assert margin_of("int8", 0.5, {"int8": 0.05}) == 0.05


def found(**changes):
    values = {
        "attestation": None,
        "parity": [],
        "accuracy": None,
        "speed": None,
        "emulated": False,
        "min_ap": None,
        "max_latency_ms": None,
    }
    return findings(**{**values, **changes})


def accuracy(ap, verdict="passed"):
    return AccuracyResult(metric="AP", images=600, stats=stats(ap), verdict=verdict, reason="why", delta=0.0)


def speed(p50):
    return SpeedResult(latency_ms={"p50": p50, "p90": None, "p99": None, "mean": p50}, fps=1.0, samples=5, includes="")


def test_nothing_wrong_gives_no_finding():
    row = ParityResult(level="tensor", name="x", total=1, mismatched=0, passed=True)
    assert found(parity=[row], accuracy=accuracy(0.5), speed=speed(1.0), min_ap=0.4, max_latency_ms=2.0) == []


def test_a_failure_comes_before_an_undecided():
    row = ParityResult(level="tensor", name="x", total=1, mismatched=1, passed=False, explain="differs")
    both = found(parity=[row], accuracy=accuracy(0.5, "undecided"))
    assert [f.status for f in both] == ["failed", "undecided"]


def test_a_reported_comparison_is_not_judged():
    assert found(parity=[ParityResult(level="tensor", name="x", total=1, mismatched=1, passed=None)]) == []


@pytest.mark.parametrize(
    ("verdict", "status"), [("failed", "failed"), ("suspicious", "failed"), ("undecided", "undecided")]
)
def test_an_accuracy_verdict_becomes_a_finding(verdict, status):
    assert [(f.check, f.status) for f in found(accuracy=accuracy(0.5, verdict))] == [("accuracy", status)]


@pytest.mark.parametrize(("difference", "checks"), [(0.0, []), (1e-6, ["scorer"]), (math.inf, ["scorer"])])
def test_two_scorers_that_disagree_are_an_error_before_anything_else(difference, checks):
    check = CrossCheck(scorer="other 1", max_abs_difference=difference, agrees=difference == 0)
    every = found(accuracy=replace(accuracy(0.3), cross_check=check), min_ap=0.4)
    assert [f.check for f in every] == [*checks, "min-ap"]
    assert [f.status for f in every] == ["error"] * len(checks) + ["failed"]


@pytest.mark.parametrize(("passed", "checks"), [(True, []), (None, []), (False, ["timing"])])
def test_a_timing_check_that_failed_is_a_finding(passed, checks):
    check = TimingCheck(name="repeated input", passed=passed, value=1.4, limit=1.1, explain="why")
    assert [f.check for f in found(speed=replace(speed(1.0), checks=(check,)))] == checks


@pytest.mark.parametrize("ap", [0.39, None, math.nan])
def test_min_ap_fails_lower_undefined_and_nan(ap):
    assert [f.check for f in found(accuracy=accuracy(ap), min_ap=0.4)] == ["min-ap"]


@pytest.mark.parametrize("p50", [2.1, math.nan, None])
def test_max_latency_fails_slower_and_unmeasured(p50):
    assert [f.check for f in found(speed=speed(p50), max_latency_ms=2.0)] == ["max-latency"]


def test_the_latency_of_an_emulated_cell_cannot_be_judged():
    (finding,) = found(speed=speed(1.0), max_latency_ms=2.0, emulated=True)
    assert finding.status == "undecided"


def test_every_short_reason_fits_the_matrix():
    row = ParityResult(level="preprocess", name="x", total=1, mismatched=1, passed=False)
    every = found(
        attestation="a",
        parity=[row],
        accuracy=accuracy(0.1, "failed"),
        speed=speed(9.0),
        min_ap=0.4,
        max_latency_ms=2.0,
    )
    assert len(every) == 5
    assert max(len(f.short) for f in every) <= 22


def cell(status, role="candidate"):
    return CellResult(
        cell=Cell(model="m", backend="b", device="cpu", precision="fp32", fixtures="f"), role=role, status=status
    )


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["passed", "passed"], 0),
        (["passed", "failed"], 1),
        (["error", "undecided"], 1),
        (["passed", "undecided"], 3),
        (["skipped", "unsupported"], 3),
        ([], 3),
        (["passed", "skipped"], 0),
        (["waived"], 0),
    ],
)
def test_exit_codes(statuses, code):
    assert exit_code([cell("passed", "reference"), *map(cell, statuses)]) == code


def test_signs_are_true_and_zero_has_none():
    assert [signed(v) for v in (-0.00204, 0.00204, 0.0, -0.00001)] == ["−0.0020", "+0.0020", "0.0000", "0.0000"]
