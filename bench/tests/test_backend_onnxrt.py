from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.backends import cuda
from bench.backends.onnx_evidence import read_graph
from bench.backends.onnxrt import backend
from bench.errors import ArtifactError, Unavailable, Unsupported
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs

onnx = pytest.importorskip("onnx", reason="onnxruntime's graphs are read with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture
def artifact(tmp_path):
    return contract_artifact("onnx", tmp_path)


@pytest.fixture
def fp16(artifact):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = artifact.path.with_name("fp16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(artifact.path), keep_io_types=True), path)
    return replace(artifact, path=path, precision="fp16")


@pytest.fixture
def int8(artifact):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [contract_feeds(4), contract_feeds(4, seed=2)]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = artifact.path.with_name("int8.onnx")
    quantize_static(artifact.path, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
                    extra_options={"ActivationSymmetric": True, "WeightSymmetric": True})  # fmt: skip
    return replace(artifact, path=path, precision="int8")


def attest(artifact):
    cell = contract_cell("onnxrt", precision=artifact.precision)
    with backend.open(artifact, cell, threads=1) as runner:
        return runner.attest()


def test_fp32_is_attested_by_the_optimised_graph_and_the_node_assignment(artifact):
    evidence = attest(artifact)
    assert (evidence.precision, evidence.provider, evidence.emulated) == ("fp32", "CPUExecutionProvider", False)
    assert evidence.details["compute_nodes"] == {"fp32": 1}
    assert evidence.details["placement"]["CPUExecutionProvider"]["Conv"] == 1


def test_fp16_on_a_cpu_is_recognised_as_emulated_by_stored_halves_and_float_arithmetic(fp16):
    assert backend.require("cpu", "fp16") == "emulated"
    evidence = attest(fp16)
    assert (evidence.precision, evidence.emulated) == ("fp32", True)
    assert evidence.details["stored_weights"]["FLOAT16"] >= 2


def test_an_fp32_graph_behind_an_fp16_label_is_not_called_emulated(artifact):
    evidence = attest(replace(artifact, precision="fp16"))
    assert (evidence.precision, evidence.emulated) == ("fp32", False)


def test_int8_is_attested_by_the_quantised_operators(int8):
    evidence = attest(int8)
    assert (evidence.precision, evidence.emulated) == ("int8", False)
    assert evidence.details["compute_nodes"] == {"int8": 1}


def test_a_graph_whose_weights_alone_are_quantised_does_not_pass_for_int8(artifact):
    model = onnx.load(artifact.path)
    weight = next(t for t in model.graph.initializer if t.name == "weight")
    values = onnx.numpy_helper.to_array(weight)
    model.graph.initializer.remove(weight)
    model.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.round(values * 100).astype(np.int8), "weight_q"),
        onnx.numpy_helper.from_array(np.float32(0.01), "scale"),
        onnx.numpy_helper.from_array(np.int8(0), "zero"),
    ])  # fmt: skip
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["weight_q", "scale", "zero"], ["weight"]))
    path = artifact.path.with_name("weight_only.onnx")
    onnx.save(model, path)
    assert attest(replace(artifact, path=path, precision="int8")).precision == "fp32"


def test_the_optimised_graph_is_removed_on_closing(artifact):
    runner = backend.open(artifact, contract_cell("onnxrt"), threads=1)
    assert runner._optimised.is_file()
    runner.close()
    assert not runner._optimised.exists()


def test_outputs_at_two_threads_are_those_of_numpy(artifact):
    feeds = contract_feeds(4)
    with backend.open(artifact, contract_cell("onnxrt"), threads=2) as runner:
        np.testing.assert_allclose(runner.run(feeds)["maps"], contract_outputs(feeds)["maps"], rtol=0, atol=1e-5)


def test_bound_inputs_are_copies_of_the_callers(artifact, monkeypatch):
    bound = []
    original = onnxruntime.OrtValue.ortvalue_from_numpy
    monkeypatch.setattr(
        onnxruntime.OrtValue, "ortvalue_from_numpy", lambda array, *rest: bound.append(array) or original(array, *rest)
    )
    feeds = contract_feeds(4)
    with backend.open(artifact, contract_cell("onnxrt"), threads=1) as runner:
        runner.bind(feeds).step()
    assert len(bound) == 1
    assert not np.shares_memory(bound[0], feeds["images"])


def test_a_missing_file_and_an_absent_external_data_file_are_artefact_errors(artifact):
    missing = replace(artifact, path=artifact.path.with_name("nowhere.onnx"))
    with pytest.raises(ArtifactError, match=r"nowhere\.onnx: onnxruntime cannot load it"):
        attest(missing)
    model = onnx.load(artifact.path)
    path = artifact.path.with_name("split.onnx")
    onnx.save(model, path, save_as_external_data=True, location="split.data", size_threshold=0)
    (path.parent / "split.data").unlink()
    with pytest.raises(ArtifactError, match=r"split\.onnx: onnxruntime cannot load it: .*split\.data"):
        attest(replace(artifact, path=path))


def test_cuda_is_unavailable_without_its_provider_and_never_becomes_the_cpu(artifact):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    with pytest.raises(Unavailable, match="pip install onnxruntime-gpu"):
        backend.require("cuda:0", "fp32")
    with pytest.raises(Unavailable, match="no CUDAExecutionProvider"):
        backend.open(artifact, contract_cell("onnxrt", device="cuda:0"), threads=1)


def test_a_provider_that_is_listed_but_has_no_driver_is_unavailable(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(cuda, "problem", lambda number=0: "this host has no CUDA driver (libcuda.so.1)")
    with pytest.raises(Unavailable, match=r"onnxrt:cuda: this host has no CUDA driver"):
        backend.require("cuda", "fp32")


def test_a_session_that_lands_on_the_cpu_instead_of_cuda_is_an_error(artifact, monkeypatch):
    """Should ``require`` ever be mistaken, opening still fails: this build has no CUDA provider at all."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider")
    monkeypatch.setattr(type(backend), "require", lambda self, device, precision: "native")
    with pytest.raises(ArtifactError):
        backend.open(artifact, contract_cell("onnxrt", device="cuda:0"), threads=1)


def test_another_device_is_unsupported():
    with pytest.raises(Unsupported, match="not on 'tpu'"):
        backend.require("tpu", "fp32")


def test_dequantised_values_count_as_floats_even_when_the_file_does_not_state_their_type(int8):
    graph = read_graph(int8.path)
    assert graph.compute == {"fp32": 1}
    assert graph.operators["DequantizeLinear"] >= 2
    assert graph.dominant == "fp32"


def test_a_file_that_is_no_graph_is_an_artefact_error(tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(ArtifactError, match=r"noise\.onnx: not a readable ONNX file"):
        read_graph(path)
