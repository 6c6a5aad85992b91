from __future__ import annotations

import re
from typing import Any

import pytest

from bench.report import noise
from bench.report.cells import read_run
from bench.report.html import render_html
from bench.report.rounds import kind_of, slows_the_clock
from bench.report.strips import STRIP_WIDTH, timings_of
from bench.tests.sample_suite import HOSTILE, as_reference, make_cell, sample_suite

QUIET = {"cpu_steal_percent": 0.0, "other_cpu_percent": 1.25, "cpu_mhz": "not readable here", "rounds": 10,
         "tagged_rounds": 0}  # fmt: skip


def timed(*medians: float, tags: dict[int, list[str]] | None = None, openings: int = 1, **speed: Any) -> dict[str, Any]:
    """A candidate with one round per median; tags by round, from 1."""
    cell = make_cell("m", "onnxrt", "fp32", delta=0.0, ratio=1.0)
    rounds = []
    for i, median in enumerate(medians, 1):
        opening = 1 + (i - 1) * openings // len(medians)
        found = (tags or {}).get(i, [])
        rounds.append({"round": i, "opening": opening, "order": 1, "samples_ms": [median] * 5, "tags": found})
    cell["speed"].update(
        rounds=rounds, rounds_run=len(medians), openings=openings, stopped="The limit was reached.",
        noise={**QUIET, "rounds": len(medians), "tagged_rounds": len(tags or {})}, checks=[], **speed,
    )  # fmt: skip
    return cell


def run_of(*cells: dict[str, Any]) -> Any:
    first = as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0))
    first["speed"] = None
    return read_run({**sample_suite(), "cells": [first, *cells]})


STEADY = [10.0] * 10


def test_a_quiet_run_is_clean_and_says_what_was_watched() -> None:
    assert noise.timing_finding(run_of(timed(*STEADY))) == (
        "Yes: no round is tagged, and round medians of a cell moved by at most 0 % (onnxrt fp32). "
        "CPU steal 0.0 %, other processes 1.2 % of all cores, clock not readable here."
    )


@pytest.mark.parametrize(
    ("count", "word"), [(1, "Mostly: 1 of 10 rounds is tagged"), (2, "Mostly: 2 of 10"), (3, "No: 3 of 10 rounds are")]
)
def test_tagged_rounds_decide_the_word_up_to_a_quarter(count: int, word: str) -> None:
    text = noise.timing_finding(run_of(timed(*STEADY, tags={i: ["other load 31 %"] for i in range(1, count + 1)})))
    assert text.startswith(word)
    assert ("Small ratios are not safe." in text) == word.startswith("No")


def test_rounds_beyond_those_that_the_file_keeps_are_counted() -> None:
    cell = timed(*STEADY)
    cell["speed"]["noise"].update(rounds=60, tagged_rounds=30)
    assert noise.timing_finding(run_of(cell)).startswith("No: 30 of 60 rounds are tagged")


def test_medians_that_move_are_not_clean_without_any_tag() -> None:
    assert noise.timing_finding(run_of(timed(*[10.0, 11.0] * 5))).startswith("Mostly: no round is tagged, and")
    text = noise.timing_finding(run_of(timed(*[10.0, 13.0] * 5)))
    assert text.startswith("No: no round is tagged, and round medians of a cell moved by at most 30 % (onnxrt fp32).")


def test_too_few_rounds_are_unknown_or_worse_and_not_clean() -> None:
    text = noise.timing_finding(run_of(timed(10.0, 10.0)))
    assert text.startswith("Unknown: 2 rounds are too few to see how far a cell’s median moves.")
    text = noise.timing_finding(run_of(timed(10.0, 10.0, tags={1: ["cpu steal 7 %"]})))
    assert text.startswith("No: 1 of 2 rounds is tagged. Small ratios are not safe.")


def test_a_failed_timing_check_is_the_answer_whatever_the_rounds_say() -> None:
    cell = timed(*STEADY)
    failed = {"name": "timed outputs", "passed": False, "value": 0.3, "limit": 1e-5, "explain": "Differ by 0.3."}
    cell["speed"]["checks"] = [failed]
    run = run_of(cell)
    assert noise.timing_finding(run) == (
        "No: a timing check failed for onnxrt fp32, so what was timed is not what was scored."
    )
    assert noise.check_notes(run) == [("onnxrt fp32", "timed outputs failed. Differ by 0.3.")]
    (row,) = noise.timed_rows(run)
    assert (row.checks[0].word, row.checks[0].text) == ("failed", "0.3, not ≤ 1e−05")
    assert "</svg>0.3, not ≤ 1e−05</span>" in render_html(run.suite)


def test_checks_show_their_value_against_the_limit_and_absent_ones_are_not_passed() -> None:
    cell = timed(*STEADY)
    cell["speed"]["checks"] = [
        {"name": "repeated input", "passed": True, "value": 1.004, "limit": 1.1, "explain": "Fine."},
    ]
    (row,) = noise.timed_rows(run_of(cell))
    assert [(c.word, c.text) for c in row.checks] == [("undecided", "not checked"), ("passed", "1.00× ≤ 1.10×")]


def test_a_check_that_could_not_tell_is_not_checked_whatever_it_measured() -> None:
    cell = timed(*STEADY)
    cell["speed"]["checks"] = [
        {"name": "repeated input", "passed": None, "value": 1.26, "limit": 1.1, "explain": "Too noisy to tell."},
    ]
    run = run_of(cell)
    (row,) = noise.timed_rows(run)
    assert (row.checks[1].word, row.checks[1].text) == ("undecided", "not checked")
    assert noise.check_notes(run) == [("onnxrt fp32", "repeated input could not be checked. Too noisy to tell.")]
    assert noise.timing_finding(run).startswith("Yes")


def test_a_row_says_rounds_openings_tags_and_why_the_rounds_stopped() -> None:
    cell = timed(*STEADY, tags={2: ["low clock 900 MHz"]}, openings=2, ratio_ci95=[0.9, 1.1], verdict="undecided",
                 reason="Too wide.")  # fmt: skip
    (row,) = noise.timed_rows(run_of(cell))
    assert (row.rounds, row.openings, row.tagged) == ("10", "2", "1 of 10")
    assert (row.speed, row.word) == ("1.00× [0.90, 1.10]", "undecided")
    assert row.stopped == "The limit was reached. Too wide."


def test_clocks_are_a_range_and_gpu_reasons_are_named() -> None:
    cell = timed(*STEADY)
    cell["speed"]["noise"].update(
        cpu_mhz={"min": 2210.0, "max": 2900.0}, cpu_steal_percent="not readable here",
        gpu={"name": "H200", "reasons": {"sw_power_cap": 3}},
    )  # fmt: skip
    assert noise.timing_finding(run_of(cell)).endswith(
        "CPU steal not readable here, other processes 1.2 % of all cores, clock 2,210 to 2,900 MHz, "
        "GPU throttle reasons: sw_power_cap."
    )
    common, _, _ = noise.noise_of(run_of(cell))
    assert "CPU clock 2,210 to 2,900 MHz" in common
    assert "GPU reasons sw power cap 3" in common


def test_rounds_in_one_line_per_model() -> None:
    run = run_of(timed(*STEADY, tags={2: ["low clock 900 MHz"], 3: ["other load 12 %"]}, openings=2))
    assert noise.rounds_sentence(run.groups[0]) == "10 rounds in 2 openings, 2 tagged (low clock and other load)"
    assert noise.rounds_sentence(read_run(sample_suite()).groups[0]) is None


def test_a_tag_is_its_kind_and_a_number() -> None:
    assert [kind_of(t) for t in ("other load 31 %", "throttled", "low clock 2210 MHz")] == [
        "other load", "throttled", "low clock",
    ]  # fmt: skip
    assert [slows_the_clock(t) for t in ("other load", "cpu steal", "low clock", "throttled", "gpu sw_power")] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_tagged_rounds_are_shaded_where_they_are_and_named_below() -> None:
    cell = timed(*STEADY, tags={2: ["low clock 900 MHz"], 3: ["other load 12 %"], 5: ["other load 31 %"]})
    run = run_of(cell)
    (timing,) = timings_of(run)
    width = STRIP_WIDTH / 10
    assert timing.strips[0].bands == (
        (width, width, "low clock 900 MHz", True), (2 * width, width, "other load 12 %", False),
        (4 * width, width, "other load 31 %", False),
    )  # fmt: skip
    assert [(line.title, line.clock, line.text) for line in timing.tags] == [
        ("Low clock", True, "round 2 (900 MHz)"), ("Other load", False, "rounds 3 (12 %) and 5 (31 %)"),
    ]  # fmt: skip
    assert timing.strips[0].tagged_dots.count("M") == 5
    assert timing.strips[0].dots.count("M") == 45
    page = render_html(run.suite)
    assert page.count('height="100" fill="url(#hatch)"') == 1
    assert page.count('height="100" fill="var(--off-bg)"') == 2
    assert "<b>Low clock</b>, round 2 (900 MHz). Kept and tagged." in page


def test_many_tagged_rounds_are_counted() -> None:
    (timing,) = timings_of(run_of(timed(*STEADY, tags={i: ["cpu steal 9 %"] for i in range(1, 9)})))
    assert [(line.title, line.text) for line in timing.tags] == [("CPU steal", "8 rounds")]


def test_openings_are_marked_where_the_lane_was_opened_anew() -> None:
    (timing,) = timings_of(run_of(timed(*STEADY, openings=5)))
    assert timing.strips[0].openings == "M120.0 0V100M240.0 0V100M360.0 0V100M480.0 0V100"
    assert timings_of(run_of(timed(*STEADY)))[0].strips[0].openings == ""


def test_rounds_stand_in_the_column_of_their_number_and_missing_ones_are_said() -> None:
    first, second = timed(*STEADY), timed(*STEADY[:8])
    second["cell"]["backend"] = "openvino"
    second["speed"]["rounds"] = [r for r in second["speed"]["rounds"] if r["round"] > 4]
    first["speed"]["rounds_run"] = 40
    run = run_of(first, second)
    (timing,) = timings_of(run)
    lefts = [float(x) for x in re.findall(r"M([\d.]+) ", timing.strips[1].dots)]
    assert 4 * STRIP_WIDTH / 10 < min(lefts) < 5 * STRIP_WIDTH / 10
    assert timing.of_rounds == 40
    assert "10 of 40 rounds are in the file and drawn." in render_html(run.suite)


def test_dots_lie_at_their_latency_over_the_median() -> None:
    (timing,) = timings_of(run_of(timed(*[10.0] * 9, 12.0)))
    heights = [float(y) for y in re.findall(r" ([\d.]+)h0", timing.strips[0].dots)]
    scale = 92 / (timing.high - timing.low)
    assert heights[0] == pytest.approx(96 - (1.0 - timing.low) * scale, abs=0.5)
    assert heights[-1] == pytest.approx(96 - (1.2 - timing.low) * scale, abs=0.5)


def test_tags_and_reasons_are_escaped() -> None:
    cell = timed(*STEADY, tags={2: [HOSTILE]}, reason=HOSTILE)
    cell["speed"]["checks"] = [
        {"name": "timed outputs", "passed": None, "value": None, "limit": None, "explain": HOSTILE}
    ]
    page = render_html(run_of(cell).suite)
    assert "<script>alert" not in page


def test_files_without_tags_keep_their_sentence_and_have_no_table() -> None:
    run = read_run(sample_suite())
    assert noise.timing_finding(run).startswith("Mostly: between the calmest and the slowest tenth of rounds, a cell’s")
    assert noise.timed_rows(run) == []
    assert "How each cell was timed" not in render_html(run.suite)
    assert noise.timing_finding(read_run({**sample_suite(), "cells": []})) == "Nothing was timed."
