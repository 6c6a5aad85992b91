from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from bench.backends.openvino import backend
from bench.errors import ArtifactError, Unsupported
from bench.testing.artifacts import contract_artifact, contract_cell

onnx = pytest.importorskip("onnx", reason="the test graphs are written with onnx")
openvino = pytest.importorskip("openvino", reason="needs openvino")


@pytest.fixture
def artifact(tmp_path):
    return contract_artifact("onnx", tmp_path)


def attest(artifact):
    cell = contract_cell("openvino", precision=artifact.precision)
    with backend.open(artifact, cell, threads=1) as runner:
        return runner.attest()


def test_fp32_runs_in_fp32_even_on_a_processor_whose_default_would_be_bf16(artifact):
    evidence = attest(artifact)
    assert (evidence.precision, evidence.provider, evidence.emulated) == ("fp32", "CPU", False)
    assert evidence.details["compute_nodes"] == {"f32": 1}
    assert evidence.details["hint_read_back"] == "f32"
    assert evidence.details["threads"] == 1


def test_fp16_is_emulated_where_the_processor_has_no_fp16_arithmetic(artifact):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = artifact.path.with_name("fp16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(artifact.path), keep_io_types=True), path)
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    evidence = attest(replace(artifact, path=path, precision="fp16"))
    if "FP16" in capabilities:
        assert backend.require("cpu", "fp16") == "native"
        assert (evidence.precision, evidence.emulated) == ("fp16", False)
    else:
        assert backend.require("cpu", "fp16") == "emulated"
        assert (evidence.precision, evidence.emulated) == ("fp32", True)


def test_an_fp32_graph_behind_an_int8_label_is_found_out(artifact):
    assert attest(replace(artifact, precision="int8")).precision == "fp32"


def test_bound_inputs_stay_alive_while_the_step_runs(tmp_path):
    """In a process of its own: freed memory of more than 32 MB is unmapped at once, so that the fault is a crash."""
    script = (
        "import sys; from pathlib import Path\n"
        "from bench.backends.openvino import backend\n"
        "from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds\n"
        "artifact = contract_artifact('onnx', Path(sys.argv[1]), batch=32, side=352)\n"
        "with backend.open(artifact, contract_cell('openvino'), threads=1) as runner:\n"
        "    step = runner.bind(contract_feeds(32, side=352)).step\n"
        "    step(); step(); print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_the_message_for_a_damaged_file_skips_the_source_locations(artifact):
    path = artifact.path.with_name("damaged.onnx")
    path.write_bytes(artifact.path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"damaged\.onnx: openvino cannot load it: (?!Exception from|Check)"):
        attest(replace(artifact, path=path))


def test_only_the_cpu_is_a_device():
    with pytest.raises(Unsupported, match="no plug-in for NVIDIA GPUs"):
        backend.require("cuda:0", "fp32")
