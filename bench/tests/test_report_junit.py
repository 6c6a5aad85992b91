"""JUnit XML: a case per cell and check, nothing unjudged that passes, and text that no parser refuses."""

import re
from xml.etree import ElementTree as Xml

import pytest

from bench.report.junit import junit_of_comparison, junit_of_suite
from bench.tests.sample_suite import HOSTILE, sample_suite

ORDER = ("properties", "testcase", "system-out", "system-err")
OUTCOMES = {"failure", "error", "skipped"}


def parsed(text):
    """Parse, and hold the file to the rules that the common JUnit schemas share."""
    root = Xml.fromstring(text.encode("utf-8"))
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {
            "name",
            "tests",
            "failures",
            "errors",
            "skipped",
            "time",
            "timestamp",
            "hostname",
            "id",
            "package",
        } <= set(suite.attrib)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
        tags = [child.tag for child in suite]
        assert tags == sorted(tags, key=ORDER.index)
        assert tags.count("properties") == 1
        cases = suite.findall("testcase")
        for case in cases:
            assert {"name", "classname", "time"} <= set(case.attrib)
            assert float(case.get("time")) >= 0
            assert sum(child.tag in OUTCOMES for child in case) <= 1
            for child in case:
                assert child.tag in (*OUTCOMES, "system-out")
                if child.tag in ("failure", "error"):
                    assert child.get("type")
                    assert child.get("message")
        counted = [sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")]
        assert [int(suite.get(n)) for n in ("tests", "failures", "errors", "skipped")] == [len(cases), *counted]
        keys = [(c.get("classname"), c.get("name")) for c in cases]
        assert len(keys) == len(set(keys)), "a CI system keeps one case per name"
    return {(c.get("classname").removeprefix("parity."), c.get("name")): c for c in root.iter("testcase")}


def with_findings(suite):
    """Findings as a run writes them; the sample has statuses and reasons only."""
    for cell in suite["cells"]:
        ran = cell["accuracy"] is not None
        check = "accuracy" if cell["status"] == "undecided" else "parity"
        judged = ran and cell["status"] in ("failed", "undecided")
        cell["findings"] = (
            [{"check": check, "status": cell["status"], "reason": cell["reason"] or "", "short": "x"}] if judged else []
        )
    return suite


def outcome(case):
    return next((child.tag for child in case if child.tag in OUTCOMES), "passed")


def test_every_status_has_its_outcome_and_its_reason():
    suite = with_findings(sample_suite(intervals=True))
    cases = parsed(junit_of_suite(suite))
    assert outcome(cases["parity", "yolov10n-onnxrt-cpu-int8-shapes-b1"]) == "failure"
    assert outcome(cases["accuracy", "yolov10n-onnxrt-cpu-fp32-shapes-b1"]) == "passed"
    assert outcome(cases["run", "fastestdet-openvino-cpu-fp16-coco128-val-b1"]) == "error"
    skipped = cases["run", "yolov10n-trt-cuda0-fp16-shapes-b1"]
    assert outcome(skipped) == "skipped"
    assert "No CUDA device" in skipped.find("skipped").get("message")
    assert cases["run", "fastestdet-onnxrt-cpu-fp16-coco128-val-b1"].find("skipped").get("message").startswith("unsupp")
    waived = cases["run", "fastestdet-onnxrt-cpu-int8-coco128-val-b1"]
    assert waived.find("skipped").get("message").startswith("waived: ")


def test_undecided_is_skipped_by_its_own_word_and_fails_when_strict():
    suite = with_findings(sample_suite())
    key = ("accuracy", "yolov10n-torch-cpu-bf16-shapes-b1")
    plain = parsed(junit_of_suite(suite))[key]
    assert plain.find("skipped").get("message").startswith("undecided: ")
    assert outcome(parsed(junit_of_suite(suite, strict_undecided=True))[key]) == "failure"


def test_what_was_not_judged_has_no_case_that_passes():
    suite = sample_suite()
    blocked = suite["cells"][-1]
    blocked.update(status="failed", reason="Required by --require-backends, but did not run.")
    cases = parsed(junit_of_suite(suite))
    name = "fastestdet-trt-cuda0-fp16-coco128-val-b1"
    assert [(group, outcome(case)) for (group, cell), case in cases.items() if cell == name] == [("run", "failure")]
    assert ("accuracy", "yolov10n-torch-cpu-fp32-shapes-b1") not in cases, "the reference is not judged"


def test_a_finding_of_an_unknown_check_is_not_lost():
    suite = with_findings(sample_suite(intervals=True))
    cell = suite["cells"][2]
    cell["findings"] = [{"check": "scorer", "status": "error", "reason": "scorers disagree", "short": "x"}]
    cell["status"] = "failed"
    cases = parsed(junit_of_suite(suite))
    assert outcome(cases["scorer", "yolov10n-onnxrt-cpu-fp32-shapes-b1"]) == "error"


def test_hostile_text_control_characters_and_numbers_that_are_none_are_safe():
    suite = with_findings(sample_suite(hostile=True))
    suite["host"]["name"] = "bench\x00\x1b[31m\ud800"
    suite["cells"][4]["findings"][0]["reason"] = f"\x07{HOSTILE} \ufffe ]]> score nan"
    suite["cells"][4]["speed"]["latency_ms"]["p50"] = "nan"
    suite["started_at"] = "yesterday"
    text = junit_of_suite(suite)
    cases = parsed(text)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
    failures = [c.find("failure").text for c in cases.values() if c.find("failure") is not None]
    assert f"\N{REPLACEMENT CHARACTER}{HOSTILE} \N{REPLACEMENT CHARACTER} ]]> score nan" in failures


@pytest.fixture
def comparison():
    def cell(name, status, **more):
        rest = dict.fromkeys(("accuracy", "speed", "reason", "reason_short"))
        words = {"base_status": "passed", "cand_status": "passed", "change": "same", "status": status}
        return {"cell": {}, "id": name, **words, **rest, **more}

    same = {"verdict": "passed", "reason": None}
    side = {"run_id": "r", "path": "p", "commit": None, "host": "h", "finished_at": "2026-01-02T03:04:05Z", "runs": 3}
    return {
        "schema": "compare_result/1",
        "base": side,
        "cand": side,
        "notes": [{"kind": "version", "text": "a → b"}],
        "exit_code": 1,
        "cells": [
            cell("same", "passed", accuracy=same, speed={"verdict": "same", "reason": None}),
            cell("slow", "failed", accuracy=same, speed={"verdict": "slower", "reason": "slower"}, reason="slower"),
            cell("lost", "failed", cand_status=None, change="lost", reason="gone"),
            cell("open", "undecided", accuracy=same, speed={"verdict": "undecided", "reason": "one run"}, reason="one"),
            cell("dead", "failed", cand_status="error", accuracy=same, reason="SIGSEGV"),
            cell("idle", "skipped", base_status="skipped", cand_status="skipped", reason="no GPU"),
            cell("gain", "failed", accuracy={"verdict": "suspicious", "reason": "gains"}, reason="gains"),
        ],
    }


def test_a_comparison_has_a_case_per_quantity_and_one_for_what_is_neither(comparison):
    cases = parsed(junit_of_comparison(comparison))
    found = {f"{name} {group}": outcome(case) for (group, name), case in cases.items()}
    assert found == {
        "same accuracy": "passed", "same speed": "passed",
        "slow accuracy": "passed", "slow speed": "failure",
        "lost run": "failure",
        "open accuracy": "passed", "open speed": "skipped",
        "dead accuracy": "passed", "dead run": "failure",
        "idle run": "skipped",
        "gain accuracy": "failure",
    }  # fmt: skip
    strict = parsed(junit_of_comparison(comparison, strict_undecided=True))
    assert outcome(strict["speed", "open"]) == "failure"
