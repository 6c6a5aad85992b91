"""fake: engines run over the fake TensorRT; each answer that it can give is given once as a failure."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from bench.errors import ArtifactError, ContractError, LaneError, Unsupported
from bench.testing.artifacts import contract_artifact, contract_feeds, contract_outputs
from bench.testing.cuda_fake import FakeDevice
from bench.testing.cuda_libraries import fake_cuda_python, fake_pycuda, importer
from bench.testing.trt_fake import fake_tensorrt, versions
from bench.trt.build import build_engine
from bench.trt.cudagraph import capture
from bench.trt.execute import Execution, _widened
from bench.trt.hostkey import HostKey
from bench.trt.memory import open_memory
from bench.trt.options import BuildOptions

HOST = HostKey(tensorrt="any", gpu="Fake GPU", compute_capability="9.0", driver="fake")
ELEVEN = "11.4.0.106"


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    return contract_artifact("onnx", tmp_path_factory.mktemp("network")).path


class Bench:
    """A world, an engine and memory."""

    def __init__(self, version, path, *, batches=(1, 2, 4), library=fake_cuda_python, **device):
        self.world = fake_tensorrt(version, device=FakeDevice(**device))
        options = BuildOptions(tf32=False, batches=batches)
        self.plan = build_engine(self.world.module, path, options, host=HOST).plan
        self.world.destroyed.clear()
        self.world.calls.clear()
        self.device = self.world.device
        self.memory = open_memory(0, find=importer(library(self.device)))

    def execution(self, plan=None):
        return Execution(self.world.module, self.plan if plan is None else plan, self.memory, where="m.engine")

    def run(self, execution, feeds, **options):
        batch = execution.batch({name: value.shape for name, value in feeds.items()}, **options)
        execution.load(batch, feeds)
        execution.enqueue(batch)
        self.memory.wait()
        return execution.fetch(batch)


@pytest.fixture(params=versions())
def bench(request, onnx):
    return Bench(request.param, onnx)


@pytest.fixture
def eleven(onnx):
    return Bench(ELEVEN, onnx)


def same(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_fake_an_engine_computes_what_the_network_computes(bench):
    execution = bench.execution()
    for size in (1, 4, 2):
        feeds = contract_feeds(size, seed=size)
        same(bench.run(execution, feeds), contract_outputs(feeds))


def test_fake_batches_share_a_context_and_keep_their_own_inputs(bench):
    """Shapes and addresses are set anew when another batch ran in between."""
    execution = bench.execution()
    feeds = [contract_feeds(size, seed=size) for size in (1, 3)]
    batches = [execution.batch({"images": f["images"].shape}) for f in feeds]
    for batch, one in zip(batches, feeds, strict=True):
        execution.load(batch, one)
    for index in (0, 1, 1, 0):
        execution.enqueue(batches[index])
        bench.memory.wait()
        same(execution.fetch(batches[index]), contract_outputs(feeds[index]))


def test_fake_a_step_on_the_same_batch_sets_nothing_again(bench):
    execution = bench.execution()
    batch = execution.batch({"images": (1, 3, 8, 8)})
    bench.world.calls.clear()
    for _ in range(3):
        execution.enqueue(batch)
    assert bench.world.calls == ["IExecutionContext.execute_async_v3"] * 3


def test_fake_results_are_not_there_before_the_wait(bench):
    execution = bench.execution()
    feeds = contract_feeds(1)
    batch = execution.batch({"images": feeds["images"].shape})
    execution.load(batch, feeds)
    execution.enqueue(batch)
    raw = bench.device.view(batch.outputs["means"].address, 16).view(np.float32).copy()
    bench.memory.wait()
    assert not np.allclose(raw, contract_outputs(feeds)["means"])
    same(execution.fetch(batch), contract_outputs(feeds))


def test_fake_objects_end_in_the_order_context_engine_runtime(bench):
    execution = bench.execution()
    bench.run(execution, contract_feeds(1))
    bench.run(execution, contract_feeds(2), own_context=True)
    bench.world.destroyed.clear()
    execution.close()
    assert bench.world.destroyed == ["IExecutionContext", "IExecutionContext", "ICudaEngine", "Runtime"]


def test_fake_released_memory_is_given_back(bench):
    execution = bench.execution()
    batch = execution.batch({"images": (2, 3, 8, 8)})
    assert bench.device.held_bytes == 4 * 2 * (3 * 64 + 4 * 64 + 4)
    execution.release(batch)
    assert bench.device.held_bytes == 0
    assert not bench.device.pinned


FAILURES = [
    ("init_libnvinfer_plugins", False, ArtifactError, "init_libnvinfer_plugins failed"),
    ("Runtime", None, ArtifactError, "Runtime failed"),
    ("Runtime.deserialize_cuda_engine", None, ArtifactError, "deserialize_cuda_engine failed"),
    ("ICudaEngine.create_execution_context", None, ArtifactError, "create_execution_context failed"),
    ("IExecutionContext.set_input_shape", False, ArtifactError, "set_input_shape of images"),
    ("IExecutionContext.set_tensor_address", False, ArtifactError, "set_tensor_address of images"),
    ("IExecutionContext.infer_shapes", ["images"], ArtifactError, "infer_shapes: no shape or value for images"),
    ("IExecutionContext.execute_async_v3", False, LaneError, "execute_async_v3 failed"),
]


@pytest.mark.parametrize(("call", "answer", "kind", "words"), FAILURES, ids=[call for call, *_ in FAILURES])
def test_fake_every_failure_is_an_error_that_names_the_call_and_carries_the_log(bench, call, answer, kind, words):
    bench.world.answer(call, answer)
    with pytest.raises(kind, match=words) as caught:
        bench.run(bench.execution(), contract_feeds(2))
    assert str(caught.value).startswith("m.engine: ")
    assert f"[fake] {call} fails as scripted" in str(caught.value)


@pytest.mark.parametrize("after", [1, 2])
def test_fake_the_address_of_an_output_is_checked_too(bench, after):
    bench.world.answer("IExecutionContext.set_tensor_address", False, after=after)
    with pytest.raises(ArtifactError, match="set_tensor_address of maps" if after == 1 else "of means"):
        bench.execution().batch({"images": (1, 3, 8, 8)})


@pytest.mark.parametrize("call", [call for call, *_ in FAILURES if call.startswith("IExecutionContext.s")])
def test_fake_what_fails_when_a_context_changes_hands_is_an_error(bench, call):
    execution = bench.execution()
    first, _ = (execution.batch({"images": (size, 3, 8, 8)}) for size in (1, 2))
    bench.world.answer(call, False)
    with pytest.raises(ArtifactError, match=call.partition(".")[2]):
        execution.enqueue(first)
    execution.enqueue(first)  # nothing half-set is taken for done


@pytest.mark.parametrize(("call", "answer", "kind"), [(c, a, k) for c, a, k, _ in FAILURES[4:-1]])
def test_fake_a_batch_that_fails_keeps_no_memory(bench, call, answer, kind):
    execution = bench.execution()
    bench.world.answer(call, answer)
    with pytest.raises(kind):
        execution.batch({"images": (1, 3, 8, 8)})
    assert bench.memory.device_bytes == 0
    assert bench.memory.pinned_bytes == 0


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("operation", ["alloc", "pin"])
def test_fake_out_of_memory_in_the_middle_of_a_batch_keeps_nothing(eleven, operation, number):
    execution = eleven.execution()
    eleven.device.fail(operation, "cudaErrorMemoryAllocation", after=number - 1)
    with pytest.raises(LaneError, match="cudaErrorMemoryAllocation"):
        execution.batch({"images": (1, 3, 8, 8)})
    assert not eleven.device.live
    assert not eleven.device.pinned
    execution.batch({"images": (1, 3, 8, 8)})


@pytest.mark.parametrize("operation", ["to_device", "to_host", "wait"])
def test_fake_a_copy_that_fails_is_an_error(eleven, operation):
    execution = eleven.execution()
    eleven.device.fail(operation, "cudaErrorIllegalAddress")
    with pytest.raises(LaneError, match="cudaErrorIllegalAddress"):
        eleven.run(execution, contract_feeds(1))


def test_fake_an_execution_that_cannot_be_made_leaves_nothing(bench):
    for call, *_ in FAILURES[1:4]:
        bench.world.answer(call, None)
        with pytest.raises(ArtifactError):
            bench.execution()
    gc.collect()
    assert bench.world.destroyed.count("ICudaEngine") == 1
    assert not bench.device.live


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_fake_a_truncated_engine_is_refused_with_the_log(bench, keep):
    with pytest.raises(ArtifactError, match=r"deserialize_cuda_engine failed: the file is truncated.*checksum"):
        bench.execution(bench.plan[:keep])


def test_fake_an_engine_of_another_version_says_which(onnx):
    ten, eleven = (Bench(version, onnx) for version in versions())
    with pytest.raises(ArtifactError, match=r"the engine is of TensorRT 10\.16\.1\.11"):
        eleven.execution(ten.plan)


def test_fake_a_batch_beyond_the_profile_names_the_limits(bench):
    with pytest.raises(
        ContractError, match=r"images \(5, 3, 8, 8\): the engine was built for images \(1, 3, 8, 8\) to"
    ):
        bench.execution().batch({"images": (5, 3, 8, 8)})


def two_profiles(bench):
    """The engine as if it had been built with a second profile for batches 5 to 8."""
    execution = bench.execution()
    execution.engine._state.header["profiles"].append({"images": [[5, 3, 8, 8], [6, 3, 8, 8], [8, 3, 8, 8]]})
    return execution


def test_fake_the_profile_that_fits_is_chosen_and_waited_for(bench):
    execution = two_profiles(bench)
    feeds = contract_feeds(6)
    same(bench.run(execution, feeds), contract_outputs(feeds))
    calls = bench.world.calls
    assert calls.count("IExecutionContext.set_optimization_profile_async") == 1
    same(bench.run(execution, contract_feeds(2)), contract_outputs(contract_feeds(2)))
    assert calls.count("IExecutionContext.set_optimization_profile_async") == 2


def test_fake_a_profile_that_is_refused_is_an_error(bench):
    execution = two_profiles(bench)
    bench.world.answer("IExecutionContext.set_optimization_profile_async", False)
    with pytest.raises(ArtifactError, match="set_optimization_profile_async to 1 failed"):
        execution.batch({"images": (6, 3, 8, 8)})


@pytest.mark.parametrize(("call", "answer"), [
    ("ICudaEngine.is_shape_inference_io", True), ("ICudaEngine.get_tensor_location", "HOST")])  # fmt: skip
def test_fake_a_shape_tensor_is_refused(bench, call, answer):
    value = bench.world.module.TensorLocation.HOST if answer == "HOST" else answer
    bench.world.answer(call, value)
    with pytest.raises(ArtifactError, match="input images is a shape tensor on the host"):
        bench.execution()


@pytest.mark.parametrize("word", ["FP8", "INT4", "BF16"])
def test_fake_inputs_that_numpy_cannot_hold_are_refused(bench, word):
    bench.world.answer("ICudaEngine.get_tensor_dtype", getattr(bench.world.module.DataType, word))
    with pytest.raises(ArtifactError, match="which numpy cannot hold"):
        bench.execution()


def test_bfloat16_is_widened_exactly():
    """The upper half of the bits of a float32, NaN and infinities included."""
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.0e38, 1e-40, np.inf, -np.inf, np.nan], np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    widened = _widened(halves, "bfloat16")
    assert widened.dtype == np.float32
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(halves.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widened, expected)


def nonzero_network(path):
    """``rows`` (2, n): how many there are depends on the data."""
    import onnx as library
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("NonZero", ["images"], ["rows"]), helper.make_node("Relu", ["images"], ["same"])], "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [2, "n"]),
         helper.make_tensor_value_info("same", TensorProto.FLOAT, [2, 3])],
    )  # fmt: skip
    library.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(params=versions())
def growing(request, tmp_path):
    return Bench(request.param, nonzero_network(tmp_path / "n.onnx"), batches=(1, 1, 1))


class TestOutputsWhoseSizeTheDataDecides:
    def test_fake_they_grow_and_are_freed(self, growing):
        execution = growing.execution()
        batch = execution.batch({"images": (2, 3)})
        for values in ([[1, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]], [[0, 2, 0], [0, 0, 3]]):
            feeds = {"images": np.array(values, np.float32)}
            execution.load(batch, feeds)
            execution.enqueue(batch)
            growing.memory.wait()
            found = execution.fetch(batch)
            np.testing.assert_array_equal(found["rows"], np.array(np.nonzero(feeds["images"])))
            np.testing.assert_array_equal(found["same"], feeds["images"])
        execution.release(batch)
        assert growing.device.held_bytes == 0
        assert not growing.device.pinned

    def test_fake_out_of_memory_inside_of_tensorrt_is_our_error_and_no_crash(self, growing):
        execution = growing.execution()
        batch = execution.batch({"images": (2, 3)})
        execution.load(batch, {"images": np.ones((2, 3), np.float32)})
        growing.device.fail("alloc", "cudaErrorMemoryAllocation")
        with pytest.raises(LaneError, match="cudaErrorMemoryAllocation"):
            execution.enqueue(batch)

    def test_fake_an_allocator_that_is_refused_is_an_error(self, growing):
        growing.world.answer("IExecutionContext.set_output_allocator", False)
        with pytest.raises(ArtifactError, match="set_output_allocator of rows failed"):
            growing.execution().batch({"images": (2, 3)})

    def test_fake_a_shape_that_is_never_told_is_an_error(self, growing):
        execution = growing.execution()
        batch = execution.batch({"images": (2, 3)})
        with pytest.raises(LaneError, match="did not say the shape of rows"):
            execution.fetch(batch)

    def test_fake_they_cannot_be_captured(self, growing):
        execution = growing.execution()
        batch = execution.batch({"images": (2, 3)}, own_context=True)
        with pytest.raises(Unsupported, match="the data decides the size of rows"):
            capture(execution, growing.memory, batch)


class TestGraphs:
    def test_fake_a_captured_batch_follows_its_inputs(self, eleven):
        execution = eleven.execution()
        batch = execution.batch({"images": (2, 3, 8, 8)}, own_context=True)
        execution.load(batch, contract_feeds(2))
        again = capture(execution, eleven.memory, batch)
        runs = eleven.world.calls.count("IExecutionContext.execute_async_v3")
        assert runs == 2, "one ordinary run, then the recorded one"
        for seed in (5, 6):
            feeds = contract_feeds(2, seed=seed)
            execution.load(batch, feeds)
            again()
            eleven.memory.wait()
            same(execution.fetch(batch), contract_outputs(feeds))
        assert eleven.world.calls.count("IExecutionContext.execute_async_v3") == runs

    def test_fake_tensorrt_that_cannot_be_recorded_is_refused_with_the_reason(self, eleven):
        execution = eleven.execution()
        batch = execution.batch({"images": (1, 3, 8, 8)}, own_context=True)
        execution.load(batch, contract_feeds(1))
        eleven.world.answer("IExecutionContext.execute_async_v3", False, after=1)
        with pytest.raises(Unsupported, match=r"cannot be captured .*execute_async_v3 failed"):
            capture(execution, eleven.memory, batch)
        same(eleven.run(execution, contract_feeds(1)), contract_outputs(contract_feeds(1)))

    def test_fake_a_first_run_that_fails_is_no_matter_of_graphs(self, eleven):
        execution = eleven.execution()
        batch = execution.batch({"images": (1, 3, 8, 8)}, own_context=True)
        eleven.world.answer("IExecutionContext.execute_async_v3", False)
        with pytest.raises(LaneError, match="execute_async_v3 failed"):
            capture(execution, eleven.memory, batch)

    def test_fake_pycuda_is_refused_with_what_to_install(self, onnx):
        bench = Bench(ELEVEN, onnx, library=fake_pycuda)
        execution = bench.execution()
        batch = execution.batch({"images": (1, 3, 8, 8)}, own_context=True)
        with pytest.raises(Unsupported, match="install cuda-python"):
            capture(execution, bench.memory, batch)


class TestTheFake:
    """What makes the tests above able to fail."""

    @pytest.mark.parametrize(("call", "kind"), [
        (lambda e: e.num_bindings, AttributeError), (lambda e: e.get_tensor_shape(), TypeError),
        (lambda e: e.get_tensor_shape("images", 1), TypeError), (lambda e: setattr(e, "new", 1), AttributeError),
        (lambda e: setattr(e, "num_io_tensors", 1), AttributeError),
        (lambda e: e.get_tensor_shape(wrong="x"), TypeError),
    ])  # fmt: skip
    def test_fake_names_and_arities_of_the_manifest_hold(self, bench, call, kind):
        with pytest.raises(kind):
            call(bench.execution().engine)

    def test_fake_flags_of_10_do_not_exist_in_11(self):
        ten, eleven = (fake_tensorrt(version).module for version in versions())
        assert ten.BuilderFlag.FP16.name == "FP16"
        assert not hasattr(eleven.BuilderFlag, "FP16")
        assert not hasattr(eleven, "IInt8EntropyCalibrator2")

    def test_fake_members_are_no_integers(self):
        flag = fake_tensorrt(ELEVEN).module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert flag != int(flag)
        with pytest.raises(TypeError):
            1 << flag

    def test_fake_an_answer_for_a_call_that_does_not_exist_is_refused(self):
        with pytest.raises(AttributeError):
            fake_tensorrt(ELEVEN).answer("IExecutionContext.execute_async_v2", False)

    def test_fake_the_default_stream_is_refused(self, eleven):
        execution = eleven.execution()
        batch = execution.batch({"images": (1, 3, 8, 8)})
        assert not batch.context.execute_async_v3(0)
