from __future__ import annotations

import numpy as np
import onnx
import pytest

from bench import precision
from bench.errors import ArtifactError
from bench.precision.gate import accept
from bench.tests.tiny_onnx import save_tiny, tiny_feeds, tiny_model

(FEEDS,) = tiny_feeds(1)


def saved(model, path):
    onnx.save(model, str(path))
    return path


def test_a_sound_file_passes(tmp_path):
    accept(save_tiny(tmp_path / "m.onnx"), FEEDS)


def test_unsorted_nodes_are_refused_by_the_checker(tmp_path):
    model = tiny_model()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    with pytest.raises(ArtifactError, match=r"m\.onnx: the ONNX checker refuses it: .*topologically sorted"):
        accept(saved(model, tmp_path / "m.onnx"), FEEDS)


def test_an_operator_that_the_runtime_lacks_is_refused(tmp_path):
    model = tiny_model()
    model.graph.node[-1].domain = "nobody.knows"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    with pytest.raises(ArtifactError, match=r"onnxruntime cannot load it: .*nobody\.knows"):
        accept(saved(model, tmp_path / "m.onnx"), FEEDS)


def test_a_file_that_refuses_the_example_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="loads it but cannot run it"):
        accept(save_tiny(tmp_path / "m.onnx"), {"images": np.zeros((1, 3, 8, 9), np.float32)})
    with pytest.raises(ArtifactError, match="loads it but cannot run it"):
        accept(save_tiny(tmp_path / "m.onnx"), {})


def test_half_inputs_or_outputs_are_refused(tmp_path):
    model = tiny_model()
    model.graph.node[-1].output[0] = "wide"
    model.graph.node.append(onnx.helper.make_node("Cast", ["wide"], ["cells"], name="narrow", to=10))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    with pytest.raises(ArtifactError, match=r"'cells' is tensor\(float16\); inputs and outputs stay float32"):
        accept(saved(model, tmp_path / "m.onnx"), FEEDS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_outputs_are_refused_and_counted(tmp_path, value):
    model = tiny_model()
    model.graph.node[-1].op_type = "Identity"
    weights = onnx.numpy_helper.to_array(model.graph.initializer[2]).copy()
    weights[0] = value
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(weights, "head.weight"))
    with pytest.raises(ArtifactError, match=r"output 'cells' holds \d+ non-finite of 1024 values"):
        accept(saved(model, tmp_path / "m.onnx"), FEEDS)


def test_what_was_checked_and_what_ran_is_handed_back(tmp_path):
    found = accept(save_tiny(tmp_path / "m.onnx"), FEEDS)
    assert "strict shape and type inference with data propagation" in found["passed"]
    assert found["ran_as"].startswith("itself, onnxruntime")
    assert found["refused_by_trt"] == []


def test_shapes_that_contradict_each_other_are_refused_by_strict_inference(tmp_path):
    """The reshape, 4 * 16 * 16 into 7 columns, is wrong only for whoever follows the values of its shape."""
    model = tiny_model(batch=1)
    model.graph.node[-1].output[0] = "wide"
    for name, value in (("one", 1), ("seven", 7), ("rest", -1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.node.extend([
        onnx.helper.make_node("Concat", ["one", "seven", "rest"], ["to"], name="shape", axis=0),
        onnx.helper.make_node("Reshape", ["wide", "to"], ["cells"], name="wrong"),
    ])  # fmt: skip
    value = onnx.helper.make_tensor_value_info("cells", onnx.TensorProto.FLOAT, ["a", "b", "c"])
    model.graph.output[0].CopyFrom(value)
    path = saved(model, tmp_path / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    with pytest.raises(ArtifactError, match=r"m\.onnx: strict shape inference refuses it"):
        accept(path, FEEDS)


def bf16(tmp_path, **options):
    precision.make("bf16", save_tiny(tmp_path / "m.onnx", **options), tmp_path / "b.onnx", feeds=lambda: iter(()))
    return tmp_path / "b.onnx"


def test_a_bf16_graph_runs_widened_and_says_so(tmp_path):
    assert accept(bf16(tmp_path), FEEDS)["ran_as"].startswith("widened to float32 with bf16 roundings")


def test_a_bf16_graph_that_gives_infinity_is_refused_in_its_widened_form(tmp_path):
    path = bf16(tmp_path)
    model = onnx.load(str(path))
    weight = next(t for t in model.graph.initializer if t.name == "head.weight")
    weight.raw_data = (np.full(32, 0x7F80, np.uint16)).tobytes()  # +inf
    node = next(n for n in model.graph.node if n.op_type == "Sigmoid")
    node.op_type = "Identity"
    with pytest.raises(ArtifactError, match="non-finite"):
        accept(saved(model, path), FEEDS)


def test_a_file_without_bf16_is_never_widened(tmp_path):
    model = tiny_model()
    model.graph.node[0].op_type = "ConvTranspose"
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ArtifactError, match="onnxruntime cannot load it"):
        accept(saved(model, tmp_path / "m.onnx"), FEEDS)


@pytest.mark.parametrize("number", [onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE])
def test_other_floating_outputs_are_refused_too(tmp_path, number):
    model = tiny_model(opset=22)
    model.graph.node[-1].output[0] = "wide"
    model.graph.node.append(onnx.helper.make_node("Cast", ["wide"], ["cells"], name="narrow", to=number))
    model.graph.output[0].type.tensor_type.elem_type = number
    with pytest.raises(ArtifactError, match=r"'cells' is tensor\((bfloat16|double)\); inputs and outputs stay float32"):
        accept(saved(model, tmp_path / "m.onnx"), FEEDS)
