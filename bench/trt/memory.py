"""Device memory, page-locked host memory and one stream of one GPU, and an account of what is still held.

Three libraries can do it: pycuda, cuda-python and torch. The first that is installed and works is taken, and the
evidence of a run names it. All of them are used on the primary context, which TensorRT shares: a context of one's own
beside it means invalid handles and zeros in outputs (NVIDIA/TensorRT #4335).
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench.errors import ContractError, LaneError, Unavailable
from bench.trt.drivers import CudaPythonDriver, PycudaDriver, TorchDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from bench.types import Array

INSTALL = "Type: pip install cuda-python (or pycuda, or a torch with CUDA)"


class Driver(Protocol):
    """What a library has to offer; every failure is a LaneError that names the call."""

    library: str
    """Name and version, for the evidence."""
    stream: int
    """Handle of a stream of its own, never the default one."""
    no_graphs: str | None
    """Why it cannot capture CUDA graphs, or None."""

    def alloc(self, nbytes: int) -> int:
        """Address of device memory, aligned to 256 bytes."""

    def free(self, address: int) -> None:
        """Free it."""

    def pin(self, nbytes: int) -> Array:
        """(nbytes,) uint8, page-locked."""

    def unpin(self, block: Array) -> None:
        """Free it; ``block`` is what ``pin`` returned."""

    def to_device(self, address: int, block: Array, nbytes: int) -> None:
        """Copy the first bytes of a page-locked block, on the stream."""

    def to_host(self, block: Array, address: int, nbytes: int) -> None:
        """Copy to the first bytes of a page-locked block, on the stream."""

    def wait(self) -> None:
        """Wait for the stream."""

    def begin_capture(self) -> None:
        """Record what is put on the stream."""

    def end_capture(self) -> Any:
        """Return what ``launch`` takes."""

    def launch(self, graph: Any) -> None:
        """Put a recorded graph on the stream."""

    def destroy_graph(self, graph: Any) -> None:
        """Release it."""

    def close(self) -> None:
        """Release the stream and the context."""


@dataclass(frozen=True, slots=True, eq=False)
class Pinned:
    """Page-locked host memory that looks like an array."""

    block: Array
    """The bytes."""
    array: Array
    """The same memory in its shape and dtype."""


class Memory:
    """What one runner holds on one GPU.

    Args:
        driver: the library.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._device: dict[int, int] = {}
        self._pinned: dict[int, Pinned] = {}
        self._graphs: list[Any] = []
        self._closed = False

    @property
    def library(self) -> str:
        """For example ``pycuda 2026.1``."""
        return self._driver.library

    @property
    def stream(self) -> int:
        """Handle of the stream that everything here runs on."""
        return self._driver.stream

    @property
    def no_graphs(self) -> str | None:
        """Why CUDA graphs cannot be captured, or None."""
        return self._driver.no_graphs

    @property
    def device_bytes(self) -> int:
        """Device memory that is held."""
        return sum(self._device.values())

    @property
    def pinned_bytes(self) -> int:
        """Page-locked memory that is held."""
        return sum(item.block.size for item in self._pinned.values())

    def alloc(self, nbytes: int) -> int:
        """Return the address of device memory.

        Raises:
            LaneError: there is not as much.
        """
        size = max(nbytes, 1)  # an empty tensor needs an address too
        address = self._driver.alloc(size)
        self._device[address] = size
        return address

    def free(self, address: int) -> None:
        """Free device memory.

        Raises:
            ContractError: it is not held here.
        """
        if self._device.pop(address, None) is None:
            raise ContractError(f"device memory at {address:#x} is not held: freed twice?")
        self._driver.free(address)

    def pinned(self, shape: Sequence[int], dtype: Any) -> Pinned:
        """Return page-locked host memory of a shape and dtype."""
        kind = np.dtype(dtype)
        nbytes = math.prod(shape) * kind.itemsize
        block = self._driver.pin(max(nbytes, 1))
        made = Pinned(block, block[:nbytes].view(kind).reshape(tuple(shape)))
        self._pinned[id(made)] = made
        return made

    def unpin(self, pinned: Pinned) -> None:
        """Free page-locked memory; its array must not be used any more.

        Raises:
            ContractError: it is not held here.
        """
        if self._pinned.pop(id(pinned), None) is None:
            raise ContractError("page-locked memory is not held: freed twice?")
        self._driver.unpin(pinned.block)

    def to_device(self, address: int, source: Pinned) -> None:
        """Copy on the stream; the source must stay as it is until ``wait``."""
        self._driver.to_device(address, source.block, source.array.nbytes)

    def to_host(self, target: Pinned, address: int) -> None:
        """Copy on the stream; the target is valid after ``wait``."""
        self._driver.to_host(target.block, address, target.array.nbytes)

    def wait(self) -> None:
        """Wait for everything on the stream.

        Raises:
            LaneError: something on it failed.
        """
        self._driver.wait()

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """Record what ``enqueue`` puts on the stream as a CUDA graph.

        Raises:
            LaneError: it cannot be recorded. The stream is usable afterwards.
        """
        self._driver.begin_capture()
        try:
            enqueue()
        except BaseException:
            self._end_failed_capture()
            raise
        graph = self._driver.end_capture()
        self._graphs.append(graph)
        return graph

    def launch(self, graph: Any) -> None:
        """Put a recorded graph on the stream."""
        self._driver.launch(graph)

    def close(self) -> None:
        """Wait, free everything that is still held, then the stream and the context; a second call does nothing.

        Raises:
            LaneError: the first failure, after everything was tried.
        """
        if self._closed:
            return
        self._closed = True
        failures: list[LaneError] = []
        steps: list[Callable[[], None]] = [self._driver.wait]
        steps += [lambda g=graph: self._driver.destroy_graph(g) for graph in self._graphs]  # type: ignore[misc]
        steps += [lambda a=address: self.free(a) for address in list(self._device)]  # type: ignore[misc]
        steps += [lambda p=item: self.unpin(p) for item in list(self._pinned.values())]  # type: ignore[misc]
        for step in (*steps, self._driver.close):
            try:
                step()
            except LaneError as error:
                failures.append(error)
        self._graphs.clear()
        if failures:
            raise failures[0]

    def _end_failed_capture(self) -> None:
        try:
            self._driver.destroy_graph(self._driver.end_capture())
        except LaneError:
            return  # the capture was invalid: ending it says so, and ends it all the same


def open_memory(number: int, *, find: Callable[[str], ModuleType] = importlib.import_module) -> Memory:
    """Open GPU ``number`` with the first library that is installed: pycuda, cuda-python, torch.

    Args:
        number: CUDA's number of the GPU.
        find: imports a module.

    Raises:
        Unavailable: none of them can be used; says why not, one by one.
        LaneError: the one that was found cannot open the GPU.
    """
    reasons = []
    for title, load in _LIBRARIES:
        try:
            make = load(find)
        except (ImportError, OSError) as error:  # absent, or a library that it links to is
            reasons.append(f"{title}: {error}")
            continue
        return Memory(make(number))
    raise Unavailable(f"trt: no library for device memory can be used ({'; '.join(reasons)}). {INSTALL}")


def usable_library(*, find: Callable[[str], ModuleType] = importlib.import_module) -> str | None:
    """Why ``open_memory`` would find no library, or None; imports them, opens nothing."""
    reasons = []
    for title, load in _LIBRARIES:
        try:
            load(find)
        except (ImportError, OSError) as error:
            reasons.append(f"{title}: {error}")
        else:
            return None
    return f"no library for device memory can be used ({'; '.join(reasons)}). {INSTALL}"


def _pycuda(find: Callable[[str], ModuleType]) -> Callable[[int], Driver]:
    package, driver = find("pycuda"), find("pycuda.driver")
    return lambda number: PycudaDriver(driver, number, version=package.VERSION_TEXT)


def _cuda_python(find: Callable[[str], ModuleType]) -> Callable[[int], Driver]:
    package, runtime = find("cuda.bindings"), find("cuda.bindings.runtime")
    return lambda number: CudaPythonDriver(runtime, number, version=package.__version__)


def _torch(find: Callable[[str], ModuleType]) -> Callable[[int], Driver]:
    torch = find("torch")
    if not torch.cuda.is_available():
        raise ImportError(f"torch {torch.__version__} is built without CUDA or sees no GPU")
    return lambda number: TorchDriver(torch, number)


_LIBRARIES: tuple[tuple[str, Callable[[Callable[[str], ModuleType]], Callable[[int], Driver]]], ...] = (
    ("pycuda", _pycuda), ("cuda-python", _cuda_python), ("torch", _torch),
)  # fmt: skip
