from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from adapters.examples.fastestdet import COCO_NAMES, adapter
from bench.errors import InputError, Unsupported
from bench.types import Adapter

UPSTREAM_KEYS_SHA256 = "12904197bb46aa6086cdb01fb24f3431f46b1774dfc8015bef171cf93ee6eba1"
"""Of the lines ``key (shape)`` of the upstream checkpoint, sorted."""


@pytest.fixture(scope="module")
def network():
    return adapter.build(None, seed=1)


def test_the_state_dict_has_the_keys_and_shapes_of_the_upstream_checkpoint(network):
    state = network.state_dict()
    lines = "\n".join(sorted(f"{key} {tuple(value.shape)}" for key, value in state.items()))
    assert len(state) == 420
    assert sum(p.numel() for p in network.parameters()) == 244_490
    assert hashlib.sha256(lines.encode()).hexdigest() == UPSTREAM_KEYS_SHA256


def test_outputs_are_named_and_shaped_as_the_spec_says(network):
    with torch.inference_mode():
        outputs = network(torch.rand(2, 3, 352, 352))
    assert [tuple(output.shape) for output in outputs] == [(2, *adapter.spec.outputs[0].shape[1:])]
    assert not network.training
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == 80
    assert isinstance(adapter, Adapter)


def test_the_seed_decides_the_random_weights(network):
    again, other = adapter.build(None, seed=1), adapter.build(None, seed=2)
    key = "detect_head.conv1x1.conv1x1.0.weight"
    assert torch.equal(network.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(network.state_dict()[key], other.state_dict()[key])


def test_a_checkpoint_with_a_foreign_key_is_refused_by_name(network, tmp_path):
    state = dict(network.state_dict())
    state["backbone.stem.weight"] = state.pop("backbone.first_conv.0.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"(?s)other\.pth.*first_conv\.0\.weight.*stem\.weight"):
        adapter.build(tmp_path / "other.pth")


def test_an_onnx_file_has_no_torch_module():
    with pytest.raises(Unsupported, match=r"model\.onnx: there is no torch module in an \.onnx"):
        adapter.build(Path("model.onnx"))
    with pytest.raises(Unsupported, match="no torch module"):
        adapter.export(Path("model.onnx"), Path("out.onnx"))


def test_training_names_the_repository_that_does_it(tmp_path):
    with pytest.raises(Unsupported, match="dog-qiuqiu/FastestDet"):
        adapter.train({}, tmp_path)


def test_the_exported_file_computes_the_same_at_any_batch_size(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    recipe = adapter.export(tmp_path / "w.pth", tmp_path / "m.onnx")
    assert recipe["opset"] == 17
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["input.1"]
    assert session.get_inputs()[0].shape == ["batch", 3, 352, 352]
    images = torch.rand(3, 3, 352, 352)
    with torch.inference_mode():
        (expected,) = network(images)
    for batch in (1, 3):
        (got,) = session.run(["758"], {"input.1": images[:batch].numpy()})
        np.testing.assert_allclose(got, expected[:batch], atol=1e-4)


def test_importing_the_adapter_loads_no_runtime():
    code = (
        "import sys; from adapters.examples.fastestdet import adapter; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
