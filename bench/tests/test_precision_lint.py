"""Rules that say why TensorRT would refuse or misread a file."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bench import precision
from bench.commands import export
from bench.errors import InputError, UsageError
from bench.precision.lint import MAX_OPSETS, lint
from bench.precision.qdq import insert_qdq
from bench.tests.half_graphs import WEIGHTS, feed, graph
from bench.tests.tiny_onnx import save_tiny, tiny_model

CONV = ("Conv x w -> a", {"pads": [1] * 4})


def sampled(tmp_path, opset):
    grid = np.zeros((1, 8, 8, 2), np.float32)
    return graph(tmp_path / "m.onnx", "GridSample x g -> y", weights={"g": grid}, shape=(1, 4, 8, 8), opset=opset)


def test_a_float_graph_and_its_fp16_form_have_nothing_against_them(tmp_path):
    source, out = save_tiny(tmp_path / "fp32.onnx"), tmp_path / "fp16.onnx"
    precision.make("fp16", source, out, feeds=lambda: iter(()))
    assert lint(source, runtime="trt") == lint(out, runtime="trt") == []


@pytest.mark.parametrize("opset", [16, 18, 19])
def test_grid_sample_is_taken_up_to_opset_19(tmp_path, opset):
    assert lint(sampled(tmp_path, opset), runtime="trt") == []


@pytest.mark.parametrize("opset", [20, 22])
def test_grid_sample_from_opset_20_is_refused_with_reason_and_remedy(tmp_path, opset):
    (reason,) = lint(sampled(tmp_path, opset), runtime="trt")
    assert reason == (
        f"GridSample at opset {opset} ('n_y'): TensorRT samples the nearest value instead of interpolating, without a "
        "message (TensorRT #4646). Export with an opset up to 18"
    )


def test_grid_sample_inside_a_subgraph_is_found(tmp_path):
    branch = helper.make_graph([helper.make_node("GridSample", ["x", "g"], ["t"], "inside")], "branch", [],
                               [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)])  # fmt: skip
    source = graph(tmp_path / "m.onnx", ("If yes -> y", {"then_branch": branch, "else_branch": branch}), opset=20,
                   weights={"yes": np.array(True), "g": np.zeros((1, 8, 8, 2), np.float32)})  # fmt: skip
    assert "'inside', 'inside'" in lint(source, runtime="trt")[0]


@pytest.mark.parametrize("opset", [8, 26])
def test_an_opset_outside_the_documented_range_is_refused(tmp_path, opset):
    source = graph(tmp_path / "m.onnx", "Relu x -> y", opset=opset)
    (reason,) = lint(source, runtime="trt")
    assert reason.startswith(f"opset {opset}: TensorRT 11 is documented for opsets 9 to {MAX_OPSETS[11]}. Export")


def test_the_highest_opset_depends_on_the_version(tmp_path):
    source = graph(tmp_path / "m.onnx", "Relu x -> y", opset=23)
    assert lint(source, runtime="trt", version="11.4.0.106") == []
    (reason,) = lint(source, runtime="trt", version="10.16.1.11")
    assert "TensorRT 10 is documented for opsets 9 to 22" in reason
    assert lint(source, runtime="trt", version="12.0") == []
    for unknown in ("7.2", "newest"):
        with pytest.raises(UsageError, match=rf"TensorRT {unknown}: the rules know 8 to 11"):
            lint(source, runtime="trt", version=unknown)


AMAX = {name: 3.0 for name in ("images", "b", "d", "e")}


@pytest.mark.parametrize(("activations", "refused"), [("int8", False), ("uint8", True)])
def test_symmetric_int8_is_taken_and_uint8_is_not(tmp_path, activations, refused):
    onnx.save(insert_qdq(tiny_model(), AMAX, activations=activations), str(tmp_path / "q.onnx"))
    found = lint(tmp_path / "q.onnx", runtime="trt")
    assert bool(found) == refused
    assert all("zero point other than a signed 0" in reason and "--activations int8" in reason for reason in found)


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(0), np.uint8(128), None])
def test_every_other_zero_point_is_refused(tmp_path, zero):
    weights = {"s": np.float32(0.1), **({} if zero is None else {"z": zero})}
    z = "" if zero is None else " z"
    source = graph(tmp_path / "m.onnx", f"QuantizeLinear x s{z} -> q", f"DequantizeLinear q s{z} -> y", weights=weights)
    (reason,) = lint(source, runtime="trt")
    assert "'n_q'" in reason


def test_a_zero_point_that_the_graph_computes_is_not_believed(tmp_path):
    lines = (("Cast k -> z", {"to": TensorProto.INT8}), "QuantizeLinear x s z -> q", "DequantizeLinear q s z -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"s": np.float32(0.1), "k": np.float32(0)})
    assert "('n_q', 'n_y')" in lint(source, runtime="trt")[0]


def test_zero_points_in_constants_are_read(tmp_path):
    zero = onnx.numpy_helper.from_array(np.int8(0))
    lines = (("Constant -> z", {"value": zero}), "QuantizeLinear x s z -> q", "DequantizeLinear q s z -> y")
    assert lint(graph(tmp_path / "m.onnx", *lines, weights={"s": np.float32(0.1)}), runtime="trt") == []


def test_quantised_operators_are_refused(tmp_path):
    source = graph(tmp_path / "m.onnx", "DynamicQuantizeLinear x -> q s z", "DequantizeLinear q s z -> y")
    assert any(r.startswith("DynamicQuantizeLinear ('n_q'): TensorRT takes") for r in lint(source, runtime="trt"))


def test_an_int32_bias_is_refused(tmp_path):
    weights = {"w": WEIGHTS, "b": np.array([1, 2, 3, 4], np.int32), "s": np.float32(0.1)}
    lines = ("DequantizeLinear b s -> f", ("Conv x w f -> y", {"pads": [1] * 4}))
    (reason,) = lint(graph(tmp_path / "m.onnx", *lines, weights=weights), runtime="trt")
    assert reason.startswith("int32 bias behind a DequantizeLinear ('n_f')")


@pytest.mark.parametrize("name", ["FLOAT16", "DOUBLE", "BFLOAT16"])
def test_inputs_and_outputs_that_are_not_float32_are_refused(tmp_path, name):
    def retype(model):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.DataType.Value(name)

    found = lint(graph(tmp_path / "m.onnx", "Relu x -> y", edit=retype, opset=22), runtime="trt")
    assert [reason.split(" is ")[0] for reason in found] == ["input 'x'", "output 'y'"]


def test_many_nodes_are_counted_and_three_are_named(tmp_path):
    lines = [f"GridSample {'x' if i == 0 else f'v{i - 1}'} g -> {'y' if i == 5 else f'v{i}'}" for i in range(6)]
    grid = np.zeros((1, 8, 8, 2), np.float32)
    source = graph(tmp_path / "m.onnx", *lines, weights={"g": grid}, shape=(1, 4, 8, 8), opset=20)
    assert "('n_v0', 'n_v1', 'n_v2' and 3 more)" in lint(source, runtime="trt")[0]


def test_other_runtimes_have_no_rules_and_a_broken_file_is_the_users_error(tmp_path):
    source = sampled(tmp_path, 20)
    assert lint(source, runtime=None) == lint(source, runtime="onnxrt") == []
    source.write_bytes(b"\xff" * 30)
    with pytest.raises(InputError, match=r"m\.onnx"):
        lint(source, runtime="trt")


def test_the_reasons_are_part_of_an_artefacts_recipe(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, ("GridSample a g -> y", {}), shape=(1, 4, 8, 8), opset=20,
                   weights={"w": WEIGHTS, "g": np.zeros((1, 8, 8, 2), np.float32)})  # fmt: skip
    recipe = precision.make("fp16", source, tmp_path / "out.onnx", feeds=lambda: iter((feed(),)))
    assert "GridSample at opset 20" in recipe["gates"]["refused_by_trt"][0]


def test_parity_export_says_what_tensorrt_would_refuse(tmp_path, monkeypatch, capsys):
    made = SimpleNamespace(
        path=save_tiny(tmp_path / "made.onnx"), precision="bf16", sha256="ab" * 32,
        recipe={"gates": {"refused_by_trt": ["GridSample at opset 22"]}},
    )  # fmt: skip
    monkeypatch.setattr(export, "make_plans", lambda *args, **options: [SimpleNamespace()])
    monkeypatch.setattr(export, "Maker", lambda *args, **options: SimpleNamespace(artifact=lambda kind, name: made))
    options = {"models": "yolov10n", "precisions": "bf16"}
    assert export.export_command(options, out=tmp_path / "out.onnx") == 0
    assert "TensorRT would refuse this file: GridSample at opset 22." in capsys.readouterr().err
    assert (tmp_path / "out.onnx").read_bytes() == made.path.read_bytes()
