import pytest

from bench.attest import mismatch
from bench.types import Cell, Evidence


def judged(*, device="cpu", precision="fp32", mode="native", provider="CPUExecutionProvider", observed="fp32",
           emulated=False):  # fmt: skip
    cell = Cell(model="m", backend="b", device=device, precision=precision, fixtures="f")
    return mismatch(cell, mode, Evidence(precision=observed, provider=provider, emulated=emulated))


@pytest.mark.parametrize(("device", "provider"), [
    ("cpu", "CPUExecutionProvider"), ("cpu", "CPU"), ("cpu", "cpu"), ("cuda:0", "CUDAExecutionProvider"),
    ("cuda:1", "cuda:1"), ("cuda:0", "GPU.0"), ("cpu", "recorded (cpu)"), ("tensorrt:0", "TensorrtExecutionProvider"),
    ("tensorrt:1", "TensorrtExecutionProvider + CUDAExecutionProvider")])  # fmt: skip
def test_the_device_asked_for_is_borne_out(device, provider):
    assert judged(device=device, provider=provider) is None


@pytest.mark.parametrize(("device", "provider"), [
    ("cuda:0", "CPUExecutionProvider"), ("cpu", "CUDAExecutionProvider"), ("cpu", ""), ("cpu", "npu"),
    ("cuda:0", "CPUExecutionProvider + CUDAExecutionProvider"), ("cuda:0", "cpu + cuda:0"),
    ("cuda:0", "TensorrtExecutionProvider + CUDAExecutionProvider"), ("tensorrt:0", "CUDAExecutionProvider"),
    ("tensorrt:0", "CUDAExecutionProvider + TensorrtExecutionProvider"), ("tensorrt:0", ""),
    ("tensorrt:0", "NvTensorRTRTXExecutionProvider"),
    ("tensorrt:0", "TensorrtExecutionProvider + CUDAExecutionProvider + CPUExecutionProvider")])  # fmt: skip
def test_another_device_is_named_even_when_it_ran_only_a_part(device, provider):
    assert judged(device=device, provider=provider) == f"Requested device {device}, ran on {provider}."


def test_another_precision_is_named():
    assert judged(precision="int8") == "Requested int8, observed fp32."
    assert judged(precision="int8", observed="int8") is None


def test_emulation_must_be_declared_and_borne_out():
    assert judged(precision="fp16", mode="emulated", emulated=True) is None
    assert "did not declare it" in judged(precision="fp16", mode="native", emulated=True)
    assert judged(precision="fp16", mode="emulated", emulated=False) == "Requested fp16, observed fp32."


def test_nodes_that_ran_elsewhere_are_named():
    cell = Cell(model="m", backend="b", device="cuda:0", precision="fp32", fixtures="f")
    evidence = Evidence(precision="fp32", provider="CUDAExecutionProvider + CPUExecutionProvider", emulated=False,
                        details={"misplaced": "TopK 'top'"})  # fmt: skip
    assert mismatch(cell, "native", evidence).endswith("Not on the device: TopK 'top'.")
