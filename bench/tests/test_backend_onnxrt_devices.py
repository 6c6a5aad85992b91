"""The CUDA and TensorRT providers against a scripted onnxruntime: options, refusals, evidence. Nothing is executed."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.artifacts import Store
from bench.attest import mismatch
from bench.backends import cuda, onnxrt
from bench.errors import ArtifactError, LaneError, Unavailable, Unsupported
from bench.ort import providers
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs

onnx = pytest.importorskip("onnx", reason="onnxruntime's graphs are read with onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="the fake raises the errors of the real onnxruntime")

from onnxruntime.capi import onnxruntime_pybind11_state as errors  # noqa: E402
from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: E402 - before the fake takes its place

from bench.tests import fake_ort  # noqa: E402
from bench.tests.fake_ort import CPU, CUDA, TENSORRT, Script  # noqa: E402

backend = onnxrt.backend
GPUS = ("cuda:0", "tensorrt:0")


@pytest.fixture
def script(monkeypatch):
    """A machine with a GPU, TensorRT 11 and nothing loaded yet."""
    scripted = Script()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_ort.make(scripted))
    monkeypatch.setattr(cuda, "problem", lambda number=0: None if number < 2 else f"this host has no GPU {number}")
    libraries = []

    def loaded():
        return tuple(libraries)

    monkeypatch.setattr(providers, "loaded_libraries", loaded)
    for name in [providers.TF32_OVERRIDE, *(n for n in os.environ if n.startswith("ORT_TENSORRT_"))]:
        monkeypatch.setenv(name, "")  # so that it is restored whatever the backend sets
        monkeypatch.delenv(name)

    def load_tensorrt():
        libraries[:] = ["libcublas.so.13", "libnvinfer.so.11"]
        return os.environ.get(providers.TF32_OVERRIDE)

    scripted.watch = load_tensorrt
    return scripted


@pytest.fixture
def artifact(tmp_path):
    return contract_artifact("onnx", tmp_path)


def opened(artifact, device="cuda:0", precision="fp32", batch=1):
    cell = contract_cell("onnxrt", device=device, precision=precision, batch=batch)
    return backend.open(replace(artifact, precision=precision), cell, threads=1)


def judged(artifact, device="cuda:0", precision="fp32"):
    """What attestation says of a cell, and the evidence."""
    cell = contract_cell("onnxrt", device=device, precision=precision)
    with opened(artifact, device, precision) as runner:
        evidence = runner.attest()
    return mismatch(cell, backend.require(device, precision), evidence), evidence


def session_of(script):
    (found,) = [entry[1:] for entry in script.log if entry[0] == "session"]
    asked, entries, optimised, override = found
    return asked, entries, optimised, override


@pytest.fixture
def typed(artifact):
    """The contract network in fp16 with fp32 inputs and outputs."""
    path = artifact.path.with_name("fp16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(artifact.path), keep_io_types=True), path)
    return replace(artifact, path=path)


@pytest.fixture
def quantised(artifact):
    """The contract network with a Q/DQ pair before the convolution and a dequantised weight."""
    model = onnx.load(artifact.path)
    weight = next(t for t in model.graph.initializer if t.name == "weight")
    values = onnx.numpy_helper.to_array(weight)
    model.graph.initializer.remove(weight)
    model.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.round(values * 100).astype(np.int8), "weight_q"),
        onnx.numpy_helper.from_array(np.float32(0.01), "scale"),
        onnx.numpy_helper.from_array(np.int8(0), "zero"),
    ])  # fmt: skip
    conv = model.graph.node[0]
    conv.input[0] = "images_dq"
    for position, made in enumerate([
        onnx.helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["images_q"], "q"),
        onnx.helper.make_node("DequantizeLinear", ["images_q", "scale", "zero"], ["images_dq"], "dq"),
        onnx.helper.make_node("DequantizeLinear", ["weight_q", "scale", "zero"], ["weight"], "dq_weight"),
    ]):  # fmt: skip
        model.graph.node.insert(position, made)
    path = artifact.path.with_name("int8.onnx")
    onnx.save(model, path)
    return replace(artifact, path=path)


@pytest.fixture
def shaped(artifact):
    """The contract network behind a Reshape to a shape that is computed from the input's."""
    model = onnx.load(artifact.path)
    model.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.array([0], np.int64), "first"),
        onnx.numpy_helper.from_array(np.array([3, 8, 8], np.int64), "rest"),
        onnx.numpy_helper.from_array(np.float32(0.5), "half"),
    ])  # fmt: skip
    for position, made in enumerate([
        onnx.helper.make_node("Shape", ["images"], ["shape"], "shape"),
        onnx.helper.make_node("Gather", ["shape", "first"], ["batch_length"], "gather"),
        onnx.helper.make_node("Concat", ["batch_length", "rest"], ["wanted"], "concat", axis=0),
        onnx.helper.make_node("Reshape", ["images", "wanted"], ["images_same"], "reshape"),
        onnx.helper.make_node("Mul", ["images_same", "half"], ["images_half"], "halve"),
    ]):  # fmt: skip
        model.graph.node.insert(position, made)
    model.graph.node[5].input[0] = "images_half"
    path = artifact.path.with_name("shaped.onnx")
    onnx.save(model, path)
    return replace(artifact, path=path)


SHAPES = (("Shape", "shape"), ("Gather", "gather"), ("Concat", "concat"))
ARITHMETIC = (("Reshape", "reshape"), ("Mul", "halve"), *fake_ort.CONTRACT_NODES)


# How a session is opened.


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("fp16", "0"), ("int8", "0"), ("tf32", "1")])
def test_cuda_is_asked_for_tf32_by_name_and_for_a_search_without_a_clock(script, artifact, precision, tf32):
    opened(artifact, "cuda:1", precision).close()
    asked, entries, optimised, override = session_of(script)
    assert asked == [
        (CUDA, {"device_id": "1", "use_tf32": tf32, "cudnn_conv_algo_search": "HEURISTIC"}),
        (CPU, {}),
    ]
    assert entries["session.record_ep_graph_assignment_info"] == "1"
    assert "session.disable_cpu_ep_fallback" not in entries
    assert optimised.endswith("optimised.onnx")
    assert override is None
    assert "disable_fallback" in script.log


def test_tensorrt_comes_first_with_cuda_beside_it_and_never_chooses_a_precision(script, artifact):
    opened(artifact, "tensorrt:1", batch=4).close()
    asked, _, optimised, override = session_of(script)
    assert [name for name, _ in asked] == [TENSORRT, CUDA, CPU]
    options = dict(asked)
    assert options[TENSORRT] == {
        "device_id": "1",
        "trt_engine_cache_enable": "0",
        "trt_profile_min_shapes": "images:1x3x8x8",
        "trt_profile_opt_shapes": "images:4x3x8x8",
        "trt_profile_max_shapes": "images:4x3x8x8",
    }
    assert (options[CUDA]["device_id"], options[CUDA]["use_tf32"]) == ("1", "0")
    assert not optimised, "a graph with compiled nodes cannot be written: the session would fail"
    assert override == "0", "TF32 was off before the session was created"


def test_a_fixed_batch_needs_no_shape_profile(script, tmp_path):
    opened(contract_artifact("onnx", tmp_path, batch=1), "tensorrt:0").close()
    assert not [key for key in dict(session_of(script)[0])[TENSORRT] if "profile" in key]


def test_the_libraries_that_pip_installed_are_loaded_before_the_session(script, artifact):
    opened(artifact).close()
    assert [e if isinstance(e, str) else e[0] for e in script.log][:2] == ["preload_dlls", "session"]
    script.log.clear()
    backend.open(artifact, contract_cell("onnxrt"), threads=1).close()
    assert "preload_dlls" not in script.log


# What must not pass silently.


@pytest.mark.parametrize(("device", "loadable"), [
    ("cuda:0", (CPU,)), ("tensorrt:0", (CUDA, CPU)), ("tensorrt:0", (CPU,)), ("tensorrt:0", (TENSORRT, CPU)),
])  # fmt: skip
def test_a_provider_whose_library_cannot_be_loaded_is_an_error(script, artifact, device, loadable):
    script.loadable = loadable
    with pytest.raises(
        ArtifactError, match=r"asked for .*, the session has .*CPUExecutionProvider\. A library of CUDA"
    ):
        opened(artifact, device)


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("error", [RuntimeError("CUDA failure 999"), errors.EPFail("no engine"), ValueError("x")])
def test_a_provider_that_fails_is_an_error_and_not_a_session_on_the_cpu(script, artifact, device, error):
    script.open_error = error
    with pytest.raises(ArtifactError, match=f"onnxruntime cannot load it: {error}"):
        opened(artifact, device)


def test_an_option_that_was_not_taken_is_an_error(script, artifact):
    script.reported = {CUDA: {"use_tf32": "1"}}
    with pytest.raises(ArtifactError, match="asked CUDAExecutionProvider for use_tf32=0, it says 1"):
        opened(artifact)


def test_a_session_that_lets_tensorrt_choose_precisions_is_an_error(script, artifact):
    script.reported = {TENSORRT: {"trt_fp16_enable": "True"}}
    with pytest.raises(ArtifactError, match="trt_fp16_enable=True: TensorRT would choose precisions by speed"):
        opened(artifact, "tensorrt:0")


def test_switches_may_be_reported_as_words(script, artifact):
    script.reported = {CUDA: {"use_tf32": "False"}, TENSORRT: {"trt_int8_enable": "False", "trt_bf16_enable": "0"}}
    opened(artifact, "tensorrt:0").close()


@pytest.mark.parametrize("device", GPUS)
def test_an_activation_on_the_cpu_fails_the_cell_and_is_named(script, artifact, device):
    place = providers.place_of(device)
    script.nodes = {place.provider: fake_ort.CONTRACT_NODES[:2], CPU: fake_ort.CONTRACT_NODES[2:]}
    wrong, evidence = judged(artifact, device)
    assert wrong == (f"Requested device {device}, ran on {place.provider} + CPUExecutionProvider. "
                     "Not on the device: ReduceMean 'mean'.")  # fmt: skip
    assert evidence.details["placement"][CPU] == {"ReduceMean": 1}


def test_integer_arithmetic_on_shapes_may_stay_on_the_cpu_and_is_listed(script, shaped):
    script.nodes = {CUDA: ARITHMETIC, CPU: SHAPES}
    wrong, evidence = judged(shaped)
    assert wrong is None
    assert evidence.provider == CUDA
    assert evidence.details["shapes_on_cpu"] == {"Shape": 1, "Gather": 1, "Concat": 1}
    assert evidence.details["shares"] == {CPU: 0.375, CUDA: 0.625}


@pytest.mark.parametrize("stray", [("Reshape", "reshape"), ("Mul", "halve"), ("Gather", "unknown"), ("Concat", "")])
def test_what_is_no_shape_or_cannot_be_told_may_not(script, shaped, stray):
    script.nodes = {CUDA: ARITHMETIC, CPU: (*SHAPES, stray)}
    wrong, _ = judged(shaped)
    assert wrong.endswith(f"Not on the device: {stray[0]} {stray[1]!r}.")


def test_a_session_that_recorded_nothing_proves_nothing(script, artifact):
    script.nodes = {}
    assert judged(artifact)[0] == "Requested device cuda:0, ran on nothing that was recorded."


def test_cuda_beside_tensorrt_is_allowed_and_its_share_reported(script, artifact):
    script.nodes = {TENSORRT: fake_ort.CONTRACT_NODES[:1], CUDA: fake_ort.CONTRACT_NODES[1:]}
    wrong, evidence = judged(artifact, "tensorrt:0")
    assert wrong is None
    assert evidence.provider == f"{TENSORRT} + {CUDA}"
    assert evidence.details["shares"] == {CUDA: 0.6667, TENSORRT: 0.3333}
    assert evidence.details["tensorrt_library"] == "libnvinfer.so.11"


@pytest.mark.parametrize("nodes", [
    {CUDA: fake_ort.CONTRACT_NODES},
    {CUDA: fake_ort.CONTRACT_NODES[:1], TENSORRT: fake_ort.CONTRACT_NODES[1:]},
])  # fmt: skip
def test_a_label_of_tensorrt_needs_the_arithmetic_on_tensorrt(script, artifact, nodes):
    script.nodes = nodes
    wrong, _ = judged(artifact, "tensorrt:0")
    assert wrong.startswith(f"Requested device tensorrt:0, ran on {CUDA}")


# Running.


def test_inputs_live_on_the_gpu_and_every_step_waits_for_it(script, artifact):
    feeds, other = contract_feeds(2), contract_feeds(2, seed=9)
    with opened(artifact, "cuda:1") as runner:
        np.testing.assert_allclose(runner.run(feeds)["maps"], contract_outputs(feeds)["maps"], atol=1e-6)
        script.log.clear()
        bound = runner.bind(feeds)
        assert script.log == [("value", "cuda", 1), ("output", "cuda", 1), ("output", "cuda", 1), "synchronize_inputs"]
        script.log.clear()
        bound.step()
        assert script.log == ["run", "synchronize_outputs"]
        script.log.clear()
        bound.load(other)
        assert script.log == ["update_inplace", "synchronize_inputs"]
        bound.step()
        np.testing.assert_allclose(bound.fetch()["means"], contract_outputs(other)["means"], atol=1e-6)


def test_tensors_of_tensorrt_are_tensors_of_cuda(script, artifact):
    with opened(artifact, "tensorrt:0") as runner:
        script.log.clear()
        runner.bind(contract_feeds(1))
    assert ("value", "cuda", 0) in script.log


def test_a_full_gpu_is_an_error_that_says_what_to_type(script, artifact):
    script.value_error = errors.RuntimeException("CUDA failure 2: out of memory")
    with opened(artifact) as runner, pytest.raises(LaneError, match=r"cuda:0 failed.*out of memory") as caught:
        runner.bind(contract_feeds(4))
    assert "--batch" in str(caught.value)


@pytest.mark.parametrize("error", [errors.EPFail("CUDNN_STATUS_BAD"), errors.Fail("no"), RuntimeError("x")])
def test_a_run_that_fails_on_the_device_names_it(script, artifact, error):
    with opened(artifact) as runner:
        bound = runner.bind(contract_feeds(1))
        script.run_error = error
        with pytest.raises(LaneError, match=f"the run on cuda:0 failed: {error}"):
            runner.run(contract_feeds(1))
        with pytest.raises(LaneError, match=f"a step on cuda:0 failed: {error}"):
            bound.step()


# Precision, as it is observed.


def test_tf32_is_observed_from_the_option_that_the_session_reports(script, artifact):
    assert judged(artifact, precision="tf32")[0] is None
    assert judged(artifact, precision="tf32")[1].precision == "tf32"
    assert judged(artifact, precision="fp32")[1].precision == "fp32"


def test_half_precision_is_native_on_cuda(script, typed):
    wrong, evidence = judged(typed, precision="fp16")
    assert (wrong, evidence.precision, evidence.emulated) == (None, "fp16", False)


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_fp32_file_behind_a_lower_label_fails(script, artifact, device, precision):
    assert judged(artifact, device, precision)[0] == f"Requested {precision}, observed fp32."


def test_int8_on_cuda_is_declared_emulated_and_borne_out(script, quantised):
    assert backend.require("cuda:0", "int8") == "emulated"
    wrong, evidence = judged(quantised, precision="int8")
    assert (wrong, evidence.precision, evidence.emulated) == (None, "fp32", True)


@pytest.mark.parametrize(("precision", "fixture"), [("fp16", "typed"), ("int8", "quantised")])
def test_under_tensorrt_11_the_types_of_the_file_are_the_precision(script, request, precision, fixture):
    wrong, evidence = judged(request.getfixturevalue(fixture), "tensorrt:0", precision)
    assert (wrong, evidence.precision, evidence.emulated) == (None, precision, False)
    assert "types of the file" in evidence.details["precision_read_from"]


@pytest.mark.parametrize("libraries", [("libnvinfer.so.10",), ("libcublas.so.12",), ()])
def test_before_tensorrt_11_only_fp32_is_sure(script, artifact, typed, monkeypatch, libraries):
    script.watch = None
    monkeypatch.setattr(providers, "loaded_libraries", lambda: libraries)
    monkeypatch.setenv(providers.TF32_OVERRIDE, "0")
    assert judged(artifact, "tensorrt:0")[0] is None
    with pytest.raises(Unsupported, match=r"let the builder choose by speed .*trt_fp16_enable.*are refused"):
        opened(typed, "tensorrt:0", "fp16")


# What the environment can do.


def test_tf32_cannot_be_turned_off_for_tensorrt_once_its_libraries_are_loaded(script, artifact, monkeypatch):
    monkeypatch.setattr(providers, "loaded_libraries", lambda: ("libc.so.6", "libcublasLt.so.13"))
    with pytest.raises(Unavailable, match=r"before libcublasLt\.so\.13 is loaded.*export NVIDIA_TF32_OVERRIDE=0"):
        opened(artifact, "tensorrt:0")
    assert providers.TF32_OVERRIDE not in os.environ
    opened(artifact, "cuda:0").close()  # it has an option of its own


def test_variables_that_change_the_arithmetic_are_refused(script, monkeypatch):
    monkeypatch.setenv("ORT_TENSORRT_FP16_ENABLE", "1")
    with pytest.raises(Unavailable, match="Type: unset ORT_TENSORRT_FP16_ENABLE"):
        backend.require("tensorrt:0", "fp32")
    assert backend.require("cuda:0", "fp32") == "native"
    monkeypatch.setenv(providers.TF32_OVERRIDE, "0")
    with pytest.raises(Unavailable, match="Type: unset NVIDIA_TF32_OVERRIDE"):
        backend.require("cuda:0", "tf32")
    assert backend.require("cuda:0", "fp32") == "native"


# What is refused before anything is opened.


@pytest.mark.parametrize(("device", "reason"), [
    ("cpu", "format of NVIDIA's tensor cores"), ("tensorrt:0", "has no option for it")])  # fmt: skip
def test_tf32_is_unsupported_where_nothing_can_ask_for_it(script, device, reason):
    with pytest.raises(Unsupported, match=f"onnxrt:tf32 is declared unsupported: .*{reason}"):
        backend.require(device, "tf32")


@pytest.mark.parametrize("device", ["cuda:x", "cuda:", "tensorrt:", "tensorrt:-1", "tensorrt:1.0", "", "cuda:²"])
def test_a_device_that_does_not_exist_is_unsupported(device):
    with pytest.raises(Unsupported, match="cpu, cuda"):
        backend.require(device, "fp32")


@pytest.mark.parametrize("device", GPUS)
def test_a_build_without_the_provider_says_what_to_install(script, device):
    script.available = (CPU,)
    with pytest.raises(Unavailable, match=r"pip uninstall onnxruntime && pip install onnxruntime-gpu"):
        backend.require(device, "fp32")


def test_a_gpu_that_is_not_there_is_unavailable(script):
    assert backend.require("cuda:1", "fp32") == "native"
    with pytest.raises(Unavailable, match="this host has no GPU 2"):
        backend.require("tensorrt:2", "fp32")


# Engines.


@pytest.fixture
def host(monkeypatch):
    """TensorRT as a package, and a GPU and driver that can be changed."""
    from bench.trt import hostkey

    seen = {"driver": "580.65.06"}
    monkeypatch.setattr(onnxrt, "_package_version", lambda names: "11.4.0.106")
    monkeypatch.setattr(hostkey, "read_host", lambda version, device=0: hostkey.HostKey(
        tensorrt=version, gpu=f"GPU {device}", compute_capability="9.0", driver=seen["driver"]))  # fmt: skip
    return seen


def folder_of(artifact, tmp_path, device="tensorrt:0", build=0, **cell):
    prepared = backend.prepare(artifact, contract_cell("onnxrt", device=device, **cell), Store(tmp_path, build=build))
    assert prepared.sha256 == artifact.sha256, "the same file for every runtime"
    return prepared.recipe.get("engines")


def test_engines_are_kept_apart_by_file_gpu_driver_batch_and_build(script, host, artifact, tmp_path):
    first = folder_of(artifact, tmp_path)
    assert folder_of(artifact, tmp_path) == first
    others = [
        folder_of(artifact, tmp_path, batch=4), folder_of(artifact, tmp_path, build=1),
        folder_of(artifact, tmp_path, device="tensorrt:1"), folder_of(artifact, tmp_path, precision="fp16"),
        folder_of(replace(artifact, sha256="0" * 64), tmp_path),
    ]  # fmt: skip
    host["driver"] = "590.1"
    others.append(folder_of(artifact, tmp_path))
    assert len({first, *others}) == 7
    assert all(str(tmp_path) in folder for folder in others)


def test_the_kept_engines_are_named_to_the_provider(script, host, artifact, tmp_path):
    cell = contract_cell("onnxrt", device="tensorrt:0")
    prepared = backend.prepare(artifact, cell, Store(tmp_path))
    with backend.open(prepared, cell, threads=1) as runner:
        details = runner.attest().details
    options = dict(session_of(script)[0])[TENSORRT]
    assert (options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == ("1", prepared.recipe["engines"])
    assert str(tmp_path) not in str(details), "a path of this machine is no evidence"


def test_without_a_known_tensorrt_version_and_on_other_devices_no_engine_is_kept(
    script, host, artifact, tmp_path, monkeypatch
):
    assert folder_of(artifact, tmp_path, device="cuda:0") is None
    assert folder_of(artifact, tmp_path, device="cpu") is None
    monkeypatch.setattr(onnxrt, "_package_version", lambda names: None)
    assert folder_of(artifact, tmp_path) is None
