from __future__ import annotations

import copy
from typing import Any

import pytest

from bench.report import answer, resolution, tables
from bench.report.cells import read_run
from bench.report.html import render_html
from bench.tests.sample_suite import as_reference, make_cell, sample_suite


def judged(backend: str = "onnxrt", *, images: int = 128, status: str = "passed", **accuracy: Any) -> dict[str, Any]:
    """A candidate with an interval."""
    cell = make_cell("m", backend, "int8", status, delta=-0.001, ratio=1.2, images=images)
    news = {"images_to_decide": None, "deltas": {}, "per_class": [], "cross_check": None}
    known = {"ci95": [-0.002, 0.0], "margin": 0.004, "resolvable": 0.002, "verdict": "passed"}
    cell["accuracy"].update({**news, **known, **accuracy})
    return cell


def run_of(*cells: dict[str, Any]) -> Any:
    first = as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0))
    return read_run({**sample_suite(), "cells": [first, *cells]})


def undecided(**accuracy: Any) -> dict[str, Any]:
    return judged(status="undecided", reason="Cannot decide.", verdict="undecided", ci95=[-0.008, 0.006], **accuracy)


@pytest.mark.parametrize(
    ("resolvable", "bar", "clipped", "words"),
    [(0.0, 0.0, False, "yes"), (0.002, 37.5, False, "yes"), (0.004, 75.0, False, "yes"),
     (0.0112, 210.0, False, "no, 2.8 margins; decided all the same"),
     (0.0128, 240.0, False, "no, 3.2 margins; decided all the same"),
     (0.4, 240.0, True, "no, 100.0 margins; decided all the same"),
     ("nan", 240.0, True, "no, nan margins; decided all the same")],
)  # fmt: skip
def test_the_bar_is_the_resolvable_loss_in_margins_of_75_pixels(
    resolvable: Any, bar: float, clipped: bool, words: str
) -> None:
    (row,) = resolution.resolved_of(run_of(judged(resolvable=resolvable)))
    assert (row.bar, row.clipped, row.words) == (bar, clipped, words)
    assert row.enough == (words == "yes")


def test_the_finding_says_for_which_cells_the_images_are_too_few() -> None:
    enough, few = judged(), judged("openvino", resolvable=0.01)
    assert resolution.resolution_finding(run_of(enough)) == "128 shapes images resolve every margin set for m."
    text = resolution.resolution_finding(run_of(enough, few))
    assert text == "128 shapes images are too few for openvino int8 of m."
    assert resolution.resolution_finding(run_of(few)) == "128 shapes images are too few for every margin set for m."
    many = [judged(f"backend{i}", resolvable=0.01) for i in range(5)]
    text = resolution.resolution_finding(run_of(enough, *many))
    assert text == "128 shapes images are too few for 5 of 6 cells of m."


def test_findings_over_many_models_are_counted() -> None:
    cells = []
    for name in "abc":
        cell = judged(resolvable=0.01 if name == "a" else 0.002)
        cell["cell"]["model"] = name
        cells.append(cell)
    assert resolution.resolution_finding(run_of(*cells)) == "The images resolve the margins of 2 of 3 cells."


def test_what_would_decide_an_undecided_cell_is_two_digits_and_called_about() -> None:
    run = run_of(undecided(images_to_decide=8163))
    (item,) = resolution.ways_out_of(run)
    assert item.text.startswith(
        "ΔAP is −0.0010 [−0.0080, +0.0060] and the margin is −0.0040. If the delta stays there,"
    )
    assert "at about 8,200 images, 64 times this set. That is a lower bound" in item.text
    assert tables.matrix_of(run).rows[0][1][1].note == "needs ≈ 8,200 images"
    assert answer.needs_person(run)[0].sentence == (
        "Cannot decide. About 8,200 images would decide, if the delta holds."
    )
    assert "about 8,200 images would decide, if the delta holds" in render_html(run.suite)


def test_a_delta_at_the_margin_is_said_to_be_beyond_more_images() -> None:
    run = run_of(undecided())
    assert resolution.ways_out_of(run)[0].text.endswith(
        "The delta sits at the margin; more images are unlikely to decide."
    )
    assert tables.matrix_of(run).rows[0][1][1].note == "delta at the margin"
    assert "The delta sits at the margin; more images are unlikely to decide." in answer.needs_person(run)[0].sentence


def test_what_would_decide_is_said_once_when_the_reason_says_it() -> None:
    cell = undecided(images_to_decide=8200)
    for reason in ("128 images cannot decide. About 8,200 would, if the delta holds.", None):
        cell.update(reason=reason)
        cell["accuracy"]["reason"] = "128 images cannot decide. About 8,200 would, if the delta holds."
        assert answer.needs_person(run_of(cell))[0].sentence == cell["accuracy"]["reason"]


def test_without_an_interval_nothing_is_promised() -> None:
    cell = undecided()
    cell["accuracy"].update(ci95=None, resolvable=None, reason="12 images are too few for an interval.")
    run = run_of(cell)
    assert resolution.ways_out_of(run) == []
    assert resolution.resolved_of(run) == []
    assert resolution.absent_line(run) == (
        "Left out: no candidate has an interval. 12 images are too few for an interval."
    )
    page = render_html(run.suite)
    assert "ΔAP, no interval yet" not in page
    assert "no interval</span>" in page
    assert 'class="absent" id="resolution"' in page


def test_rows_of_undecided_cells_are_marked_and_told_apart() -> None:
    run = run_of(undecided(resolvable=0.01), judged("openvino"))
    rows = resolution.resolved_of(run)
    assert [row.open for row in rows] == [True, False]
    assert rows[0].words == "no, 2.5 margins"
    page = render_html(run.suite)
    assert '<tr class="unk"><th scope="row">onnxrt int8</th><td class="n">128</td>' in page
    assert '<g class="undecided"><rect y="5" width="187.5"' in page


def test_an_undecided_delta_near_its_margin_is_no_lack_of_images() -> None:
    (row,) = resolution.resolved_of(run_of(undecided()))
    assert row.words == "yes, but the delta sits near the margin"


def check(difference: float | str, *, agrees: bool = True) -> dict[str, Any]:
    return {"scorer": "pycocotools 2.0.11", "max_abs_difference": difference, "agrees": agrees}


def test_the_independent_scorer_is_named_with_its_cell_and_its_largest_difference() -> None:
    (one,) = resolution.checks_of(run_of(judged(images=600, cross_check=check(0.0))))
    assert one.text == "pycocotools 2.0.11 re-scored onnxrt int8 on 600 images: identical, largest difference 0.0."
    (one,) = resolution.checks_of(run_of(judged(cross_check=check(1.1e-16))))
    assert one.text.endswith("agrees, largest difference 1.1e−16.")


def test_a_disagreement_is_loud_and_never_counted_among_others() -> None:
    cells = [judged(f"backend{i}", cross_check=check(0.0)) for i in range(5)]
    wrong = judged(cross_check=check("inf", agrees=False))
    run = run_of(*cells, wrong)
    texts = [(item.text, item.agrees) for item in resolution.checks_of(run)]
    assert texts[0] == (
        "pycocotools 2.0.11 re-scored onnxrt int8 on 128 images: disagrees, largest difference inf.",
        False,
    )
    assert texts[1] == ("pycocotools 2.0.11 re-scored 5 cells: identical, largest difference 0.0.", True)
    assert "No AP of this run can be trusted." in render_html(run.suite)


def test_a_run_without_a_cross_check_says_so() -> None:
    assert "No cell was scored again by an independent scorer." in render_html(run_of(judged()).suite)
    assert "independent scorer" not in render_html(sample_suite())


def test_the_bar_of_a_difference_shows_interval_ends_against_the_margin() -> None:
    run = run_of(judged(delta=-0.002, ci95=[-0.006, 0.002]))
    bar = tables.rows_of(run.groups[0], run, ["p50"])[1].bar
    assert bar is not None
    margin = bar.zero - bar.band[0]
    assert bar.dot == pytest.approx(bar.zero - margin / 2, abs=0.1)
    assert bar.ends == (pytest.approx(bar.zero - 1.5 * margin, abs=0.2), pytest.approx(bar.zero + margin / 2, abs=0.2))
    assert bar.beyond == (False, False)


def test_an_interval_that_leaves_the_bar_has_an_arrow_and_no_cap() -> None:
    run = run_of(judged(delta=-0.002, ci95=[-0.1, 0.002]))
    bar = tables.rows_of(run.groups[0], run, ["p50"])[1].bar
    assert bar is not None
    assert bar.beyond == (True, False)
    page = render_html(run.suite)
    assert f"M{bar.ends[0]} 4v7" not in page
    assert f"M{bar.ends[1]} 4v7" in page


def test_a_suspicious_gain_is_named_in_words_and_in_the_colour_of_failure() -> None:
    cell = judged(status="failed", verdict="suspicious", delta=0.02, ci95=[0.01, 0.03],
                  reason="Gains 0.0200 AP, more than the margin of 0.0040.")  # fmt: skip
    cell.update(reason=cell["accuracy"]["reason"], reason_short="gains 0.020 AP")
    run = run_of(cell)
    assert answer.needs_person(run)[0].sentence == "Suspicious: gains 0.0200 AP, more than the margin of 0.0040."
    assert tables.matrix_of(run).rows[0][1][1].note == "suspicious gain"
    page = render_html(run.suite)
    assert '<span class="sub way failed">suspicious gain</span>' in page
    assert "onnxrt int8, suspicious gain</text>" in page
    assert "int8 gains more than the same model can on onnxrt." in page


@pytest.mark.parametrize(
    ("ends", "verdict", "text"),
    [([1.1, 1.3], "faster", "faster"), ([0.8, 0.9], "slower", "slower"), ([0.99, 1.01], "same", "same"),
     ([0.9, 1.1], "undecided", "undecided")],
)  # fmt: skip
def test_the_speed_verdict_stands_in_words_beside_the_interval(ends: list[float], verdict: str, text: str) -> None:
    cell = judged()
    cell["speed"].update(ratio=1.0, ratio_ci95=ends, verdict=verdict)
    page = render_html(run_of(cell).suite)
    assert f'<span class="sub {text}">' in page
    assert f"[{ends[0]:.2f}, {ends[1]:.2f}]</span>" in page
    assert ('<span class="undecided">?</span>' in page) == (verdict == "undecided")


def test_new_fields_that_are_null_or_absent_draw_the_page_of_an_old_file() -> None:
    old = sample_suite()
    nulls = copy.deepcopy(old)
    for cell in nulls["cells"]:
        if cell["accuracy"]:
            cell["accuracy"].update(images_to_decide=None, cross_check=None)
        if cell["speed"]:
            cell["speed"].update(reason=None)
    assert render_html(nulls) == render_html(old)
    assert "Left out: this file has no intervals over images" in render_html(old)
