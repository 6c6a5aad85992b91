"""pycuda, cuda-python and torch behind one protocol (``bench.trt.memory.Driver``); every failure names the call.

Written against the libraries' documented names; not executed on a GPU yet.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import LaneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.types import Array


class PycudaDriver:
    """pycuda on the primary context: what ``pycuda.autoprimaryctx`` does, for the GPU that is asked for.

    ``pycuda.autoinit`` makes a context of its own, which TensorRT and torch do not share.

    Args:
        driver: the module ``pycuda.driver``.
        number: CUDA's number of the GPU.
        version: of pycuda.
    """

    no_graphs: str | None = "pycuda has no CUDA graphs; install cuda-python"

    def __init__(self, driver: Any, number: int, *, version: str) -> None:
        self._cuda = driver
        self.library = f"pycuda {version}"
        self._allocations: dict[int, Any] = {}
        with self._named(f"opening GPU {number}"):
            driver.init()
            self._context = driver.Device(number).retain_primary_context()
            self._context.push()
        try:
            with self._named("Stream"):
                self._stream = driver.Stream()
        except LaneError:
            self._leave()
            raise
        self.stream = int(self._stream.handle)

    def alloc(self, nbytes: int) -> int:
        """``mem_alloc``."""
        with self._named(f"mem_alloc of {nbytes} bytes"):
            made = self._cuda.mem_alloc(nbytes)
        self._allocations[int(made)] = made
        return int(made)

    def free(self, address: int) -> None:
        """``DeviceAllocation.free``."""
        with self._named("DeviceAllocation.free"):
            self._allocations.pop(address).free()

    def pin(self, nbytes: int) -> Array:
        """``pagelocked_empty``."""
        with self._named(f"pagelocked_empty of {nbytes} bytes"):
            block: Array = self._cuda.pagelocked_empty((nbytes,), np.uint8)
        return block

    def unpin(self, block: Array) -> None:
        """Free the allocation that is the array's base."""
        with self._named("PagelockedHostAllocation.free"):
            block.base.free()  # type: ignore[union-attr]

    def to_device(self, address: int, block: Array, nbytes: int) -> None:
        """``memcpy_htod_async``."""
        with self._named("memcpy_htod_async"):
            self._cuda.memcpy_htod_async(address, block[:nbytes], self._stream)

    def to_host(self, block: Array, address: int, nbytes: int) -> None:
        """``memcpy_dtoh_async``."""
        with self._named("memcpy_dtoh_async"):
            self._cuda.memcpy_dtoh_async(block[:nbytes], address, self._stream)

    def wait(self) -> None:
        """``Stream.synchronize``."""
        with self._named("Stream.synchronize"):
            self._stream.synchronize()

    def begin_capture(self) -> None:
        """Refused."""
        raise LaneError(str(self.no_graphs))

    def end_capture(self) -> Any:
        """Refused."""
        raise LaneError(str(self.no_graphs))

    def launch(self, graph: Any) -> None:
        """Refused."""
        raise LaneError(str(self.no_graphs))

    def destroy_graph(self, graph: Any) -> None:
        """There is none."""

    def close(self) -> None:
        """Destroy the stream while the context is still current, then let go of the context."""
        self._allocations.clear()
        self._stream = None
        self._leave()

    def _leave(self) -> None:
        with self._named("Context.pop"):
            self._context.pop()
        self._context = None  # the last reference releases the primary context

    @contextmanager
    def _named(self, call: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise LaneError(f"{self.library}: {call} failed: {error}") from error


class CudaPythonDriver:
    """cuda-python's ``cuda.bindings.runtime``: each call returns a tuple that begins with its status.

    The runtime API works on the primary context by itself.

    Args:
        runtime: the module.
        number: CUDA's number of the GPU.
        version: of cuda.bindings.
    """

    no_graphs: str | None = None

    def __init__(self, runtime: Any, number: int, *, version: str) -> None:
        self._cuda = runtime
        self.library = f"cuda-python {version}"
        self._call("cudaSetDevice", number)
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    def alloc(self, nbytes: int) -> int:
        """``cudaMalloc``."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        """``cudaFree``."""
        self._call("cudaFree", address)

    def pin(self, nbytes: int) -> Array:
        """``cudaHostAlloc``."""
        address = int(self._call("cudaHostAlloc", nbytes, self._cuda.cudaHostAllocDefault))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def unpin(self, block: Array) -> None:
        """``cudaFreeHost``."""
        self._call("cudaFreeHost", block.ctypes.data)

    def to_device(self, address: int, block: Array, nbytes: int) -> None:
        """``cudaMemcpyAsync``."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, block.ctypes.data, nbytes, kind, self._stream)

    def to_host(self, block: Array, address: int, nbytes: int) -> None:
        """``cudaMemcpyAsync``."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", block.ctypes.data, address, nbytes, kind, self._stream)

    def wait(self) -> None:
        """``cudaStreamSynchronize``."""
        self._call("cudaStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """``cudaStreamBeginCapture``, thread-local: other threads of the library may go on allocating."""
        self._call(
            "cudaStreamBeginCapture", self._stream, self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )

    def end_capture(self) -> Any:
        """The graph and its executable form."""
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            return graph, self._call("cudaGraphInstantiate", graph, 0)
        except LaneError:
            self._call("cudaGraphDestroy", graph)
            raise

    def launch(self, graph: Any) -> None:
        """``cudaGraphLaunch``."""
        self._call("cudaGraphLaunch", graph[1], self._stream)

    def destroy_graph(self, graph: Any) -> None:
        """``cudaGraphExecDestroy`` and ``cudaGraphDestroy``."""
        self._call("cudaGraphExecDestroy", graph[1])
        self._call("cudaGraphDestroy", graph[0])

    def close(self) -> None:
        """Destroy the stream; the primary context stays for whoever else uses it."""
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            word = getattr(status, "name", str(status))
            size = f" of {arguments[0]} bytes" if name in ("cudaMalloc", "cudaHostAlloc") else ""
            raise LaneError(f"{self.library}: {name}{size} failed: {word}")
        return values[0] if values else None


class TorchDriver:
    """torch tensors as memory; torch uses the primary context.

    Args:
        torch: the module.
        number: CUDA's number of the GPU.
    """

    no_graphs: str | None = None

    def __init__(self, torch: Any, number: int) -> None:
        self._torch = torch
        self.library = f"torch {torch.__version__}"
        self._device = f"cuda:{number}"
        self._tensors: dict[int, Any] = {}
        self._hosts: dict[int, Any] = {}
        self._capturing: Any = None
        with self._named(f"opening GPU {number}"):
            torch.cuda.init()
            torch.cuda.set_device(number)
            self._stream = torch.cuda.Stream(device=self._device)
        self.stream = int(self._stream.cuda_stream)

    def alloc(self, nbytes: int) -> int:
        """Bytes of torch's allocator, owned by our stream: it would give them to another stream too early otherwise."""
        with self._named(f"allocating {nbytes} bytes"), self._torch.cuda.stream(self._stream):
            tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
        address = int(tensor.data_ptr())
        self._tensors[address] = tensor
        return address

    def free(self, address: int) -> None:
        """Drop the tensor."""
        del self._tensors[address]

    def pin(self, nbytes: int) -> Array:
        """A page-locked tensor as an array."""
        with self._named(f"page-locking {nbytes} bytes"):
            tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, pin_memory=True)
        block: Array = tensor.numpy()
        self._hosts[block.ctypes.data] = tensor
        return block

    def unpin(self, block: Array) -> None:
        """Drop the tensor."""
        del self._hosts[block.ctypes.data]

    def to_device(self, address: int, block: Array, nbytes: int) -> None:
        """``copy_`` without blocking."""
        with self._named("copy to the device"), self._torch.cuda.stream(self._stream):
            self._tensors[address][:nbytes].copy_(self._hosts[block.ctypes.data][:nbytes], non_blocking=True)

    def to_host(self, block: Array, address: int, nbytes: int) -> None:
        """``copy_`` without blocking."""
        with self._named("copy to the host"), self._torch.cuda.stream(self._stream):
            self._hosts[block.ctypes.data][:nbytes].copy_(self._tensors[address][:nbytes], non_blocking=True)

    def wait(self) -> None:
        """``Stream.synchronize``."""
        with self._named("Stream.synchronize"):
            self._stream.synchronize()

    def begin_capture(self) -> None:
        """``CUDAGraph.capture_begin``."""
        with self._named("CUDAGraph.capture_begin"), self._torch.cuda.stream(self._stream):
            self._capturing = self._torch.cuda.CUDAGraph()
            self._capturing.capture_begin()

    def end_capture(self) -> Any:
        """``CUDAGraph.capture_end``."""
        with self._named("CUDAGraph.capture_end"), self._torch.cuda.stream(self._stream):
            self._capturing.capture_end()
        return self._capturing

    def launch(self, graph: Any) -> None:
        """``CUDAGraph.replay``."""
        with self._named("CUDAGraph.replay"), self._torch.cuda.stream(self._stream):
            graph.replay()

    def destroy_graph(self, graph: Any) -> None:
        """``CUDAGraph.reset``."""
        with self._named("CUDAGraph.reset"):
            graph.reset()

    def close(self) -> None:
        """Drop everything; torch keeps the context."""
        self._tensors.clear()
        self._hosts.clear()
        self._capturing = None
        self._stream = None

    @contextmanager
    def _named(self, call: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError and AcceleratorError are RuntimeErrors
            raise LaneError(f"{self.library}: {call} failed: {error}") from error
