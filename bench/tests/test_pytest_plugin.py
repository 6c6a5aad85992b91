"""The suites over the fakes, in a pytest of their own."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import testing

REPOSITORY = Path(__file__).resolve().parents[2]
SUITES = [REPOSITORY / "suites" / f"test_{n}.py" for n in ("parity", "accuracy", "speed")]


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    images = testing.fake_folder(tmp_path_factory.mktemp("data") / "fakes", 32)
    base = [
        "--models",
        "bench.testing:fake_adapter",
        "--reference",
        "bench.testing:fake_backend:fp32",
        "--rounds",
        "2",
        "--dataset",
        images,
        "--precisions",
        "fp32",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
    ]

    def typed(*words, cwd, tests=SUITES, start=None):
        command = [
            *(sys.executable, "-m", "pytest", "-c", REPOSITORY / "pyproject.toml"),
            *(*tests, *base, "--out", cwd, *words),
        ]
        command = list(map(str, command))
        if start is not None:
            # a test run in the background of a script inherits an ignored SIGINT, and so would the command
            return start(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)

    return typed


def named(*names):
    return ["--backends", ",".join(f"bench.testing:{n}_backend" for n in names)]


def outcome(done):
    return {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|undecided|error)", done.stdout[-200:])
    }


def test_a_cell_is_a_test_id_and_an_honest_one_passes(suites, tmp_path):
    done = suites(*named("fake", "slow"), "-v", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "test_accuracy[fake-fake-slow-cpu-fp32-fakes-b1] PASSED" in done.stdout
    assert outcome(done) == {"passed": 6}
    assert len(list(tmp_path.glob("*/suite.json"))) == 1, "everything ran once"


def test_a_failed_or_dead_cell_fails_its_tests_and_only_those(suites, tmp_path):
    done = suites(*named("fake", "shifted", "crashing"), "-rA", cwd=tmp_path)
    assert done.returncode == 1
    assert outcome(done) == {"passed": 3, "failed": 5, "skipped": 1}
    assert "SIGKILL" in done.stdout
    assert "speed of wrong answers" in done.stdout


def test_undecided_is_its_own_outcome_and_fails_when_strict(suites, tmp_path):
    words = [*named("fake"), "--precisions", "int8", "--max-images", "8"]
    done = suites(*words, cwd=tmp_path)
    assert "1 undecided" in done.stdout
    assert "UNDECIDED suites/test_accuracy.py" in re.sub(r"\.\./\S*suites", "suites", done.stdout)
    strict = suites(*words, "--strict-undecided", cwd=tmp_path)
    assert strict.returncode == 1
    assert outcome(strict)["failed"] == 1


def test_what_cannot_run_is_skipped_with_its_reason_and_fails_when_required(suites, tmp_path):
    words = named("fake", "unavailable")
    done = suites(*words, cwd=tmp_path)
    assert outcome(done) == {"passed": 3, "skipped": 3}
    assert "pip install nowhere" in done.stdout
    required = suites(*words, "--require-backends", "bench.testing:unavailable_backend", cwd=tmp_path)
    assert required.returncode == 1
    assert outcome(required) == {"passed": 3, "failed": 3}
    assert "pip install nowhere" in required.stdout


def test_the_samples_are_replayed_into_pytest_benchmark(suites, tmp_path):
    done = suites(*named("fake", "slow", "shifted"), f"--benchmark-json={tmp_path / 'b.json'}", cwd=tmp_path)
    assert done.returncode == 1
    rows = {b["param"]: b for b in json.loads((tmp_path / "b.json").read_text())["benchmarks"]}
    assert set(rows) == {"fake-fake-cpu-fp32-fakes-b1", "fake-fake-slow-cpu-fp32-fakes-b1"}
    (path,) = tmp_path.glob("*/suite.json")
    cells = json.loads(path.read_text())["cells"]
    slow = next(c for c in cells if c["cell"]["backend"] == "fake-slow")
    samples_ms = [s for r in slow["speed"]["rounds"] for s in r["samples_ms"]]
    replayed = rows["fake-fake-slow-cpu-fp32-fakes-b1"]["stats"]
    assert replayed["rounds"] == len(samples_ms) == 10
    assert replayed["min"] == pytest.approx(min(samples_ms) / 1000)


def test_only_the_selected_cells_run(suites, tmp_path):
    done = suites(*named("fake", "slow", "crashing"), "-k", "slow and accuracy", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert outcome(done) == {"passed": 1}
    (path,) = tmp_path.glob("*/suite.json")
    ran = {c["cell"]["backend"] for c in json.loads(path.read_text())["cells"]}
    assert ran == {"fake", "fake-slow"}


def test_under_xdist_one_run_serves_all_and_speed_is_skipped_with_the_reason(suites, tmp_path):
    done = suites(*named("fake", "slow"), "-n", "2", "-rs", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(done) == {"passed": 4, "skipped": 2}
    assert "not timed under xdist" in done.stdout
    assert len(list(tmp_path.glob("*/suite.json"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backends", "onnxrtt"], "Did you mean 'onnxrt'"),
        (["--precisions", "fp61"], "unknown precision"),
        (["--models", "nothing"], "unknown model 'nothing'"),
    ],
)
def test_a_wrong_name_is_a_usage_error_of_pytest(suites, tmp_path, words, message):
    done = suites(*words, cwd=tmp_path)
    assert done.returncode in (2, 4)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_stops_pytest_too_and_keeps_what_is_finished(suites, tmp_path):
    process = suites(*named("fake", "hanging"), cwd=tmp_path, start=subprocess.Popen)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/logs/fake-fake-hang-*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 2, "pytest's own code for an interruption; never green"
    assert "KeyboardInterrupt" in out
    (path,) = tmp_path.glob("*/suite.json")
    statuses = {c["cell"]["backend"]: c["status"] for c in json.loads(path.read_text())["cells"]}
    assert statuses == {"fake": "passed", "fake-hang": "skipped"}
