from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from bench.report import findings, precision
from bench.report.cells import read_run
from bench.report.html import render_html
from bench.report.markdown import markdown_of
from bench.report.precision_agreement import agreement_tables_of, blameless
from bench.report.precision_evidence import evidence_words
from bench.report.precision_nodes import blame, blamed_of
from bench.schema import validate
from bench.tests.sample_precision import APART, FP32_NODES, INT8_NODES, agreement, find, precision_suite, profile
from bench.tests.sample_suite import as_reference, make_cell, sample_suite
from bench.tests.test_report_html import Page, words
from bench.tests.test_report_terminal import printed

Suite = dict[str, Any]


@pytest.fixture
def suite() -> Suite:
    return precision_suite()


def row_of(suite: Suite, model: str, label: str) -> precision.PrecisionRow:
    tables = precision.precision_tables_of(read_run(suite))
    (found,) = [row for table in tables for row in table.rows if (row.cell.model, row.cell.label) == (model, label)]
    return found


def pace_of(suite: Suite, model: str, label: str) -> precision.Pace | None:
    run = read_run(suite)
    (found,) = [(g, c) for g in run.groups for c in g.cells if (c.model, c.label) == (model, label)]
    return precision.pace_of(*found)


def test_the_sample_is_valid(suite: Suite) -> None:
    validate(suite, "suite_result", where="sample")


def test_int8_is_slower_where_the_interval_of_shared_rounds_says_so(suite: Suite) -> None:
    pace = pace_of(suite, "fastestdet", "onnxrt int8")
    assert pace is not None
    assert pace.word == "slower"
    assert pace.ci95 is not None
    assert pace.ratio == pytest.approx(0.48 / 1.01, rel=0.05)
    row = row_of(suite, "fastestdet", "onnxrt int8")
    assert row.pace_word == "slower"
    assert row.pace_ends


def test_what_the_run_measured_is_taken_before_the_rounds_of_the_file(suite: Suite) -> None:
    stored = {"cell": "x", "ratio": 1.5, "ratio_ci95": [1.4, 1.6], "verdict": "faster", "reason": None}
    find(suite, "fastestdet", "onnxrt", "int8")["speed"]["against_fp32"] = stored
    pace = pace_of(suite, "fastestdet", "onnxrt int8")
    assert pace is not None
    assert (pace.word, pace.text) == ("faster", "1.50× [1.40, 1.60]")


def test_two_medians_decide_nothing() -> None:
    pace = pace_of(sample_suite(), "fastestdet", "onnxrt int8")
    assert pace is not None
    assert (pace.word, pace.ci95) == ("undecided", None)
    assert pace.ratio == pytest.approx(0.48 / 1.01, rel=0.02)
    page = words(render_html(sample_suite()))
    assert "int8 is not decided against fp32 in onnxrt" in page
    assert "int8 is slower than fp32 in" not in page


def test_a_stored_interval_that_crosses_the_band_is_not_called_slower(suite: Suite) -> None:
    stored = {"cell": "x", "ratio": 0.9, "ratio_ci95": [0.8, 1.01], "verdict": "undecided", "reason": "Crosses."}
    cell = find(suite, "fastestdet", "onnxrt", "int8")
    cell["speed"]["against_fp32"] = stored
    run = read_run(suite)
    assert not [
        text
        for g in run.groups
        for _, text in precision.notes_of(g, run)
        if text.startswith("fastestdet onnxrt int8: slower")
    ]
    assert "not decided" in words(render_html(suite))


def test_wrong_outputs_are_called_slower_where_the_run_says_so(suite: Suite) -> None:
    stored = {"cell": "x", "ratio": 0.5, "ratio_ci95": [0.48, 0.52], "verdict": "slower", "reason": None}
    find(suite, "yolov10n", "openvino", "int8")["speed"]["against_fp32"] = stored
    assert row_of(suite, "yolov10n", "openvino int8").pace_word == "slower"


def test_emulated_and_failed_cells_have_no_speed_against_fp32(suite: Suite) -> None:
    assert pace_of(suite, "yolov10n", "onnxrt fp16") is None
    assert row_of(suite, "yolov10n", "onnxrt fp16").pace_word == "emulated"
    assert row_of(suite, "yolov10n", "openvino int8").pace_word == "outputs failed"
    assert row_of(suite, "fastestdet", "onnxrt fp32").pace_word is None


def test_a_row_that_did_not_run_says_why(suite: Suite) -> None:
    row = row_of(suite, "fastestdet", "onnxrt fp16")
    assert row.why == "Declared by the backend: no half-precision Resize on CPU."
    assert (row.evidence, row.share, row.file) == ("–", None, None)
    assert row.why in words(render_html(suite))


def test_evidence_share_and_file_are_short_words(suite: Suite) -> None:
    row = row_of(suite, "fastestdet", "onnxrt int8")
    assert row.evidence == "79 of 86 nodes int8, placement CPU 92"
    assert (row.share, row.share_note) == ("91 %", "of multiply-adds")
    assert (row.file, row.file_share) == ("2.7", "30 % of fp32")
    other = row_of(suite, "fastestdet", "openvino int8")
    assert (other.share, other.share_note) == ("92 %", "of compute nodes")


@pytest.mark.parametrize("recipe", [{"int8_share": 0.5}, {"int8_compute": {"macs": 0.5, "nodes": 0.6}}])
def test_the_recipe_may_state_the_share_as_a_number_or_by_kind(suite: Suite, recipe: Any) -> None:
    find(suite, "fastestdet", "onnxrt", "int8")["artifact"]["recipe"] = recipe
    assert row_of(suite, "fastestdet", "onnxrt int8").share == "50 %"


@pytest.mark.parametrize("share", ["nan", -1, 2, True, None, {"macs": None}, {}])
def test_a_share_that_is_none_is_not_believed(suite: Suite, share: Any) -> None:
    find(suite, "fastestdet", "onnxrt", "int8")["artifact"]["recipe"] = {"int8_compute": share}
    assert row_of(suite, "fastestdet", "onnxrt int8").share_note == "of compute nodes"


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [({"compute_nodes": {"u8": 79, "f32": 7}}, "79 of 86 nodes int8"),
     ({"compute_nodes": {"f32": 1}}, "0 of 1 node int8"),
     ({"conv_linear_outputs": {"float32": 4}}, "0 of 4 nodes int8"), ({}, "on CPU"), ({"compute_nodes": {}}, "on CPU"),
     ({"compute_nodes": "many"}, "on CPU"),
     ({"placement": {"CUDAExecutionProvider": {"Conv": 3}}}, "placement CUDA 3")],
)  # fmt: skip
def test_evidence_of_any_runtime_becomes_short_words(evidence: dict[str, Any], expected: str) -> None:
    observed = {"precision": "int8", "provider": "CPUExecutionProvider", "emulated": False, "evidence": evidence}
    assert evidence_words(observed, "int8") == expected


def test_the_blame_names_conversions_and_what_stays_in_float() -> None:
    text = blame(profile(INT8_NODES), profile(FP32_NODES), "int8")
    assert text == (
        "QuantizeLinear and DequantizeLinear take 15.0 of 62.5 ms; 57 Sigmoid (9.00 ms), 57 Mul (6.00 ms) and 5 Conv "
        "(2.00 ms) run in float; the int8 nodes take 30.5 ms, the whole of fp32 21.0 ms."
    )


def test_small_change_is_not_blamed() -> None:
    rows = [("QLinearConv", "int8", 80, 10.0), ("QuantizeLinear", "conversion", 1, 0.1), ("Sigmoid", "fp32", 1, 0.1)]
    assert blame(profile(rows), None, "int8") is None
    assert (
        blame(profile(rows), profile(FP32_NODES), "int8") == "The int8 nodes take 10.0 ms, the whole of fp32 21.0 ms."
    )


def test_a_slow_cell_is_told_with_its_nodes_on_the_page_the_terminal_and_in_markdown(suite: Suite) -> None:
    told = "QuantizeLinear and DequantizeLinear take 15.0 of 62.5 ms; 57 Sigmoid (9.00 ms)"
    assert told in words(render_html(suite))
    terminal = " ".join(printed(suite).split())
    assert "Lower precisions" in terminal
    assert told in terminal
    assert max(map(len, printed(suite).splitlines())) <= 100
    comment = markdown_of(suite)
    assert "**Lower precisions**" in comment
    assert told in comment
    assert "| onnxrt int8 | int8 → int8 | 79 of 86 nodes int8, placement CPU 92 | 91 % of multiply-adds |" in comment


def test_a_part_in_the_lower_precision_is_said_even_when_nothing_is_slower(suite: Suite) -> None:
    cell = find(suite, "fastestdet", "openvino", "int8")
    cell["observed"]["evidence"] = {"compute_nodes": {"u8": 20, "f32": 66}}
    run = read_run(suite)
    notes = dict(reversed(note) for group in run.groups for note in precision.notes_of(group, run))
    assert notes["fastestdet openvino int8: only 20 of 86 compute nodes in int8."] == "undecided"


def lower_notes(suite: Suite, evidence: dict[str, int], compute: dict[str, float]) -> str:
    cell = find(suite, "fastestdet", "openvino", "int8")
    cell["observed"]["evidence"] = {"compute_nodes": evidence}
    cell["artifact"]["recipe"] = {"int8_compute": compute}
    run = read_run(suite)
    texts = [text for group in run.groups for _, text in precision.notes_of(group, run)]
    return next((text for text in texts if text.startswith("fastestdet openvino int8")), "")


def test_a_runtime_is_held_to_what_the_file_has(suite: Suite) -> None:
    file = {"macs": 0.94, "nodes": 77 / 86}
    assert lower_notes(suite, {"int8": 77, "fp32": 9}, file) == ""
    assert lower_notes(suite, {"int8": 59, "fp32": 27}, file) == (
        "fastestdet openvino int8: only 59 of 86 compute nodes in int8, of 77 in the file."
    )
    assert lower_notes(suite, {"int8": 40, "fp32": 46}, {"macs": 0.5, "nodes": 40 / 86}) == (
        "fastestdet openvino int8: 50 % of the file’s multiply-adds in int8."
    )


def test_operators_stand_beside_those_of_fp32_the_costliest_first(suite: Suite) -> None:
    run = read_run(suite)
    (item,) = [found for group in run.groups for found in blamed_of(group, run)]
    assert item.title == "fastestdet onnxrt int8, 62.5 ms in 393 nodes; fp32 21.0 ms in 170 nodes"
    assert [(r.operator, r.kind, r.extra) for r in item.operators][:3] == [
        ("QLinearConv", "int8", "+30.00"), ("Sigmoid", "fp32", "+9.00"), ("QuantizeLinear", "conversion", "+8.00")
    ]  # fmt: skip
    assert item.operators[-1].extra == "−14.00"
    assert item.nodes[0].operator == "Conv"
    assert {node.operator: node.fp32_ms for node in item.nodes}["QLinearConv"] == "0.190"
    assert {node.operator: node.fp32_ms for node in item.nodes}["Sigmoid"] == "–"


def test_without_a_profile_of_fp32_the_nodes_are_shown_alone(suite: Suite) -> None:
    find(suite, "fastestdet", "onnxrt", "fp32")["nodes"] = None
    run = read_run(suite)
    (item,) = [found for group in run.groups for found in blamed_of(group, run)]
    assert not item.has_fp32
    assert {node.fp32_ms for node in item.nodes} <= {"0.190", "–"}
    assert "whole of fp32" not in (item.sentence or "")


def test_the_runtime_that_disagrees_is_named_and_the_right_one_cleared(suite: Suite) -> None:
    page = words(render_html(suite))
    assert f"int8: {APART}" in page
    assert "what is lost is lost in the file, not in the runtime." in page
    (table,) = agreement_tables_of(read_run(suite))
    assert [(r.first, r.second, [v for v, _ in r.values]) for r in table.rows] == [
        ("onnxrt", "the file’s own arithmetic", ["52 dB", "41 dB"]), ("onnxrt", "openvino", ["52 dB", "41 dB"]),
        ("openvino", "the file’s own arithmetic", ["9.9 dB", "2.1 dB"]),
    ]  # fmt: skip
    assert table.rows[2].values == (("9.9 dB", False), ("2.1 dB", True))
    assert "below the limit two results do not agree (int8 4.0 dB)" in table.note


def test_only_a_cell_that_failed_and_agrees_is_cleared(suite: Suite) -> None:
    cells = {(c.model, c.label): c for c in read_run(suite).cells}
    assert blameless(cells["yolov10n", "onnxrt int8"])
    assert blameless(cells["yolov10n", "openvino int8"]) is None
    assert blameless(cells["fastestdet", "onnxrt int8"]) is None
    wrong = find(suite, "yolov10n", "openvino", "int8")
    wrong["findings"].append({"check": "accuracy", "status": "failed", "reason": "Loses.", "short": "x"})
    assert [c.label for c in read_run(suite).cells if blameless(c)] == ["onnxrt int8"]
    passed = copy.deepcopy(suite)
    find(passed, "yolov10n", "onnxrt", "int8")["status"] = "passed"
    assert not any(blameless(c) for c in read_run(passed).cells)


def test_agreement_that_is_not_finite_is_words_and_below_the_limit(suite: Suite) -> None:
    wrong = find(suite, "yolov10n", "openvino", "int8")
    wrong["agreement"] = agreement("apart", "nan", APART, "gone", {"boxes": "nan", "scores": "inf"})
    validate(suite, "suite_result", where="sample")
    (table,) = agreement_tables_of(read_run(suite))
    assert table.rows[-2].values == (("not finite", True), ("equal", False))
    assert table.rows[-1].second == "gone"


def test_a_run_of_fp32_alone_has_no_table() -> None:
    suite = sample_suite(intervals=True)
    suite["cells"] = [c for c in suite["cells"] if c["cell"]["precision"] == "fp32"]
    assert precision.precision_tables_of(read_run(suite)) == []
    assert 'id="precision"' not in render_html(suite)
    assert "Lower precisions" not in printed(suite)


def test_old_files_without_the_new_fields_are_drawn() -> None:
    for old in (sample_suite(), sample_suite(intervals=True)):
        page = render_html(old)
        assert 'id="precision"' in page
        assert "Where the time goes" not in page
        assert "Which runtime disagrees with which?" not in page


@pytest.mark.parametrize("hostile", [False, True])
def test_the_page_is_whole_and_escaped(hostile: bool) -> None:
    suite = precision_suite(hostile=hostile)
    nasty = "<img src=x onerror=alert(1)>"
    slow = find(suite, "fastestdet", "onnxrt", "int8")
    if hostile:
        for row in (*slow["nodes"]["operators"], *slow["nodes"]["slowest"]):
            row["operator"] += nasty
            if "name" in row:
                row["name"] += nasty
        slow["observed"]["evidence"]["placement"] = {nasty: {"Conv": 1}}
        wrong = find(suite, "yolov10n", "openvino", "int8")
        wrong["agreement"]["sentence"] += nasty
        wrong["agreement"]["rows"][0]["output"] += nasty
    page = render_html(suite)
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "<img" not in page
    assert nasty not in markdown_of(suite)
    assert (nasty in " ".join(parsed.text)) == hostile


def test_the_same_suite_gives_the_same_bytes(suite: Suite) -> None:
    assert render_html(copy.deepcopy(suite)) == render_html(suite)


def test_findings_use_the_decided_comparison(suite: Suite) -> None:
    run = read_run(suite)
    text = findings.tradeoff_finding(run)
    assert re.search(r"int8 is slower than fp32 on onnxrt \(fastestdet 0\.4\d× \[0\.4\d, 0\.\d\d\]", text)
    assert precision.precision_finding(run) == (
        "fp16 is emulated in onnxrt (yolov10n) and openvino (yolov10n), so it has no speed of its own here. bf16 is "
        "faster in torch (yolov10n). bf16 fails in openvino (fastestdet), so its speed there is not compared. "
        "int8 is slower than fp32 in onnxrt (all models); faster in openvino (fastestdet). "
        "int8 fails in openvino (yolov10n), so its speed there is not compared."
    )


def test_one_model_needs_no_names() -> None:
    suite = sample_suite(intervals=True)
    suite["cells"] = [c for c in suite["cells"] if c["cell"]["model"] == "yolov10n"]
    text = precision.precision_finding(read_run(suite))
    assert "int8 is slower than fp32 in onnxrt; faster in openvino." in text
    assert "fp16 is emulated in onnxrt and openvino, so it has no speed of its own here." in text


def test_a_runtime_without_fp32_says_so() -> None:
    suite = sample_suite()
    suite["cells"] = [
        as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0)),
        make_cell("m", "onnxrt", "int8", delta=0.0, ratio=2.0),
    ]
    assert row_of(suite, "m", "onnxrt int8").pace_word == "no fp32 here"
    assert precision.precision_finding(read_run(suite)) == (
        "No lower precision was timed beside fp32 in the same runtime."
    )


def test_many_slow_cells_are_folded_on_the_page_and_counted_in_text() -> None:
    suite = precision_suite()
    slow, fp32 = find(suite, "fastestdet", "onnxrt", "int8"), find(suite, "fastestdet", "onnxrt", "fp32")
    for number in range(12):
        for cell in (slow, fp32):
            other = copy.deepcopy(cell)
            other["cell"]["batch"] = number + 2
            suite["cells"].append(other)
    page = words(render_html(suite))
    assert "6 more cells" in page
    assert page.count("slower than fp32 in the same runtime") == 14
    assert "and 6 more, on the page" in printed(suite)
    assert "* and 6 more, below" in markdown_of(suite)
    assert len(render_html(suite).encode()) < 1_000_000
