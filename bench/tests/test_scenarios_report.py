"""The page and the table of scenarios: pure, escaped, and honest about what was not measured."""

import copy
import io
import re

import pytest
from rich.console import Console

from bench.report.scenarios import finding, headline, render_scenarios
from bench.report.scenarioterminal import print_scenarios
from bench.schema import validate

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def scenario(name, ap, delta=None, ci95=None, **more):
    altered = name in ("blur", "cropped", "jpeg")
    found = {
        "name": name,
        "description": f"About {name}.",
        "kind": "altering" if altered else "selecting",
        "definition": {"description": "x", "alter": [{"op": "jpeg", "quality": 20}]} if altered else {"select": {}},
        "sha256": "a" * 64,
        "status": "scored",
        "reason": None,
        "images": 40,
        "objects": 90,
        "ignored": 0,
        "moved": None,
        "detections": 100,
        "stats": {**dict.fromkeys(STATS, 0.5), "AP": ap, "APl": None},
        "ap_ci95": [ap - 0.05, ap + 0.05],
        "comparison": None if name == "clean" else "same_truth" if altered else "other_objects",
        "deltas": None if name == "clean" else {"AP": {"value": delta, "ci95": ci95}},
        "no_interval": None,
        "latency_ms": {"p50": 12.5, "p90": 14.0, "preprocess_p50": 2.0, "inference_p50": 10.0, "postprocess_p50": 0.5},
        "no_latency": None,
        "min_ap": None,
        "met": None,
        "warnings": [],
        "predictions": None,
        "example": {
            "image": "a.png",
            "width": 40,
            "height": 30,
            "truth": [{"box_xyxy": [1, 1, 9, 9], "score": 1.0, "label": "disc"},
                      {"box_xyxy": [20, 1, 29, 9], "score": 1.0, "label": "star"}],
            "detections": [{"box_xyxy": [1, 1, 9, 9.5], "score": 0.8, "label": "disc"},
                           {"box_xyxy": [10, 20, 15, 25], "score": 0.4, "label": "cross"}],
            "thumb": "AAAA",
        },
    }  # fmt: skip
    return {**found, **more}


def ended(name, status="unsupported", reason="No image has 7 objects."):
    empty = dict.fromkeys(
        (
            "images",
            "objects",
            "ignored",
            "detections",
            "stats",
            "ap_ci95",
            "comparison",
            "deltas",
            "latency_ms",
            "example",
        )
    )
    return {**scenario(name, 0.5, 0.0, None), **empty, "status": status, "reason": reason}


@pytest.fixture
def document():
    return {
        "schema": "scenario_result/1",
        "started_at": "2026-11-21T10:00:00Z",
        "finished_at": "2026-11-21T10:01:00Z",
        "command": "parity scenarios --adapter m --dataset d",
        "host": {"cpu": "some", "cores": 2},
        "git": None,
        "model": {"adapter": "m", "backend": "onnxrt", "device": "cpu", "precision": "fp32", "threads": 1,
                  "runtime": "onnxruntime 1", "artifact": {"kind": "onnx", "sha256": "b" * 64},
                  "observed": {"precision": "fp32", "provider": "CPU", "emulated": False}},
        "fixtures": {"name": "d", "split": "val", "sha256": "c" * 64, "images": 40, "objects": 90},
        "protocol": None,
        "definitions": {"sha256": "d" * 64, "file": None},
        "task": "detect",
        "scorer": "ours",
        "seed": 0,
        "resamples": 1000,
        "latency_includes": "Everything.",
        "scenarios": [scenario("clean", 0.6), scenario("blur", 0.4, -0.2, [-0.25, -0.15]),
                      scenario("cropped", 0.58, -0.02, [-0.05, 0.01]),
                      scenario("small_objects", 0.1, -0.5, [-0.6, -0.4]), ended("crowded")],
        "exit_code": 0,
        "warnings": [],
    }  # fmt: skip


def printed(document):
    stream = io.StringIO()
    print_scenarios(document, Console(file=stream, width=100), page="o/index.html")
    return stream.getvalue()


def test_the_sample_is_valid(document):
    validate(document, "scenario_result", where="sample")


def test_the_headline_names_the_alteration_that_costs_most_and_never_a_selection(document):
    assert headline(document) == "AP falls most in blur: from 0.600 to 0.400."
    document["scenarios"][1] = scenario("blur", 0.59, -0.01, [-0.03, 0.01])
    assert headline(document).startswith("No altered scenario is clearly below the AP of 0.600")
    document["scenarios"] = [s for s in document["scenarios"] if s["kind"] == "selecting"]
    assert "no altered images were scored" in headline(document)


def test_a_model_that_finds_nothing_on_clean_images_has_nothing_to_lose(document):
    document["scenarios"][0]["stats"]["AP"] = 0.002
    assert headline(document) == "AP is 0.002 on the images as they are: no loss could show."
    assert finding(document).startswith("No difference means anything")


def test_clear_differences_are_told_from_others(document):
    text = "Clearly below clean: blur and small_objects. Not told from clean: cropped."
    assert finding(document) == text


def test_the_page_is_a_pure_function_of_the_document_and_loads_nothing(document):
    page = render_scenarios(document)
    assert page == render_scenarios(copy.deepcopy(document))
    assert not re.search(r"(?:src|href)=\"(?!#|data:image/jpeg;base64,)", page)
    assert "missed star" in page
    assert "extra cross .40" in page
    assert "No image has 7 objects." in page


def test_of_many_extra_detections_the_best_are_drawn_and_every_hit_is(document):
    example = document["scenarios"][1]["example"]
    strays = [{"box_xyxy": [11, 15, 19, 21 + 0.1 * n], "score": 0.9 - 0.01 * n, "label": "cross"} for n in range(10)]
    example["detections"] = [*strays, *example["detections"]]
    page = render_scenarios(document)
    assert "5 more extra" in page
    assert "extra cross .85" in page
    assert "extra cross .84" not in page
    assert page.count("disc .80") == 4  # of each of the four scenarios


def test_what_comes_from_the_file_is_escaped(document):
    evil = "<script>alert(1)</script>"
    document["fixtures"]["name"] = document["command"] = document["scenarios"][1]["description"] = evil
    document["scenarios"][4]["reason"] = document["scenarios"][1]["warnings"] = [evil]
    document["scenarios"][4]["reason"] = evil
    document["scenarios"][1]["example"]["detections"][0]["label"] = evil
    document["scenarios"][1]["example"]["thumb"] = '"/><script>alert(2)</script>'
    page = render_scenarios(document)
    assert "<script>" not in page


def test_what_has_no_interval_or_no_latency_says_why_and_draws_none(document):
    document["scenarios"][1] |= {"ap_ci95": None, "no_interval": "12 images are too few.", "latency_ms": None,
                                 "deltas": {"AP": {"value": -0.2, "ci95": None}}}  # fmt: skip
    page = render_scenarios(document)
    assert "12 images are too few." in page
    assert "No interval for blur: 12 images are too few." in printed(document)


def test_an_undefined_ap_is_a_word(document):
    for s in document["scenarios"][:4]:
        s["stats"] = dict.fromkeys(STATS)
        s["ap_ci95"], s["deltas"] = None, s["deltas"] and {"AP": {"value": None, "ci95": None}}
    page = render_scenarios(document)
    assert "undefined" in page
    assert "AP is undefined" in headline(document)
    assert "undefined" in printed(document)


def test_nothing_scored_still_has_a_page(document):
    document["scenarios"] = [ended("clean", "error", "Killed by SIGKILL."), ended("blur", "skipped", "No clean.")]
    document["model"] = {"adapter": "precomputed"}
    assert "Killed by SIGKILL." in render_scenarios(document)
    assert "clean: error: Killed by SIGKILL." in printed(document)


def test_the_table_keeps_to_100_columns_and_to_ascii_where_it_must(document):
    for line in printed(document).splitlines():
        assert len(line) <= 100
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_scenarios(document, Console(file=stream, width=100), page="p")
    stream.flush()
    assert b"-0.200" in raw.getvalue()
