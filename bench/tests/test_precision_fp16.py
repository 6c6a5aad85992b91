"""fp16 graphs: each known defect of the converter has a graph that shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bench import precision
from bench.errors import ArtifactError, InputError, UsageError
from bench.precision.fp16 import convert_fp16
from bench.precision.gate import accept
from bench.precision.onnxfile import check_against
from bench.precision.options import Conversion
from bench.tests.half_graphs import WEIGHTS, f32, feed, graph, nodes, run, sqnr_db, stored, types
from bench.tests.tiny_onnx import SPEC, save_tiny, tiny_feeds, tiny_model

CONV = ("Conv x w -> a", {"pads": [1] * 4})
ONE = feed()


def convert(source, tmp_path, *, feeds=(ONE,), **options):
    """Convert through the dispatch, which runs the gate as well."""
    out = tmp_path / "fp16.onnx"
    recipe = precision.make("fp16", source, out, feeds=lambda: iter(feeds), options=Conversion(**options))
    return out, recipe


def refused_by_checker(model, match):
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError), match=match):
        onnx.checker.check_model(model, full_check=True)


def raw(path, **options):
    """What the converter gives without any repair."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load(str(path)), keep_io_types=True, **options)


def test_an_artefact_is_accepted_keeps_its_ends_and_stays_close_to_its_source(tmp_path):
    source, out = save_tiny(tmp_path / "fp32.onnx"), tmp_path / "out.onnx"
    feeds = tiny_feeds(4)
    recipe = precision.make("fp16", source, out, feeds=lambda: iter(feeds))
    assert check_against(SPEC, out) == (SPEC.inputs, SPEC.outputs)
    from bench.precision.session import load_session

    expected, got = (load_session(path).run(None, feeds[0])[0] for path in (source, out))
    assert 55 < sqnr_db(got, expected) < 100
    assert recipe["compute_nodes"] == {"fp16": 3}
    assert recipe["overflow_scan"]["images"] == 4
    assert recipe["gates"]["ran_as"].startswith("itself")
    assert stored(out)["body.weight"] == "FLOAT16"


def test_unsorted_nodes_are_sorted(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})
    refused_by_checker(raw(source), "topologically sorted")
    out, _ = convert(source, tmp_path)
    onnx.checker.check_model(str(out), full_check=True)


def test_a_cast_to_float_that_was_there_before_stays_consistent(tmp_path):
    lines = (CONV, "Shape a -> s", "ReduceProd s -> p", ("Cast p -> n", {"to": TensorProto.FLOAT}), "Div a n -> y")
    lines = (*lines[:2], ("ReduceProd s -> p", {"keepdims": 0}), *lines[3:])
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS})
    out, _ = convert(source, tmp_path)
    assert sqnr_db(run(out, ONE), run(source, ONE)) > 55


def test_an_integer_that_only_float_nodes_read_never_passes_through_fp16(tmp_path):
    """Max stays in float; 2051 has no fp16 value, and the converter casts it to fp16 and back."""
    lines = (("Cast k -> n", {"to": TensorProto.FLOAT}), CONV, "Max a n -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS, "k": np.array([2051], np.int64)})
    out, _ = convert(source, tmp_path)
    assert np.all(run(out, ONE) == 2051)
    damaged = tmp_path / "raw.onnx"
    onnx.save(raw(source), str(damaged))
    assert not np.all(run(damaged, ONE) == 2051)


RESIZE = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("roi", [np.zeros(0, np.float32), np.zeros(8, np.float32)])
def test_resize_gets_no_fp16_roi_and_keeps_exact_scales(tmp_path, roi, opset):
    constant = onnx.numpy_helper.from_array(f32(1, 1, 1.3, 1.3))
    source = graph(
        tmp_path / "m.onnx", ("Constant -> scales", {"value": constant}), CONV,
        ("Resize a roi scales -> y", RESIZE), opset=opset, weights={"w": WEIGHTS, "roi": roi},
        out_shape=("batch", 4, 10, 10),
    )  # fmt: skip
    out, _ = convert(source, tmp_path)
    node = nodes(out)["n_y"]
    assert [types(out)[name] for name in node.input[1:] if name] == ["FLOAT"] * (2 if opset < 13 else 1)
    assert "roi" not in stored(out)
    scales = next(t for t in onnx.load(str(out)).graph.initializer if t.name == node.input[2])
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(scales), f32(1, 1, 1.3, 1.3))


def test_a_resize_that_reads_its_roi_stays_in_float(tmp_path):
    source = graph(
        tmp_path / "m.onnx", CONV,
        ("Resize a roi _ sizes -> y", {**RESIZE, "coordinate_transformation_mode": "tf_crop_and_resize"}),
        weights={"w": WEIGHTS, "roi": f32(0, 0, 0, 0, 1, 1, 1, 1), "sizes": np.array([1, 4, 5, 5], np.int64)},
        shape=(1, 4, 8, 8), out_shape=(1, 4, 5, 5),
    )  # fmt: skip
    out, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {"positions and sizes": {"Resize": 1}}
    assert stored(out)["roi"] == "FLOAT"


def test_scales_that_the_graph_computes_stay_in_float(tmp_path):
    source = graph(
        tmp_path / "m.onnx", CONV, "Mul half five -> scales", ("Resize a _ scales -> y", RESIZE),
        weights={"w": WEIGHTS, "half": f32(1, 1, 0.26, 0.26), "five": f32(1, 1, 5, 5)}, out_shape=("batch", 4, 10, 10),
    )  # fmt: skip
    out, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {"positions and sizes": {"Mul": 1}}
    assert "Cast" not in {node.op_type for node in nodes(out).values() if node.input[0] == "scales"}
    assert types(out)[nodes(out)["n_y"].input[2]] == "FLOAT"


def test_sizes_computed_in_float_stay_exact(tmp_path):
    """4099 / 2 rounded down is 2049; fp16 would make it 2050 of 4100."""
    source = graph(
        tmp_path / "m.onnx", ("Shape x -> s", {}), ("Cast s -> f", {"to": TensorProto.FLOAT}), "Mul f factor -> g",
        "Floor g -> h", ("Cast h -> i", {"to": TensorProto.INT64}), "Slice x zeros i axes -> y",
        weights={"factor": f32(1, 0.5), "zeros": np.zeros(2, np.int64), "axes": np.array([0, 1], np.int64)},
        shape=(1, 4099), out_shape=(1, "half"),
    )  # fmt: skip
    wide = feed(shape=(1, 4099))
    out, _ = convert(source, tmp_path, feeds=(wide,))
    assert run(out, wide).shape == run(source, wide).shape == (1, 2049)


def test_notes_on_tensors_that_stay_float_are_dropped(tmp_path):
    model = tiny_model()
    model.graph.value_info.append(helper.make_tensor_value_info("scales", TensorProto.FLOAT, [4]))
    onnx.save(model, str(tmp_path / "noted.onnx"))
    refused_by_checker(_sorted(raw(tmp_path / "noted.onnx")), "Inferred elem type differs|different from|mismatch")
    out = tmp_path / "out.onnx"
    precision.make("fp16", tmp_path / "noted.onnx", out, feeds=lambda: iter(()))
    accept(out, tiny_feeds(1)[0])


def _sorted(model):
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel(model).topological_sort(is_deterministic=True)
    return model


def test_weights_that_fp16_cannot_hold_are_reported_and_those_left_in_float_are_not(tmp_path):
    bias = f32(1e6, 1e-9, -np.inf, 0).reshape(1, 4, 1, 1)
    lines = ("Max x bias -> a", "Add a bias -> b", "Sub b bias -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"bias": bias})
    out = tmp_path / "out.onnx"
    assert convert_fp16(source, out)["clamped_weights"] == {"bias": {"beyond": 1, "below": 1}}
    assert convert_fp16(source, out, exclude=["^n_[by]$"])["clamped_weights"] == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("value_float", 0.5), ("value_floats", [0.5]), ("value", onnx.numpy_helper.from_array(f32(0.5)))],
)
def test_every_kind_of_constant_becomes_half(tmp_path, name, value):
    source = graph(tmp_path / "m.onnx", CONV, ("Constant -> k", {name: value}), "Mul a k -> y", weights={"w": WEIGHTS})
    out, _ = convert(source, tmp_path)
    assert stored(out)["k"] == "FLOAT16"
    assert sqnr_db(run(out, ONE), run(source, ONE)) > 55


def test_weights_that_are_inputs_too_are_stored_in_half(tmp_path):
    def as_in_ir_3(model):
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4, 3, 3]))

    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS}, opset=11, ir_version=3,
                   edit=as_in_ir_3)  # fmt: skip
    out, _ = convert(source, tmp_path)
    assert stored(out)["w"] == "FLOAT16"
    assert [value.name for value in onnx.load(str(out)).graph.input] == ["x"]


def test_two_float_nodes_hand_each_other_what_fp16_could_not_hold(tmp_path):
    lines = (CONV, "Mul a big -> b", "Mul b small -> c", "Relu c -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS, "big": f32(1e6), "small": f32(1e-6)})
    out, recipe = convert(source, tmp_path, exclude=("^n_b$", "^n_c$"))
    assert recipe["nodes_left_in_float"] == {"excluded": {"Mul": 2}}
    assert nodes(out)["n_c"].input[0] == nodes(out)["n_b"].output[0]
    assert sqnr_db(run(out, ONE), run(source, ONE)) > 55
    damaged = tmp_path / "raw.onnx"
    onnx.save(raw(source, node_block_list=["n_b", "n_c"]), str(damaged))
    assert not np.isfinite(run(damaged, ONE)).all()


def test_two_float_nodes_that_read_one_half_tensor_share_its_cast(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> b", "Neg a -> c", "Add b c -> y", weights={"w": WEIGHTS})
    refused_by_checker(_sorted(raw(source, node_block_list=["n_b", "n_c"])), "single static assignment")
    out, _ = convert(source, tmp_path, exclude=("^n_[bc]$",))
    assert sum(node.op_type == "Cast" and node.input[0] == "a" for node in nodes(out).values()) == 1


def test_an_output_of_a_float_node_is_not_rounded_on_its_way_out(tmp_path):
    source = graph(tmp_path / "m.onnx", "Relu x -> a", "Mul a third -> y", weights={"third": f32(1 / 3)})
    out, _ = convert(source, tmp_path, exclude=("^n_a$", "^n_y$"))
    np.testing.assert_array_equal(run(out, ONE), run(source, ONE))
    assert "FLOAT16" not in types(out).values()


def test_a_float_node_gets_the_exact_weight_that_a_half_node_shares(tmp_path):
    lines = ("Mul x k -> a", "Add a k -> y")
    source = graph(tmp_path / "m.onnx", *lines, weights={"k": f32(0.1)})
    out, _ = convert(source, tmp_path, exclude=("^n_y$",))
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(out)).graph.initializer}
    assert values["k"].dtype == np.float16
    assert values[nodes(out)["n_y"].input[1]] == np.float32(0.1)


def test_exclusion_means_the_node_itself_and_not_what_follows(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> b", "Sigmoid b -> y", weights={"w": WEIGHTS})
    out, recipe = convert(source, tmp_path, exclude=("^w$",))
    assert recipe["nodes_left_in_float"] == {"excluded": {"Conv": 1}}
    assert (types(out)[nodes(out)["n_b"].output[0]], stored(out)["w"]) == ("FLOAT16", "FLOAT")


@pytest.mark.parametrize(("pattern", "words"), [("nothing", "matches no node"), ("(", "no regular expression")])
def test_an_exclusion_without_effect_is_the_users_error(tmp_path, pattern, words):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})
    with pytest.raises(UsageError, match=words):
        convert(source, tmp_path, exclude=(pattern,))


def test_grid_sample_and_its_grid_stay_in_float_and_features_do_not(tmp_path):
    source = graph(
        tmp_path / "m.onnx", CONV, "Conv x offsets -> o", ("Transpose o -> p", {"perm": [0, 2, 3, 1]}),
        "Mul p step -> q", "Add q base -> g", ("GridSample a g -> b", {"align_corners": 0}), "Relu b -> y",
        weights={"w": WEIGHTS, "offsets": WEIGHTS[:2, :, :1, :1].copy(), "step": f32(0.25), "base": f32(0.1, -0.1)},
    )  # fmt: skip
    out, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {
        "positions and sizes": {"Transpose": 1, "Mul": 1, "Add": 1, "GridSample": 1}
    }
    found = types(out)
    assert [found[name] for name in nodes(out)["n_b"].input] == ["FLOAT", "FLOAT"]
    assert recipe["compute_nodes"] == {"fp16": 2}
    assert recipe["gates"]["refused_by_trt"] == []


def test_an_operator_that_onnx_defines_for_float_only_stays_float(tmp_path):
    source = graph(tmp_path / "m.onnx", CONV, ("Celu a -> y", {"alpha": 0.5}), weights={"w": WEIGHTS})
    _, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {"ONNX has no float16 for it": {"Celu": 1}}


def test_an_operator_of_another_domain_stays_float(tmp_path):
    def edit(model):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 4, 8, 8]))

    source = graph(
        tmp_path / "m.onnx", CONV, "com.microsoft.Gelu a -> b", "Relu b -> y", weights={"w": WEIGHTS}, edit=edit
    )
    out, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {"operator of another domain": {"Gelu": 1}}
    assert sqnr_db(run(out, ONE), run(source, ONE)) > 55


def test_control_flow_is_refused_with_the_reason(tmp_path):
    then = helper.make_graph([helper.make_node("Relu", ["a"], ["t"])], "then", [],
                             [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)])  # fmt: skip
    source = graph(tmp_path / "m.onnx", CONV, ("If yes -> y", {"then_branch": then, "else_branch": then}),
                   weights={"w": WEIGHTS, "yes": np.array(True)})  # fmt: skip
    with pytest.raises(ArtifactError, match=r"If 'n_y' holds a subgraph.*Export without control flow"):
        convert(source, tmp_path)


def test_local_functions_are_inlined(tmp_path):
    def edit(model):
        body = [helper.make_node("Relu", ["i"], ["j"]), helper.make_node("Neg", ["j"], ["o"])]
        model.functions.append(helper.make_function("own", "Block", ["i"], ["o"], body, [helper.make_opsetid("", 17)]))
        model.opset_import.append(helper.make_opsetid("own", 1))

    source = graph(tmp_path / "m.onnx", CONV, "own.Block a -> y", weights={"w": WEIGHTS}, edit=edit)
    out, recipe = convert(source, tmp_path)
    assert recipe["nodes_left_in_float"] == {}
    assert sqnr_db(run(out, ONE), run(source, ONE)) > 55


@pytest.mark.parametrize("again", ["fp16", "bf16"])
def test_a_file_of_half_precision_is_not_converted_again(tmp_path, again):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})
    out, _ = convert(source, tmp_path)
    with pytest.raises(InputError, match=r"holds float16 already. Give the float32 file"):
        precision.make(again, out, tmp_path / "again.onnx", feeds=lambda: iter(()))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_quantised_file_is_refused(tmp_path, name):
    scales = {"s": np.float32(0.1), "z": np.int8(0)}
    source = graph(tmp_path / "m.onnx", "QuantizeLinear x s z -> q", "DequantizeLinear q s z -> y", weights=scales)
    with pytest.raises(InputError, match=r"quantised already \(DequantizeLinear, QuantizeLinear\)"):
        precision.make(name, source, tmp_path / "out.onnx", feeds=lambda: iter(()))


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_truncated_source_is_the_users_error(tmp_path, name):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(InputError, match=r"m\.onnx"):
        precision.make(name, source, tmp_path / "out.onnx", feeds=lambda: iter(()))
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_full_disk_is_the_users_error(tmp_path, name):
    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS})
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(InputError, match=r"/dev/full: cannot be written \(No space left on device\). Free space"):
        precision.make(name, source, Path("/dev/full"), feeds=lambda: iter(()))


def test_nodes_that_share_a_name_are_told_apart(tmp_path):
    def same_name(model):
        for node in model.graph.node:
            node.name = "twin"

    source = graph(tmp_path / "m.onnx", CONV, "Relu a -> y", weights={"w": WEIGHTS}, edit=same_name)
    _, recipe = convert(source, tmp_path, exclude=("^twin$",))
    assert recipe["nodes_left_in_float"] == {"excluded": {"Conv": 1}}


LINES = (CONV, "Relu a -> b", "Mul b k -> c", "Max c k -> d", ("Conv d w -> e", {"pads": [1] * 4}), "Add e b -> f",
         ("Split f -> g h", {"axis": 1}), ("Concat h g -> i", {"axis": 1}), "Sigmoid i -> y")  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from("abcdefgiy")))
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_whatever_is_excluded_the_graph_stays_valid_and_close(tmp_path_factory, name, excluded):
    folder = tmp_path_factory.mktemp("excluded")
    source = graph(folder / "m.onnx", *LINES, weights={"w": WEIGHTS, "k": f32(0.3)})
    options = Conversion(exclude=tuple(f"^n_{letter}$" for letter in sorted(excluded)))
    out = folder / "out.onnx"
    recipe = precision.make(name, source, out, feeds=lambda: iter((ONE,)), options=options)
    found = types(out)
    half = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}[name]
    for letter in "abcefi":
        node = nodes(out)[f"n_{letter}"]
        assert found[node.output[0]] == ("FLOAT" if letter in excluded else half)
    assert sum(recipe["nodes_left_in_float"].get("excluded", {}).values()) == len(excluded)
    if name == "fp16":
        assert sqnr_db(run(out, ONE), run(source, ONE)) > 50
