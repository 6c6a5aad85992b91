"""contract: the source against the names in NVIDIA's bindings, imported over stub libraries. Nothing is executed."""

from __future__ import annotations

import json
import sys

import pytest

from bench.paths import REPOSITORY
from bench.testing.trt_fake import manifest, versions
from bench.tests.trt_contract import stubs, surface
from bench.tests.trt_contract.regenerate import kept, read_names

VERSIONS = ("10.16.1.11", "11.4.0.106")
needs_wheels = pytest.mark.skipif(stubs.why_not() is not None, reason=str(stubs.why_not()))


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request, tmp_path_factory):
    return stubs.unpack(stubs.wheels()[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=VERSIONS)
def names(request):
    return int(request.param.split(".")[0]), manifest(request.param)


def found(text, names, module="bench/trt/execute.py"):
    major, known = names
    return [f"{item.name}: {item.problem}" for item in surface.findings(text, module, known, major)]


@needs_wheels
def test_contract_the_manifest_is_what_the_wheels_say(bindings):
    assert kept(read_names(bindings)) == manifest(bindings.version)


@needs_wheels
def test_contract_every_reference_of_the_source_exists_in_the_real_bindings(bindings):
    live = read_names(bindings)
    major = int(bindings.version.split(".")[0])
    texts = [*surface.sources().items(), *surface.standalone_sections().items()]
    problems = [str(item) for module, text in texts for item in surface.findings(text, module, kept(live), major)]
    assert problems == []


def test_contract_the_manifest_knows_both_versions():
    assert versions() == list(VERSIONS)


def test_contract_every_reference_of_the_source_exists_in_the_manifest(names):
    problems = [item for module, text in surface.sources().items() for item in found(text, names, module)]
    assert problems == []


def test_contract_every_section_of_the_stand_alone_file_passes_too(names):
    sections = surface.standalone_sections()
    assert "bench/trt/build.py" in sections
    assert [item for module, text in sections.items() for item in found(text, names, module)] == []


def test_contract_no_gate_is_stale():
    used = set().union(*(surface.used_gates(text, module) for module, text in surface.sources().items()))
    assert used == set(surface.GATES)
    for name, majors in surface.GATES.items():
        owner, _, attribute = name.rpartition(".")
        for version in VERSIONS:
            known = manifest(version)
            there = name in known["classes"] if not owner else (
                attribute in known["enums"].get(owner, ()) or attribute in known["classes"].get(owner, {}))  # fmt: skip
            assert there == (int(version.split(".")[0]) in majors), (name, version)


def test_contract_names_that_are_no_literals_stand_in_the_source():
    """A list of possible names that nobody keeps is worth nothing."""
    for (module, _), listed in surface.DYNAMIC.items():
        text = (REPOSITORY / module).read_text("utf-8") + (REPOSITORY / "bench/trt/options.py").read_text("utf-8")
        assert [name for name in listed if f'"{name}"' not in text] == [], module


class TestNegativeControls:
    """Each of these must be found, or the check above shows nothing."""

    def test_contract_a_precision_flag_is_missed_on_11(self):
        names = 11, manifest("11.4.0.106")
        text = 'x = trt.BuilderFlag.FP16\ny = member(trt, "BuilderFlag", "INT8")'
        assert len(found(text, names)) == 2

    def test_contract_a_precision_flag_outside_of_the_legacy_module_is_found_on_10_as_well(self):
        problems = found("x = trt.BuilderFlag.FP16", (10, manifest("10.16.1.11")))
        assert problems == ["BuilderFlag.FP16: is gated and may be used in legacy.py only"]

    @pytest.mark.parametrize("text", [
        "context.execute_async_v2([], 0)",
        "engine.num_bindings",
        "engine.get_binding_name(0)",
        "self._engine.max_batch_size",
        "context.set_tensor_adress('a', 1)",
        "batch.context.execute_asynchronously(1)",
        "engine.get_tensor_shape()",
        "engine.get_tensor_shape('a', 0, 1)",
        "context.execute_async_v3()",
        "context.execute_async_v3(stream=1)",
        "(context.infer_shapes if x else context.reset_shapes)()",
        "runtime.deserialize_cuda_engine(a, b)",
        "engine.num_io_tensors = 3",
        "trt.Runtime()",
        "trt.Runtimes(logger)",
        "trt.init_libnvinfer_plugins(logger)",
        "trt.DataType.FLOAT32",
        "trt.nothing",
        'member(trt, "TensorIOMode", "INOUT")',
        'member(trt, kind, "INPUT")',
        'has(trt, "TensorIOMode", name)',
        'getattr(trt, "init_plugins", None)',
        "_made(trt.OnnxParser, network, what='x')",
        "anything.set_tensor_address('a', 1)",
    ])  # fmt: skip
    def test_contract_a_wrong_reference_is_found(self, text, names):
        assert found(text, names), text

    @pytest.mark.parametrize("text", [
        "engine.get_tensor_shape('a')", "context.execute_async_v3(stream_handle=1)", "trt.Runtime(logger)",
        'member(trt, "TensorIOMode", "INPUT")', "context.set_input_shape('a', (1, 2))", "self.engine.num_layers",
    ])  # fmt: skip
    def test_contract_a_right_reference_is_not(self, text, names):
        assert found(text, names) == []

    def test_contract_a_module_that_nobody_mapped_is_found(self, names):
        assert found("def f(trt): return trt.Builder", names, "bench/trt/new.py")[0].startswith(
            "trt: a module that uses"
        )


@needs_wheels
def test_contract_without_the_stubs_the_bindings_do_not_import(bindings):
    """So that the stubs are what makes the rest possible, and not a TensorRT of this machine."""
    import subprocess

    done = subprocess.run([sys.executable, "-c", "import tensorrt_bindings"], env={"PYTHONPATH": str(bindings.folder)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "libnv" in done.stderr


SUBCLASSES = """
import json, sys
import tensorrt_bindings as trt
from bench.trt.log import make_logger
from bench.trt.outputs import make_output_allocator
from bench.trt import guard, names
logger = make_logger(trt)
logger.log(trt.ILogger.Severity.ERROR, "first")
logger.log(trt.Logger.Severity.WARNING, "second")
logger.log(trt.ILogger.INFO, "third")
class Device:
    calls = []
    def alloc(self, size): self.calls.append(size); return 4096 * len(self.calls)
    def free(self, address): pass
allocator = make_output_allocator(trt, Device())
address = allocator.reallocate_output_async("out", 0, 64, 256, 1)
allocator.notify_shape("out", trt.Dims([2, 8]))
answers = {
    "logger": isinstance(logger, trt.ILogger), "errors": logger.errors(), "warnings": logger.warnings(),
    "allocator": isinstance(allocator, trt.IOutputAllocator), "address": address, "shape": allocator.shape,
    "runtime": guard.make_runtime(trt),
    "half": names.dtype_of(trt.DataType.HALF), "bf16": names.dtype_of(trt.DataType.BF16),
    "dtypes": sorted(set(names.DTYPES) - set(trt.DataType.__members__)),
    "tuple": tuple(int(d) for d in trt.Dims([1, 3, 4])),
}
print(json.dumps(answers))
"""


@needs_wheels
def test_contract_our_subclasses_are_instances_of_the_real_classes(bindings):
    done = bindings.run(SUBCLASSES)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["logger"]
    assert answers["errors"] == ["first"]
    assert answers["warnings"] == ["second"]
    assert answers["allocator"]
    assert (answers["address"], answers["shape"]) == (4096, [2, 8])
    assert answers["tuple"] == [1, 3, 4]
    assert (answers["half"], answers["bf16"], answers["dtypes"]) == ("float16", "bfloat16", [])
    # The stub's factory returns NULL: the bindings make a TypeError of it, and the guard a reason.
    assert "makes no runtime" in answers["runtime"]["problem"]


@needs_wheels
def test_contract_the_binary_asks_for_the_methods_that_the_allocator_defines(bindings):
    """The bindings document no method of IOutputAllocator; they look them up by name, and the name is in the binary."""
    binary = bindings.module.read_bytes()
    for name in (b"reallocate_output_async", b"notify_shape", b"reallocate_output"):
        assert name in binary
    assert b"reallocate_outputs" not in binary


CUDA = """
import importlib, json
from bench.errors import LaneError
from bench.trt.memory import open_memory
from cuda.bindings import runtime
def find(name):
    if name.startswith("pycuda"):
        raise ImportError(name)
    return importlib.import_module(name)
try:
    open_memory(0, find=find)
except LaneError as error:
    message = str(error)
else:
    message = "opened"
calls = {}
for name, arguments in {
    "cudaMalloc": (8,), "cudaFree": (0,), "cudaHostAlloc": (8, runtime.cudaHostAllocDefault), "cudaFreeHost": (0,),
    "cudaMemcpyAsync": (0, 0, 0, runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, 0), "cudaStreamSynchronize": (0,),
    "cudaStreamCreateWithFlags": (runtime.cudaStreamNonBlocking,), "cudaStreamDestroy": (0,),
    "cudaStreamBeginCapture": (0, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
    "cudaStreamEndCapture": (0,), "cudaGraphInstantiate": (0, 0), "cudaGraphLaunch": (0, 0), "cudaGraphDestroy": (0,),
    "cudaGraphExecDestroy": (0,),
}.items():
    status, *_ = getattr(runtime, name)(*arguments)
    calls[name] = isinstance(status, runtime.cudaError_t)
runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
print(json.dumps({"message": message, "calls": calls}))
"""


def test_contract_the_real_cuda_python_answers_every_call_that_the_driver_makes(tmp_path):
    """cuda-bindings runs without a GPU: each call returns a status, so the driver's way of reading it is exercised."""
    import zipfile

    wheels = [*stubs.WHEELS.glob("cuda_bindings-*.whl"), *stubs.WHEELS.glob("cuda_pathfinder-*.whl")]
    if len(wheels) < 2:
        pytest.skip(f"no wheel of cuda-bindings in {stubs.WHEELS}: `make .venv/.trt-wheels` fetches it")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    import os
    import subprocess

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run([sys.executable, "-c", CUDA], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers["message"].startswith("cuda-python 13")
    assert "cudaSetDevice failed: cudaError" in answers["message"]
    assert set(answers["calls"].values()) == {True}
