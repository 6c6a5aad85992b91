"""fake: three libraries over a device in numpy; what is freed, what fails and how it is said."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from bench.errors import ContractError, LaneError, Unavailable
from bench.testing.cuda_fake import OUT_OF_MEMORY, FakeDevice
from bench.testing.cuda_libraries import fake_cuda_python, fake_pycuda, fake_torch, importer
from bench.trt.memory import open_memory, usable_library

LIBRARIES = {"pycuda": fake_pycuda, "cuda-python": fake_cuda_python, "torch": fake_torch}
GRAPHS = ("cuda-python", "torch")
CALLS = {
    "pycuda": {"alloc": "mem_alloc", "free": "DeviceAllocation.free", "pin": "pagelocked_empty", "unpin": "free",
               "to_device": "memcpy_htod_async", "to_host": "memcpy_dtoh_async", "wait": "synchronize",
               "stream": "Stream"},
    "cuda-python": {"alloc": "cudaMalloc", "free": "cudaFree", "pin": "cudaHostAlloc", "unpin": "cudaFreeHost",
                    "to_device": "cudaMemcpyAsync", "to_host": "cudaMemcpyAsync", "wait": "cudaStreamSynchronize",
                    "stream": "cudaStreamCreateWithFlags"},
    "torch": {"alloc": "allocating", "pin": "page-locking", "to_device": "copy to the device",
              "to_host": "copy to the host", "wait": "synchronize", "stream": "opening GPU"},
}  # fmt: skip


@pytest.fixture(params=LIBRARIES)
def library(request):
    return request.param


@pytest.fixture
def device():
    return FakeDevice(total_bytes=1 << 20)


def opened(library, device):
    return open_memory(0, find=importer(LIBRARIES[library](device)))


def test_fake_a_round_trip_brings_the_bytes_back(library, device):
    memory = opened(library, device)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    source, target = memory.pinned((3, 4), np.float32), memory.pinned((3, 4), np.float32)
    source.array[...] = values
    address = memory.alloc(values.nbytes)
    memory.to_device(address, source)
    memory.to_host(target, address)
    assert not np.array_equal(target.array, values), "a copy on a stream has not happened before the wait"
    memory.wait()
    np.testing.assert_array_equal(target.array, values)
    memory.close()


def test_fake_freed_means_freed(library, device):
    memory = opened(library, device)
    first, second = memory.alloc(1000), memory.alloc(24)
    pinned = memory.pinned((10,), np.int64)
    assert (device.held_bytes, memory.device_bytes, memory.pinned_bytes) == (1024, 1024, 80)
    memory.free(first)
    gc.collect()
    assert (device.held_bytes, memory.device_bytes) == (24, 24)
    memory.unpin(pinned)
    del pinned
    gc.collect()
    assert not device.pinned
    memory.free(second)
    gc.collect()
    assert device.held_bytes == 0
    memory.close()
    gc.collect()
    assert device.idle


def test_fake_closing_gives_everything_back_and_a_second_time_does_nothing(library, device):
    memory = opened(library, device)
    memory.alloc(100)
    memory.pinned((3,), np.float32)
    if library in GRAPHS:
        memory.capture(lambda: None)
    memory.close()
    memory.close()
    del memory
    gc.collect()
    assert device.idle, vars(device)


def test_fake_freeing_twice_is_a_mistake_of_ours(library, device):
    memory = opened(library, device)
    address, pinned = memory.alloc(8), memory.pinned((1,), np.float32)
    memory.free(address)
    memory.unpin(pinned)
    with pytest.raises(ContractError, match="freed twice"):
        memory.free(address)
    with pytest.raises(ContractError, match="freed twice"):
        memory.unpin(pinned)
    memory.close()


def test_fake_an_empty_tensor_has_an_address(library, device):
    memory = opened(library, device)
    assert memory.alloc(0)
    assert memory.pinned((0, 4), np.float32).array.shape == (0, 4)
    memory.close()


def test_fake_a_scalar_has_a_shape(library, device):
    memory = opened(library, device)
    assert memory.pinned((), np.float32).array.shape == ()
    memory.close()


def test_fake_out_of_memory_names_the_size(library, device):
    memory = opened(library, device)
    with pytest.raises(LaneError, match="2097152 bytes") as caught:
        memory.alloc(2 << 20)
    assert OUT_OF_MEMORY in str(caught.value)
    assert memory.device_bytes == 0
    memory.close()


@pytest.mark.parametrize(
    ("library", "operation"), [(name, one) for name, calls in CALLS.items() for one in calls if one != "stream"]
)
def test_fake_every_failure_names_the_call(library, device, operation):
    """torch frees memory when a tensor ends: there is no answer to check."""
    memory = opened(library, device)
    address, pinned = memory.alloc(4), memory.pinned((1,), np.float32)
    device.fail(operation, "cudaErrorIllegalAddress")
    calls = {
        "alloc": lambda: memory.alloc(4), "free": lambda: memory.free(address),
        "pin": lambda: memory.pinned((1,), "u1"), "unpin": lambda: memory.unpin(pinned),
        "to_device": lambda: memory.to_device(address, pinned),
        "to_host": lambda: memory.to_host(pinned, address), "wait": memory.wait,
    }  # fmt: skip
    with pytest.raises(LaneError, match=CALLS[library][operation]) as caught:
        calls[operation]()
    assert "cudaErrorIllegalAddress" in str(caught.value)


def test_fake_work_that_fails_on_the_stream_is_the_waits_failure(library, device):
    memory = opened(library, device)
    pinned = memory.pinned((4,), np.float32)
    address = memory.alloc(16)
    memory.to_device(address, pinned)
    device.live[address] = device.live[address][:4]  # shorter than the copy: an illegal address when it happens
    with pytest.raises(LaneError, match="cudaErrorIllegalAddress"):
        memory.wait()


def test_fake_a_failure_while_closing_frees_the_rest_and_is_told(library, device):
    memory = opened(library, device)
    memory.alloc(8)
    memory.pinned((1,), np.float32)
    device.fail("wait")
    with pytest.raises(LaneError, match="ynchronize"):
        memory.close()
    del memory
    gc.collect()
    assert device.idle


def test_fake_a_gpu_that_is_not_there_is_named(library):
    with pytest.raises(LaneError, match=r"3 failed|cudaSetDevice failed|GPU 3"):
        open_memory(3, find=importer(LIBRARIES[library](FakeDevice())))


def test_fake_a_stream_that_cannot_be_made_leaves_no_context(library, device):
    device.fail("stream")
    with pytest.raises(LaneError, match=CALLS[library]["stream"]):
        opened(library, device)
    gc.collect()
    assert device.idle


def test_fake_the_stream_is_never_the_default_one(library, device):
    memory = opened(library, device)
    assert memory.stream in device.streams
    assert memory.stream != 0
    memory.close()


class TestChoice:
    def everything(self, device):
        return {**fake_pycuda(device), **fake_cuda_python(device), **fake_torch(device)}

    @pytest.mark.parametrize(
        ("absent", "taken"),
        [((), "pycuda 2026.1"), (("pycuda",), "cuda-python 13.0.0"), (("pycuda", "cuda"), "torch 2.13.0+fake")],
    )
    def test_fake_the_first_that_is_installed_is_taken_and_named(self, device, absent, taken):
        modules = {k: v for k, v in self.everything(device).items() if not k.startswith(tuple(absent) or "-")}
        assert open_memory(0, find=importer(modules)).library == taken

    def test_fake_a_torch_for_processors_is_no_library(self, device):
        find = importer(fake_torch(device, available=False))
        with pytest.raises(Unavailable, match="built without CUDA or sees no GPU") as caught:
            open_memory(0, find=find)
        assert all(name in str(caught.value) for name in ("pycuda", "cuda-python", "Type: pip install cuda-python"))
        assert usable_library(find=find) is not None

    def test_fake_a_library_that_cannot_be_loaded_is_passed_over(self, device):
        known = importer(self.everything(device))

        def find(name):
            if name == "pycuda.driver":
                raise ImportError("libcuda.so.1: cannot open shared object file")
            return known(name)

        assert open_memory(0, find=find).library.startswith("cuda-python")
        assert usable_library(find=find) is None

    def test_the_torch_of_this_environment_is_asked_for_real(self):
        """Here without a GPU; with one it is a library."""
        torch = pytest.importorskip("torch")

        def only_torch(name):
            if name != "torch":
                raise ImportError(name)
            return torch

        assert (usable_library(find=only_torch) is None) == torch.cuda.is_available()


class TestGraphs:
    @pytest.fixture(params=GRAPHS)
    def library(self, request):
        return request.param

    def test_fake_a_graph_repeats_what_was_recorded(self, library, device):
        memory = opened(library, device)
        source, target, address = memory.pinned((2,), np.int32), memory.pinned((2,), np.int32), memory.alloc(8)

        def work():
            memory.to_device(address, source)
            memory.to_host(target, address)

        graph = memory.capture(work)
        for value in (3, 5):
            source.array[...] = value
            memory.launch(graph)
            memory.wait()
            assert target.array.tolist() == [value, value]
        memory.close()
        gc.collect()
        assert device.idle

    def test_fake_waiting_while_recording_is_refused_and_the_stream_goes_on(self, library, device):
        memory = opened(library, device)
        with pytest.raises(LaneError, match="cudaErrorStreamCaptureUnsupported"):
            memory.capture(memory.wait)
        memory.wait()
        memory.close()
        gc.collect()
        assert device.idle

    @pytest.mark.parametrize("operation", ["begin_capture", "end_capture", "launch"])
    def test_fake_failures_of_graphs_are_told(self, library, device, operation):
        memory = opened(library, device)
        device.fail(operation)
        with pytest.raises(LaneError, match="cudaErrorInvalidValue"):
            memory.launch(memory.capture(lambda: None))

    def test_fake_a_graph_that_cannot_be_instantiated_is_destroyed(self, device):
        modules = fake_cuda_python(device)
        runtime = modules["cuda.bindings.runtime"]
        runtime.cudaGraphInstantiate = lambda graph, flags: (runtime.cudaError_t.cudaErrorInvalidValue, None)
        memory = open_memory(0, find=importer(modules))
        with pytest.raises(LaneError, match="cudaGraphInstantiate"):
            memory.capture(lambda: None)
        assert not device.graphs


def test_fake_pycuda_has_no_graphs_and_says_what_has(device):
    memory = opened("pycuda", device)
    assert "install cuda-python" in memory.no_graphs
    with pytest.raises(LaneError, match="no CUDA graphs"):
        memory.capture(lambda: None)
    memory.close()
