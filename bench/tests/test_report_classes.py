from __future__ import annotations

from typing import Any

import pytest

from bench.report import classes
from bench.report.cells import read_run
from bench.report.html import render_html
from bench.tests.sample_intervals import SHAPES, class_deltas
from bench.tests.sample_suite import HOSTILE, as_reference, make_cell, sample_suite

MANY = tuple(f"class {i:02d}" for i in range(80))


def cell_with(records: list[dict[str, Any]], backend: str = "onnxrt") -> dict[str, Any]:
    cell = make_cell("m", backend, "int8", delta=-0.02, ratio=1.2)
    cell["accuracy"].update(ci95=[-0.03, -0.01], deltas={}, per_class=records)
    return cell


def run_of(*cells: dict[str, Any]) -> Any:
    first = as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0))
    return read_run({**sample_suite(), "cells": [first, *cells]})


def moved(count: int, names: tuple[str, ...] = SHAPES, backend: str = "onnxrt") -> dict[str, Any]:
    return cell_with(class_deltas(-0.02, 0.001, names, moved=count), backend)


def test_classes_that_carry_the_loss_are_counted_shared_and_named() -> None:
    text = classes.classes_finding(run_of(moved(3)))
    assert text == (
        "Three of eight classes carry 90 % of the loss of onnxrt int8 (washer, ring and notched disc); no other class "
        "has a significant difference."
    )
    assert classes.classes_finding(run_of(moved(3), moved(0, backend="openvino"))).endswith(
        "No other cell has a significant class."
    )


def test_the_share_is_the_sum_of_the_moved_classes_over_the_sum_of_all() -> None:
    records = class_deltas(-0.02, 0.0, ("a", "b"), moved=1)
    records[0]["delta"], records[1]["delta"] = -0.03, -0.01
    assert "One of two classes carries 75 % of the loss of onnxrt int8 (a)" in classes.classes_finding(
        run_of(cell_with(records))
    )


@pytest.mark.parametrize("deltas", [(-0.03, 0.01), (0.03, -0.01), ("nan", -0.01)])
def test_no_share_is_claimed_where_it_would_be_none(deltas: tuple[Any, Any]) -> None:
    records = class_deltas(-0.02, 0.0, ("a", "b"), moved=1)
    records[0]["delta"], records[1]["delta"] = deltas
    text = classes.classes_finding(run_of(cell_with(records)))
    assert text.startswith("One of two classes moved significantly in onnxrt int8 (a); no other class")


def test_no_class_moved_is_said_for_one_cell_and_for_several() -> None:
    assert classes.classes_finding(run_of(moved(0))) == "No class moved significantly in onnxrt int8."
    two = run_of(moved(0), moved(0, backend="openvino"))
    assert classes.classes_finding(two) == "No class moved significantly in any of 2 cells."


def test_several_cells_with_moved_classes_are_listed_with_their_counts() -> None:
    text = classes.classes_finding(run_of(moved(3), moved(1, backend="openvino"), moved(0, backend="trt")))
    assert text == "Classes moved significantly in 2 of 3 cells: onnxrt int8 (3 of 8) and openvino int8 (1 of 8)."


def test_bars_lie_on_one_axis_where_the_numbers_say() -> None:
    (table,) = classes.class_tables_of(run_of(moved(3)))
    low, high = (float(end.replace("−", "-")) for end in table.axis.split(" to "))
    scale = (classes.WIDTH - 12) / (high - low)
    assert table.zero == pytest.approx(6 - low * scale, abs=0.1)
    for row, record in zip(table.shown[:3], class_deltas(-0.02, 0.001, SHAPES, moved=3), strict=False):
        assert row.name == record["name"]
        assert row.dot == pytest.approx(6 + (record["delta"] - low) * scale, abs=0.1)
        assert row.ends == tuple(pytest.approx(6 + (end - low) * scale, abs=0.1) for end in record["ci95"])
    assert all(0 <= end <= classes.WIDTH for row in (*table.shown, *table.folded) for end in row.ends or ())


def test_significant_classes_stand_open_with_the_largest_of_the_rest_and_80_are_folded() -> None:
    (table,) = classes.class_tables_of(run_of(moved(3, MANY)))
    assert [row.significant for row in table.shown] == [True, True, True, False]
    assert len(table.folded) == 76
    assert not any(row.significant for row in table.folded)
    sizes = [abs(float(row.delta.split(" ")[0].replace("−", "-"))) for row in (table.shown[3], *table.folded)]
    assert sizes == sorted(sizes, reverse=True)
    page = render_html(run_of(moved(3, MANY)).suite)
    assert "76 more classes of onnxrt int8, none of them significant" in page
    assert page.count('class="cb"') == 4, "a long folded table has numbers only"
    assert all(f'<th scope="row">{name}</th>' in page for name in MANY)


def test_eighty_moved_classes_do_not_fill_the_page() -> None:
    (table,) = classes.class_tables_of(run_of(moved(80, MANY)))
    assert len(table.shown) == classes.SHOWN
    assert "68 more classes of onnxrt int8, 68 of them significant" in render_html(run_of(moved(80, MANY)).suite)


def test_a_cell_in_which_nothing_moved_is_one_folded_line() -> None:
    tables = classes.class_tables_of(run_of(moved(0), moved(2, backend="openvino")))
    assert [table.name for table in tables] == ["openvino int8", "onnxrt int8"]
    assert tables[1].shown == ()
    page = render_html(run_of(moved(0)).suite)
    assert "onnxrt int8: no class moved significantly, largest " in page


def test_losses_and_gains_are_told_apart_by_arrow_and_colour() -> None:
    records = class_deltas(-0.02, 0.001, SHAPES, moved=2)
    records[1].update(delta=0.04, ci95=[0.02, 0.06])
    (table,) = classes.class_tables_of(run_of(cell_with(records)))
    assert {row.name: row.word for row in table.shown[:2]} == {"washer": "failed", "ring": "passed"}
    page = render_html(run_of(cell_with(records)).suite)
    assert '<b class="failed"><svg class="g" aria-hidden="true"><use href="#g-slower"/></svg>0.004</b>' in page
    assert '<b class="passed"><svg class="g" aria-hidden="true"><use href="#g-faster"/></svg>0.004</b>' in page


def test_numbers_that_are_not_finite_are_words_without_a_bar_and_come_first() -> None:
    records = class_deltas(-0.02, 0.001, SHAPES, moved=0)
    records[4].update(delta="nan", ci95=["nan", "nan"], p_value="nan")
    (table,) = classes.class_tables_of(run_of(cell_with(records)))
    assert table.folded[0].name == SHAPES[4]
    assert (table.folded[0].dot, table.folded[0].ends) == (None, None)
    assert table.folded[0].delta == "nan [nan, nan]"
    assert table.folded[0].p == "nan"
    assert "no class moved" in render_html(run_of(cell_with(records)).suite)


def test_classes_without_objects_are_counted_and_not_listed() -> None:
    records = class_deltas(-0.02, 0.001, SHAPES, moved=1)
    records[-1].update(delta=None, ap=None, reference_ap=None, ci95=None, p_value=None)
    (table,) = classes.class_tables_of(run_of(cell_with(records)))
    assert table.empty == 1
    assert SHAPES[-1] not in [row.name for row in (*table.shown, *table.folded)]
    assert "1 class of a set has no object in it and is not listed." in render_html(run_of(cell_with(records)).suite)


def test_a_page_with_more_classes_than_its_budget_says_how_many_it_leaves_out() -> None:
    cells = [moved(0, MANY, f"backend{i}") for i in range(24)]
    run = run_of(*cells)
    tables = classes.class_tables_of(run)
    assert sum(len(t.shown) + len(t.folded) for t in tables) == classes.PAGE_ROWS
    assert sum(t.left_out for t in tables) == 24 * 80 - classes.PAGE_ROWS
    page = render_html(run.suite)
    assert "80 classes of backend9 int8 are in suite.json only" in page
    assert len(page.encode()) < 1_000_000


def test_names_of_classes_are_escaped() -> None:
    page = render_html(run_of(moved(1, (HOSTILE, "b"))).suite)
    assert "<script>alert" not in page
    assert '<th scope="row">&lt;script&gt;' in page


def test_an_empty_section_says_why() -> None:
    assert classes.absent_line(run_of(cell_with([]))) == (
        "Left out: no candidate has differences by class; they need an interval over at least 30 images."
    )
    assert "Left out: this file has no differences by class." in render_html(sample_suite())
