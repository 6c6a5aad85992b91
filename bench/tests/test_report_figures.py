from __future__ import annotations

import itertools
import re

import pytest

from bench.report.cells import read_run
from bench.report.figure import scatter_svg
from bench.report.flips import MAX_DRAWN, picture_of
from bench.report.labels import place_labels
from bench.report.noise import noise_of, timing_finding
from bench.report.provenance import artifacts_of, protocol_of
from bench.report.scatter import MAX_LABELLED, panel_of
from bench.report.strips import timings_of
from bench.report.tables import matrix_of, rows_of, short_reason
from bench.tests.sample_suite import as_reference, make_cell, sample_suite


def run_of(*cells: dict) -> object:
    first = as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0))
    return read_run({**sample_suite(), "cells": [first, *cells]})


def test_labels_of_crowded_points_overlap_neither_each_other_nor_a_marker() -> None:
    points = [(200 + dx, 150 + dy) for dx, dy in itertools.product((0, 14, 28), (0, 12))]
    placed = place_labels(points, ["openvino fp32"] * 6, bounds=(0, 0, 540, 320),
                          taken=[(x - 6, y - 6, x + 6, y + 6) for x, y in points])  # fmt: skip
    rects = [p.rect for p in placed]
    for a, b in itertools.combinations(rects, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])
    for (x, y), rect in itertools.product(points, rects):
        assert not (rect[0] < x < rect[2] and rect[1] < y < rect[3])
    assert any(p.leader for p in placed)
    assert all(r[0] >= 0 and r[2] <= 540 and r[1] >= 0 and r[3] <= 320 for r in rects)


def test_a_lone_point_gets_its_label_beside_it_without_a_leader() -> None:
    (placed,) = place_labels([(100, 100)], ["a"], bounds=(0, 0, 300, 300))
    assert placed.leader is None
    assert placed.anchor == "start"


def test_a_figure_leaks_no_style_no_foreign_id_and_no_fixed_colour() -> None:
    run = read_run(sample_suite(intervals=True))
    svg = scatter_svg(panel_of(run.groups[0], run), width=540, height=370, prefix="q-", css_class="wide")
    assert "<style" not in svg
    assert "<?xml" not in svg
    assert all(name.startswith("q-") for name in re.findall(r'id="([^"]+)"', svg))
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "var(--same)" in svg
    assert "date" not in svg.lower()


def test_labels_become_numbers_with_a_key_above_twelve_points() -> None:
    cells = [make_cell("m", f"backend{i}", "fp32", delta=0.0, ratio=1 + i / 10) for i in range(MAX_LABELLED + 1)]
    run = run_of(*cells)
    panel = panel_of(run.groups[0], run)
    svg = scatter_svg(panel, width=540, height=370, prefix="q-", css_class="wide")
    assert panel.numbered
    assert ">13</text>" in svg
    assert "backend3" not in svg


def test_an_outlier_stands_on_the_edge_and_does_not_flatten_the_rest() -> None:
    cell = make_cell("m", "onnxrt", "int8", "failed", delta=-0.4, ratio=1.2)
    run = run_of(cell, make_cell("m", "openvino", "int8", delta=-0.001, ratio=2.0))
    panel = panel_of(run.groups[0], run)
    outlier = next(p for p in panel.points if p.below)
    assert outlier.label == "onnxrt int8, failed, −0.4000 ↓"
    assert panel.delta_range[0] > -0.05


@pytest.mark.parametrize("value", ["nan", "inf", None])
def test_a_cell_without_both_numbers_is_counted_and_not_drawn(value: object) -> None:
    cell = make_cell("m", "onnxrt", "int8", "failed", delta=-0.4, ratio=1.2)
    cell["speed"]["ratio"] = value
    run = run_of(cell)
    panel = panel_of(run.groups[0], run)
    assert panel.points == ()
    assert panel.absent == 1


def test_whiskers_are_the_intervals_and_a_wide_one_does_not_squeeze_the_points() -> None:
    cell = make_cell("m", "onnxrt", "int8", delta=-0.002, ratio=2.0)
    cell["accuracy"].update(ci95=[-0.004, 0.001], deltas={})
    cell["speed"].update(ratio_ci95=[1.5, 9.6], verdict="faster")
    run = run_of(cell)
    panel = panel_of(run.groups[0], run)
    (point,) = panel.points
    assert (point.delta_ci95, point.ratio_ci95) == ((-0.004, 0.001), (1.5, 9.6))
    assert panel.ratio_range[1] < 3.5
    svg = scatter_svg(panel, width=540, height=370, prefix="q-", css_class="wide")
    (low, high), (left, right) = panel.delta_range, panel.ratio_range
    y = [12 + (high - v) / (high - low) * (370 - 12 - 46) for v in (-0.004, 0.001)]
    x = 58 + (2.0 - left) / (right - left) * (540 - 58 - 14)
    vertical = re.search(rf'd="M {int(x)}\.\d+ ([\d.]+)\nL {int(x)}\.\d+ ([\d.]+)\n', svg)
    assert vertical is not None
    assert [float(v) for v in vertical.groups()] == pytest.approx(y, abs=0.01)


def test_the_note_of_a_panel_says_undecided_only_where_there_are_intervals() -> None:
    cell = make_cell("m", "onnxrt", "int8", "undecided", delta=-0.02, ratio=2.0)
    assert panel_of(run_of(cell).groups[0], run_of(cell)).note.endswith(
        "onnxrt int8 lies outside the margin as measured, not judged."
    )
    cell["accuracy"].update(ci95=[-0.03, 0.01], verdict="undecided")
    run = run_of(cell)
    panel = panel_of(run.groups[0], run)
    assert panel.note.endswith("onnxrt int8 is undecided.")
    assert (panel.points[0].label, panel.points[0].word) == ("onnxrt int8, undecided", "undecided")


def test_only_cells_that_are_the_same_enter_the_front() -> None:
    run = run_of(make_cell("m", "onnxrt", "int8", "undecided", delta=0.1, ratio=9.0),
                 make_cell("m", "openvino", "fp32", delta=-0.0001, ratio=2.0))  # fmt: skip
    assert panel_of(run.groups[0], run).front == ((1.0, 0.0), (2.0, -0.0001))


def test_boxes_are_told_apart_as_same_missed_changed_moved_and_extra() -> None:
    def box(x: float, label: str, width: float = 40) -> dict:
        return {"box_xyxy": [x, 10, x + width, 50], "score": 0.5, "label": label}

    flip = {"image": "a.png", "width": 400, "height": 100, "kind": "", "explained": False, "thumb": None,
            "ref": [box(0, "a"), box(100, "a"), box(200, "a"), box(300, "a")],
            "cand": [box(0, "a"), box(100, "b"), box(206, "a"), box(50, "c")]}  # fmt: skip
    picture = picture_of(flip)
    assert sorted(b.kind for b in picture.candidate) == ["changed", "extra", "missed", "moved", "same"]
    assert {b.kind for b in picture.reference} == {"same"}


def test_a_crowd_of_boxes_is_cut_and_counted_and_broken_boxes_are_left_out() -> None:
    many = [{"box_xyxy": [i, 0, i + 5, 5], "score": "nan", "label": "a"} for i in range(MAX_DRAWN + 3)]
    broken = {"box_xyxy": ["nan", 0, 1, 1], "score": 0.5, "label": "a"}
    flip = {"image": "a.png", "width": 400, "height": 100, "kind": "", "explained": False, "thumb": None,
            "ref": [*many, broken], "cand": []}  # fmt: skip
    picture = picture_of(flip)
    assert len(picture.reference) == MAX_DRAWN
    assert picture.left_out == 6


def test_the_matrix_leaves_a_place_empty_where_a_model_has_no_cell() -> None:
    matrix = matrix_of(read_run(sample_suite()))
    assert matrix.heads == (("torch", 2), ("onnxrt", 3), ("openvino", 4), ("trt", 1))
    fastestdet = matrix.rows[0][1]
    assert fastestdet[1] is None
    assert [box.cell.label for _, row in matrix.rows for box in row if box and box.fastest] == ["openvino fp32"]


def test_neighbouring_columns_that_did_not_run_for_one_reason_are_one_column() -> None:
    cells = [make_cell("m", "trt", p, "skipped", reason="no GPU") for p in ("fp32", "fp16")]
    other = make_cell("m", "trt", "int8", "skipped", reason="no calibration")
    matrix = matrix_of(run_of(make_cell("m", "onnxrt", "fp32", delta=0.0, ratio=1.0), *cells, other))
    assert matrix.columns == ("fp32", "fp32", "fp32, fp16", "int8")
    assert matrix.heads == (("torch", 1), ("onnxrt", 1), ("trt", 2))
    assert [box.label for box in matrix.rows[0][1] if box][2:] == ["trt fp32, fp16", "trt int8"]


def test_fixture_sets_with_a_hash_stand_among_the_artefacts_and_not_in_the_protocol() -> None:
    suite = sample_suite()
    suite["protocol"]["fixtures"] = {"shapes": {"sha256": "a" * 64, "images": 600}}
    run = read_run(suite)
    assert artifacts_of(run)[-1].name == "shapes manifest"
    assert artifacts_of(run)[-1].source == "600 images"
    assert "Fixtures" not in [name for name, _ in protocol_of(run)]


def test_a_short_reason_is_cut_between_words() -> None:
    assert short_reason("Requested bf16, observed fp32.") == "Requested bf16…"
    assert short_reason("too slow.") == "too slow"
    assert len(short_reason("x" * 40) or "") <= 22


def test_a_delta_far_outside_its_margin_stands_clipped_on_the_edge_of_its_bar() -> None:
    run = run_of(make_cell("m", "onnxrt", "int8", "failed", delta=-0.4, ratio=1.2))
    bar = rows_of(run.groups[0], run, ["p50"])[1].bar
    assert bar is not None
    assert bar.clipped
    assert bar.dot == 4.0


def test_timing_is_judged_by_how_far_round_medians_move() -> None:
    def with_rounds(*medians: float) -> dict:
        cell = make_cell("m", "onnxrt", "fp32", delta=0.0, ratio=1.0)
        cell["speed"]["rounds"] = [{"samples_ms": [m] * 5} for m in medians]
        return cell

    steady = [10.0] * 10
    calm = as_reference(with_rounds(*steady))
    make = lambda cell: read_run({**sample_suite(), "cells": [calm, cell]})  # noqa: E731
    assert timing_finding(make(with_rounds(*steady))).startswith("Yes")
    assert timing_finding(make(with_rounds(*[10.0, 11.0] * 5))).startswith("Mostly")
    assert timing_finding(make(with_rounds(*[10.0, 13.0] * 5))).startswith(
        "No: the median of onnxrt fp32 moved by 30 %"
    )


def test_strips_grow_to_hold_noisy_samples_and_keep_their_range_for_calm_ones() -> None:
    calm = timings_of(read_run(sample_suite()))[0]
    assert (calm.low, calm.high) == (0.9, 1.4)
    noisy = make_cell("m", "onnxrt", "fp32", delta=0.0, ratio=1.0)
    noisy["speed"]["rounds"] = [{"samples_ms": [10.0, 20.0, 30.0, 20.0, 20.0]}] * 8
    loud = timings_of(run_of(noisy))[0]
    assert (loud.low, loud.high) == (0.5, 1.5)


def test_an_emulated_cell_has_no_strip() -> None:
    run = read_run(sample_suite())
    assert "onnxrt fp16" not in [s.label for t in timings_of(run) for s in t.strips]


def test_noise_that_is_equal_for_all_cells_is_told_once() -> None:
    common, heads, rows = noise_of(read_run(sample_suite()))
    assert common == ["load average before 0.7", "load average after 1.9"]
    assert heads == ()
    assert rows == []


def test_noise_that_the_cells_of_a_model_share_is_one_row() -> None:
    common, heads, rows = noise_of(read_run(sample_suite(intervals=True)))
    assert "CPU steal 0.4 %" in common
    assert heads == ("CPU clock",)
    assert rows == [("fastestdet, all cells", ("not readable here",)), ("yolov10n, all cells", ("2,210 to 2,900 MHz",))]
