"""bf16 graphs, and the widened form in which a runtime without bf16 kernels runs them."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from bench import precision
from bench.artifacts import Store
from bench.attest import mismatch
from bench.backends import onnxrt, openvino
from bench.errors import ArtifactError, ContractError, InputError
from bench.precision import widen as widening
from bench.precision.bf16 import LARGEST, convert_bf16, to_bfloat16
from bench.precision.fp16 import convert_fp16
from bench.precision.options import Conversion
from bench.precision.session import load_session
from bench.precision.simulate import simulate
from bench.precision.widen import count_roundings, widen
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs
from bench.tests.half_graphs import WEIGHTS, f32, feed, graph, nodes, run, sqnr_db, stored, types

CONV = ("Conv x w -> a", {"pads": [1] * 4})
ONE = feed()


def convert(source, tmp_path, **options):
    out = tmp_path / "bf16.onnx"
    return out, precision.make("bf16", source, out, feeds=lambda: iter((ONE,)), options=Conversion(**options))


def rounded(values):
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def bits(values):
    """Exact float32 values of bf16 have sixteen zero bits."""
    return np.asarray(values, np.float32).view(np.uint32) & 0xFFFF


def test_the_opset_is_raised_and_ends_stay_float(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS}, opset=13)
    out, recipe = convert(source, tmp_path)
    assert (recipe["opset_of_source"], recipe["opset"]) == (13, 22)
    assert recipe["compute_nodes"] == {"bf16": 1}
    assert recipe["gates"]["ran_as"].startswith("widened to float32 with bf16 roundings")
    found = types(out)
    assert (found["x"], found["y"], found["a"], stored(out)["w"]) == ("FLOAT", "FLOAT", "BFLOAT16", "BFLOAT16")
    assert "FLOAT16" not in found.values()
    assert not any("fp16" in name for name in (*found, *nodes(out)))


def test_an_opset_that_cannot_be_raised_is_refused_with_the_reason(tmp_path, monkeypatch):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})

    def refuse(model, opset):
        raise onnx.version_converter.ConvertError("No Adapter From Version $17 for Relu\nsecond line")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(ArtifactError) as caught:
        convert_bf16(source, tmp_path / "out.onnx")
    assert str(caught.value).endswith(
        "m.onnx: opset 17 cannot be raised to 22 (convolutions take bfloat16 only from there on): No Adapter From "
        "Version $17 for Relu. Export the model with opset 22, or use fp16"
    )


def test_weights_come_from_the_float_ones_and_not_from_clamped_halves(tmp_path):
    values = f32(1e6, 1e-9, -3e38, np.finfo(np.float32).max, -np.inf, 1 + 2**-9).reshape(1, 6, 1, 1)
    source = graph(tmp_path / "m.onnx", "Add x k -> y", weights={"k": values}, shape=("batch", 6, 8, 8))
    out = tmp_path / "out.onnx"
    recipe = convert_bf16(source, out)
    tensor = next(t for t in onnx.load(str(out)).graph.initializer if t.name == "k")
    got = onnx.numpy_helper.to_array(tensor).astype(np.float32).ravel()
    np.testing.assert_array_equal(got[[0, 1, 2, 4, 5]], rounded(values.ravel()[[0, 1, 2, 4, 5]]))
    assert got[3] == np.float32(LARGEST)
    assert recipe["clamped_weights"] == {"k": {"beyond": 1}}


@given(hnp.arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)))
def test_rounding_is_to_nearest_even_and_keeps_finite_values_finite(values):
    got = to_bfloat16(values).astype(np.float32)
    assert not bits(got[np.isfinite(got)]).any()
    inside = np.abs(values) <= LARGEST
    np.testing.assert_array_equal(got[inside], rounded(values[inside]))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(values))


def test_fills_and_dtypes_are_retyped(tmp_path):
    fill = onnx.numpy_helper.from_array(f32(1e-9))
    lines = (CONV, "Shape a -> s", ("ConstantOfShape s -> c", {"value": fill}), "Add a c -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS})
    out, _ = convert(source, tmp_path)
    value = onnx.numpy_helper.to_array(nodes(out)["n_c"].attribute[0].t)
    assert value.astype(np.float32) == rounded(1e-9)


def test_an_operator_without_bfloat16_stays_float(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, ("Einsum a -> y", {"equation": "bchw->bchw"}), weights={"w": WEIGHTS})
    _, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {"ONNX has no bfloat16 for it": {"Einsum": 1}}


def test_excluded_nodes_compute_in_float(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> b", "Sigmoid b -> y", weights={"w": WEIGHTS})
    out, recipe = convert(source, tmp_path, exclude=("^n_a$",))
    assert recipe["compute_nodes"] == {"fp32": 1}
    assert stored(out)["w"] == "FLOAT"
    assert not any("fp16" in name for name in (*types(out), *nodes(out)))


def test_the_head_and_all_that_follows_it_stay_in_float(tmp_path):
    source = graph(tmp_path / "m.onnx", *LINES, weights={"w": WEIGHTS, "k": f32(0.3)})
    out = tmp_path / "out.onnx"
    recipe = precision.make("bf16", source, out, feeds=lambda: iter((ONE,)), float_nodes=["^n_d$"])
    assert recipe["nodes_left_in_float"] == {"head of the model": {"Conv": 1, "Sigmoid": 1}}
    assert (types(out)["c"], types(out)[nodes(out)["n_d"].output[0]]) == ("BFLOAT16", "FLOAT")
    with pytest.raises(ContractError, match="none of 'nowhere' matches"):
        convert_bf16(source, out, float_nodes=["nowhere"])
    assert "head of the model" not in convert_fp16(source, out)["nodes_left_in_float"]


def test_a_grid_sampled_at_opset_22_is_refused_for_tensorrt_by_name(tmp_path):
    lines = (CONV, ("GridSample a g -> y", {}))
    grid = np.zeros((1, 8, 8, 2), np.float32)
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS, "g": grid}, shape=(1, 4, 8, 8))
    _, recipe = convert(source, tmp_path)
    assert len(recipe["gates"]["refused_by_trt"]) == 1
    assert "GridSample at opset 22 ('n_y')" in recipe["gates"]["refused_by_trt"][0]


LINES = (CONV, "Mul a k -> b", "Relu b -> c", ("Conv c w -> d", {"pads": [1] * 4}), "Sigmoid d -> y")


def widened(tmp_path, *lines, **options):
    source = graph(tmp_path / "m.onnx", *(lines or LINES), **{"weights": {"w": WEIGHTS, "k": f32(0.3)}, **options})
    out, _ = convert(source, tmp_path)
    return source, out, tmp_path / "wide.onnx"


def test_every_computed_tensor_of_the_widened_graph_holds_bf16_values_in_float32(tmp_path):
    source, half, wide = widened(tmp_path)
    recipe = widen(half, wide)
    assert recipe["roundings"] == recipe["roundings_after_optimisation"] == 5  # x, a, b, d and y before it is widened
    model = onnx.load(str(wide))
    names = ("graph_input_cast_0", *"abcd")
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    onnx.save(model, str(tmp_path / "probed.onnx"))
    session = load_session(tmp_path / "probed.onnx")
    values = dict(zip((o.name for o in session.get_outputs()), session.run(None, ONE), strict=True))
    assert all(value.dtype == np.float32 and not bits(value).any() for value in values.values())
    np.testing.assert_array_equal(values["graph_input_cast_0"], rounded(ONE["x"]))
    np.testing.assert_array_equal(values["b"], rounded(values["a"] * rounded(0.3)))
    np.testing.assert_array_equal(values["y"], rounded(1 / (1 + np.exp(-values["d"].astype(np.float64)))))
    assert 30 < sqnr_db(values["y"], run(source, ONE)) < 60


def test_onnxruntimes_cast_to_bfloat16_rounds_to_nearest_even(tmp_path):
    """2**-8 is half a step at 1: 1.00390625 is a tie and goes down to 1, 1.01171875 a tie that goes up."""
    source, out = graph(tmp_path / "m.onnx", "Mul x one -> y", weights={"one": f32(1)}, shape=(1, 4)), tmp_path / "b"
    convert_bf16(source, out)
    widen(out, tmp_path / "wide.onnx")
    values = {"x": f32(1.00390625, 1.01171875, 1.004, -1.00390625).reshape(1, 4)}
    np.testing.assert_array_equal(run(tmp_path / "wide.onnx", values), rounded(values["x"]))


def test_nothing_is_rounded_where_values_only_move(tmp_path):
    lines = (CONV, "Relu a -> b", ("MaxPool b -> c", {"kernel_shape": [2, 2]}), ("Concat c c -> y", {"axis": 1}))
    _, half, wide = widened(tmp_path, *lines, weights={"w": WEIGHTS}, out_shape=("batch", 8, 7, 7))
    assert widen(half, wide)["roundings"] == 2  # x and a


def test_the_weights_of_the_widened_file_stay_bfloat16(tmp_path):
    _, half, wide = widened(tmp_path)
    widen(half, wide)
    assert set(stored(wide).values()) == {"BFLOAT16"}
    onnx.checker.check_model(str(wide), full_check=True)


def test_a_widened_graph_that_loses_its_roundings_is_refused(tmp_path, monkeypatch):
    _, half, wide = widened(tmp_path)
    plain, _ = widening.widened(onnx.load(str(half)), where=half, rounding=False)
    widen(half, wide)
    monkeypatch.setattr(widening, "optimised", lambda path: plain)
    with pytest.raises(
        ArtifactError, match=r"leaves 0 of 5 roundings to bf16 .* 2 products lost theirs: what it would"
    ):
        widen(half, wide)


def test_a_rounding_that_vanished_into_a_fused_operator_is_noticed(tmp_path, monkeypatch):
    _, half, wide = widened(tmp_path)
    widen(half, wide)
    runs = widening.optimised(wide)
    gone = next(n for n in runs.graph.node if n.op_type == "Cast" and n.input[0] == "b_wide")
    runs.graph.node.remove(gone)
    next(n for n in runs.graph.node if n.op_type == "Sigmoid").op_type = "QuickGelu"
    monkeypatch.setattr(widening, "optimised", lambda path: runs)
    with pytest.raises(ArtifactError, match=r"leaves 4 of 5 roundings .* it fused QuickGelu"):
        widen(half, wide)


def test_what_is_left_in_float_may_be_fused(tmp_path):
    lines = (CONV, "Sigmoid a -> b", "Sigmoid b -> c", "Mul b c -> d", "Neg d -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS})
    half, _ = convert(source, tmp_path, exclude=("^n_[cdy]$",))
    assert widen(half, tmp_path / "wide.onnx")["roundings"] == 3  # x, a, b
    assert "QuickGelu" in {node.op_type for node in widening.optimised(tmp_path / "wide.onnx").graph.node}


def test_two_roundings_in_a_row_may_become_one(tmp_path):
    """Behind a product with 1, which the optimiser drops: fewer, and still right."""
    _, half, wide = widened(tmp_path, CONV, "Mul a one -> y", weights={"w": WEIGHTS, "one": f32(1)})
    recipe = widen(half, wide)
    assert (recipe["roundings"], recipe["roundings_after_optimisation"]) == (3, 2)
    assert count_roundings(onnx.load(str(wide))) == 3


def test_what_is_not_bf16_is_not_widened(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})
    with pytest.raises(ArtifactError, match="labelled bf16 and holds no bfloat16"):
        widen(source, tmp_path / "wide.onnx")
    source.write_bytes(source.read_bytes()[:100])
    with pytest.raises(InputError, match="not a complete ONNX file"):
        widen(source, tmp_path / "wide.onnx")


def test_the_own_arithmetic_of_a_bf16_file_is_that_of_its_widened_form(tmp_path):
    _, half, wide = widened(tmp_path)
    widen(half, wide)
    (own,) = simulate(half, iter([ONE]))
    np.testing.assert_array_equal(own["y"], simulate(wide, iter([ONE]))[0]["y"])
    assert 30 < sqnr_db(own["y"], run(tmp_path / "m.onnx", ONE)) < 60


@pytest.fixture
def artifact(tmp_path):
    made = contract_artifact("onnx", tmp_path)
    out = tmp_path / "contract-bf16.onnx"
    precision.make("bf16", made.path, out, feeds=lambda: iter(()))
    return replace(made, path=out, precision="bf16", sha256="b" * 64)


def opened(backend, artifact, tmp_path):
    cell = contract_cell(backend.name, precision="bf16")
    prepared = backend.prepare(artifact, cell, Store(tmp_path / "store"))
    return cell, prepared, backend.open(prepared, cell, threads=1)


def test_onnxruntime_runs_bf16_emulated_and_the_label_is_borne_out(artifact, tmp_path):
    assert onnxrt.backend.require("cpu", "bf16") == "emulated"
    cell, prepared, runner = opened(onnxrt.backend, artifact, tmp_path)
    with runner:
        evidence, got = runner.attest(), runner.run(contract_feeds(4))
    assert (evidence.precision, evidence.emulated, mismatch(cell, "emulated", evidence)) == ("fp32", True, None)
    assert (prepared.made_from, prepared.precision) == (artifact.sha256, "bf16")
    assert prepared.recipe["roundings_after_optimisation"] == prepared.recipe["roundings"] > 0
    expected = contract_outputs(contract_feeds(4))["maps"]
    assert 35 < sqnr_db(got["maps"], expected) < 60


def test_the_widened_file_is_made_once(artifact, tmp_path):
    cell, store = contract_cell("onnxrt", precision="bf16"), Store(tmp_path / "store")
    first, second = (onnxrt.backend.prepare(artifact, cell, store) for _ in range(2))
    assert first.path == second.path
    assert onnxrt.backend.prepare(artifact, contract_cell("onnxrt"), store) is artifact


def test_openvino_computes_in_bf16_where_the_processor_does(artifact, tmp_path):
    mode = openvino.backend.require("cpu", "bf16")
    capable = "BF16" in openvino.backend._capabilities()
    assert mode == ("native" if capable else "emulated")
    cell, prepared, runner = opened(openvino.backend, artifact, tmp_path)
    with runner:
        evidence, got = runner.attest(), runner.run(contract_feeds(4))
    assert prepared is artifact
    assert mismatch(cell, mode, evidence) is None
    assert evidence.precision == ("bf16" if capable else "fp32")
    assert 35 < sqnr_db(got["maps"], contract_outputs(contract_feeds(4))["maps"]) < 60


def test_an_fp32_graph_behind_a_bf16_label_is_found_out(tmp_path):
    made = replace(contract_artifact("onnx", tmp_path), precision="bf16")
    cell = contract_cell("openvino", precision="bf16")
    with openvino.backend.open(made, cell, threads=1) as runner:
        evidence = runner.attest()
    assert mismatch(cell, openvino.backend.require("cpu", "bf16"), evidence) is not None
    with pytest.raises(ArtifactError, match="holds no bfloat16"):
        onnxrt.backend.prepare(made, contract_cell("onnxrt", precision="bf16"), Store(tmp_path / "store"))


def test_openvino_leaves_in_float_what_the_file_leaves_in_float(tmp_path):
    if "BF16" not in openvino.backend._capabilities():
        pytest.skip("this processor has no bf16 arithmetic")
    lines = (CONV, "Relu a -> b", ("Conv b v -> c", {"pads": [1] * 4}), "Relu c -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS, "v": WEIGHTS + 1})
    out, _ = convert(source, tmp_path, exclude=("^n_[cy]$",))
    base = contract_artifact("onnx", tmp_path)
    specs = [replace(base.inputs[0], name=name, shape=("batch", 4, 8, 8)) for name in "xy"]
    made = replace(base, path=out, precision="bf16", inputs=(specs[0],), outputs=(specs[1],))
    with openvino.backend.open(made, contract_cell("openvino", precision="bf16"), threads=1) as runner:
        assert runner.attest().details["compute_nodes"] == {"bf16": 1, "f32": 1}
