"""onnxruntime on a GPU: skipped with the reason where there is none, and run by ``make test-gpu`` where there is."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.attest import mismatch
from bench.backends.onnxrt import backend
from bench.errors import Unavailable, Unsupported
from bench.ort import providers
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs
from bench.types import TensorSpec

pytestmark = pytest.mark.gpu
onnx = pytest.importorskip("onnx", reason="onnxruntime's graphs are read with onnx")
pytest.importorskip("onnxruntime", reason="needs onnxruntime-gpu")
CHANNELS, SIDE = 64, 32
# TensorRT's libraries read NVIDIA_TF32_OVERRIDE once, so a process that has run the CUDA provider cannot run them.
TENSORRT = """
import json, sys
from pathlib import Path
import numpy as np
from bench.artifacts import Store
from bench.attest import mismatch
from bench.backends.onnxrt import backend
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs

folder = Path(sys.argv[1])
cell = contract_cell("onnxrt", device="tensorrt:0", batch=4)
artifact = backend.prepare(contract_artifact("onnx", folder), cell, Store(folder / "store"))
worst = 0.0
with backend.open(artifact, cell, threads=1) as runner:
    bound = runner.bind(contract_feeds(4, seed=9))
    for batch in (4, 1):
        feeds = contract_feeds(batch)
        outputs, expected = runner.run(feeds), contract_outputs(feeds)
        worst = max(worst, *(float(np.abs(outputs[n] - v).max()) for n, v in expected.items()))
    bound.load(contract_feeds(4))
    bound.step()
    worst = max(worst, float(np.abs(bound.fetch()["maps"] - contract_outputs(contract_feeds(4))["maps"]).max()))
    evidence = runner.attest()
print(json.dumps({"worst": worst, "wrong": mismatch(cell, "native", evidence), "details": dict(evidence.details)}))
"""


def needs(device, precision="fp32"):
    try:
        return backend.require(device, precision)
    except (Unavailable, Unsupported) as error:
        pytest.skip(str(error))


@pytest.fixture
def wide(tmp_path):
    """A convolution of 64 channels, which tensor cores take: sums of 576 products that TF32 rounds to 10 bits."""
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    shape = ["batch", CHANNELS, SIDE, SIDE]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["images", "weight"], ["maps"], "conv", pads=[1] * 4)], "wide",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    path = tmp_path / "wide.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    inputs, outputs = ((TensorSpec(name=n, shape=tuple(shape), dtype="float32"),) for n in ("images", "maps"))
    feeds = {"images": rng.normal(0, 1, (2, CHANNELS, SIDE, SIDE)).astype(np.float32)}
    padded = np.pad(feeds["images"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.einsum("bchwij,ocij->bohw", windows, weight.astype(np.float64), optimize=True)
    return replace(contract_artifact("onnx", tmp_path), path=path, inputs=inputs, outputs=outputs), feeds, exact


def errors_of(wide, device):
    """Precision -> (largest error against float64 in units of the rms, observed precision)."""
    artifact, feeds, exact = wide
    found = {}
    for precision in ("fp32", "tf32"):
        mode = needs(device, precision)
        cell = contract_cell("onnxrt", device=device, precision=precision, batch=2)
        with backend.open(replace(artifact, precision=precision), cell, threads=1) as runner:
            got = runner.run(feeds)["maps"]
            evidence = runner.attest()
        assert mismatch(cell, mode, evidence) is None
        error = float(np.abs(got - exact).max() / np.sqrt(np.mean(exact**2)))
        found[precision] = (error, evidence.precision)
    return found


def test_a_session_runs_on_the_gpu_and_says_so(tmp_path):
    needs("cuda:0")
    cell = contract_cell("onnxrt", device="cuda:0", batch=4)
    first, second = contract_feeds(4), contract_feeds(4, seed=5)
    with backend.open(contract_artifact("onnx", tmp_path), cell, threads=1) as runner:
        for feeds in (first, contract_feeds(1)):
            outputs = runner.run(feeds)
            for name, value in contract_outputs(feeds).items():
                np.testing.assert_allclose(outputs[name], value, rtol=0, atol=1e-5)
        bound = runner.bind(first)
        bound.step()
        bound.load(second)
        bound.step()
        np.testing.assert_allclose(bound.fetch()["maps"], contract_outputs(second)["maps"], rtol=0, atol=1e-5)
        evidence = runner.attest()
    assert mismatch(cell, "native", evidence) is None
    assert evidence.details["placement"][providers.CUDA]["Conv"] == 1
    assert evidence.details["misplaced"] == ""
    assert set(providers.DECISIVE) <= set(evidence.details["provider_options"][providers.CUDA])


def test_fp32_and_tf32_differ_and_each_says_which_it_was(wide):
    found = errors_of(wide, "cuda:0")
    assert {precision: observed for precision, (_, observed) in found.items()} == {"fp32": "fp32", "tf32": "tf32"}
    # Simulated on a CPU: factors rounded to 10 bits 1.4e-3, float32 as it is 1.5e-6.
    assert found["fp32"][0] < 1e-5
    assert 1e-4 < found["tf32"][0] < 1e-2


def test_the_tensorrt_provider_runs_in_a_process_of_its_own_and_says_so(tmp_path):
    needs("tensorrt:0")
    keep = {k: v for k, v in os.environ.items() if k != providers.TF32_OVERRIDE}
    done = subprocess.run([sys.executable, "-c", TENSORRT, str(tmp_path)], capture_output=True, text=True, env=keep,
                          timeout=900, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["wrong"] is None
    assert said["worst"] < 1e-5
    assert said["details"]["placement"][providers.TENSORRT]["Conv"] == 1
    assert said["details"]["tensorrt_library"].startswith("libnvinfer.so")
