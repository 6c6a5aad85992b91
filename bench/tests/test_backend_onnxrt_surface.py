"""Every name that the backend and its fake use, held against the installed onnxruntime; and what is read in a file."""

import ast
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.backends import onnxrt
from bench.backends.onnx_evidence import read_graph
from bench.ort import placement, providers
from bench.ort.placement import read_placement, shape_nodes
from bench.ort.quantised import quantised_share
from bench.types import TensorSpec

onnx = pytest.importorskip("onnx", reason="builds small graphs")
onnxruntime = pytest.importorskip("onnxruntime", reason="holds names against the installed onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bench.tests import fake_ort  # noqa: E402

# Names of provider options by the CUDA and TensorRT pages of onnxruntime.ai/docs/execution-providers; each stands, as a
# text of its own, in the provider libraries of the wheel onnxruntime-gpu 1.31.1 (read there on 2026-11-21).
CUDA_OPTIONS = frozenset({
    "device_id", "do_copy_in_default_stream", "use_ep_level_unified_stream", "gpu_mem_limit",
    "arena_extend_strategy", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "cudnn_conv1d_pad_to_nc1d",
    "enable_cuda_graph", "enable_skip_layer_norm_strict_mode", "use_tf32", "prefer_nhwc", "gpu_external_alloc",
    "gpu_external_free", "gpu_external_empty_cache", "tunable_op_enable", "tunable_op_tuning_enable",
    "tunable_op_max_tuning_duration_ms",
})  # fmt: skip
TENSORRT_OPTIONS = frozenset({
    "device_id", "trt_max_workspace_size", "trt_max_partition_iterations",
    "trt_min_subgraph_size", "trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable", "trt_engine_cache_enable",
    "trt_engine_cache_path", "trt_engine_cache_prefix", "trt_timing_cache_enable", "trt_timing_cache_path",
    "trt_force_timing_cache", "trt_detailed_build_log", "trt_builder_optimization_level", "trt_auxiliary_streams",
    "trt_tactic_sources", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes",
    "trt_cuda_graph_enable", "trt_engine_hw_compatible", "trt_op_types_to_exclude",
})  # fmt: skip
CLASSES = ("InferenceSession", "IOBinding", "OrtValue", "SessionOptions", "OrtEpAssignedSubgraph", "OrtEpAssignedNode")
OWNERS = {
    "ort": "module",
    "onnxruntime": "module",
    "session": "InferenceSession",
    "self._session": "InferenceSession",
    "binding": "IOBinding",
    "options": "SessionOptions",
    "ort.OrtValue": "OrtValue",
    "value": "OrtValue",
    "resident[name]": "OrtValue",
    "part": "OrtEpAssignedSubgraph",
    "node": "OrtEpAssignedNode",
    "errors": "errors",
}
"""Expression in the backend -> what it is. ``value`` and ``node`` are checked in the functions named in ``WITHIN``."""
WITHIN = {"value": ("_bind",), "node": ("read_placement",), "options": ("_options", "_open")}


def real(name):
    from onnxruntime.capi import onnxruntime_pybind11_state

    return {"module": onnxruntime, "errors": onnxruntime_pybind11_state}.get(name) or getattr(onnxruntime, name)


def has(owner, attribute):
    return hasattr(real(owner), attribute)


def used(source, within=WITHIN):
    """(owner, attribute) of every attribute access on an expression of ``OWNERS``."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                expression = ast.unparse(node.value)
                if expression in OWNERS and function.name in within.get(expression, (function.name,)):
                    found.add((OWNERS[expression], node.attr))
    return found


def backend_source():
    return Path(onnxrt.__file__).read_text("utf-8") + "\n\n" + Path(placement.__file__).read_text("utf-8")


def test_every_name_that_the_backend_uses_exists():
    names = used(backend_source())
    assert len(names) > 25, "the walk found the calls"
    assert {("InferenceSession", "get_provider_graph_assignment_info"), ("IOBinding", "synchronize_outputs"),
            ("OrtValue", "update_inplace"), ("OrtEpAssignedNode", "op_type")} <= names  # fmt: skip
    assert [name for name in sorted(names) if not has(*name)] == []


@pytest.mark.parametrize("line", [
    "session.get_provider_assignment()", "binding.synchronise_outputs()", "options.optimised_model_filepath = 1",
    "ort.get_providers()", "raise errors.EPFailure"])  # fmt: skip
def test_a_name_that_does_not_exist_is_found(line):
    names = used(f"def _open():\n    {line}")
    assert len(names) == 1
    assert not has(*names.pop())


def test_the_fake_offers_nothing_that_the_real_one_lacks_and_takes_no_other_arguments():
    fake = fake_ort.make(fake_ort.Script())
    compared = 0
    for owner in CLASSES:
        kind = getattr(fake, owner, None) or getattr(fake_ort, owner)
        for name, member in vars(kind).items():
            constructed = name == "__init__" and owner in ("InferenceSession", "IOBinding")
            if (name.startswith("_") and not constructed) or name == "entries":
                continue
            assert hasattr(real(owner), name), f"{owner}.{name}"
            theirs = getattr(real(owner), name)
            if inspect.isfunction(theirs) and inspect.isfunction(member):
                assert parameters(member) == parameters(theirs), f"{owner}.{name}"
                compared += 1
    assert compared >= 14
    for name in ("get_available_providers", "preload_dlls", "ExecutionMode", "GraphOptimizationLevel"):
        assert hasattr(onnxruntime, name)
    assert parameters(fake.preload_dlls) == parameters(onnxruntime.preload_dlls)
    assert hasattr(onnxruntime.ExecutionMode, "ORT_SEQUENTIAL")
    assert hasattr(onnxruntime.GraphOptimizationLevel, "ORT_ENABLE_ALL")


def parameters(function):
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


def test_a_config_entry_takes_two_texts_and_the_real_options_take_every_assignment():
    assert re.search(r"arg0: str, arg1: str|key: str, value: str|config_key: str, config_value: str",
                     onnxruntime.SessionOptions.add_session_config_entry.__doc__)  # fmt: skip
    options = onnxrt._options(onnxruntime, 2)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0"])
@pytest.mark.parametrize("engines", [None, Path("engines")])
def test_every_provider_option_is_a_documented_one(device, engines):
    inputs = (TensorSpec(name="x", shape=("batch", 3), dtype="float32"),)
    given = dict(providers.provider_list(providers.place_of(device), "fp32", inputs=inputs, batch=2, engines=engines))
    assert set(given.get(providers.CUDA, {})) <= CUDA_OPTIONS
    assert set(given.get(providers.TENSORRT, {})) <= TENSORRT_OPTIONS
    assert set(providers.WEAK_TYPING) <= TENSORRT_OPTIONS
    assert not set(providers.WEAK_TYPING) & set(given.get(providers.TENSORRT, {}))


def test_the_providers_exist_by_these_names():
    assert {providers.CPU, providers.CUDA, providers.TENSORRT} <= set(onnxruntime.get_all_providers())


def test_the_fake_behaves_as_the_real_constructor_where_a_provider_fails(tmp_path, monkeypatch, capsys):
    """The real one opens the file on the CPU and prints; ``enable_fallback=0`` is what keeps it from that."""
    path = tmp_path / "m.onnx"
    onnx.save(chain([helper.make_node("Relu", ["x"], ["y"], "relu")]), path)
    create = onnxruntime.InferenceSession._create_inference_session

    def failing(self, asked, *rest):
        if asked != ["CPUExecutionProvider"]:
            raise RuntimeError("CUDA failure 999")
        return create(self, asked, *rest)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", failing)
    monkeypatch.setattr(onnxruntime.InferenceSession, "_fallback_providers", ["CPUExecutionProvider"], raising=False)
    asked = [("CUDAExecutionProvider", {})]
    assert onnxruntime.InferenceSession(str(path), providers=asked).get_providers() == ["CPUExecutionProvider"]
    assert "Falling back" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="CUDA failure 999"):
        onnxruntime.InferenceSession(str(path), providers=asked, enable_fallback=0)


# Files.


def chain(nodes, *, outputs=(("y", TensorProto.FLOAT),), initializers=(), inputs=("x",)):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 6]) for n in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(tmp_path, *args, **options):
    path = tmp_path / "m.onnx"
    onnx.save(chain(*args, **options), path)
    return path


SHAPE = [
    helper.make_node("Shape", ["x"], ["s"], "shape"),
    helper.make_node("Gather", ["s", "zero"], ["n"], "gather"),
    helper.make_node("Mul", ["n", "two"], ["n2"], "double"),
    helper.make_node("Concat", ["n2", "three"], ["w"], "concat", axis=0),
    helper.make_node("Reshape", ["x", "w"], ["r"], "reshape"),
    helper.make_node("Relu", ["r"], ["y"], "relu"),
]
NUMBERS = [("zero", np.array([0], np.int64)), ("two", np.array([2], np.int64)), ("three", np.array([3], np.int64))]


def test_shape_arithmetic_is_recognised_by_origin(tmp_path):
    path = saved(tmp_path, SHAPE, initializers=NUMBERS)
    assert shape_nodes(path) == {("Shape", "shape"), ("Gather", "gather"), ("Mul", "double"), ("Concat", "concat")}


def test_the_names_of_a_real_session_are_those_of_the_file(tmp_path):
    """What makes the lookup by name possible; here everything is on the CPU provider.

    The assignment is recorded after the first optimisations: a chain that only serves a Reshape is folded before. So
    the shape is an output here.
    """
    path = saved(tmp_path, SHAPE, initializers=NUMBERS, outputs=[("y", TensorProto.FLOAT), ("w", TensorProto.INT64)])
    options = onnxrt._options(onnxruntime, 1)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assigned = session.get_provider_graph_assignment_info()
    names = {(node.op_type, node.name) for part in assigned for node in part.get_nodes()}
    assert names == shape_nodes(path) | {("Reshape", "reshape"), ("Relu", "relu")}
    found = read_placement(assigned, path, providers.place_of("cuda:0"))
    assert set(found.misplaced) == {"Reshape 'reshape'", "Relu 'relu'"}
    assert dict(found.shapes) == {"Shape": 1, "Gather": 1, "Mul": 1, "Concat": 1}
    assert found.provider == "CPUExecutionProvider"
    assert found.share("CPUExecutionProvider") == 1


def test_integers_that_come_from_data_are_no_shapes(tmp_path):
    nodes = [
        helper.make_node("TopK", ["x", "two"], ["v", "i"], "topk"),
        helper.make_node("Mul", ["i", "two"], ["y"], "double"),
        helper.make_node("Cast", ["x"], ["z"], "cast", to=TensorProto.INT64),
    ]
    path = saved(tmp_path, nodes, initializers=NUMBERS, outputs=[("y", TensorProto.INT64), ("z", TensorProto.INT64)])
    assert shape_nodes(path) == frozenset()


def test_a_shape_that_becomes_a_float_is_no_shape_any_more(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Cast", ["s"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "f"], ["y"], "square"),
    ]
    assert shape_nodes(saved(tmp_path, nodes)) == {("Shape", "shape")}


@pytest.mark.parametrize("shape_first", [True, False])
def test_a_name_that_two_nodes_share_vouches_for_neither(tmp_path, shape_first):
    twins = [helper.make_node("Mul", ["s", "s"], ["t"], "twin"), helper.make_node("Mul", ["x", "x"], ["y"], "twin")]
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        *(twins if shape_first else twins[::-1]),
        helper.make_node("Add", ["t", "t"], ["u"], ""),
    ]
    found = shape_nodes(saved(tmp_path, nodes, outputs=[("y", TensorProto.FLOAT), ("u", TensorProto.INT64)]))
    assert found == {("Shape", "shape")}


def test_an_initialiser_that_can_be_fed_is_data(tmp_path):
    nodes = [helper.make_node("Gather", ["k", "zero"], ["y"], "gather")]
    model = chain(nodes, initializers=[*NUMBERS, ("k", np.array([4], np.int64))], outputs=[("y", TensorProto.INT64)])
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert ("Gather", "gather") in shape_nodes(path)
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    onnx.save(model, path)
    assert ("Gather", "gather") not in shape_nodes(path)


def test_shapes_are_followed_into_the_branches_of_a_condition(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Add", ["n", "two"], ["inner"], "inside")], "b", [],
        [helper.make_tensor_value_info("inner", TensorProto.INT64, [1])],
    )  # fmt: skip
    nodes = [
        *SHAPE[:2],
        helper.make_node("Equal", ["n", "two"], ["c"], "equal"),
        helper.make_node("Squeeze", ["c"], ["c0"], "squeeze"),
        helper.make_node("If", ["c0"], ["y"], "if", then_branch=branch, else_branch=branch),
    ]
    path = saved(tmp_path, nodes, initializers=NUMBERS, outputs=[("y", TensorProto.INT64)])
    assert {("Add", "inside"), ("Equal", "equal"), ("Squeeze", "squeeze")} <= shape_nodes(path)
    assert ("If", "if") not in shape_nodes(path)


def test_an_operator_of_another_domain_is_no_shape_arithmetic(tmp_path):
    nodes = [
        SHAPE[0],
        helper.make_node("Mul", ["s", "s"], ["y"], "theirs", domain="com.example"),
    ]  # has no opset: no types are inferred
    assert shape_nodes(saved(tmp_path, nodes, outputs=[("y", TensorProto.INT64)])) == {("Shape", "shape")}


def test_the_share_of_quantised_arithmetic_needs_data_and_weights(tmp_path):
    weights = [("w", np.ones((6, 6), np.float32)), ("q", np.ones((6, 6), np.int8)), ("s", np.float32(1)),
               ("z", np.int8(0))]  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q1"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "d1"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["wd"], "d2"),
        helper.make_node("MatMul", ["xd", "wd"], ["a"], "both"),
        helper.make_node("MatMul", ["a", "wd"], ["b"], "weights_only"),
        helper.make_node("MatMul", ["xd", "w"], ["c"], "data_only"),
        helper.make_node("MatMul", ["b", "w"], ["d"], "none"),
        helper.make_node("Add", ["c", "d"], ["y"], "add"),
    ]
    path = saved(tmp_path, nodes, initializers=weights)
    assert quantised_share(path) == 0.25
    assert read_graph(path).dominant == "fp32"


def test_the_library_of_tensorrt_is_read_from_what_the_process_has_mapped(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r--p 00000000 08:01 11  /made up/libnvinfer.so.11.4.0\n"
        "7f01-7f02 r-xp 00000000 08:01 11  /made up/libnvinfer.so.11.4.0\n"
        "7f02-7f03 r-xp 00000000 08:01 12  /usr/lib/libnvinfer_plugin.so.11\n"
        "7f03-7f04 rw-p 00000000 00:00 0 \n"
        "7f04-7f05 r--p 00000000 08:01 13  /usr/lib/libcublas.so.13 (deleted)\n",
        "utf-8",
    )
    loaded = providers.loaded_libraries(maps)
    assert "libnvinfer.so.11.4.0" in loaded
    assert providers.tensorrt_library(loaded) == ("libnvinfer.so.11.4.0", 11)
    assert providers.tensorrt_library(("libnvinfer_plugin.so.11",)) == ("", None)
    assert providers.tensorrt_library(("libnvinfer.so",)) == ("libnvinfer.so", None)
    assert providers.loaded_libraries(tmp_path / "nowhere") == ()
    if sys.platform == "linux":
        assert any(name.startswith("onnxruntime_pybind11_state") for name in providers.loaded_libraries())
