"""Real runs of the fakes against a stored baseline: exit codes 0, 1, 2 and 3, each on a real pair of runs.

Takes about 45 s: a baseline is three runs, and each candidate is one more.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from bench import testing
from bench.schema import validate_file

pytestmark = pytest.mark.slow

HERE = "bench.tests.sample_regressions"
REPOSITORY = Path(__file__).resolve().parents[2]
CELL, REFERENCE = "fake-nap-cpu-fp32-fakes-b1", "fake-nap-reference-cpu-fp32-fakes-b1"


def plan(*, backend="backend", adapter="adapter"):
    return ["--models", f"{HERE}:{adapter}", "--reference", f"{HERE}:reference_backend:fp32", "--backends",
            f"{HERE}:reference_backend,{HERE}:{backend}", "--precisions", "fp32", "--rounds", "10", "--openings", "3",
            "--cross-check", "none"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    testing.fake_folder(folder / "fakes", 40)
    return folder


@pytest.fixture(scope="module")
def parity(place):
    def typed(*words, module="bench"):
        command = [sys.executable, "-m", module, *map(str, words)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return typed


@pytest.fixture(scope="module")
def baseline(place, parity):
    done = parity("baseline", *plan(), "--fixtures", "fakes", "--runs", 3, "--out", "base", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a baseline of 3 runs" in done.stdout
    assert validate_file(place / "base" / "baseline.json") == "baseline/1"
    return place / "base"


@pytest.fixture(scope="module")
def again(place, parity, baseline):
    """A run of the same code, measured against the baseline."""
    words = ["--baseline", baseline, "--out", "again", "--junit", "again.xml"]
    done = parity("run", *plan(), "--fixtures", "fakes", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (place / "again").iterdir()
    assert validate_file(folder / "comparison.json") == "compare_result/1"
    return folder


@pytest.fixture(scope="module")
def slower(place, parity):
    assert parity("run", *plan(backend="slower_backend"), "--fixtures", "fakes", "--out", "slower").returncode == 0
    (folder,) = (place / "slower").iterdir()
    return folder


def cells(path):
    return {c["id"]: c for c in json.loads(Path(path).read_text())["cells"]}


def test_the_same_code_is_exit_0_with_speed_and_accuracy_judged(place, parity, baseline, again):
    done = parity("compare", baseline, again, "--json", "same.json")
    assert done.returncode == 0, done.stdout
    assert "Not worse than the base in 2 of 2 cells." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    found = cells(place / "same.json")
    assert found[CELL]["speed"]["verdict"] == "same"
    assert found[CELL]["speed"]["runs"] == 3
    assert found[CELL]["accuracy"]["ci95"] == [0.0, 0.0]
    assert found[REFERENCE]["speed"] is None
    assert len(Xml.parse(place / "again.xml").getroot().findall(".//testcase")) >= 3


def test_slower_code_is_exit_1_by_name_in_every_output(place, parity, baseline, slower):
    done = parity("compare", baseline, slower, "--json", "slow.json", "--junit", "slow.xml")
    assert done.returncode == 1
    assert "wholly below the ±3 % band" in re.sub(r"\s+", " ", done.stdout)
    cell = cells(place / "slow.json")[CELL]
    assert cell["speed"]["change"] == pytest.approx(5 / 7, rel=0.05)
    assert (cell["base_status"], cell["cand_status"], cell["status"]) == ("passed", "passed", "failed")
    failures = [
        c.get("classname") for c in Xml.parse(place / "slow.xml").iter("testcase") if c.find("failure") is not None
    ]
    assert failures == ["parity.speed"]


def test_a_single_run_as_base_is_exit_3_and_says_what_to_type(parity, baseline, again, slower):
    one = next((baseline / "runs").iterdir())
    done = parity("compare", one, slower)
    assert done.returncode == 3
    words = re.sub(r"\s+", " ", done.stdout)
    assert "there is 1 stored run" in words
    assert "--runs 3 --out DIR" in words


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s["cells"][0]["speed"]["latency_ms"].update(p50="nan"), "field speed.latency_ms.p50 is nan"),
        (lambda s: s.update(schema="suite_result/2"), "is suite_result/2; this version compares suite_result/1"),
    ],
)
def test_what_cannot_be_compared_is_exit_2_without_a_verdict(place, parity, baseline, again, spoil, message):
    bad = place / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(again, bad)
    suite = json.loads((bad / "suite.json").read_text())
    spoil(suite)
    (bad / "suite.json").write_text(json.dumps(suite))
    done = parity("compare", baseline, bad)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_run_whose_reference_is_worse_too_passes_alone_and_fails_against_the_baseline(place, parity, baseline):
    words = [*plan(adapter="forgetful_adapter"), "--fixtures", "fakes", "--out", "worse", "--baseline", baseline]
    done = parity("run", *words)
    assert done.returncode == 1, done.stdout
    (folder,) = (place / "worse").iterdir()
    suite = json.loads((folder / "suite.json").read_text())
    assert suite["exit_code"] == 1
    for cell in suite["cells"]:
        assert cell["status"] == "failed"
        assert [f["check"] for f in cell["findings"]] == ["baseline-accuracy"]
    assert "AP to the base: Loses" in (folder / "index.html").read_text()


def test_pytest_fails_the_test_that_guards_what_fell_behind(place, parity, baseline):
    suites = [REPOSITORY / "suites" / f"test_{n}.py" for n in ("parity", "accuracy", "speed")]
    words = ["-c", REPOSITORY / "pyproject.toml", *suites, *plan(backend="slower_backend"), "--dataset", "fakes"]
    done = parity(*words, "-p", "no:cacheprovider", "--baseline", baseline, "--out", "pytest", "-rA", module="pytest")
    assert done.returncode == 1, done.stdout
    assert re.findall(r"^FAILED .*?::(test_\w+)\[([\w-]+)\]", done.stdout, re.M) == [("test_speed", CELL)]
    assert "Not worse than the base in 1 of 2 cells" in done.stdout


@pytest.mark.parametrize("content", ["{", '{"schema": "baseline/9"}'])
def test_a_bad_baseline_ends_before_anything_is_measured(place, parity, content):
    (place / "broken.json").write_text(content)
    done = parity("run", *plan(), "--fixtures", "fakes", "--baseline", "broken.json", "--out", "never")
    assert done.returncode == 2
    assert "broken.json" in done.stderr
    assert not (place / "never").exists()
    suite = REPOSITORY / "suites" / "test_speed.py"
    words = ["-c", REPOSITORY / "pyproject.toml", suite, *plan(), "--dataset", "fakes", "--out", "never"]
    done = parity(*words, "-p", "no:cacheprovider", "--baseline", "broken.json", module="pytest")
    assert done.returncode == 4
    assert "broken.json" in done.stdout + done.stderr
    assert not (place / "never").exists()


def test_a_finished_run_can_be_added_and_one_of_another_plan_cannot(place, parity, baseline, again, slower):
    grown = place / "grown"
    shutil.copytree(baseline, grown)
    done = parity("baseline", "--add", again, "--out", grown)
    assert done.returncode == 0
    assert "a baseline of 4 runs" in done.stdout
    done = parity("baseline", "--add", again, "--out", grown)
    assert done.returncode == 2
    assert "in this baseline already" in done.stderr
    other = place / "other"
    shutil.copytree(slower, other)
    suite = json.loads((other / "suite.json").read_text())
    suite["protocol"]["threads"] = 7
    (other / "suite.json").write_text(json.dumps(suite))
    done = parity("baseline", "--add", other, "--out", grown)
    assert done.returncode == 2
    assert "threads 1, now 7" in done.stderr
    history = parity("history", place, "--out", place / "page")
    assert history.returncode == 0
    assert (place / "page" / "history.html").is_file()
