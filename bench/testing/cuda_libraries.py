"""The three Python libraries that code uses to reach a GPU, over ``FakeDevice``: pycuda, cuda-python and torch.

Only what the harness uses is here, under the names of the real packages; anything else is an AttributeError.
``importer`` gives modules to code that takes an import function, so that nothing has to be put into ``sys.modules``.
"""

from __future__ import annotations

import enum
import weakref
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.testing.cuda_fake import CAPTURE, ILLEGAL_ADDRESS, OUT_OF_MEMORY, FakeCudaError, FakeDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.types import Array


def importer(modules: Mapping[str, ModuleType]) -> Callable[[str], ModuleType]:
    """An import function that knows these modules and no other."""

    def find(name: str) -> ModuleType:
        if name not in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return modules[name]

    return find


def fake_pycuda(device: FakeDevice) -> dict[str, ModuleType]:
    """``pycuda.driver``: errors are exceptions; nothing works before a context is current."""
    driver = ModuleType("pycuda.driver")
    stack: list[Any] = []

    class Error(Exception):
        """Base of its errors."""

    class MemoryError(Error):  # noqa: A001 - pycuda's name
        """Out of memory."""

    class LogicError(Error):
        """Everything else."""

    @contextmanager
    def said() -> Iterator[None]:
        try:
            yield
        except FakeCudaError as error:
            kind = MemoryError if error.status == OUT_OF_MEMORY else LogicError
            raise kind(f"cuda call failed: {error.status}") from error

    def current() -> None:
        if not stack:
            raise LogicError("cuda call failed: invalid device context")

    class Context:
        """A primary context; released when the last reference goes, as pycuda does."""

        def __init__(self) -> None:
            device.contexts += 1
            weakref.finalize(self, lambda: setattr(device, "contexts", device.contexts - 1))

        def push(self) -> None:
            stack.append(1)

        def pop(self) -> None:
            current()
            stack.pop()

    class Device:
        def __init__(self, number: int) -> None:
            if number != device.number:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        def retain_primary_context(self) -> Context:
            return Context()

    class Stream:
        def __init__(self) -> None:
            current()
            with said():
                self.handle = device.stream()
            weakref.finalize(self, device.destroy_stream, self.handle)

        def synchronize(self) -> None:
            with said():
                device.wait(self.handle)

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            current()
            with said():
                self._address = device.alloc(size)

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            with said():
                device.free(self._address)

    class HostAllocation:
        def __init__(self, size: int) -> None:
            current()
            with said():
                block = device.pin(size)
            self.address = block.ctypes.data
            self.__array_interface__ = block.__array_interface__

        def free(self) -> None:
            with said():
                device.unpin(self.address)

    def pagelocked_empty(shape: Any, dtype: Any) -> Array:
        if np.dtype(dtype) != np.uint8 or len(shape) != 1:
            raise TypeError("the fake page-locks bytes")
        return np.asarray(HostAllocation(shape[0]))  # its base is the allocation, as pycuda documents

    def memcpy_htod_async(dest: Any, src: Array, stream: Any) -> None:
        with said():
            device.to_device(int(dest), src, stream.handle)

    def memcpy_dtoh_async(dest: Array, src: Any, stream: Any) -> None:
        with said():
            device.to_host(dest, int(src), stream.handle)

    _fill(driver, init=lambda: None, Device=Device, Stream=Stream, mem_alloc=DeviceAllocation, Error=Error,
          MemoryError=MemoryError, LogicError=LogicError, pagelocked_empty=pagelocked_empty,
          memcpy_htod_async=memcpy_htod_async, memcpy_dtoh_async=memcpy_dtoh_async)  # fmt: skip
    package = ModuleType("pycuda")
    _fill(package, VERSION_TEXT="2026.1", driver=driver)
    return {"pycuda": package, "pycuda.driver": driver}


def fake_cuda_python(device: FakeDevice) -> dict[str, ModuleType]:
    """``cuda.bindings.runtime``: every call returns a tuple that begins with a status."""
    runtime = ModuleType("cuda.bindings.runtime")
    statuses = {"cudaSuccess": 0, "cudaErrorInvalidValue": 1, OUT_OF_MEMORY: 2, "cudaErrorInvalidDevice": 101,
                ILLEGAL_ADDRESS: 700, CAPTURE: 900, "cudaErrorInvalidHostPointer": 901}  # fmt: skip
    cuda_error = _enum("cudaError_t", statuses)
    graphs: dict[int, int] = {}

    def call(work: Callable[[], Any]) -> tuple[Any, ...]:
        try:
            value = work()
        except FakeCudaError as error:
            return (cuda_error[error.status], None)
        return (cuda_error.cudaSuccess,) if value is None else (cuda_error.cudaSuccess, value)

    def block(address: int, size: int) -> Array:
        for base, found in device.pinned.items():
            if base <= address and address + size <= base + found.size:
                return found[address - base : address - base + size]
        raise FakeCudaError("cudaErrorInvalidHostPointer")

    def copy(target: int, source: int, count: int, kind: Any, stream: int) -> tuple[Any, ...]:
        if kind == copy_kind.cudaMemcpyHostToDevice:
            return call(lambda: device.to_device(target, block(source, count), stream))
        return call(lambda: device.to_host(block(target, count), source, stream))

    def select(number: int) -> tuple[Any, ...]:
        return (cuda_error.cudaSuccess if number == device.number else cuda_error.cudaErrorInvalidDevice,)

    def instantiate(graph: int, flags: int) -> tuple[Any, ...]:
        device.enter("instantiate")
        graphs[graph + 1] = graph
        return (cuda_error.cudaSuccess, graph + 1)

    kinds = {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}
    copy_kind = _enum("cudaMemcpyKind", kinds)
    _fill(
        runtime, cudaError_t=cuda_error, cudaMemcpyKind=copy_kind, cudaStreamNonBlocking=1, cudaHostAllocDefault=0,
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal=1), cudaSetDevice=select,
        cudaStreamCreateWithFlags=lambda flags: call(device.stream),
        cudaMalloc=lambda size: call(lambda: device.alloc(size)),
        cudaStreamDestroy=lambda s: call(lambda: device.destroy_stream(s)),
        cudaFree=lambda address: call(lambda: device.free(address)),
        cudaHostAlloc=lambda size, flags: call(lambda: device.pin(size).ctypes.data),
        cudaFreeHost=lambda address: call(lambda: device.unpin(address)), cudaMemcpyAsync=copy,
        cudaStreamSynchronize=lambda s: call(lambda: device.wait(s)),
        cudaStreamBeginCapture=lambda s, mode: call(lambda: device.begin_capture(s)),
        cudaStreamEndCapture=lambda s: call(lambda: device.end_capture(s)), cudaGraphInstantiate=instantiate,
        cudaGraphLaunch=lambda g, s: call(lambda: device.launch(graphs[g], s)),
        cudaGraphExecDestroy=lambda g: call(lambda: [graphs.pop(g)].clear()),
        cudaGraphDestroy=lambda g: call(lambda: device.destroy_graph(g)),
    )  # fmt: skip
    bindings = ModuleType("cuda.bindings")
    _fill(bindings, __version__="13.0.0", runtime=runtime)
    return {"cuda.bindings": bindings, "cuda.bindings.runtime": runtime}


def fake_torch(device: FakeDevice, *, available: bool = True) -> dict[str, ModuleType]:
    """``torch`` with a CUDA device; ``available=False`` is the build for processors only."""
    torch, cuda = ModuleType("torch"), ModuleType("torch.cuda")
    current: list[Any] = []

    class OutOfMemoryError(RuntimeError):
        """Out of device memory."""

    @contextmanager
    def said() -> Iterator[None]:
        try:
            yield
        except FakeCudaError as error:
            kind = OutOfMemoryError if error.status == OUT_OF_MEMORY else RuntimeError
            raise kind(f"CUDA error: {error.status}") from error

    class Tensor:
        def __init__(self, size: int, *, pinned: bool, owner: Tensor | None = None, start: int = 0) -> None:
            self.size, self._owner, self._start, self._pinned = size, owner, start, pinned
            if owner is not None:
                return
            with said():
                self._block = device.pin(size) if pinned else None
                self._address = self._block.ctypes.data if self._block is not None else device.alloc(size)
            weakref.finalize(self, device.unpin if pinned else device.free, self._address)

        def data_ptr(self) -> int:
            return self._address if self._owner is None else self._owner.data_ptr() + self._start

        def numpy(self) -> Array:
            whole = self if self._owner is None else self._owner
            assert whole._block is not None
            return whole._block[self._start : self._start + self.size]

        def __getitem__(self, part: slice) -> Tensor:
            start, stop, _ = part.indices(self.size)
            return Tensor(stop - start, pinned=self._pinned, owner=self._owner or self, start=self._start + start)

        def copy_(self, other: Tensor, *, non_blocking: bool = False) -> None:
            stream = current[-1].cuda_stream
            with said():
                if self._pinned:
                    device.to_host(self.numpy(), other.data_ptr(), stream)
                else:
                    device.to_device(self.data_ptr(), other.numpy(), stream)
                if not non_blocking:
                    device.wait(stream)

    class Stream:
        def __init__(self, device: Any) -> None:
            with said():
                self.cuda_stream = gpu.stream()
            weakref.finalize(self, gpu.destroy_stream, self.cuda_stream)

        def synchronize(self) -> None:
            with said():
                gpu.wait(self.cuda_stream)

    class CUDAGraph:
        def __init__(self) -> None:
            self._graph: int | None = None

        def capture_begin(self) -> None:
            with said():
                gpu.begin_capture(current[-1].cuda_stream)

        def capture_end(self) -> None:
            with said():
                self._graph = gpu.end_capture(current[-1].cuda_stream)

        def replay(self) -> None:
            assert self._graph is not None
            with said():
                gpu.launch(self._graph, current[-1].cuda_stream)

        def reset(self) -> None:
            if self._graph is not None:
                gpu.destroy_graph(self._graph)
            self._graph = None

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        current.append(chosen)
        try:
            yield
        finally:
            current.pop()

    def empty(size: int, *, dtype: Any, device: str | None = None, pin_memory: bool = False) -> Tensor:
        if dtype != "torch.uint8" or (device is None) != pin_memory:
            raise TypeError("the fake makes bytes, on the device or page-locked")
        return Tensor(size, pinned=pin_memory)

    def select(number: int) -> None:
        if number != gpu.number:
            raise RuntimeError("CUDA error: invalid device ordinal")

    gpu = device
    _fill(cuda, is_available=lambda: available, init=lambda: None, set_device=select, Stream=Stream, stream=stream,
          CUDAGraph=CUDAGraph, OutOfMemoryError=OutOfMemoryError)  # fmt: skip
    _fill(torch, __version__="2.13.0+fake", uint8="torch.uint8", empty=empty, cuda=cuda)
    return {"torch": torch, "torch.cuda": cuda}


def _fill(module: ModuleType, **names: Any) -> None:
    for name, value in names.items():
        setattr(module, name, value)


def _enum(name: str, members: dict[str, int]) -> Any:
    make: Any = enum.IntEnum
    return make(name, members)
