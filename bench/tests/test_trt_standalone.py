"""build_engine.py: equal to the harness's code, runs with the standard library alone, and says what is missing."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from bench.errors import ContractError
from bench.paths import REPOSITORY
from bench.precision.onnxfile import artifact_sha256
from bench.schema import validate
from bench.tests.stub_driver import make_driver
from bench.tests.tiny_onnx import tiny_model
from bench.tests.trt_samples import FAKE, half, quantised
from bench.trt import standalone

SCRIPT = standalone.OUTPUT
CRASHES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(), str(path))
    return path


@pytest.fixture
def driver(tmp_path):
    (tmp_path / "driver").mkdir()
    return make_driver(tmp_path / "driver")


def run(*words, cwd, env=None, bare=True, python=sys.executable):
    """Run the script; ``bare``: nothing but the standard library can be imported."""
    command = [python, *(["-I", "-S"] if bare else []), str(SCRIPT), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def found_python(version):
    """On the path, or installed by pyenv (whose shim is on the path and does not run by itself)."""
    places = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for python in filter(None, places):
        if subprocess.run([str(python), "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(python)
    return pytest.skip(f"no Python {version} on this machine")


def test_the_committed_file_is_what_the_generator_writes():
    assert SCRIPT.read_text("utf-8") == standalone.standalone_source(), "type: python -m bench.trt.standalone"


def test_it_has_no_import_of_the_harness_and_no_syntax_newer_than_python_3_8():
    tree = ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 8))
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert "bench" not in names
    assert names - set(sys.stdlib_module_names) == {"tensorrt", "huggingface_hub"}
    assert "slots=True" not in SCRIPT.read_text("utf-8")


def test_every_shared_module_is_in_it():
    text = SCRIPT.read_text("utf-8")
    for name in standalone.SHARED:
        assert f"# -------------------- {name}\n" in text


def test_names_that_two_modules_define_are_refused(monkeypatch, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text('"""A module."""\n\n\ndef helper():\n    pass\n')
    monkeypatch.setattr(standalone, "_PACKAGE", tmp_path / "bench")
    monkeypatch.setattr(standalone, "SHARED", ("a.py", "b.py"))
    with pytest.raises(ContractError, match=r"b\.py and a\.py both define helper"):
        standalone.standalone_source()


def test_a_module_that_is_not_shared_is_refused(monkeypatch, tmp_path):
    (tmp_path / "a.py").write_text('"""A module."""\n\nfrom bench.schema import dumps\n')
    monkeypatch.setattr(standalone, "_PACKAGE", tmp_path / "bench")
    monkeypatch.setattr(standalone, "SHARED", ("a.py",))
    with pytest.raises(ContractError, match=r"imports from bench\.schema"):
        standalone.standalone_source()


def test_help_runs_with_the_standard_library_alone(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--onnx", "--hf-repo", "--revision", "--cache", "--tf32", "--no-tf32", "--batch", "--workspace-mb",
                 "--timing-cache", "--out", "exit codes", "examples"):  # fmt: skip
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 130


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12"])
def test_other_pythons_run_it(version, tmp_path, model):
    python = found_python(version)
    assert run("--help", cwd=tmp_path, python=python).returncode == 0
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = run("--onnx", model, "--batch", "1,2,4", cwd=tmp_path, python=python, env=environment)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_without_a_driver_it_is_a_sentence_and_exit_2(tmp_path, model):
    (tmp_path / "driver").mkdir()
    done = run("--onnx", model, cwd=tmp_path, env=make_driver(tmp_path / "driver", init=100))
    assert done.returncode == 2
    assert done.stderr == (
        "build_engine: no engine can be built here: the CUDA driver of this host does not initialise (cuInit returned "
        "100); the package tensorrt is not installed either\n"
    )


def test_with_a_driver_and_no_tensorrt_it_says_what_to_type(tmp_path, model, driver):
    done = run("--onnx", model, cwd=tmp_path, env=driver)
    assert done.returncode == 2
    assert "Type: pip install tensorrt" in done.stderr


def test_a_crash_of_tensorrt_is_a_sentence(tmp_path, model, driver):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(CRASHES)
    done = run("--onnx", model, cwd=tmp_path, env={**driver, "PYTHONPATH": str(tmp_path / "site")}, bare=False)
    assert done.returncode == 1
    assert "the process that builds with TensorRT was ended by SIGSEGV" in done.stderr
    assert not list(tmp_path.glob("*.engine*"))
    assert not list(tmp_path.glob(".building-*"))


def test_a_broken_package_is_a_sentence(tmp_path, model, driver):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text("raise ImportError('libnvonnxparser.so.11: cannot open')\n")
    done = run("--onnx", model, cwd=tmp_path, env={**driver, "PYTHONPATH": str(tmp_path / "site")}, bare=False)
    assert done.returncode == 2
    assert "tensorrt cannot be imported (libnvonnxparser.so.11: cannot open)" in done.stderr


@pytest.fixture
def fake(tmp_path, driver):
    """An environment whose driver is the stub and whose tensorrt is the fake."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(FAKE)
    return {**driver, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}"}


def test_a_whole_build_writes_engine_and_record(tmp_path, fake):
    onnx.save(half(tiny_model()), str(tmp_path / "m.fp16.onnx"))
    done = run("--onnx", "m.fp16.onnx", "--batch", "1,2,4", "--timing-cache", "t", cwd=tmp_path, env=fake, bare=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "requested fp16, observed fp16 (100% of 3 compute layers; fp16 3); TF32 off" in done.stdout
    record = json.loads((tmp_path / "m.fp16.engine.json").read_text())
    validate(record, "engine", where="record")
    plan = (tmp_path / "m.fp16.engine").read_bytes()
    assert record["engine"] == {"file": "m.fp16.engine", "sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
    assert record["onnx"]["sha256"] == artifact_sha256(tmp_path / "m.fp16.onnx")
    assert record["host"]["gpu"] == "Stub GPU"
    assert record["host"]["driver"] == "580.65.06"
    assert record["ranges"] == {"images": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}
    assert record["inputs"] == [{"name": "images", "shape": ["batch", 3, 8, 8], "dtype": "float32"}]
    assert record["precision"]["problem"] is None
    assert record["timing_cache"]["state"] == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "driver", "m.fp16.engine", "m.fp16.engine.json", "m.fp16.onnx", "site", "t"
    ]  # fmt: skip


def test_an_engine_that_is_not_what_its_label_says_is_exit_1_and_loud(tmp_path, model, fake):
    done = run("--onnx", model, "--precision", "fp16", "--out", "o/x.engine", cwd=tmp_path, env=fake, bare=False)
    assert done.returncode == 1
    assert "WARNING: THIS ENGINE IS NOT WHAT ITS LABEL SAYS." in done.stdout
    assert "fp16 was requested, but most compute layers run in fp32 (fp32 3)" in done.stdout
    assert json.loads((tmp_path / "o" / "x.engine.json").read_text())["precision"]["problem"]


def test_a_failed_build_leaves_an_old_engine_alone(tmp_path, model, fake):
    (tmp_path / "tiny.engine").write_bytes(b"old")
    site = tmp_path / "site" / "tensorrt.py"
    site.write_text(FAKE + "world.answer('Builder.build_serialized_network', None)\n")
    done = run("--onnx", model, cwd=tmp_path, env=fake, bare=False)
    assert done.returncode == 1
    assert "TensorRT built no engine" in done.stderr
    assert "fails as scripted" in done.stderr
    assert (tmp_path / "tiny.engine").read_bytes() == b"old"
    assert not (tmp_path / "tiny.engine.json").exists()


def test_legacy_int8_needs_the_cache_of_this_version_or_a_word(tmp_path, model, fake):
    (tmp_path / "site" / "tensorrt.py").write_text(FAKE.replace("11.4.0.106", "10.16.1.11"))
    (tmp_path / "c.cache").write_bytes(b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n")
    refused = run("--onnx", model, "--cache", "c.cache", cwd=tmp_path, env=fake, bare=False)
    assert (refused.returncode, "--any-cache-version" in refused.stderr) == (2, True)
    done = run("--onnx", model, "--cache", "c.cache", "--any-cache-version", cwd=tmp_path, env=fake, bare=False)
    assert done.returncode == 0, done.stderr
    assert "requested int8, observed int8" in done.stdout
    assert "note: calibration cache of TensorRT 8601 handed over as 101601" in done.stdout


def test_a_cache_for_a_file_with_q_dq_is_refused(tmp_path, fake):
    onnx.save(quantised(tiny_model()), str(tmp_path / "m.int8.onnx"))
    (tmp_path / "c.cache").write_bytes(b"TRT-101601-EntropyCalibration2\nimages: 3c010a14\n")
    done = run("--onnx", "m.int8.onnx", "--cache", "c.cache", cwd=tmp_path, env=fake, bare=False)
    assert done.returncode == 2
    assert "carries its precision itself (fp32, int8)" in done.stderr


def test_the_folder_of_the_engine_must_be_one(tmp_path, model, fake):
    (tmp_path / "o").write_text("a file")
    done = run("--onnx", model, "--out", "o/x.engine", cwd=tmp_path, env=fake, bare=False)
    assert done.returncode == 2
    assert "cannot be made" in done.stderr


def test_tensorrt_is_never_imported_by_the_process_that_the_user_started(tmp_path, model, fake):
    with (tmp_path / "site" / "tensorrt.py").open("a") as stream:
        stream.write("import os, pathlib\npathlib.Path('pid').write_text(f'{os.getpid()} {os.getppid()}')\n")
    code = f"import sys, runpy; sys.argv = ['build_engine.py', '--onnx', {str(model)!r}]\n"
    code += f"import os; print(os.getpid())\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=fake, capture_output=True, text=True, check=False
    )
    own, parent = (tmp_path / "pid").read_text().split()
    assert parent == done.stdout.split()[0]
    assert own != parent


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "one of --onnx FILE and --hf-repo"),
        (("--onnx", "none.onnx"), "none.onnx: cannot be read"),
        (("--onnx", "tiny.onnx", "--batch", "4,2,1"), "1 <= MIN <= OPT <= MAX"),
        (("--onnx", "tiny.onnx", "--batch", "a"), "--batch a: give N or MIN,OPT,MAX"),
        (("--onnx", "tiny.onnx", "--precision", "fp32", "--tf32"), "contradict"),
        (("--onnx", "tiny.onnx", "--cache", "none.cache"), "none.cache: cannot be read"),
        (("--onnx", "tiny.onnx", "--legacy-precision", "int8"), "belong together"),
        (("--onnx", "tiny.onnx", "--speed"), "unrecognized arguments: --speed"),
        (("--onnx", "tiny.onnx", "--workspace-mb", "much"), "invalid int value"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, model, words, told):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_truncated_file_is_bad_input(tmp_path, model):
    model.write_bytes(model.read_bytes()[:300])
    done = run("--onnx", model, cwd=tmp_path)
    assert done.returncode == 2
    assert "not a complete ONNX file" in done.stderr


def test_the_generator_is_run_as_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(standalone, "OUTPUT", tmp_path / "build_engine.py")
    assert standalone.main() == 0
    assert (tmp_path / "build_engine.py").read_text("utf-8") == standalone.standalone_source()
    assert os.access(tmp_path / "build_engine.py", os.X_OK)
