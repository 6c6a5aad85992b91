"""The adapter keeps its contract: spec, strict weights that decide config and classes, export."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from adapters._shared.synthetic import make_image
from adapters.rtdetr_pose import RtDetrPoseAdapter, adapter, base_adapter, make_spec
from adapters.rtdetr_pose.config import network_config
from adapters.rtdetr_pose.export import check_export
from adapters.rtdetr_pose.model import RtDetrPose, spread
from adapters.rtdetr_pose.names import SHAPES_NAMES
from bench.errors import ArtifactError, InputError, UsageError
from bench.registry import adapter_names, load_adapter
from bench.types import Adapter


def small_adapter(name="tiny", classes=SHAPES_NAMES):
    """The registered model at 64 pixels, so that a test is fast."""
    config = network_config(name, classes=len(classes))
    return RtDetrPoseAdapter(make_spec("rtdetr_pose", config, classes, image_hw=(64, 64), fixtures="shapes"), config)


@pytest.fixture(scope="module")
def trained():
    """A network whose queries differ, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = RtDetrPose(network_config("tiny"))
        spread(network)
    return network.eval()


@pytest.fixture
def state(trained):
    return {key: value.clone() for key, value in trained.state_dict().items()}


def saved(tmp_path, state, **facts):
    path = tmp_path / "w.safetensors"
    save_file(state, path, metadata={"parity": json.dumps(facts)} if facts else None)
    return path


def test_the_adapter_is_one_and_its_spec_describes_raw_outputs_per_query():
    assert isinstance(adapter, Adapter)
    assert "rtdetr_pose" in adapter_names()
    assert str(adapter.spec.inputs[0]) == "images float32 (batch, 3, 320, 320)"
    assert list(map(str, adapter.spec.outputs)) == [
        "logits float32 (batch, 400, 9)",
        "bbox float32 (batch, 400, 4)",
        "log_z float32 (batch, 400, 1)",
        "rot6d float32 (batch, 400, 6)",
        "offsets float32 (batch, 400, 2)",
        "k_delta float32 (batch, 4)",
        "keypoints float32 (batch, 400, 34)",
    ]
    assert [str(o) for o in base_adapter.spec.outputs][:2] == [
        "logits float32 (batch, 300, 81)",
        "bbox float32 (batch, 300, 4)",
    ]
    assert len(base_adapter.spec.outputs) == 6
    assert adapter.spec.preprocessing["method"] == "resize"
    assert adapter.spec.max_detections == 50


def test_random_weights_depend_on_the_seed_only_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, two, other = (adapter.build(None, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["query_embed.weight"], other["query_embed.weight"])


def test_an_unknown_training_option_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="network"):
        adapter.train({"netwrok": "tiny"}, tmp_path)


def test_a_renamed_key_is_refused_and_listed(tmp_path, state):
    state["head.klass.bias"] = state.pop("head.cls.weight")
    with pytest.raises(InputError, match=r"1 missing: head\.cls\.weight; 1 unexpected: head\.klass"):
        adapter.build(saved(tmp_path, state))


def test_weights_that_match_no_key_are_refused_not_loaded_in_part(tmp_path):
    with pytest.raises(InputError, match="not an rtdetr_pose state dict"):
        adapter.build(saved(tmp_path, torch.nn.Linear(2, 2).state_dict()))
    with pytest.raises(InputError, match="not an rtdetr_pose state dict"):
        adapter.fitted(saved(tmp_path, torch.nn.Linear(2, 2).state_dict()))


def test_weights_of_another_config_or_class_count_are_refused(tmp_path):
    with torch.random.fork_rng(devices=[]):
        other = RtDetrPose(network_config("tiny", classes=5)).state_dict()
    with pytest.raises(InputError, match="are tiny with 5 classes, rtdetr_pose is tiny with 8"):
        adapter.build(saved(tmp_path, other))
    with pytest.raises(InputError, match="have 5 classes and do not say which"):
        adapter.fitted(saved(tmp_path, other))
    other["query_embed.weight"] = torch.zeros(77, 96)
    with pytest.raises(InputError, match="77 queries of width 96: no known config"):
        adapter.fitted(saved(tmp_path, other))


def test_weights_that_name_no_classes_have_those_of_the_model_with_as_many(tmp_path, state):
    assert adapter.fitted(saved(tmp_path, state)) is adapter


def test_what_only_training_needs_is_left_out_when_weights_are_loaded(tmp_path):
    with torch.random.fork_rng(devices=[]):
        full = RtDetrPose(network_config("tiny"), denoising=True).state_dict()
    assert "denoise.label.weight" in full
    built = adapter.build(saved(tmp_path, full))
    assert not any(key.startswith("denoise.") for key in built.state_dict())
    torch.testing.assert_close(built.head.cls.weight, full["head.cls.weight"])


def test_half_precision_weights_are_upcast_and_the_network_comes_ready(tmp_path, state):
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    network = adapter.build(saved(tmp_path, half))
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in network.parameters())


def test_weights_decide_classes_and_input_size(tmp_path):
    with torch.random.fork_rng(devices=[]):
        state = RtDetrPose(network_config("tiny", classes=2)).state_dict()
    path = saved(tmp_path, state, class_names=["cat", "dog"], image_size=[256, 384])
    fitted = load_adapter(f"rtdetr_pose::{path}")
    assert fitted.spec.class_names == ("cat", "dog")
    assert fitted.spec.image_hw == (256, 384)
    assert fitted.spec.name == "rtdetr_pose"
    assert str(fitted.spec.outputs[0]) == "logits float32 (batch, 400, 3)"
    assert fitted.build(path).classes == 2
    with pytest.raises(InputError, match="name 3 classes and have 2"):
        adapter.fitted(saved(tmp_path, state, class_names=["a", "b", "c"]))
    with pytest.raises(InputError, match="multiples of 32"):
        adapter.fitted(saved(tmp_path, state, class_names=["a", "b"], image_size=[250, 250]))
    with torch.random.fork_rng(devices=[]):
        base = RtDetrPose(network_config("base", classes=2)).state_dict()
    path = saved(tmp_path, base, class_names=["a", "b"], image_size=[1024, 1024])
    with pytest.raises(InputError, match=r"base: image 1024x1024 px gives 21504 tokens.*MB per image"):
        adapter.fitted(path)


def test_base_weights_of_coco_turn_the_model_into_base(tmp_path):
    with torch.random.fork_rng(devices=[]):
        path = saved(tmp_path, RtDetrPose(network_config("base")).state_dict())
    fitted = adapter.fitted(path)
    assert fitted.config.name == "base"
    assert fitted.spec.class_names == base_adapter.spec.class_names
    assert fitted.spec.default_fixtures == "coco128"


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_the_exported_graph_equals_torch_at_batch_one_and_four(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the check runs the graph")
    model = small_adapter(name)
    network = model.build(None, seed=3)
    path = saved(tmp_path, network.state_dict())
    recipe = model.export(path, tmp_path / "m.onnx")
    assert recipe["opset"] == 17
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == [o.name for o in model.spec.outputs]
    for batch in (1, 4):
        images = make_image("export", (batch, 3, 64, 64))
        found = session.run(None, {"images": images})
        for got, expected in zip(found, network(torch.from_numpy(images)), strict=True):
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("opset", [17, 18])
def test_the_exported_nodes_are_named_by_module_and_the_float_ones_are_the_heads(tmp_path, state, opset):
    model = small_adapter()
    model.export(saved(tmp_path, state), tmp_path / "m.onnx", opset=opset)
    loaded = onnx.load(str(tmp_path / "m.onnx"))
    graph = loaded.graph
    kinds = {node.op_type for node in graph.node}
    assert next(o.version for o in loaded.opset_import if not o.domain) == opset
    assert not kinds & {"BatchNormalization", "TopK", "Sin", "Cos", "ReduceVariance"}
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 64, 64]
    names = {n.name for n in graph.node}
    for name in ("/backbone/stem/stem.0/conv/Conv", "/decoder/decoder/layers.0/linear1/MatMul", "/head/cls/MatMul"):
        assert name in names
    assert sum(n.op_type == "LayerNormalization" for n in graph.node) == 5
    kept = {n.name for n in graph.node if any(re.search(p, n.name) for p in model.spec.float_nodes)}
    for head in ("head/cls", "head/box", "head/log_z", "head/rot6d", "offset_head/offset", "keypoint_head/keypoints"):
        assert f"/{head}/MatMul" in kept
    assert "/k_head/delta/Gemm" in kept
    assert {"/proposals/box/box.1/Conv", "/proposals/cls/cls.1/Conv", "/proposals/Softmax"} <= kept
    assert {"/proposals/box/box.0/conv/Conv", "/proposals/cls/cls.0/conv/Conv"} <= names - kept
    assert not any("linear1" in name or "/conv/" in name for name in kept)


@pytest.mark.parametrize("opset", [16, 21])
def test_an_opset_that_does_not_fit_is_refused_with_what_to_type(tmp_path, state, opset):
    with pytest.raises(ArtifactError, match="--opset 17 to 20"):
        small_adapter().export(saved(tmp_path, state), tmp_path / "m.onnx", opset=opset)


def test_a_graph_that_does_not_reproduce_the_network_is_refused(tmp_path, state):
    pytest.importorskip("onnxruntime", reason="the check runs the graph")
    model = small_adapter()
    model.export(saved(tmp_path, state), tmp_path / "m.onnx")
    for name in ("head.rot6d.bias", "k_head.delta.bias", "keypoint_head.keypoints.bias"):
        network = model.build(saved(tmp_path, state))
        network.get_parameter(name)[0] += 0.01
        with pytest.raises(ArtifactError, match="differs from torch"):
            check_export(network, model.spec, tmp_path / "m.onnx")


def test_a_graph_that_gives_nan_is_refused(tmp_path, state):
    pytest.importorskip("onnxruntime", reason="the check runs the graph")
    model = small_adapter()
    state["head.log_z.bias"][:] = float("nan")
    with pytest.raises(ArtifactError, match="log_z differs from torch by nan"):
        model.export(saved(tmp_path, state), tmp_path / "m.onnx")
