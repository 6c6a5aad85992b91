import math

import pytest

from bench.results import STAT_NAMES, AccuracyResult, CellResult, ParityResult, SpeedResult
from bench.types import Cell
from bench.verdicts import exit_code, findings, judge_accuracy, margin_of, signed


def stats(ap):
    return dict.fromkeys(STAT_NAMES, ap)


def judged(precision, ap, reference=0.5, images=600, margins=None):
    return judge_accuracy(
        precision,
        stats(ap),
        None if reference is None else stats(reference),
        images=images,
        scorer="test",
        margins=margins or {},
    )


def test_margins_are_the_larger_of_relative_and_floor():
    assert margin_of("fp32", 0.5, {}) == pytest.approx(0.0005)
    assert margin_of("fp32", 0.1, {}) == 0.0002
    assert margin_of("int8", 0.5, {}) == pytest.approx(0.005)
    assert margin_of("fp16", 0.1, {}) == 0.001
    assert margin_of("int8", 0.5, {"int8": 0.05}) == 0.05


@pytest.mark.parametrize(
    ("ap", "verdict"),
    [
        (0.5, "passed"),
        (0.49951, "passed"),
        (0.4994, "failed"),
        (0.50049, "passed"),
        (0.502, "undecided"),
        (math.nan, "failed"),
    ],
)
def test_an_fp32_delta_is_judged_against_its_margin_as_it_stands(ap, verdict):
    assert judged("fp32", ap).verdict == verdict


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_lower_precision_is_shown_and_not_judged(precision):
    result = judged(precision, 0.48)
    assert result.verdict == "not judged"
    assert result.delta == pytest.approx(-0.02)
    assert "−0.0200" in result.reason


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_collapse_fails_at_any_precision(precision):
    assert judged(precision, 0.002).verdict == "failed"
    assert judged(precision, 0.249).verdict == "failed"


def test_few_images_decide_nothing():
    assert judged("fp32", 0.1, images=29).verdict == "undecided"
    assert judged("fp32", 0.5, images=30).verdict == "passed"


def test_an_undefined_ap_is_undecided():
    assert judged("fp32", None).verdict == "undecided"


def test_the_reference_is_not_judged_against_itself():
    result = judged("fp32", 0.5, reference=None)
    assert result.verdict == "reference"
    assert result.delta is None


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
    both = found(parity=[row], accuracy=accuracy(0.5, "not judged"))
    assert [f.status for f in both] == ["failed", "undecided"]


def test_a_reported_comparison_is_not_judged():
    assert found(parity=[ParityResult(level="tensor", name="x", total=1, mismatched=1, passed=None)]) == []


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
