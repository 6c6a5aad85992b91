"""A comparison in the terminal: the answer first, at most 100 columns, every encoding, nobody's escape codes."""

import io

import pytest
from rich.console import Console

from bench.report.compared import exit_sentence, headline, labels_of, print_changes, print_comparison


def cell(backend, status="passed", **more):
    where = {"model": "m", "backend": backend, "device": "cpu", "precision": "int8", "fixtures": "f", "batch": 1}
    accuracy = {"delta": -0.0163, "ci95": [-0.0207, -0.012], "verdict": "failed", "reason": None}
    speed = {"change": 1.01, "ci95": [0.98, 1.02], "verdict": "same", "reason": None}
    return {"cell": where, "id": backend, "base_status": "passed", "cand_status": "passed", "change": "same",
            "accuracy": accuracy, "speed": speed, "status": status, "reason": None, **more}  # fmt: skip


@pytest.fixture
def document():
    side = {"run_id": "r1", "commit": "a17be02" + "0" * 33, "host": "bench-a", "finished_at": "2026-08-14T02:10:00Z"}
    return {
        "base": {**side, "runs": 3},
        "cand": {**side, "run_id": "r2", "runs": 1},
        "notes": [{"kind": "version", "text": "onnxruntime: 1.31.0 → 1.32.0 \x1b[31m[bold]" + " words" * 40}],
        "cells": [
            cell("onnxrt", "failed", reason="Loses 0.0163 AP. " * 12),
            cell("torch", "undecided", reason="one run"),
            cell("trt", "skipped", base_status="skipped", cand_status="skipped", accuracy=None, speed=None),
            cell("x" * 120, cand_status=None, change="lost", status="failed", reason="gone"),
            cell("openvino"),
        ],
        "exit_code": 1,
    }


def printed(document, encoding="utf-8", draw=print_comparison, **options):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding), width=300)
    draw(document, console, **options)
    console.file.flush()
    return raw.getvalue().decode(encoding)


def test_the_answer_comes_first_and_the_exit_last(document):
    lines = printed(document).splitlines()
    assert (
        lines[0]
        == "Not worse than the base in 1 of 4 cells. 2 failed, 1 undecided, 1 did not run."
        == headline(document)
    )
    assert lines[-1] == exit_sentence(document)
    assert "commit a17be02" in lines[1]
    assert "3 stored runs" in lines[1]
    assert "−0.0163 [−0.0207, −0.0120]  1.01 [0.98, 1.02] same" in printed(document)


def test_no_line_is_longer_than_100_columns_and_none_obeys_the_file(document):
    for encoding in ("utf-8", "ascii"):
        text = printed(document, encoding)
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text
        assert "[bold]" in text


def test_quiet_keeps_the_answer_and_what_needs_a_person(document):
    text = printed(document, quiet=True)
    assert "Loses 0.0163 AP." in text
    assert "Changed since" not in text
    assert "Speed to base" not in text


def test_beside_a_run_the_exit_is_the_run_s_own(document):
    assert "Exit 1" not in printed(document, draw=print_changes)


def test_a_label_names_only_what_differs(document):
    assert labels_of(document["cells"])[0] == "onnxrt int8"
    document["cells"][0]["cell"]["batch"] = 4
    document["cells"][1]["cell"]["model"] = "n"
    assert labels_of(document["cells"])[:2] == ["m onnxrt int8 b4", "n torch int8 b1"]
