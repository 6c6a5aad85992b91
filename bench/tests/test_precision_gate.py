from __future__ import annotations

import numpy as np
import onnx
import pytest

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
