import numpy as np
import onnx
import pytest

from bench.agreement import sqnr_db
from bench.errors import ArtifactError
from bench.precision.simulate import described, simulate
from bench.tests.tiny_onnx import save_tiny, tiny_feeds, tiny_model


def fake_quantised(path, scale):
    """The tiny model with its input rounded to int8 steps of ``scale``."""
    model = tiny_model()
    model.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.float32(scale), "s"), onnx.numpy_helper.from_array(np.int8(0), "z")
    ])  # fmt: skip
    model.graph.node[0].input[0] = "rounded"
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], "q"))
    model.graph.node.insert(1, onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["rounded"], "dq"))
    onnx.save(model, str(path))
    return path


def test_a_qdq_file_computes_in_float_on_rounded_values(tmp_path):
    feeds = tiny_feeds(2)
    got = simulate(fake_quantised(tmp_path / "q.onnx", 1 / 127), feeds)
    rounded = [{"images": np.round(f["images"] * 127).astype(np.float32) / np.float32(127)} for f in feeds]
    want = simulate(save_tiny(tmp_path / "f.onnx"), rounded)
    assert sqnr_db([w["cells"] for w in want], [g["cells"] for g in got]) > 100
    plain = simulate(tmp_path / "f.onnx", feeds)
    assert sqnr_db([w["cells"] for w in plain], [g["cells"] for g in got]) < 90, "rounding must show"


def test_every_rounding_of_the_file_is_done_and_none_is_optimised_away(tmp_path):
    """With its optimisations onnxruntime merges the two roundings: 0.33333 then gives 0.338 instead of 0.299."""
    steps = {"s1": np.float32(0.1), "s2": np.float32(0.013)}
    nodes, name = [], "x"
    for step in steps:
        nodes.append(onnx.helper.make_node("QuantizeLinear", [name, step, "z"], [f"q{step}"]))
        nodes.append(onnx.helper.make_node("DequantizeLinear", [f"q{step}", step, "z"], [f"d{step}"]))
        name = f"d{step}"
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "twice", [onnx.helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [onnx.helper.make_tensor_value_info(name, kind, ["batch", 3])],
        [onnx.numpy_helper.from_array(v, n) for n, v in {**steps, "z": np.int8(0)}.items()],
    )  # fmt: skip
    path = tmp_path / "twice.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(path))
    x = np.array([[1.001, 0.33333, -0.77]], np.float32)
    want = x
    for step in steps.values():
        want = np.clip(np.round(want / step), -128, 127).astype(np.float32) * step
    np.testing.assert_allclose(simulate(path, [{"x": x}])[0][name], want, rtol=1e-6)


def test_one_dictionary_per_feed_with_a_batch_axis_of_one_and_progress(tmp_path):
    seen = []
    found = simulate(save_tiny(tmp_path / "f.onnx"), tiny_feeds(3), progress=lambda done, total: seen.append(done))
    assert [f["cells"].shape for f in found] == [(1, 4, 16, 16)] * 3
    assert found[0]["cells"].dtype == np.float32
    assert seen == [1, 2, 3]


def test_a_fixed_batch_is_filled_by_repeating_the_image(tmp_path):
    feeds = tiny_feeds(1)
    fixed = simulate(save_tiny(tmp_path / "b.onnx", batch=4), feeds)
    free = simulate(save_tiny(tmp_path / "f.onnx"), feeds)
    np.testing.assert_allclose(fixed[0]["cells"], free[0]["cells"], atol=1e-6)


def test_a_file_that_cannot_be_run_this_way_says_so(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ArtifactError, match=r"bad\.onnx: its own arithmetic cannot be run"):
        simulate(path, tiny_feeds(1))
    with pytest.raises(ArtifactError, match="cannot be run"):
        simulate(save_tiny(tmp_path / "f.onnx"), [{"images": np.zeros((1, 3, 9, 9), np.float32)}])


def test_it_is_said_what_ran_it():
    assert described().startswith("onnxruntime ")
    assert "optimisation off" in described()
