"""The adapter keeps its contract: spec, strict weights, export."""

import re

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from adapters._shared.synthetic import make_image
from adapters.yolov10 import YoloV10Adapter, adapter, coco_adapter, make_spec
from adapters.yolov10.model import ONE2MANY_PREFIXES, YoloV10
from adapters.yolov10.names import COCO_NAMES, SHAPES_NAMES
from adapters.yolov10.weights import save_weights
from bench.errors import ArtifactError, InputError
from bench.types import Adapter


@pytest.fixture(scope="module")
def trained():
    """A network whose batch norms differ from each other, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = YoloV10("n", 8)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.8, 1.2)
                torch.nn.init.normal_(module.bias, 0, 0.1)
                torch.nn.init.normal_(module.running_mean, 0, 0.1)
        for branch in network.head.one2one_cv3:
            torch.nn.init.normal_(branch[2].bias, -2, 0.5)
    return network.eval()


@pytest.fixture
def small():
    """The same model at 64 pixels, so that a test is fast."""
    return YoloV10Adapter(make_spec("yolov10n", 64, SHAPES_NAMES, "shapes", None, ""), "n")


@pytest.fixture
def state(trained):
    return {key: value.clone() for key, value in trained.state_dict().items()}


def test_the_adapter_is_one_and_its_spec_describes_dense_predictions():
    assert isinstance(adapter, Adapter)
    assert str(adapter.spec.inputs[0]) == "images float32 (batch, 3, 320, 320)"
    assert list(map(str, adapter.spec.outputs)) == [
        "boxes_cxcywh float32 (batch, 4, 2100)",
        "scores float32 (batch, 8, 2100)",
    ]
    assert str(coco_adapter.spec.outputs[1]) == "scores float32 (batch, 80, 8400)"
    assert len(set(COCO_NAMES)) == 80


def test_the_shipped_weights_load():
    assert adapter.spec.default_weights is not None
    network = adapter.build(adapter.spec.default_weights)
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_random_weights_depend_on_the_seed_only_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, two, other = (adapter.build(None, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["model.0.conv.weight"], other["model.0.conv.weight"])


def test_official_training_weights_and_shipped_weights_give_the_same_network(tmp_path, trained):
    save_weights(trained, tmp_path / "full.safetensors")
    save_weights(trained, tmp_path / "shipped.safetensors", shipped=True)
    assert (tmp_path / "shipped.safetensors").stat().st_size < 0.5 * (tmp_path / "full.safetensors").stat().st_size
    full, shipped = (adapter.build(tmp_path / f"{n}.safetensors").state_dict() for n in ("full", "shipped"))
    assert list(full) == list(shipped)
    assert not any(key.startswith(ONE2MANY_PREFIXES) for key in full)
    for key, value in full.items():
        rounded = value.half().to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(rounded, shipped[key]), key


def test_a_renamed_key_is_refused_and_listed(tmp_path, state):
    state["model.0.convolution.weight"] = state.pop("model.0.conv.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"1 missing: model\.0\.conv\.weight; 1 unexpected: model\.0\.convolution"):
        adapter.build(tmp_path / "w.safetensors")


def test_half_of_the_training_head_is_refused(tmp_path, state):
    del state["model.23.cv2.0.2.bias"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"1 missing: model\.23\.cv2\.0\.2\.bias"):
        adapter.build(tmp_path / "w.pt")


def test_coco_weights_are_refused_by_the_shapes_model_with_the_model_to_use(tmp_path):
    torch.save(YoloV10("n", 80).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"have 80 classes, yolov10n has 8.*adapters.yolov10:coco_adapter"):
        adapter.build(tmp_path / "w.pt")
    assert coco_adapter.build(tmp_path / "w.pt").classes == 80


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="not a YOLOv10 state dict"):
        adapter.build(tmp_path / "w.pt")


def test_the_exported_graph_equals_torch_at_batch_one_and_four(tmp_path, trained, small):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the check runs the graph")
    save_weights(trained, tmp_path / "w.safetensors")
    recipe = small.export(tmp_path / "w.safetensors", tmp_path / "m.onnx")
    assert recipe["opset"] == 17
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    network = small.build(tmp_path / "w.safetensors")
    for batch in (1, 4):
        images = make_image("export", (batch, 3, 64, 64))
        found = session.run(["boxes_cxcywh", "scores"], {"images": images})
        for got, expected in zip(found, network(torch.from_numpy(images)), strict=True):
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


def test_the_exported_nodes_are_named_by_module_and_the_float_ones_are_the_end_of_the_head(tmp_path, trained, small):
    save_weights(trained, tmp_path / "w.safetensors")
    small.export(tmp_path / "w.safetensors", tmp_path / "m.onnx")
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    kinds = {node.op_type for node in graph.node}
    assert "BatchNormalization" not in kinds
    assert "Shape" not in kinds
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 64, 64]
    kept = [n for n in graph.node if any(re.search(p, n.name) for p in small.spec.float_nodes)]
    convolutions = [n.name for n in kept if n.op_type == "Conv"]
    assert len(convolutions) == 7
    assert "/model.23/dfl/conv/Conv" in convolutions
    assert {"Softmax", "Sigmoid", "Concat"} <= {n.op_type for n in kept}
    assert all(n.name.startswith("/model.23/") for n in kept)
    assert sum(n.op_type == "Conv" for n in graph.node) > 70


def test_an_opset_that_is_too_old_is_refused_with_what_to_type(tmp_path, trained, small):
    save_weights(trained, tmp_path / "w.safetensors")
    with pytest.raises(ArtifactError, match="--opset 13"):
        small.export(tmp_path / "w.safetensors", tmp_path / "m.onnx", opset=9)


def test_a_graph_that_does_not_reproduce_the_network_is_refused(tmp_path, trained, small):
    from adapters.yolov10.export import check_export

    save_weights(trained, tmp_path / "w.safetensors")
    small.export(tmp_path / "w.safetensors", tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="differs from torch"):
        check_export(small.build(None, seed=9), small.spec, tmp_path / "m.onnx")
