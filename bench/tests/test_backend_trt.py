"""The TensorRT backend: what it needs, what it refuses, and a whole cell over the fake library."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.artifacts import Store
from bench.attest import mismatch
from bench.backends import cuda, trt
from bench.backends.trt import Access, TensorRTBackend, options_for
from bench.errors import ArtifactError, ContractError, InputError, LaneError, Unavailable, Unsupported
from bench.lanes import Lane
from bench.precision.qdq import insert_qdq
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs
from bench.testing.fakes import FakeAdapter, fake_fixtures
from bench.testing.trt_fake_backend import FakeAccess
from bench.tests.tiny_onnx import SPEC, save_tiny, tiny_feeds
from bench.trt.inspector import Observed
from bench.trt.runner import attested
from bench.types import Artifact, Cell

NO_DRIVER = "this host has no CUDA driver (libcuda.so.1)"
ELEVEN = "11.4.0.106"
VERSIONS = ("10.16.1.11", ELEVEN)


class Machine(Access):
    """A machine in words."""

    def __init__(self, package="11.4.0", problem=None, memory=None, crash=None, capability="9.0"):
        self._package, self._problem, self._memory, self._crash = package, problem, memory, crash
        self.capability = capability

    def package(self):
        return self._package

    def problem(self, number):
        return self._problem

    def memory_problem(self):
        return self._memory

    def first_call(self):
        if self._crash:
            raise Unavailable(self._crash)
        return ELEVEN

    def host(self, version, number):
        return FakeAccess(ELEVEN, capability=self.capability).host(version, number)


def refusal(machine, *, device="cuda:0", precision="fp16", kind=Unavailable):
    with pytest.raises(kind) as caught:
        TensorRTBackend(access=machine).require(device, precision)
    return str(caught.value)


class TestRequire:
    def test_without_the_package_it_gives_the_install_command_and_what_else_is_missing(self):
        text = refusal(Machine(package=None, problem=NO_DRIVER))
        assert "tensorrt, which is not installed. Type: pip install 'backend-parity[trt]'" in text
        assert NO_DRIVER in text

    def test_with_the_package_and_no_gpu_it_says_what_the_driver_answered(self):
        assert refusal(Machine(problem=NO_DRIVER)).endswith(f"is installed, but {NO_DRIVER}")

    def test_a_library_that_crashes_is_unavailable(self):
        assert refusal(Machine(crash="trt: the library crashed (SIGSEGV)")) == "trt: the library crashed (SIGSEGV)"

    def test_without_a_library_for_memory_it_says_what_to_install(self):
        assert "no library for device memory" in refusal(Machine(memory="no library for device memory can be used"))

    @pytest.mark.parametrize("device", ["cpu", "npu", "cuda:x"])
    def test_other_devices_cannot_be(self, device):
        assert "trt runs on cuda[:N]" in refusal(Machine(), device=device, kind=Unsupported)

    def test_fp64_cannot_exist(self):
        with pytest.raises(Unsupported, match="trt:fp64 cannot exist"):
            trt.backend.require("cuda:0", "fp64")

    @pytest.mark.parametrize(
        ("precision", "capability", "there"),
        [("tf32", "7.5", False), ("bf16", "7.5", False), ("fp16", "7.5", True), ("tf32", "8.0", True),
         ("bf16", "12.0", True)],
    )  # fmt: skip
    def test_arithmetic_that_the_gpu_lacks_is_refused(self, precision, capability, there):
        machine = Machine(capability=capability)
        if there:
            assert TensorRTBackend(access=machine).require("cuda:0", precision) == "native"
        else:
            assert "has no such arithmetic" in refusal(machine, precision=precision, kind=Unsupported)

    def test_opening_and_preparing_are_refused_in_the_same_words(self):
        machine = Machine(problem=NO_DRIVER)
        backend, cell = TensorRTBackend(access=machine), contract_cell("trt", device="cuda:0")
        expected = refusal(machine)
        for refused in (lambda: backend.open(None, cell, threads=1), lambda: backend.prepare(None, cell, None)):
            with pytest.raises(Unavailable) as caught:
                refused()
            assert str(caught.value) == expected

    def test_the_version_comes_from_the_metadata(self, monkeypatch):
        def version(name):
            if name == "tensorrt":
                return "11.4.0"
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)
        assert trt.backend.version() == "tensorrt 11.4.0"

    def test_no_version_without_a_package(self):
        with pytest.raises(Unavailable, match="not installed"):
            TensorRTBackend(access=Machine(package=None)).version()

    @pytest.mark.skipif(cuda.problem() is None, reason="this host has a GPU: the child process is asked then")
    def test_without_a_driver_the_library_is_never_imported_not_even_in_a_child(self, tmp_path):
        """Importing it and touching a runtime without a driver ends the process; this one would end it at once."""
        (tmp_path / "tensorrt.py").write_text(
            f"import os, pathlib; pathlib.Path({str(tmp_path / 'touched')!r}).touch()"
        )
        script = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from bench.backends.trt import backend\n"
            "from bench.errors import Unavailable\n"
            "try: backend.require('cuda:0', 'fp16')\n"
            "except Unavailable as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith("trt: the package tensorrt is installed, but this host"), done.stderr
        assert not (tmp_path / "touched").exists()


@pytest.fixture(params=VERSIONS)
def access(request):
    return FakeAccess(request.param)


@pytest.fixture
def backend(access):
    return TensorRTBackend(name="trt-fake", access=access)


def cell_of(precision="fp32", batch=2, device="cuda:0"):
    return contract_cell("trt-fake", device=device, precision=precision, batch=batch)


@pytest.fixture
def source(tmp_path):
    return contract_artifact("onnx", tmp_path)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


class TestPrepare:
    def test_fake_an_engine_is_built_once_and_known_by_its_recipe(self, backend, source, store, access):
        first = backend.prepare(source, cell_of(), store)
        assert backend.prepare(source, cell_of(), store).sha256 == first.sha256
        assert access.world.builds == 1
        assert (first.kind, first.precision, first.made_from) == ("engine", "fp32", source.sha256)
        recipe = first.recipe
        assert recipe["flags"] == []
        assert recipe["compute_nodes"] == {"fp32": 1}
        assert recipe["options"]["batches"] == [1, 2, 2]
        assert recipe["trtexec"]["build"].startswith(
            "trtexec --onnx=contract-batch-8.onnx --saveEngine=model.engine --"
        )
        assert recipe["host"]["gpu"] == "Fake GPU"
        assert "layers" not in recipe
        json.dumps(recipe)

    @pytest.mark.parametrize("change", [
        {"precision": "tf32"}, {"batch": 4}], ids=["tf32", "batch"])  # fmt: skip
    def test_fake_another_cell_is_another_engine(self, backend, source, store, access, change):
        engines = {backend.prepare(source, one, store).path for one in (cell_of(), cell_of(**change))}
        assert len(engines) == 2

    def test_fake_another_gpu_never_finds_it(self, backend, source, store, access):
        first = backend.prepare(source, cell_of(), store)
        access.world.gpu = "Another GPU"
        assert backend.prepare(source, cell_of(), store).path != first.path
        assert access.world.builds == 2

    def test_fake_rebuilds_are_other_engines(self, backend, source, tmp_path):
        engines = {backend.prepare(source, cell_of(), Store(tmp_path / "s", build=k)).sha256 for k in range(3)}
        assert len(engines) == 3

    @pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
    def test_fake_a_damaged_engine_in_the_store_is_built_again(self, backend, source, store, access, damage):
        first = backend.prepare(source, cell_of(), store)
        content = first.path.read_bytes()
        {"truncated": lambda: first.path.write_bytes(content[:100]), "changed": lambda: first.path.write_bytes(
            content[:-1] + b"!"), "gone": first.path.unlink}[damage]()  # fmt: skip
        again = backend.prepare(source, cell_of(), store)
        assert access.world.builds == 2
        with backend.open(again, cell_of(), threads=1) as runner:
            runner.run(contract_feeds(1))

    def test_fake_a_build_that_fails_is_remembered_by_nobody(self, backend, source, store, access):
        access.world.answer("Builder.build_serialized_network", None)
        with pytest.raises(ArtifactError, match="built no engine"):
            backend.prepare(source, cell_of(), store)
        assert backend.prepare(source, cell_of(), store).path.is_file()

    def test_fake_a_file_that_tensorrt_would_misread_is_refused_before_a_build(self, backend, store, access, tmp_path):
        graph = helper.make_graph(
            [helper.make_node("GridSample", ["images", "grid"], ["maps"], mode="linear")], "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8]),
             helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, 4, 4, 2])],
            [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, 3, 4, 4])],
        )  # fmt: skip
        path = tmp_path / "grid.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
        artifact = replace(contract_artifact("onnx", tmp_path), path=path)
        with pytest.raises(Unsupported, match=r"trt: grid\.onnx: .*GridSample"):
            backend.prepare(artifact, cell_of(), store)
        assert access.world.builds == 0

    def test_fake_an_engine_that_is_given_is_taken_as_it_is(self, backend, source, store):
        engine = backend.prepare(source, cell_of(), store)
        assert backend.prepare(engine, cell_of(), store) is engine

    def test_fake_weights_are_no_source_of_an_engine(self, backend, source, store):
        with pytest.raises(ArtifactError, match="built from an ONNX file, this is weights"):
            backend.prepare(replace(source, kind="weights"), cell_of(), store)

    def test_fake_a_full_disk_is_bad_input_and_leaves_nothing(self, backend, source, tmp_path, monkeypatch):
        """The build itself succeeds; what fails is writing its result."""

        def full(self, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(tmp_path), "write_bytes", full)
        with pytest.raises(InputError, match="No space left on device"):
            backend.prepare(source, cell_of(), Store(tmp_path / "store"))
        monkeypatch.undo()
        assert not list((tmp_path / "store").rglob("*.engine"))

    def test_a_static_batch_has_no_limits(self, tmp_path):
        static = contract_artifact("onnx", tmp_path, batch=4)
        assert options_for(static, cell_of(batch=4)).batches == (1, 1, 1)
        assert options_for(
            replace(static, inputs=contract_artifact("onnx", tmp_path).inputs), cell_of(batch=4)
        ).batches == (1, 4, 4)
        assert [options_for(static, cell_of(p)).tf32 for p in ("fp32", "tf32", "fp16")] == [False, True, False]


class TestOpen:
    def opened(self, backend, source, store, cell=None):
        cell = cell or cell_of()
        return backend.open(backend.prepare(source, cell, store), cell, threads=1)

    def test_fake_a_cell_runs_binds_and_is_attested(self, backend, source, store, access):
        with self.opened(backend, source, store) as runner:
            for size in (1, 2):
                feeds = contract_feeds(size, seed=size)
                found = runner.run(feeds)
                for name, value in contract_outputs(feeds).items():
                    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
            evidence = runner.attest()
            assert mismatch(cell_of(), "native", evidence) is None
            assert evidence.provider == f"CUDA TensorRT {access.world.version} (fake, in numpy)"
            assert evidence.details["compute_layers"] == {"fp32": 1}
            assert evidence.details["memory"] == "cuda-python 13.0.0"
            json.dumps(evidence.details)
        gc.collect()
        assert access.world.device.idle

    def test_fake_copies_happen_at_bind_load_and_fetch_only(self, backend, source, store, access):
        calls = access.world.device.calls
        with self.opened(backend, source, store) as runner:
            bound = runner.bind(contract_feeds(2))
            before = dict(calls)
            bound.step()
            bound.step()
            assert (calls["to_device"], calls["to_host"]) == (before["to_device"], before.get("to_host", 0))
            assert calls["wait"] == before["wait"] + 2
            bound.fetch()
            assert calls["to_host"] == 2

    def test_fake_tensorrt_ends_before_the_memory_that_it_uses(self, backend, source, store, access, monkeypatch):
        runner = self.opened(backend, source, store)
        runner.run(contract_feeds(1))
        runner.bind(contract_feeds(2))
        device, ended = access.world.device, access.world.destroyed
        ended.clear()
        first, free = [], device.free
        monkeypatch.setattr(device, "free", lambda address: (first.append(list(ended)), free(address)))
        runner.close()
        assert first[0] == ["IExecutionContext", "ICudaEngine", "Runtime"]

    def test_fake_outputs_are_copies(self, backend, source, store):
        with self.opened(backend, source, store) as runner:
            first = runner.run(contract_feeds(1, seed=1))
            kept = {name: value.copy() for name, value in first.items()}
            runner.run(contract_feeds(1, seed=2))
            for name, value in kept.items():
                np.testing.assert_array_equal(first[name], value)

    def test_fake_a_cuda_graph_gives_the_same(self, access, source, store):
        backend = TensorRTBackend(name="trt-fake-graph", cuda_graph=True, access=access)
        with self.opened(backend, source, store) as runner:
            feeds = contract_feeds(2, seed=9)
            bound = runner.bind(contract_feeds(2))
            bound.load(feeds)
            bound.step()
            np.testing.assert_allclose(bound.fetch()["maps"], contract_outputs(feeds)["maps"], rtol=1e-5, atol=1e-6)
            assert runner.attest().details["cuda_graph"] is True
            assert access.world.device.calls["launch"] == 1

    def test_fake_a_truncated_engine_is_refused(self, backend, source, store, access):
        engine = backend.prepare(source, cell_of(), store)
        engine.path.write_bytes(engine.path.read_bytes()[:200])
        with pytest.raises(ArtifactError, match="deserialize_cuda_engine failed: the file is truncated"):
            backend.open(engine, cell_of(), threads=1)
        gc.collect()
        assert access.world.device.idle, "nothing is held after a refusal"

    @pytest.mark.parametrize("field", ["tensorrt", "gpu", "driver"])
    def test_fake_an_engine_of_another_machine_is_refused_by_its_record(self, backend, source, store, field):
        engine = backend.prepare(source, cell_of(), store)
        recipe = {**engine.recipe, "host": {**engine.recipe["host"], field: "something else"}}
        with pytest.raises(ArtifactError, match=f"built with {field} something else; here: {field} "):
            backend.open(replace(engine, recipe=recipe), cell_of(), threads=1)

    def test_fake_an_engine_of_another_gpu_without_a_record_is_refused_by_tensorrt(
        self, backend, source, store, access
    ):
        engine = backend.prepare(source, cell_of(), store)
        access.world.gpu = "Another GPU"
        with pytest.raises(ArtifactError, match="on Fake GPU"):
            backend.open(replace(engine, recipe={}), cell_of(), threads=1)

    def test_fake_other_tensors_than_declared_are_refused(self, backend, source, store):
        engine = backend.prepare(source, cell_of(), store)
        wrong = replace(engine.outputs[0], dtype="float16")
        with pytest.raises(ArtifactError, match="does not fit the declared"):
            backend.open(replace(engine, outputs=(wrong, *engine.outputs[1:])), cell_of(), threads=1)

    def test_fake_a_fixed_batch_is_the_engines(self, backend, tmp_path, store):
        static = contract_artifact("onnx", tmp_path, batch=2)
        engine = replace(
            backend.prepare(static, cell_of(batch=2), store), inputs=contract_artifact("onnx", tmp_path).inputs
        )
        with backend.open(engine, cell_of(batch=2), threads=1) as runner:
            assert runner.inputs[0].shape[0] == 2
            with pytest.raises(ContractError, match="fixes the batch at 2"):
                runner.run(contract_feeds(1))

    def test_fake_a_library_that_cannot_be_loaded_gives_the_memory_back(
        self, backend, source, store, access, monkeypatch
    ):
        engine = backend.prepare(source, cell_of(), store)

        def missing():
            raise ImportError("libnvinfer.so.11")

        monkeypatch.setattr(access, "load", missing)
        with pytest.raises(Unavailable, match=r"cannot be loaded: libnvinfer\.so\.11"):
            backend.open(engine, cell_of(), threads=1)
        gc.collect()
        assert access.world.device.idle

    def test_fake_out_of_memory_is_the_lanes_error(self, backend, source, store, access):
        with self.opened(backend, source, store) as runner:
            access.world.device.total_bytes = 100
            with pytest.raises(LaneError, match="cudaMalloc of 1536 bytes failed: cudaErrorMemoryAllocation"):
                runner.run(contract_feeds(2))


def conv(path, kind=TensorProto.FLOAT):
    """A convolution in a type, with float inputs and outputs; its names are those of the fake adapter."""
    weight = np.random.default_rng(3).normal(0, 0.3, (15, 3, 1, 1)).astype(np.float32)
    to = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Cast", ["images"], ["typed"], to=kind),
        helper.make_node("GlobalAveragePool", ["typed"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "weight"], ["made"], name="conv"),
        helper.make_node("Cast", ["made"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["wide", "flat"], ["rows"]),
        helper.make_node("Split", ["rows", "parts"], ["left", "scores"], axis=1),
        helper.make_node("Reshape", ["left", "boxed"], ["boxes"]),
    ]
    constants = {"flat": [0, 15], "parts": [12, 3], "boxed": [0, 3, 4]}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 3, 4]),
         helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight.astype(to), "weight"),
         *(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items())],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    spec = FakeAdapter.spec
    return Artifact(kind="onnx", path=path, sha256="0" * 64, precision="fp32", inputs=spec.inputs, outputs=spec.outputs)


class TestLabels:
    @pytest.mark.parametrize(("precision", "kind"), [("fp32", TensorProto.FLOAT), ("tf32", TensorProto.FLOAT),
                                                     ("fp16", TensorProto.FLOAT16)])  # fmt: skip
    def test_fake_a_typed_file_bears_out_its_label(self, backend, store, tmp_path, precision, kind):
        cell, artifact = cell_of(precision), conv(tmp_path / "m.onnx", kind)
        with backend.open(backend.prepare(artifact, cell, store), cell, threads=1) as runner:
            assert mismatch(cell, "native", runner.attest()) is None

    def test_fake_an_int8_file_is_int8_and_computes_what_onnxruntime_does(self, backend, store, tmp_path):
        """Q/DQ of opset 17: activations per tensor, weights per channel."""
        onnxruntime = pytest.importorskip("onnxruntime")
        path = save_tiny(tmp_path / "tiny.onnx")
        ranges = {name: 4.0 for name in ("images", "b", "d", "e")}
        onnx.save(insert_qdq(onnx.load(str(path)), ranges, float_nodes=["last_conv"]), str(path))
        artifact = Artifact(kind="onnx", path=path, sha256="1" * 64, precision="int8", inputs=SPEC.inputs,
                            outputs=SPEC.outputs)  # fmt: skip
        feeds = tiny_feeds(1)[0]
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        (expected,) = onnxruntime.InferenceSession(str(path), options).run(None, feeds)
        cell = cell_of("int8")
        with backend.open(backend.prepare(artifact, cell, store), cell, threads=1) as runner:
            np.testing.assert_allclose(runner.run(feeds)["cells"], expected, rtol=1e-3, atol=1e-3)
            evidence = runner.attest()
        assert mismatch(cell, "native", evidence) is None
        assert evidence.details["compute_layers"] == {"int8": 2, "fp32": 1}

    def test_fake_a_file_in_float_is_not_fp16_whatever_its_label(self, backend, store, tmp_path):
        """rf-detr #1453: an fp16 request that TensorRT 11 ignored was an fp32 engine with a warning."""
        cell, artifact = cell_of("fp16"), conv(tmp_path / "m.onnx")
        with backend.open(backend.prepare(artifact, cell, store), cell, threads=1) as runner:
            assert mismatch(cell, "native", runner.attest()) == "Requested fp16, observed fp32."

    def test_fake_an_engine_with_tf32_is_not_fp32(self, backend, store, tmp_path):
        artifact = conv(tmp_path / "m.onnx")
        engine = backend.prepare(artifact, cell_of("tf32"), store)
        with backend.open(engine, cell_of("fp32"), threads=1) as runner:
            assert mismatch(cell_of("fp32"), "native", runner.attest()) == "Requested fp32, observed tf32."

    def test_fake_an_engine_without_a_record_cannot_be_told(self, backend, store, tmp_path):
        engine = replace(backend.prepare(conv(tmp_path / "m.onnx"), cell_of(), store), recipe={})
        with (
            backend.open(engine, cell_of(), threads=1) as runner,
            pytest.raises(ArtifactError, match="which builder flags"),
        ):
            runner.attest()

    @pytest.mark.parametrize(("requested", "observed", "tf32", "in_graph", "expected"), [
        ("fp32", ("fp32", {"fp32": 9}), False, {"fp32": 9}, "fp32"),
        ("fp32", ("fp32", {"fp32": 9}), True, {"fp32": 9}, "tf32"),
        ("tf32", ("fp32", {"fp32": 9}), True, {"fp32": 9}, "tf32"),
        ("tf32", ("fp32", {"fp32": 9}), False, {"fp32": 9}, "fp32"),
        ("fp32", ("tf32", {"tf32": 1, "fp32": 8}), False, {"fp32": 9}, "tf32"),
        ("int8", ("int8", {"int8": 8, "fp32": 1}), False, {"int8": 8, "fp32": 1}, "int8"),
        ("int8", ("fp32", {"fp32": 6, "int8": 3}), False, {"int8": 3, "fp32": 6}, "int8"),
        ("int8", ("fp32", {"fp32": 9}), False, {"int8": 8, "fp32": 1}, "fp32"),
        ("fp16", ("bf16", {"bf16": 9}), False, {"fp16": 9}, "bf16"),
    ])  # fmt: skip
    def test_the_label_is_what_the_layers_bear_out(self, requested, observed, tf32, in_graph, expected):
        precision, counts = observed
        seen = Observed(precision, counts, counts.get(precision, 0) / sum(counts.values()))
        assert attested(requested, seen, tf32=tf32, in_graph=in_graph) == expected

    @pytest.mark.parametrize(("observed", "in_graph", "words"), [
        (("unknown", {"unknown": 4}), {"int8": 4}, "shows its type"),
        (("int8", {"int8": 9}), {"int8": 5, "fp32": 4}, "44% of the compute nodes of the ONNX file are fp32"),
    ])  # fmt: skip
    def test_a_label_that_cannot_be_borne_out_is_an_error(self, observed, in_graph, words):
        precision, counts = observed
        with pytest.raises(ArtifactError, match=words):
            attested("int8", Observed(precision, counts, 0.0), tf32=False, in_graph=in_graph)


def test_fake_a_lane_builds_loads_and_times_an_engine(tmp_path):
    """The worker's own commands in a child process, over the fake library."""
    cell = Cell(model="fake", backend="trt-fake", device="cuda:0", precision="fp16", fixtures="fake", batch=2)
    samples = fake_fixtures(tmp_path / "images", 4).samples
    with Lane(name="trt-fake", log=tmp_path / "lane.log") as lane:
        loaded = lane.call(
            "load", adapter="bench.testing:fake_adapter", backend="bench.testing.trt_fake_backend:backend", cell=cell,
            artifact=conv(tmp_path / "m.onnx", TensorProto.FLOAT16), weights=None, seed=0, threads=1, first=samples[0],
        )  # fmt: skip
        raw = lane.call("sample", samples=samples[:2])
        lane.call("bind", sample=samples[0], batch=2, warmup=1)
        times = lane.call("time", steps=3)
    assert loaded["prepared"].kind == "engine"
    assert loaded["build_s"] is not None
    assert loaded["version"] == "tensorrt 11.4.0.106 (fake, in numpy)"
    assert mismatch(cell, "native", loaded["evidence"]) is None
    assert raw[0]["boxes"].shape == (1, 3, 4)
    assert len(times) == 3


@pytest.fixture(autouse=True)
def _own_store(monkeypatch, tmp_path):
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))


class Driver:
    """Stands in for libcuda.so.1."""

    def __init__(self, init, count):
        self.init, self.count = init, count

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self.count
        return 0


@pytest.mark.parametrize(("driver", "expected"), [
    (Driver(100, 0), "cuInit returned 100"), (Driver(0, 0), "sees no GPU"), (Driver(0, 1), None)])  # fmt: skip
def test_the_driver_is_asked_itself(monkeypatch, driver, expected):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    answer = cuda.problem()
    assert answer is None if expected is None else expected in answer


def test_a_host_without_a_driver_says_so(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    assert cuda.problem() == NO_DRIVER


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3), ("cpu", None), ("cuda:", None), ("cuda:x", None), ("cuda:-1", None)],
)
def test_device_words_are_read(device, expected):
    assert cuda.index(device) == expected


@pytest.mark.gpu
@pytest.mark.skipif(cuda.problem() is not None, reason=f"needs a GPU: {cuda.problem()}")
@pytest.mark.parametrize("name", ["backend", "graph_backend"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_gpu_a_real_engine_computes_what_the_network_computes(tmp_path, name, precision):
    """Never run where this was written; the first run on a GPU decides."""
    backend = getattr(trt, name)
    cell = Cell(model="contract", backend=backend.name, device="cuda:0", precision=precision, fixtures="none", batch=4)
    try:
        backend.require("cuda:0", precision)
    except Unavailable as error:
        pytest.skip(str(error))
    artifact = conv(tmp_path / "m.onnx", TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT)
    images = np.random.default_rng(1).random((4, 3, 32, 32), np.float32)
    expected = onnx.reference.ReferenceEvaluator(str(artifact.path)).run(None, {"images": images})
    with backend.open(backend.prepare(artifact, cell, Store(tmp_path)), cell, threads=1) as runner:
        found = runner.run({"images": images})
        bound = runner.bind({"images": images})
        bound.step()
        stepped = bound.fetch()
        assert mismatch(cell, "native", runner.attest()) is None
    for spec, value in zip(artifact.outputs, expected, strict=True):
        np.testing.assert_allclose(found[spec.name], value, rtol=2e-2, atol=2e-2)
        np.testing.assert_allclose(stepped[spec.name], found[spec.name], rtol=1e-5, atol=1e-6)
