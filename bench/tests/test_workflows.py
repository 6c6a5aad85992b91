"""The workflow files: valid, minimal in rights, without a way round the gate; and their commands, run on a CPU."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from bench import testing
from bench.commands import storekey
from bench.paths import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
NIGHTLY = REPOSITORY / ".github" / "workflows" / "nightly-gpu.yml"
BIN = Path(sys.executable).parent


def document(path):
    return yaml.safe_load(path.read_text("utf-8"))


def steps(path=NIGHTLY):
    return [step for job in document(path)["jobs"].values() for step in job["steps"]]


def command(name, path=NIGHTLY):
    (found,) = [step["run"] for step in steps(path) if step.get("name") == name]
    return found


def checked(*paths):
    return subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows",
                           *map(str, paths)], capture_output=True, text=True, check=False)  # fmt: skip


def test_the_workflows_satisfy_the_schema():
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (extra dev)")
    assert [p.name for p in WORKFLOWS] == ["ci.yml", "nightly-gpu.yml"]
    done = checked(*WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_a_broken_workflow(tmp_path):
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (extra dev)")
    broken = document(NIGHTLY)
    broken["on"] = broken.pop(True)  # YAML 1.1 reads the key `on` as true
    path = tmp_path / "whole.yml"
    path.write_text(yaml.safe_dump(broken), "utf-8")
    assert checked(path).returncode == 0
    broken["jobs"]["parity"]["step"] = broken["jobs"]["parity"].pop("steps")
    path.write_text(yaml.safe_dump(broken), "utf-8")
    done = checked(path)
    assert done.returncode == 1
    assert "step" in done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_rights_are_minimal_and_actions_are_pinned(path):
    workflow = document(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@(v\d+|[0-9a-f]{40})", u) for u in used), used
    checkout = next(step for step in steps(path) if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"]["persist-credentials"] is False
    assert "secrets." not in path.read_text("utf-8")
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_nothing_goes_round_the_gate(path):
    text = "\n".join(line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#"))
    for way in ("continue-on-error", "|| true", "|| :", "set +e", "; true", "|| exit 0"):
        assert way not in text
    assert document(path)["defaults"]["run"]["shell"] == "bash"  # with -e and pipefail


def test_the_cpu_job_runs_what_everybody_runs():
    assert command("Check", REPOSITORY / ".github" / "workflows" / "ci.yml") == "bash .ci/run"
    assert set(document(WORKFLOWS[0])[True]) == {"push", "pull_request"}


def test_the_nightly_job_asks_for_the_gpu_and_for_every_backend():
    job = document(NIGHTLY)["jobs"]["parity"]
    assert job["runs-on"] == ["self-hosted", "gpu"]
    assert job["env"]["BACKENDS"] == "torch,onnxrt,trt"
    gate = command("Gate")
    assert '--backends "$BACKENDS" --require-backends "$BACKENDS"' in gate
    assert "--strict-undecided" in gate
    assert '--baseline "$BASELINE"' in gate


def test_the_extras_that_it_installs_exist():
    (extras,) = re.findall(r'"\.\[([a-z,-]+)\]"', command("Install"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = extras.split(",")
    assert {"torch", "onnxrt-gpu", "trt"} <= set(wanted) <= set(project["optional-dependencies"])
    assert "onnxrt" not in wanted, "onnxruntime and onnxruntime-gpu overwrite each other's files"


def test_reports_are_kept_whatever_happens_and_engines_also_after_a_red_night():
    kept = {step["uses"].partition("@")[0]: step for step in steps() if "uses" in step}
    assert kept["actions/upload-artifact"]["if"] == "always()"
    assert "always()" in kept["actions/cache/save"]["if"]
    fetched, stored = kept["actions/cache/restore"]["with"], kept["actions/cache/save"]["with"]
    assert (fetched["key"], fetched["path"]) == (stored["key"], stored["path"])
    assert fetched["restore-keys"].strip() == fetched["key"].rpartition("${{")[0]
    assert document(NIGHTLY)["jobs"]["parity"]["env"]["PARITY_CACHE"].endswith("/" + fetched["path"])


# The key of the store.


def test_the_key_is_two_outputs_of_a_step(capsys):
    assert storekey.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["host", "files"]
    assert all(re.fullmatch(r"[a-z]+=[0-9a-f]{16}", line) for line in lines)
    assert storekey.store_keys() == storekey.store_keys()


def test_another_gpu_driver_or_version_is_another_host(monkeypatch):
    host = {"gpu": "H200, 580.1", "python": "3.11.7", "versions": {"tensorrt": "11.4", "backend-parity": "1"}}
    keys = set()
    for change in ({}, {"gpu": "H200, 590.1"}, {"gpu": "L4, 580.1"}, {"versions": {"tensorrt": "11.5"}}):
        monkeypatch.setattr(storekey, "describe_host", lambda change=change: {**host, **change})
        keys.add(storekey.store_keys()["host"])
    assert len(keys) == 4
    monkeypatch.setattr(storekey, "describe_host", lambda: {**host, "versions": {"tensorrt": "11.4"}})
    assert storekey.store_keys()["host"] in keys, "a new version of the harness alone asks for no new engines"


def test_another_adapter_or_converter_means_other_files(monkeypatch):
    before = storekey.store_keys()
    monkeypatch.setattr(storekey, "source_sha256", lambda folder: "0" * 64)
    assert storekey.store_keys()["files"] != before["files"]
    assert storekey.store_keys()["host"] == before["host"]


# The commands themselves.


class Runner:
    """Runs steps of the nightly job by name, in order, with its variables and those of a CPU in their place."""

    def __init__(self, tmp_path, **variables):
        self.folder = tmp_path
        self.files = {name: tmp_path / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        given = {k: v for k, v in document(NIGHTLY)["jobs"]["parity"]["env"].items() if "${{" not in v}
        cpu = {"DEVICES": "cpu", "REFERENCE": "torch:fp32:cpu", "PRECISIONS": "fp32", "BIN": str(BIN),
               "OUT": str(tmp_path / "reports")}  # fmt: skip
        self.variables = {**given, **cpu, **{k: str(v) for k, v in self.files.items()}, **variables}

    def run(self, name, *, small=""):
        """One step, as the shell of the job runs it."""
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_"))}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command(name)], cwd=REPOSITORY,
            env={**keep, **self.variables, "PYTEST_ADDOPTS": f"-p no:cacheprovider -p no:xdist {small}"},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip


def stored(folder, words, backends, reference):
    """A baseline of one run, made by the command that the workflow's head names."""
    done = subprocess.run(
        [BIN / "parity", "baseline", *words.replace("--dataset", "--fixtures").split(), "--backends", backends,
         "--precisions", "fp32", "--reference", reference, "--runs", "1", "--out", str(folder), "--quiet"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (folder / "suite.json").is_file(), done.stdout + done.stderr
    return str(folder)


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """Options of a run over the public fakes, and the job's variables for it, the baseline included."""
    folder = tmp_path_factory.mktemp("night")
    images = testing.fake_folder(folder / "fakes", 16)
    words = f"--models bench.testing:fake_adapter --dataset {images} --rounds 2 --bootstrap 100"
    reference = "bench.testing:fake_backend:fp32:cpu"
    base = stored(folder / "base", words, "bench.testing:fake_backend", reference)
    return words, {"REFERENCE": reference, "BASELINE": base}


# -k: a tiny run decides no speed, and the contract suites are tests of their own.
ONLY = "-k 'test_parity or test_accuracy'"
SABOTEURS = {
    "shifted": "exceeds the budget",
    "crashing": "SIGKILL",
    "unavailable": "Required by --require-backends",
    "mislabelled": "observed bf16",
}


def test_every_red_cell_makes_the_step_red_and_the_summary_names_it(tmp_path, fakes):
    words, variables = fakes
    backends = ",".join(f"bench.testing:{name}_backend" for name in ("fake", *SABOTEURS))
    runner = Runner(tmp_path, **variables, BACKENDS=backends)
    gate = runner.run("Gate", small=f"{words} {ONLY}")
    assert gate.returncode == 1, gate.stdout + gate.stderr
    failed = set(re.findall(r"^FAILED suites/test_parity\.py::test_parity\[(.+?)\]", gate.stdout, re.M))
    names = {"shifted": "shifted", "crashing": "crash", "unavailable": "unavailable", "mislabelled": "mislabelled"}
    assert failed == {f"fake-fake-{name}-cpu-fp32-fakes-b1" for name in names.values()}, gate.stdout
    for name, reason in SABOTEURS.items():
        assert reason in gate.stdout, name
    assert runner.run("Summary").returncode == 0
    summary = runner.files["GITHUB_STEP_SUMMARY"].read_text("utf-8")
    assert all(f"fake-{name}" in summary for name in names.values())
    assert (tmp_path / "reports" / "cells.xml").read_text("utf-8").count("<failure") >= 2
    assert (tmp_path / "reports" / "tests.xml").is_file()


def test_what_cannot_be_decided_is_red_too(tmp_path, fakes):
    words, variables = fakes
    runner = Runner(tmp_path, **{**variables, "PRECISIONS": "int8"}, BACKENDS="bench.testing:fake_backend")
    gate = runner.run("Gate", small=f"{words} --max-images 8 {ONLY}")
    assert gate.returncode == 1, gate.stdout + gate.stderr
    assert "undecided: 8 images are too few" in gate.stdout


def test_a_night_without_a_baseline_is_red(tmp_path, fakes):
    words, variables = fakes
    runner = Runner(
        tmp_path, **{**variables, "BASELINE": str(tmp_path / "nowhere")}, BACKENDS="bench.testing:fake_backend"
    )
    gate = runner.run("Gate", small=f"{words} {ONLY}")
    assert gate.returncode == 4
    assert "nowhere" in gate.stdout + gate.stderr
    assert runner.run("Summary").returncode != 0, "there is no run to summarise"


def test_the_key_step_fills_the_outputs(tmp_path):
    runner = Runner(tmp_path)
    assert runner.run("Key of the store").returncode == 0
    assert runner.files["GITHUB_OUTPUT"].read_text("utf-8").splitlines()[0].startswith("host=")


@pytest.mark.slow
def test_the_commands_of_the_night_run_on_a_cpu_with_torch_and_onnxrt_and_are_green(tmp_path):
    for package in ("torch", "onnxruntime", "onnx"):
        pytest.importorskip(package, reason=f"the gate runs torch and onnxrt: needs {package}")
    small = "--max-images 32 --rounds 2 --bootstrap 100 --openings 2 --cross-check none"  # 30 are the least to judge
    base = stored(tmp_path / "base", small, "torch,onnxrt", "torch:fp32:cpu")
    runner = Runner(tmp_path, BACKENDS="torch,onnxrt", BASELINE=base)
    gate = runner.run("Gate", small=f"{small} {ONLY}")
    assert gate.returncode == 0, gate.stdout + gate.stderr
    assert runner.run("Summary").returncode == 0
    assert "onnxrt" in runner.files["GITHUB_STEP_SUMMARY"].read_text("utf-8")
    (suite,) = (tmp_path / "reports").glob("*/suite.json")
    cells = json.loads(suite.read_text("utf-8"))["cells"]
    assert {c["cell"]["backend"] for c in cells} == {"torch", "onnxrt"}
    assert {c["accuracy"]["verdict"] for c in cells if c["role"] == "candidate"} == {"passed"}
    assert {f["check"] for c in cells for f in c["findings"]} <= {"baseline-speed"}, "one run is no baseline of speed"
