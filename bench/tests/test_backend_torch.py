from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.backends.pytorch import TorchRunner, backend
from bench.errors import ContractError, Unavailable, Unsupported
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs

torch = pytest.importorskip("torch", reason="needs torch")


@pytest.fixture
def artifact(tmp_path):
    return contract_artifact("weights", tmp_path)


def opened(artifact, precision):
    """The runner itself: every precision runs everywhere, natively or not, but the backend offers only native ones."""
    return TorchRunner(artifact, contract_cell("torch", precision=precision), mode="native", threads=1)


def test_the_golden_is_computed_and_returned_in_float64(artifact):
    feeds = contract_feeds(2)
    with opened(artifact, "fp64") as runner:
        outputs = runner.run(feeds)
        assert runner.attest().precision == "fp64"
    assert outputs["maps"].dtype == np.float64
    assert np.abs(outputs["maps"] - contract_outputs(feeds)["maps"]).max() < 1e-6


@pytest.mark.parametrize(("precision", "dtype", "error"), [("bf16", "bfloat16", 0.05), ("fp16", "float16", 0.01)])
def test_reduced_precisions_cast_the_weights_and_widen_the_outputs(artifact, precision, dtype, error):
    feeds = contract_feeds(2)
    with opened(artifact, precision) as runner:
        outputs, evidence = runner.run(feeds), runner.attest()
    difference = np.abs(outputs["maps"] - contract_outputs(feeds)["maps"]).max()
    assert outputs["maps"].dtype == np.float32
    assert 1e-5 < difference < error
    assert evidence.details["parameters"] == {dtype: 2}
    assert evidence.details["conv_linear_outputs"] == {dtype: 1}
    assert (evidence.precision, evidence.emulated) == (precision, False)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_processor_does_not_compute_in_is_unsupported(monkeypatch, precision):
    monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", lambda: False)
    with pytest.raises(Unsupported, match=f"torch:{precision} needs a processor that computes in {precision}"):
        backend.require("cpu", precision)
    monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", lambda: True)
    assert backend.require("cpu", precision) == "native"


def test_a_layer_that_stays_in_float32_behind_an_fp16_label_is_found_out(artifact):
    class Stubborn(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = [inner]  # a list hides it from .to()
            self.visible = torch.nn.Conv2d(1, 1, 1)

        def modules(self):
            yield from self.inner[0].modules()

        def forward(self, images):
            return self.inner[0](images.float())

    build = artifact.build
    with opened(replace(artifact, build=lambda: Stubborn(build())), "fp16") as runner:
        evidence = runner.attest()
    assert (evidence.precision, evidence.emulated) == ("fp32", False)


def test_a_forward_that_returns_something_else_is_named(artifact):
    class Single(torch.nn.Module):
        def forward(self, images):
            return {"maps": images}

    with (
        opened(replace(artifact, build=Single), "fp32") as runner,
        pytest.raises(ContractError, match=r"must return a tuple of tensors \(maps, means\), got \(dict\)"),
    ):
        runner.run(contract_feeds(1))


def test_weights_without_a_module_are_refused(artifact):
    with pytest.raises(ContractError, match=r"contract\.npz has no build\(\)"):
        opened(replace(artifact, build=None), "fp32")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_asked_for(artifact, threads):
    with backend.open(artifact, contract_cell("torch"), threads=threads) as runner:
        assert torch.get_num_threads() == threads
        assert runner.attest().details["threads"] == threads


def test_int8_and_tf32_on_a_cpu_cannot_exist():
    with pytest.raises(Unsupported, match="int8 lives in a Q/DQ graph"):
        backend.require("cpu", "int8")
    with pytest.raises(Unsupported, match="arithmetic of NVIDIA GPUs"):
        backend.require("cpu", "tf32")
    with pytest.raises(Unsupported, match="not on 'cuda:one'"):
        backend.require("cuda:one", "fp32")


def test_cuda_is_unavailable_without_a_gpu_and_never_becomes_the_cpu(artifact):
    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    with pytest.raises(Unavailable, match="Type: --devices cpu"):
        backend.open(artifact, contract_cell("torch", device="cuda:0"), threads=1)


@pytest.mark.gpu
def test_on_a_gpu_fp32_and_tf32_differ_and_each_says_which_it_was(artifact):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    feeds = contract_feeds(4)
    seen = {}
    for precision in ("fp32", "tf32"):
        with backend.open(artifact, contract_cell("torch", device="cuda:0", precision=precision), threads=1) as runner:
            seen[precision] = runner.run(feeds)["maps"]
            assert runner.attest().precision == precision
            assert "cuda" in runner.attest().provider
    np.testing.assert_allclose(seen["fp32"], contract_outputs(feeds)["maps"], rtol=0, atol=1e-5)
