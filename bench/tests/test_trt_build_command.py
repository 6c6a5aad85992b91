"""``parity build-engine`` on a stub of the driver and the fake TensorRT, and on a host that has neither."""

import json
import os
import subprocess
import sys

import onnx
import pytest

from bench.paths import REPOSITORY
from bench.schema import validate, validate_file
from bench.tests.stub_driver import make_driver
from bench.tests.tiny_onnx import tiny_model
from bench.tests.trt_samples import quantised
from bench.trt.rebuilds import precision_table, spread_of

# Every other build chooses another kernel and another precision for one layer, as a builder that times its choices may.
FAKE = """
import json, os, pathlib, sys
from bench.testing.trt_fake import fake_tensorrt
world = fake_tensorrt("11.4.0.106", gpu="Stub GPU")
counter = pathlib.Path("builds")
world.builds = int(counter.read_text()) if counter.exists() else 0
counter.write_text(str(world.builds + 1))
ordinary = world.behaviour["EngineInspector.get_engine_information"]
def other(self, form):
    document = json.loads(ordinary(self, form))
    if world.builds % 2 == 0:
        layer = document["Layers"][0]
        layer["TacticName"] = "sm90_xmma_fake_implicit_gemm_f16f16_f16f16_f16_other"
        for tensor in layer["Inputs"] + layer["Outputs"]:
            tensor["DataType"] = "FP16"
        document["Layers"][-1]["Name"] = "decode + something"
    return json.dumps(document)
world.behaviour["EngineInspector.get_engine_information"] = other
sys.modules[__name__] = world.module
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "driver").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(FAKE)
    onnx.save(tiny_model(), str(tmp_path / "tiny.onnx"))
    return tmp_path, {**make_driver(tmp_path / "driver"), "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}"}


def run(*words, cwd, env=None):
    command = [sys.executable, "-m", "bench", "build-engine", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_without_a_gpu_it_says_why_and_what_to_type_where(tmp_path):
    onnx.save(tiny_model(), str(tmp_path / "tiny.onnx"))
    (tmp_path / "driver").mkdir()
    environment = make_driver(tmp_path / "driver", init=100)
    for words in (("--onnx", "tiny.onnx"), ("yolov10n", "--precision", "int8")):
        done = run(*words, "--out", "F.engine", cwd=tmp_path, env=environment)
        assert done.returncode == 2
        assert "cuInit returned 100" in done.stderr
        assert "python build_engine.py --onnx M.onnx --out F.engine" in done.stderr
        assert "parity export MODEL --precision P" in done.stderr
        assert not (tmp_path / "F.engine").exists()


def test_an_onnx_file_becomes_an_engine_with_a_valid_record(place):
    folder, environment = place
    done = run("--onnx", "tiny.onnx", "--out", "F.engine", "--batch", "2", cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert "observed fp32" in done.stdout
    record = json.loads((folder / "F.engine.json").read_text())
    validate(record, "engine", where="record")
    assert validate_file(folder / "F.engine.json")
    assert record["ranges"]["images"][0] == [2, 3, 8, 8]
    assert record["options"]["tf32"] is False


def test_precision_tf32_allows_tf32_and_holds_the_engine_to_it(place):
    folder, environment = place
    done = run("--onnx", "tiny.onnx", "--out", "F.engine", "--precision", "tf32", cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert "requested tf32, observed tf32" in done.stdout


def test_a_label_that_does_not_hold_is_exit_1(place):
    folder, environment = place
    done = run("--onnx", "tiny.onnx", "--out", "F.engine", "--precision", "int8", cwd=folder, env=environment)
    assert done.returncode == 1
    assert "NOT WHAT ITS LABEL SAYS" in done.stdout


def test_rebuilds_are_compared(place):
    folder, environment = place
    done = run("--onnx", "tiny.onnx", "--out", "F.engine", "--rebuilds", 3, "--json", cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [r["engine"]["file"] for r in document["engines"]] == ["F.engine", "F.b1.engine", "F.b2.engine"]
    assert all((folder / r["engine"]["file"]).is_file() for r in document["engines"])
    spread = document["spread"]
    assert (spread["builds"], spread["different_files"]) == (3, 3)
    assert spread["retyped"] == ["stem"]
    assert (spread["rekernelled"], spread["refused"]) == (1, 2)
    assert document["compute_layers"] == {"fp16": [0, 1, 0], "fp32": [3, 2, 3]}


def test_the_spread_is_printed_and_a_shared_timing_cache_is_told(place):
    folder, environment = place
    done = run(
        "--onnx", "tiny.onnx", "--out", "F.engine", "--rebuilds", 2, "--timing-cache", "t", cwd=folder, env=environment
    )
    assert "2 builds: 2 different files" in done.stdout
    assert "compute layers in another precision: 1" in done.stdout
    assert "shared a timing cache" in done.stdout


def test_equal_builds_have_no_spread(place):
    folder, environment = place
    run("--onnx", "tiny.onnx", "--out", "F.engine", cwd=folder, env=environment)
    record = json.loads((folder / "F.engine.json").read_text())
    spread = spread_of([record, record])
    assert (spread.different_files, spread.retyped, spread.rekernelled, spread.refused) == (1, (), 0, 0)
    assert precision_table([record, record]) == {"fp32": [3, 3]}


def test_a_failed_build_is_exit_1_with_the_log(place):
    folder, environment = place
    fake = folder / "site" / "tensorrt.py"
    fake.write_text(FAKE + "world.answer('Builder.build_serialized_network', None)\n")
    done = run("--onnx", "tiny.onnx", "--out", "F.engine", cwd=folder, env=environment)
    assert done.returncode == 1
    assert "TensorRT built no engine. TensorRT says: [fake]" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "one of a model and --onnx"),
        (("yolov10n", "--onnx", "tiny.onnx"), "one of a model and --onnx"),
        (("--onnx", "none.onnx"), "none.onnx: cannot be read"),
        (("--onnx", "tiny.onnx", "--rebuilds", "0"), "at least 1"),
        (("--onnx", "tiny.onnx", "--batch", "3,2,1"), "MIN,OPT,MAX"),
        (("--onnx", "tiny.onnx", "--precision", "fp32", "--tf32"), "contradict"),
        (("--onnx", "tiny.onnx", "--precision", "fp7"), "fp7"),
        (("--onnx", "int8.onnx", "--legacy-precision", "fp16"), "carries its precision itself"),
    ],
)
def test_bad_input_is_exit_2(place, words, told):
    folder, environment = place
    onnx.save(quantised(tiny_model()), str(folder / "int8.onnx"))
    done = run(*words, "--out", "F.engine", cwd=folder, env=environment)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "F.engine").exists()
