"""A folder of runs over time: order, gaps, steps, what cannot be read; and the page that is drawn from it."""

import json
import re

import pytest

from bench.across.history import read_history
from bench.errors import InputError
from bench.report.trend import MAX_RUNS, finding, headline, moved, render_history
from bench.schema import validate
from bench.tests.sample_suite import HOSTILE, sample_suite


@pytest.fixture
def folder(tmp_path):
    def write(number, change=lambda suite: None, name=None):
        suite = sample_suite(intervals=True)
        suite.update(run_id=f"run{number:02d}", started_at=f"2026-08-{number + 1:02d}T02:00:00Z")
        change(suite)
        path = tmp_path / (name or f"run{number:02d}") / "suite.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(suite))
        return path

    write.path = tmp_path
    return write


def int8(suite):
    return next(c for c in suite["cells"] if c["cell"]["backend"] == "openvino" and c["cell"]["precision"] == "int8")


def row(history, name="yolov10n-openvino-cpu-int8-shapes-b1"):
    return next(c for c in history["cells"] if c["id"] == name)


def test_runs_are_in_order_of_time_and_a_copy_counts_once(folder):
    for number in (2, 0, 1):
        folder(number)
    folder(1, name="copy/of/run01")
    history = read_history(folder.path)
    assert [r["run_id"] for r in history["runs"]] == ["run00", "run01", "run02"]
    assert len(row(history)["points"]) == 3
    validate(history, "history", where="test")


def test_a_broken_suite_is_listed_and_the_rest_is_read(folder):
    folder(0)
    (folder.path / "cut").mkdir()
    (folder.path / "cut" / "suite.json").write_text('{"schema": ')
    folder(3, lambda s: s.update(schema="suite_result/2"))
    folder(4, lambda s: s.update(started_at="yesterday"))
    history = read_history(folder.path)
    assert [r["run_id"] for r in history["runs"]] == ["run00"]
    assert {b["path"]: b["reason"].split(":")[0] for b in history["broken"]} == {
        "cut/suite.json": "not JSON at line 1 column 12",
        "run03/suite.json": "not a suite result",
        "run04/suite.json": "field started_at is no ISO 8601 time",
    }
    assert "cut/suite.json" in render_history(history)


def test_a_folder_without_any_run_is_an_input_error(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_history(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no suite\.json"):
        read_history(tmp_path)
    folder(0, lambda s: s.update(schema="x"))
    with pytest.raises(InputError, match="none of 1 suites can be read"):
        read_history(tmp_path)


def test_what_changed_is_marked_at_the_run_that_brought_it(folder):
    folder(0)
    folder(1, lambda s: s["host"]["versions"].update(onnxruntime="1.32.0"))
    folder(2, lambda s: s["host"]["versions"].update(onnxruntime="1.32.0"))
    history = read_history(folder.path)
    assert [r["changed"] for r in history["runs"]] == [[], ["version: onnxruntime: 1.31.0 → 1.32.0"], []]
    page = render_history(history)
    assert page.count('class="step"') == page.count('role="img" aria-label="AP') + page.count('aria-label="Speed')


def test_the_answer_counts_the_latest_run_and_names_what_moved(folder):
    folder(0)
    path = folder(1, lambda s: int8(s).update(status="failed", reason="Loses 0.02 AP."))
    words = [c["status"] for c in json.loads(path.read_text())["cells"] if c["role"] == "candidate"]
    judged = [w for w in words if w not in ("skipped", "unsupported")]
    assert len(words) > len(judged) > words.count("passed") > 0
    history = read_history(folder.path)
    assert headline(history) == f"{words.count('passed')} of {len(judged)} cells passed in the latest of 2 runs."
    assert finding(history) == "Since the run before: openvino int8 passed → failed."
    assert moved(history) == "Over 2 runs the verdict changed in 1 of 18 cells."
    assert finding(read_history(folder(5, name="alone/x").parent)).startswith("One run is no history")


def test_a_line_breaks_where_a_run_has_no_value_and_words_are_not_drawn(folder):
    folder(0)
    folder(1, lambda s: int8(s).update(status="error", accuracy=None, speed=None))
    folder(2)
    folder(3, lambda s: int8(s)["accuracy"]["stats"].update(AP="nan"))
    history = read_history(folder.path)
    only = {**history, "cells": [row(history)]}
    page = render_history(only)
    line = re.findall(r'class="ln" d="([^"]*)"', page)
    assert [part.count("M") for part in line] == [2, 2], "AP and speed both break at the error"
    assert not [svg for svg in re.findall(r"<svg class=\"tr\".*?</svg>", page, re.S) if "nan" in svg]
    assert page.count('<circle class="error"') == 0
    assert page.count('href="#g-error"') == 1


def test_the_page_is_a_pure_function_without_script_and_safe_with_hostile_text(folder):
    folder(0, lambda s: s.update(command=HOSTILE))
    path = folder(1)
    hostile = sample_suite(hostile=True)
    hostile.update(run_id="run09", started_at="2026-08-20T00:00:00Z")
    path.write_text(json.dumps(hostile))
    history = read_history(folder.path)
    page = render_history(history)
    assert page == render_history(json.loads(json.dumps(history)))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page


def test_more_runs_than_fit_are_left_out_and_said(folder):
    for number in range(2):
        folder(number)
    history = read_history(folder.path)
    many = [{**history["runs"][0], "run_id": f"old{i}"} for i in range(MAX_RUNS)]
    page = render_history({**history, "runs": [*many, *history["runs"]]})
    assert f"The last {MAX_RUNS} runs are drawn, 2 earlier ones are left out." in re.sub(r"\s+", " ", page)
