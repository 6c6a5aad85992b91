"""The adapter keeps its contract: spec, strict weights, export."""

import json
import re
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from adapters._shared.synthetic import make_image
from adapters.yolov10 import YoloV10Adapter, adapter, adapter_b, adapter_s, make_spec
from adapters.yolov10.model import YoloV10
from adapters.yolov10.names import COCO_NAMES, SHAPES_NAMES
from adapters.yolov10.variants import ONE2MANY_PREFIXES
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
    return YoloV10Adapter(make_spec("n", (64, 64), SHAPES_NAMES, "shapes"), "n")


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
    assert str(adapter_s.spec.outputs[1]) == "scores float32 (batch, 80, 8400)"
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


def test_other_classes_are_refused_by_the_plain_adapter(tmp_path):
    torch.save(YoloV10("n", 80).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="have 80 classes, yolov10n has 8"):
        adapter.build(tmp_path / "w.pt")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="not a YOLOv10 state dict"):
        adapter.build(tmp_path / "w.pt")


def save(network, path, facts=None):
    """Weights with facts in either form of file."""
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={"parity": json.dumps(facts)} if facts is not None else None)
    else:
        torch.save({"model": state, **({"parity": facts} if facts is not None else {})}, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_the_facts_beside_the_weights_decide_classes_and_size(tmp_path, suffix):
    facts = {"class_names": ["fox", "owl", "elk"], "image_size": [96, 160], "config": {"fixtures": "animals"}}
    path = save(YoloV10("n", 3), tmp_path / f"w{suffix}", facts)
    fitted = adapter.fitted(path)
    assert (fitted.spec.name, fitted.spec.class_names, fitted.spec.image_hw) == (
        "yolov10n",
        ("fox", "owl", "elk"),
        (96, 160),
    )
    assert [t.shape for t in fitted.spec.inputs] == [("batch", 3, 96, 160)]
    anchors = 12 * 20 + 6 * 10 + 3 * 5
    assert [t.shape for t in fitted.spec.outputs] == [("batch", 4, anchors), ("batch", 3, anchors)]
    feeds, _ = fitted.preprocess(np.zeros((50, 80, 3), np.uint8))
    boxes, scores = fitted.build(path)(torch.from_numpy(feeds["images"]))
    assert (tuple(boxes.shape), tuple(scores.shape)) == ((1, 4, anchors), (1, 3, anchors))
    assert fitted.spec.default_weights == path
    assert fitted.spec.default_fixtures == "animals"
    assert fitted.spec.preprocess_goldens is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_80_classes_without_facts_are_those_of_coco_at_640_px(tmp_path, suffix):
    spec = adapter.fitted(save(YoloV10("n", 80), tmp_path / f"w{suffix}")).spec
    assert (spec.name, spec.class_names, spec.image_hw, spec.default_fixtures) == (
        "yolov10n",
        COCO_NAMES,
        (640, 640),
        "coco128",
    )
    sized = adapter.fitted(save(YoloV10("n", 80), tmp_path / f"v{suffix}", {"image_size": [320, 320]})).spec
    assert (sized.class_names, sized.image_hw) == (COCO_NAMES, (320, 320))


def test_as_many_classes_as_the_registered_model_are_its_own(tmp_path):
    assert adapter.fitted(save(YoloV10("n", 8), tmp_path / "w.pt")) is adapter
    assert adapter.fitted(adapter.spec.default_weights) is adapter
    assert adapter_s.fitted(save(YoloV10("s", 80), tmp_path / "v.pt")) is adapter_s


def test_other_classes_without_names_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"have 5 classes and do not say which.*parity train.*metadata="):
        adapter.fitted(save(YoloV10("n", 5), tmp_path / "w.safetensors"))


def test_names_that_are_not_as_many_as_the_classes_are_refused(tmp_path):
    path = save(YoloV10("n", 5), tmp_path / "w.safetensors", {"class_names": ["fox"]})
    with pytest.raises(InputError, match="name 1 classes and have 5"):
        adapter.fitted(path)


def test_a_size_that_the_strides_do_not_divide_is_refused(tmp_path):
    path = save(YoloV10("n", 1), tmp_path / "w.safetensors", {"class_names": ["fox"], "image_size": [100, 96]})
    with pytest.raises(InputError, match="image_size 100 x 96 is no multiple of 32"):
        adapter.fitted(path)


@pytest.mark.parametrize("method", ["fitted", "build"])
def test_weights_of_another_variant_are_refused_by_name(tmp_path, method):
    with torch.device("meta"):
        states = {v: YoloV10(v, 80).state_dict() for v in "sl"}
    for variant, other in (("s", adapter), ("l", adapter_b)):
        path = tmp_path / f"{variant}.pt"
        torch.save({k: torch.zeros((), dtype=torch.float16).expand(v.shape) for k, v in states[variant].items()}, path)
        with pytest.raises(
            InputError, match=rf"belong to yolov10{variant}, not to {other.spec.name}\. Type: --models yolov10{variant}"
        ):
            getattr(other, method)(path)


def test_weights_whose_batch_norms_were_folded_are_refused(tmp_path, state):
    folded = {k: v for k, v in state.items() if ".bn." not in k}
    folded["model.0.conv.bias"] = torch.zeros(16)
    save_file(folded, tmp_path / "w.safetensors")
    for method in (adapter.fitted, adapter.build):
        with pytest.raises(InputError, match="save the state dict before fusing"):
            method(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("longer", "hint"), [("model.", "carry the prefix 'model.'"), ("", "lack the leading 'model.'")]
)
def test_a_prefix_too_many_or_too_few_is_named(tmp_path, state, longer, hint):
    save_file(
        {longer + k if longer else k.removeprefix("model."): v for k, v in state.items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(InputError, match=hint):
        adapter.fitted(tmp_path / "w.safetensors")


def test_counters_that_nothing_reads_may_be_absent_but_not_in_part(tmp_path, state):
    without = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(without, tmp_path / "w.safetensors")
    save_file(state, tmp_path / "v.safetensors")
    one, other = (adapter.build(tmp_path / f"{name}.safetensors") for name in "wv")
    images = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(one(images), other(images), strict=True))
    save_file({**without, "model.0.bn.num_batches_tracked": torch.tensor(0)}, tmp_path / "u.safetensors")
    with pytest.raises(InputError, match="num_batches_tracked"):
        adapter.build(tmp_path / "u.safetensors")


def test_an_onnx_file_with_facts_decides_and_one_without_changes_nothing(tmp_path):
    graph = onnx.helper.make_graph([], "empty", [], [])
    model = onnx.helper.make_model(graph)
    onnx.save(model, tmp_path / "plain.onnx")
    assert adapter.fitted(tmp_path / "plain.onnx") is adapter
    onnx.helper.set_model_props(model, {"parity": json.dumps({"class_names": ["fox"], "image_size": [64, 96]})})
    onnx.save(model, tmp_path / "m.onnx")
    spec = adapter.fitted(tmp_path / "m.onnx").spec
    assert (spec.class_names, spec.image_hw) == (("fox",), (64, 96))
    onnx.helper.set_model_props(model, {"parity": json.dumps({"class_names": ["fox"], "model": "yolov10s"})})
    onnx.save(model, tmp_path / "s.onnx")
    with pytest.raises(InputError, match=r"are of yolov10s, not of yolov10n\. Type: --models yolov10s"):
        adapter.fitted(tmp_path / "s.onnx")


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
    assert len(convolutions) == 6
    assert "/model.23/dfl/MatMul" in {n.name for n in kept}
    assert {"Softmax", "Sigmoid", "Concat"} <= {n.op_type for n in kept}
    assert all(n.name.startswith("/model.23/") for n in kept)
    assert sum(n.op_type == "Conv" for n in graph.node) > 70


def test_the_exported_graph_has_no_superfluous_nodes(tmp_path, trained, small):
    """A ceiling per kind: what comes on top is time in every runtime."""
    save_weights(trained, tmp_path / "w.safetensors")
    small.export(tmp_path / "w.safetensors", tmp_path / "m.onnx")
    kinds = Counter(node.op_type for node in onnx.load(str(tmp_path / "m.onnx")).graph.node)
    assert kinds["Conv"] == 82, "the 3x3 beside the 7x7 is part of it, the expectation over bins is a product"
    assert kinds["Transpose"] == 2, "query and weights of the attention, which runtimes fold into their products"
    assert (kinds["Reshape"], kinds["Concat"], kinds["Split"]) == (11, 17, 11)
    assert kinds.total() - kinds["Constant"] - kinds["Identity"] == 288


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


def test_a_graph_of_a_noisy_network_may_round_as_much_more_but_not_compute_something_else(tmp_path):
    """Synthetic weights at full size: torch itself rounds by more than the absolute limits."""
    from adapters.yolov10.export import BOX_TOLERANCE_PX, check_export
    from adapters.yolov10.tests.synthetic_networks import filled

    network = filled("n", 8, 2.0)
    save_weights(network, tmp_path / "w.safetensors")
    model = YoloV10Adapter(make_spec("n", (192, 192), SHAPES_NAMES, "shapes"), "n")
    recipe = model.export(tmp_path / "w.safetensors", tmp_path / "m.onnx")
    assert recipe["check"]["max_abs_box_px"] > BOX_TOLERANCE_PX
    network.model[22].cv2.bn.bias += 0.1
    network.head.drop_one2many()
    with pytest.raises(ArtifactError, match="differs from torch"):
        check_export(network, model.spec, tmp_path / "m.onnx")
