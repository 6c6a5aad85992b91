from __future__ import annotations

import re
from typing import Any

import pytest

from bench.report import markdown
from bench.report.markdown import MARKER, MAX_CHARACTERS, markdown_of
from bench.report.mdtext import escape
from bench.tests.sample_suite import HOSTILE, as_reference, cell_id, make_cell, sample_suite

GOLDEN = """\
<!-- parity-report: one comment per pull request, updated in place -->
### Parity: still the same model in 1 of 3 cells

**1 failed, 1 undecided.** Commit `3f9c1ab`, host bench-a, 2026-08-14 02:51 UTC, exit 1.

| Model | Fastest that is still the same | Speed, × torch fp32 | ΔAP [95 %] |
|---|---|--:|--:|
| yolov10n on shapes | openvino int8 | 2.31 [2.26, 2.36] | −0.002 [−0.006, +0.001] |

**Needs a person**

| Verdict | Cell | Why |
|---|---|---|
| ✕ failed | onnxrt int8 | Loses 0.019 AP against a margin of 0.007. |
| ? undecided | onnxrt fp16 | 600 images cannot decide 0.0036. About 8,200 images would decide, if the delta holds. |

**Changed since the base commit** `a17be02`

| Cell | Verdict | ΔAP to base [95 %] | Speed to base [95 %] |
|---|---|--:|--:|
| onnxrt int8 | ✓ passed → ✕ failed | −0.0163 [−0.0207, −0.0120] | 1.01 [0.98, 1.04], same |

The other 3 cells have the same verdict as before. Of 1 of them it is not decided whether it is worse than the base.

<details><summary>What differs between the two runs</summary>

* not comparable: other GPU

</details>

<details><summary>All 4 cells</summary>

**yolov10n on shapes**, 600 images, reference AP 0.7118

| Cell | Verdict | ΔAP [95 %] | × torch fp32 [95 %] | p50 ms | p90 ms | Asked → ran |
|---|---|--:|--:|--:|--:|---|
| torch fp32 | · reference | reference | 1 | 41.8 | 43.9 | fp32 → fp32 |
| onnxrt fp16 | ? undecided | −0.0030 [−0.0060, +0.0010] | 1.10 [0.99, 1.20], undecided | 38.0 | 39.9 | fp16 → fp16 |
| onnxrt int8 | ✕ failed | −0.0186 [−0.0231, −0.0142] | 0.91 [0.89, 0.93], slower | 45.9 | 48.2 | int8 → int8 |
| openvino int8 | ✓ passed | −0.0024 [−0.0059, +0.0011] | 2.31 [2.26, 2.36] | 18.1 | 19.0 | int8 → int8 |

**Precisions of yolov10n on shapes**

| Cell | Asked → ran | Evidence | Share computed in it | MB | AP | p50 ms | × own fp32 |
|---|---|---|--:|--:|--:|--:|--:|
| torch fp32 | fp32 → fp32 | on CPU | – | 9.1 | 0.7118 | 41.8 | – |
| onnxrt fp16 | fp16 → fp16 | on CPU | – | 4.6 | 0.7088 | 38.0 | no fp32 here |
| onnxrt int8 | int8 → int8 | on CPU | – | 2.7 | 0.6932 | 45.9 | no fp32 here |
| openvino int8 | int8 → int8 | on CPU | – | 2.7 | 0.7094 | 18.1 | no fp32 here |

</details>

<details><summary>How this was measured</summary>

Allowed AP loss, of the reference: fp16 0.5 %, int8 1 %. Latency is one whole-graph step on resident inputs. \
pycocotools 2.0.11 re-scored openvino int8 on 600 images: identical, largest difference 0.0. Reference torch fp32 on \
cpu. Run 20260814-0210-3f9c1ab.

Repeat: `parity run --models yolov10n`

</details>
"""


def cell(backend: str, precision: str, status: str, delta: float, ends: list[float], ratio: float,
         speed: tuple[list[float], str], **more: Any) -> dict[str, Any]:  # fmt: skip
    record = make_cell("yolov10n", backend, precision, status, delta=delta, ratio=ratio, **more)
    record["accuracy"].update(ci95=ends, deltas={}, per_class=[], verdict=status, images_to_decide=None)
    record["speed"].update(ratio_ci95=speed[0], verdict=speed[1])
    return record


def small_suite() -> dict[str, Any]:
    reference = as_reference(make_cell("yolov10n", "torch", "fp32", delta=0.0, ratio=1.0))
    best = cell("openvino", "int8", "passed", -0.0024, [-0.0059, 0.0011], 2.31, ([2.26, 2.36], "faster"))
    best["accuracy"]["cross_check"] = {"scorer": "pycocotools 2.0.11", "max_abs_difference": 0.0, "agrees": True}
    fails = cell("onnxrt", "int8", "failed", -0.0186, [-0.0231, -0.0142], 0.91, ([0.89, 0.93], "slower"),
                 reason="Loses 0.019 AP against a margin of 0.007.")  # fmt: skip
    unknown = cell("onnxrt", "fp16", "undecided", -0.003, [-0.006, 0.001], 1.1, ([0.99, 1.2], "undecided"),
                   reason="600 images cannot decide 0.0036.")  # fmt: skip
    unknown["accuracy"]["images_to_decide"] = 8163
    cells = [reference, best, fails, unknown]
    return {**sample_suite(), "cells": cells, "command": "parity run --models yolov10n"}


def comparison_of(suite: dict[str, Any]) -> dict[str, Any]:
    """Against a base in which everything passed."""
    cells = []
    for record in suite["cells"]:
        cells.append({
            "cell": record["cell"], "id": cell_id(record), "base_status": record["status"],
            "cand_status": record["status"], "change": "same", "accuracy": None, "speed": None, "status": "passed",
            "reason": None, "reason_short": None,
        })  # fmt: skip
    changed = next(c for c in cells if c["cell"]["backend"] == "onnxrt" and c["cell"]["precision"] == "int8")
    changed.update(
        base_status="passed", change="worse", status="failed",
        accuracy={"base_ap": 0.7095, "cand_ap": 0.6932, "delta": -0.0163, "ci95": [-0.0207, -0.012], "margin": 0.007,
                  "verdict": "failed", "reason": "Loses."},
        speed={"base_ratio": 0.9, "cand_ratio": 0.91, "change": 1.01, "ci95": [0.98, 1.04], "runs": 3,
               "verdict": "same", "reason": None},
    )  # fmt: skip
    cells[1]["status"] = "undecided"
    base = {"run_id": "b", "path": "base.json", "commit": "a17be02" + "0" * 33, "host": "bench-a",
            "finished_at": "2026-08-13T02:51:09+00:00", "runs": 3}  # fmt: skip
    return {"schema": "compare_result/1", "base": base, "cand": {**base, "run_id": "c"}, "cells": cells,
            "notes": [{"kind": "gpu", "text": "not comparable: other GPU"}], "exit_code": 1}  # fmt: skip


def test_the_comment_is_this() -> None:
    suite = small_suite()
    assert markdown_of(suite, comparison_of(suite)) == GOLDEN


def test_without_a_comparison_nothing_is_said_to_have_changed() -> None:
    assert "Changed since" not in markdown_of(small_suite())


def test_the_marker_is_the_first_line_and_stands_nowhere_else() -> None:
    suite = sample_suite(intervals=True)
    suite["cells"][0]["reason"] = MARKER
    suite["command"] = MARKER
    text = markdown_of(suite)
    assert text.splitlines()[0] == MARKER
    assert text.splitlines().count(MARKER) == 1


@pytest.mark.parametrize("options", [{}, {"intervals": True}, {"hostile": True}, {"hostile": True, "intervals": True}])
def test_every_table_has_as_many_places_in_every_row_as_in_its_head(options: dict[str, bool]) -> None:
    suite = sample_suite(**options)
    width = None
    for line in markdown_of(suite, comparison_of(suite)).splitlines():
        places = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert width is None or places is None or places == width, line
        width = places


def test_folds_and_table_heads_have_the_blank_lines_that_markdown_needs() -> None:
    text = markdown_of(sample_suite(intervals=True), comparison_of(sample_suite()))
    assert text.count("<details>") == text.count("</details>") == 3
    assert all(m == "\n\n" for m in re.findall(r"</summary>(\n+)", text))
    for before, line in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        assert not (line.startswith("|") and before and not before.startswith("|"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", "a\\|b"), ("`rm`", "\\`rm\\`"), ("<b>&", "&lt;b&gt;&amp;"), ("two\nlines\r\n| x", "two lines \\| x"),
     ("[a](b)", "\\[a\\](b)"), ("![a](b)", "!\\[a\\](b)"), ("*a* _b_ ~c~", "\\*a\\* \\_b\\_ \\~c\\~"),
     ("a\\|b", "a\\\\\\|b"), ("$x$", "\\$x\\$"), ("\x1b[2Ja\u202eb", "\\[2Ja b")],
)  # fmt: skip
def test_text_shows_as_it_is(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.parametrize("text", ["@owner/team look", "a@b.example", "closes #12", "http://a.example", "www.a.example"])
def test_nobody_is_mentioned_and_nothing_is_linked_or_closed(text: str) -> None:
    found = escape(text)
    assert found.replace("\u200b", "") == text
    assert not re.search(r"@\w|#\d|https?://|www\.", found)


def test_hostile_text_stays_text_everywhere() -> None:
    suite = sample_suite(hostile=True, intervals=True)
    evil = "</details>\n\n# Title\n| a | b |\n@everyone <img src=x> `x`"
    suite.update(run_id=evil, aborted=evil)
    suite["host"]["name"] = evil
    suite["git"].update(branch=evil, commit=evil)
    for record in suite["cells"]:
        record.update(reason=evil, reason_short=evil)
        if record["observed"]:
            record["observed"]["precision"] = evil
        if record["speed"]:
            record["speed"]["includes"] = evil
        if record["accuracy"]:
            record["accuracy"]["cross_check"] = {"scorer": evil, "max_abs_difference": 1.0, "agrees": False}
    comparison = comparison_of(suite)
    comparison["notes"][0]["text"] = evil
    comparison["base"].update(commit=evil)
    comparison["cells"][0].update(id=evil, base_status=evil, cand_status="failed")
    text = markdown_of(suite, comparison)
    outside_code = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
    assert "<script" not in outside_code
    assert "<img" not in outside_code
    assert "@everyone" not in outside_code
    assert not re.search(r"^# Title", text, re.MULTILINE)
    assert text.count("\n</details>") == text.count("<details><summary>")
    assert HOSTILE not in outside_code


def test_a_command_with_backticks_stays_in_its_fence() -> None:
    suite = {**small_suite(), "command": "parity run --out `x` ``y``"}
    assert "Repeat: ``` parity run --out `x` ``y`` ```" in markdown_of(suite)


def test_a_run_of_many_models_leaves_tables_out_from_the_end_and_says_how_many() -> None:
    suite = sample_suite()
    suite["cells"] = []
    for model in range(100):
        for backend in range(10):
            record = make_cell(f"model{model:02d}", f"backend{backend}", "fp32", delta=0.0, ratio=1.1)
            suite["cells"].append(record)
    text = markdown_of(suite)
    assert MAX_CHARACTERS * 0.9 < len(text) <= MAX_CHARACTERS
    kept = text.count("**model")
    assert f"{100 - kept} tables of 100 left out: a comment has at most 65,000 characters." in text
    assert "**model00 on shapes**" in text
    assert "How this was measured" in text


def test_a_run_with_thousands_of_failures_still_fits_and_keeps_its_answer() -> None:
    suite = sample_suite()
    suite["cells"] = [
        make_cell(f"model{i}", "onnxrt", "fp32", "failed", delta=0.0, ratio=1.1, reason=f"{i} " + "x" * 5000)
        for i in range(2000)
    ]
    text = markdown_of(suite)
    assert len(text) <= MAX_CHARACTERS
    assert "### Parity: still the same model in 0 of 2,000 cells" in text
    assert "Rows are left out: a comment has at most 65,000 characters. All cells are in suite.json." in text
    assert text.count("| ✕ failed |") > 20


def test_what_is_broken_beyond_a_verdict_is_above_the_fold() -> None:
    suite = {**small_suite(), "interrupted": True, "aborted": "a.png: no image."}
    suite["cells"][1]["accuracy"]["cross_check"].update(agrees=False, max_abs_difference=0.02)
    above = markdown_of(suite).split("<details>")[0]
    assert "**The run was interrupted;** finished cells are shown." in above
    assert "**The run ended early:** a.png: no image. Finished cells are shown." in above
    assert "re-scored openvino int8 on 600 images: disagrees, largest difference 0.02.** No AP of this run" in above


def test_only_changed_verdicts_stand_above_the_fold() -> None:
    suite = small_suite()
    comparison = comparison_of(suite)
    changed = markdown._changed(markdown.read_run(suite), comparison)
    assert sum(line.startswith("| ") for line in changed) == 2
    comparison["cells"][0].update(base_status=None, change="added")
    comparison["cells"][2].update(cand_status=None, change="lost", id="gone|cell", accuracy=None, speed=None)
    text = markdown_of(suite, comparison)
    assert "| torch fp32 | not there → ✓ passed | – | – |" in text
    assert "| gone\\|cell | ✓ passed → not there | – | – |" in text


def test_old_files_and_empty_ones_have_a_comment_too() -> None:
    text = markdown_of(sample_suite())
    assert "| Cell | Verdict | ΔAP, no interval yet | × torch fp32 | p50 ms | p90 ms | Asked → ran |" in text
    empty = markdown_of({**sample_suite(), "cells": [], "git": None})
    assert "### Parity: no candidate was compared" in empty
    assert "No repository, host bench-a" in empty


def test_numbers_that_are_not_finite_are_words() -> None:
    suite = small_suite()
    suite["cells"][2]["accuracy"].update(delta="nan", ci95=["nan", "inf"])
    suite["cells"][2]["speed"].update(ratio="inf", ratio_ci95=["-inf", "nan"])
    assert "| nan [nan, inf] | inf [−inf, nan], slower |" in markdown_of(suite)
