"""parity baseline into one file: the reference alone, its numbers, and what later runs are compared with."""

import json
from pathlib import Path

import pytest

from bench import testing

QUICK = ["--reference", "bench.testing:fake_backend:fp32", "--rounds", "2", "--openings", "1"]
FAKE = ["--adapter", "bench.testing:fake_adapter", *QUICK]
ALONE = ["--backends", "bench.testing:fake_backend"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_folder(tmp_path_factory.mktemp("data") / "fakes", 40)


def test_the_reference_alone_is_one_suite_file_with_its_numbers(parity, images, tmp_path):
    words = ["--dataset", images, "--max-images", "32", *ALONE, "--output", "reports/baseline.json"]
    code, out, _ = parity("baseline", *FAKE, *words)
    assert code == 0
    suite = json.loads((tmp_path / "reports" / "baseline.json").read_text())
    assert suite["schema"] == "suite_result/1"
    (cell,) = suite["cells"]
    assert (cell["cell"]["backend"], cell["cell"]["precision"], cell["role"]) == ("fake", "fp32", "reference")
    assert cell["accuracy"]["images"] == 32
    assert cell["speed"]["fps"] > 0
    assert "fake fp32: AP 1.0000, " in out
    assert out.rstrip().endswith("as a baseline of the reference alone: exit 0.")
    assert f"{cell['speed']['fps']:.1f} images/s" in out
    (found,) = (tmp_path / "reports").glob("*/predictions/*.json")
    assert found.parent.parent.name == suite["run_id"]
    assert parity("validate", "reports/baseline.json")[0] == 0


def test_a_later_run_is_compared_with_the_file(parity, images, tmp_path):
    words = ["--dataset", images, "--max-images", "32"]
    assert parity("baseline", *FAKE, *ALONE, *words, "--output", "reports/baseline.json")[0] == 0
    wrong = ["--adapter", "bench.testing:fake_adapter", "--rounds", "2", "--openings", "1"]
    wrong += [
        "--reference",
        "bench.testing:missing_boxes_backend:fp32",
        "--backends",
        "bench.testing:missing_boxes_backend",
    ]
    for name, options in (("same", [*FAKE, *ALONE]), ("worse", wrong)):
        parity("baseline", *options, *words, "--output", f"{name}/suite.json")
    code, out, err = parity("compare", "reports/baseline.json", "same/suite.json", "--fixtures", images)
    assert code == 0, out + err
    assert parity("compare", "reports", "same", "--fixtures", images)[0] == 0, "a folder that holds the files"
    path = tmp_path / "worse" / "suite.json"
    worse = json.loads(path.read_text())
    for cell in worse["cells"]:  # the same cell, made by something that finds nothing
        cell["cell"]["backend"] = "fake"
    path.write_text(json.dumps(worse))
    folder = tmp_path / "worse" / worse["run_id"] / "predictions"
    (made,) = folder.glob("*.json")
    made.rename(folder / made.name.replace("fake-missing", "fake"))
    code, out, err = parity("compare", "reports/baseline.json", "worse/suite.json", "--fixtures", images)
    assert code == 1, out + err


def test_more_backends_and_images_are_taken_when_they_are_named(parity, images, tmp_path):
    words = ["--backends", "bench.testing:fake_backend,bench.testing:slow_backend", "--output", "b.json"]
    assert parity("baseline", *FAKE, "--dataset", images, *words)[0] == 0
    suite = json.loads((tmp_path / "b.json").read_text())
    assert {c["cell"]["backend"] for c in suite["cells"]} == {"fake", "fake-slow"}
    assert {c["cell"]["precision"] for c in suite["cells"]} == {"fp32"}
    assert suite["cells"][0]["accuracy"]["images"] == 40


def test_a_candidate_that_fails_is_exit_1(parity, images):
    words = ["--backends", "bench.testing:fake_backend,bench.testing:shifted_backend", "--output", "b.json"]
    assert parity("baseline", *FAKE, "--dataset", images, *words)[0] == 1


def test_a_reference_that_crashes_is_not_a_baseline(parity, images):
    words = ["--adapter", "bench.testing:fake_adapter", "--reference", "bench.testing:crashing_backend:fp32"]
    words += ["--backends", "bench.testing:crashing_backend"]
    code, _, _ = parity("baseline", *words, "--rounds", "2", "--dataset", images, "--output", "b.json")
    assert code == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--runs", "3"], "one file holds one run"),
        (["--add", "somewhere"], "one file holds one run"),
        (["--dataset", "nowhere/at/all"], "no such folder"),
        (["--max-images", "0"], "at least 1"),
    ],
)
def test_options_that_do_not_fit_one_file_are_exit_2(parity, images, words, told):
    given = [] if "--dataset" in words else ["--dataset", images]
    code, _, err = parity("baseline", *FAKE, *ALONE, *given, *words, "--output", "b.json")
    assert code == 2
    assert told in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "backends", "precisions", "devices"),
    [
        ([], ("torch",), ("fp32",), ("cpu",)),
        (["--reference", "onnxrt:fp16:cuda:0"], ("onnxrt",), ("fp16",), ("cuda:0",)),
        (["--backends", "torch,onnxrt"], ("torch", "onnxrt"), ("fp32",), ("cpu",)),
        (["--backends", "onnxrt", "--precisions", "fp32,int8"], ("onnxrt",), ("fp32", "int8"), ("cpu",)),
    ],
)
def test_the_reference_is_the_only_cell_unless_backends_are_named(
    parity, monkeypatch, words, backends, precisions, devices
):
    asked = []

    def keep(request, output, **_):
        asked.append(request)
        return {"cells": [], "exit_code": 3, "interrupted": False, "aborted": None}

    monkeypatch.setattr("bench.commands.baseline.run_into_file", keep)
    assert parity("baseline", "--adapter", "yolov10n", *words, "--output", "b.json")[0] == 3, "nothing ran"
    (request,) = asked
    assert (request.backends, request.precisions, request.devices) == (backends, precisions, devices)
    assert (request.models, request.max_images) == (("yolov10n",), 50)


def test_a_folder_is_a_baseline_of_several_runs_as_before(parity, images, tmp_path):
    words = ["--models", "bench.testing:fake_adapter", *QUICK, "--precisions", "fp32", "--dataset", images]
    words += ["--backends", "bench.testing:fake_backend,bench.testing:slow_backend", "--runs", "1", "--output", "base"]
    parity("baseline", *words)
    assert json.loads((tmp_path / "base" / "baseline.json").read_text())["schema"] == "baseline/1"
    assert Path("base/suite.json").is_file()
