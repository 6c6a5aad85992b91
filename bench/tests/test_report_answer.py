from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.paths import REPOSITORY
from bench.report import answer, findings
from bench.report.cells import read_run
from bench.tests.sample_suite import as_reference, cell_id, make_cell, sample_suite


def suite_of(*cells: dict[str, Any], **changes: Any) -> dict[str, Any]:
    suite = sample_suite()
    suite["cells"] = list(cells)
    suite["reference"]["cells"] = {c["cell"]["model"]: cell_id(c) for c in cells if c["role"] == "reference"}
    return {**suite, **changes}


def reference(model: str = "yolov10n") -> dict[str, Any]:
    return as_reference(make_cell(model, "torch", "fp32", delta=0.0, ratio=1.0))


def only_best(*cells: dict[str, Any]) -> answer.Best:
    return answer.best(read_run(suite_of(reference(), *cells)).groups[0])


@pytest.mark.parametrize("options", [{}, {"intervals": True}, {"hostile": True}])
def test_the_sample_suite_is_valid_under_the_schema(options: dict[str, bool]) -> None:
    schema = json.loads((REPOSITORY / "schemas" / "suite_result.json").read_text("utf-8"))
    assert not list(Draft202012Validator(schema).iter_errors(sample_suite(**options)))


def test_the_headline_counts_candidates_and_not_references() -> None:
    run = read_run(sample_suite())
    assert answer.headline(run) == "Still the same model in 4 of 16 cells."
    assert [str(c) for c in answer.tally(run)] == ["2 failed", "1 error", "5 undecided", "1 waived", "3 did not run"]


def test_a_run_without_candidates_says_so() -> None:
    assert answer.headline(read_run(suite_of(reference()))) == "No candidate was compared."
    assert answer.headline(read_run(suite_of())) == "No candidate was compared."


def test_a_reference_that_broke_is_in_the_tally() -> None:
    broken = {**reference(), "status": "error", "accuracy": None, "speed": None, "reason": "Killed by SIGKILL."}
    assert [str(c) for c in answer.tally(read_run(suite_of(broken)))] == ["1 reference not passed"]


def test_a_cell_that_passed_without_an_accuracy_verdict_is_not_counted_as_the_same() -> None:
    cell = make_cell("yolov10n", "onnxrt", "int8", delta=0.0, ratio=2.0)
    cell["accuracy"]["verdict"] = "not judged"
    run = read_run(suite_of(reference(), cell))
    assert answer.headline(run) == "Still the same model in 0 of 1 cell."
    assert [str(c) for c in answer.tally(run)] == ["1 ran, accuracy not judged"]


@pytest.mark.parametrize(
    ("status", "checks", "same"),
    [
        ("undecided", ["baseline-speed"], 1),
        ("failed", ["max-latency"], 1),
        ("failed", ["baseline-speed", "baseline-accuracy"], 0),
        ("undecided", ["accuracy", "baseline-speed"], 0),
        ("failed", [], 0),
        ("error", ["baseline-speed"], 0),
    ],
)
def test_a_cell_that_is_only_too_slow_is_still_the_same_model(status: str, checks: list[str], same: int) -> None:
    cell = make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=2.0)
    found = [{"check": check, "status": status, "reason": "why", "short": "why"} for check in checks]
    run = read_run(suite_of(reference(), {**cell, "status": status, "findings": found}))
    assert answer.headline(run) == f"Still the same model in {same} of 1 cell."
    assert not run.candidates[0].open_question or not same


def test_the_fastest_is_the_highest_ratio_among_cells_that_are_the_same() -> None:
    found = only_best(
        make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.4),
        make_cell("yolov10n", "openvino", "fp32", delta=0.0, ratio=1.5),
    )
    assert found.cell is not None
    assert found.cell.label == "openvino fp32"


@pytest.mark.parametrize("status", ["failed", "waived", "error", "undecided", "skipped"])
def test_a_cell_that_did_not_pass_is_never_the_fastest(status: str) -> None:
    assert only_best(make_cell("yolov10n", "onnxrt", "int8", status, delta=-0.1, ratio=9.0)).cell is None


def test_an_emulated_cell_is_never_the_fastest() -> None:
    cell = make_cell("yolov10n", "onnxrt", "fp16", delta=0.0, ratio=9.0)
    cell["observed"]["emulated"] = True
    found = only_best(cell)
    assert found.cell is None
    assert found.contender is None


def test_a_cell_whose_parity_failed_is_never_the_fastest() -> None:
    cell = make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=9.0)
    cell["parity"][0]["passed"] = False
    assert only_best(cell).cell is None


def test_a_ratio_inside_the_band_is_not_faster_without_an_interval() -> None:
    assert only_best(make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.03)).cell is None


def test_with_an_interval_the_verdict_decides_and_not_the_ratio() -> None:
    cell = make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.2)
    cell["speed"].update(ratio_ci95=[0.9, 1.5], verdict="undecided")
    assert only_best(cell).cell is None
    cell["speed"].update(ratio_ci95=[1.1, 1.3], verdict="faster")
    assert only_best(cell).cell is not None


@pytest.mark.parametrize("value", ["nan", None])
def test_a_ratio_that_is_no_number_is_never_the_fastest(value: Any) -> None:
    cell = make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.2)
    cell["speed"]["ratio"] = value
    assert only_best(cell).cell is None


def test_a_faster_cell_that_nobody_judged_is_named_as_that() -> None:
    open_cell = make_cell("yolov10n", "openvino", "int8", "undecided", delta=-0.0024, ratio=2.31)
    found = only_best(make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.01), open_cell)
    assert answer.nearest_facts(found) == (
        "Fastest measured, not yet judged: openvino int8 at 2.31×, AP −0.002. "
        "The fastest that is the same, onnxrt fp32, runs at 1.01× the speed of torch fp32."
    )


def test_equal_reasons_of_one_model_are_told_once() -> None:
    items = [item for item in answer.needs_person(read_run(sample_suite())) if item.status == "undecided"]
    assert [len(item.cells) for item in items] == [1, 4]
    assert items[1].sentence == answer.UNJUDGED


def test_unjudged_cells_that_lose_more_than_their_margin_are_named() -> None:
    cell = make_cell("yolov10n", "onnxrt", "int8", "undecided", delta=-0.0117, ratio=3.0, reason="not judged")
    cell["accuracy"]["reason"] = "not judged"
    (item,) = answer.needs_person(read_run(suite_of(reference(), cell)))
    assert item.sentence == f"{answer.UNJUDGED} As measured, outside the margin: onnxrt int8 −0.0117."


def test_a_failed_cell_without_a_reason_is_explained_by_its_comparison() -> None:
    cell = make_cell("yolov10n", "onnxrt", "fp32", "failed", delta=0.0, ratio=1.0)
    cell["parity"][1].update(passed=False, mismatched=7)
    run = read_run(suite_of(reference(), cell))
    assert answer.needs_person(run)[0].sentence == "7 of 2142000 differ in output0."


def test_the_allowed_loss_is_a_share_where_models_agree_and_ap_where_they_do_not() -> None:
    assert answer.allowed_loss(read_run(sample_suite())) == [
        ("fp32", "0.1 %"), ("fp16 and bf16", "0.5 %"), ("int8", "0.0030 to 0.0071 AP")
    ]  # fmt: skip


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130])
def test_every_exit_code_has_a_sentence(code: int) -> None:
    assert answer.exit_sentence(read_run(suite_of(reference(), exit_code=code))).startswith(f"Exit {code}: ")


def test_int8_that_is_slower_than_fp32_is_said_in_two_findings() -> None:
    run = read_run(sample_suite(intervals=True))
    assert "int8 is slower than fp32 on onnxrt for both models." in findings.cells_finding(run)
    text = findings.tradeoff_finding(run)
    assert re.search(
        r"int8 is slower than fp32 on onnxrt \(fastestdet 0\.4\d× \[0\.4\d, 0\.\d\d\], yolov10n 0\.4", text
    )


def test_two_medians_do_not_make_int8_slower_than_the_fp32_of_its_runtime() -> None:
    text = findings.tradeoff_finding(read_run(sample_suite()))
    assert "int8 is slower than fp32 on" not in text
    assert "fastestdet onnxrt int8 is slower than torch fp32: 0.48× its speed." in text


def test_int8_that_is_slower_than_the_reference_alone_is_said_too() -> None:
    run = read_run(suite_of(reference(), make_cell("yolov10n", "onnxrt", "int8", delta=0.0, ratio=0.5)))
    assert "onnxrt int8 is slower than torch fp32: 0.50× its speed." in findings.tradeoff_finding(run)


def test_the_verdict_finding_names_whole_precisions_then_exceptions() -> None:
    text = findings.verdict_finding(read_run(sample_suite(intervals=True)))
    assert text.startswith("Every fp32 cell is.")
    assert "int8 holds on openvino for yolov10n, fails on onnxrt for yolov10n and fails under a waiver" in text
    assert "bf16 fails on openvino for fastestdet and gains more than the same model can on torch for yolov10n." in text
    assert text.endswith("2 fp16 and int8 cells are undecided.")
    undecided = findings.verdict_finding(read_run(sample_suite()))
    assert "5 fp16, bf16 and int8 cells are not judged, for lack of an interval." in undecided


def test_findings_count_instead_of_naming_when_there_are_many_models() -> None:
    cells = []
    for name in ("a", "b", "c"):
        cells += [reference(name), make_cell(name, "onnxrt", "int8", "failed", delta=-0.1, ratio=0.5),
                  make_cell(name, "openvino", "int8", delta=0.0, ratio=1.5)]  # fmt: skip
    run = read_run(suite_of(*cells))
    assert findings.verdict_finding(run) == "int8 holds in 3 and fails in 3 of 6 cells."
    assert "int8 is slower than fp32 in 3 of them." in findings.cells_finding(run)
    assert findings.tradeoff_finding(run).startswith(
        "openvino int8 is the fastest that is still the same on all 3 models."
    )


def test_whole_precisions_say_so_when_some_of_their_cells_did_not_run() -> None:
    cells = (
        make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.0),
        make_cell("yolov10n", "trt", "fp32", "skipped"),
    )
    failed = make_cell("yolov10n", "onnxrt", "int8", "failed", delta=-0.1, ratio=1.0)
    text = findings.verdict_finding(read_run(suite_of(reference(), *cells, failed)))
    assert text == "Every fp32 cell that ran is. int8 fails on onnxrt."


def test_devices_and_batches_are_named_only_where_they_differ() -> None:
    plain = make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.2)
    other = make_cell("yolov10n", "onnxrt", "fp32", delta=0.0, ratio=1.2)
    other["cell"].update(device="cuda:0")
    assert [c.label for c in read_run(suite_of(plain, other)).cells] == ["onnxrt cpu fp32", "onnxrt cuda:0 fp32"]
    other["cell"].update(device="cpu", batch=4)
    assert [c.label for c in read_run(suite_of(plain, other)).cells] == ["onnxrt fp32 b1", "onnxrt fp32 b4"]


def test_names_that_give_the_same_anchor_stay_apart() -> None:
    cells = [make_cell(name, "onnxrt", "fp32", delta=0.0, ratio=1.2) for name in ("a b", "a<b")]
    assert len({c.anchor for c in read_run(suite_of(*cells)).cells}) == 2
