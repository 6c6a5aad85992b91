"""A graphics card in numpy: memory with addresses, streams whose work waits, graphs, and failures on request.

Nothing here is CUDA. It stands in for it where code around CUDA is tested: work put on a stream happens when the stream
is waited for (so that a forgotten wait shows), memory is born as garbage, freeing twice is an error, and what is still
held can be asked.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.types import Array

_ALIGNMENT = 256
_GARBAGE = 0xA5
OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
INVALID = "cudaErrorInvalidValue"
ILLEGAL_ADDRESS = "cudaErrorIllegalAddress"
CAPTURE = "cudaErrorStreamCaptureUnsupported"


class FakeCudaError(Exception):
    """A status other than success; each fake library says it in its own way."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class FakeDevice:
    """One GPU.

    Args:
        total_bytes: memory that it has; more is ``cudaErrorMemoryAllocation``.
        number: CUDA's number of it.
    """

    def __init__(self, *, total_bytes: int = 1 << 28, number: int = 0) -> None:
        self.total_bytes = total_bytes
        self.number = number
        self.calls: Counter[str] = Counter()
        """How often each operation was asked for."""
        self.live: dict[int, Array] = {}
        """Base address -> bytes, of device memory that is not freed."""
        self.pinned: dict[int, Array] = {}
        """Base address -> bytes, of page-locked host memory that is not freed."""
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.contexts = 0
        """Contexts retained and not released."""
        self._capturing: int | None = None
        self._next = 0x7F0000000000
        self._script: dict[str, list[str | None]] = {}

    def fail(self, operation: str, status: str = INVALID, *, after: int = 0) -> None:
        """Let the call of ``operation`` that follows ``after`` good ones return ``status``."""
        self._script.setdefault(operation, []).extend([*([None] * after), status])

    def enter(self, operation: str) -> None:
        """Count a call; raises when it is scripted to fail."""
        self.calls[operation] += 1
        queue = self._script.get(operation)
        if queue and (status := queue.pop(0)) is not None:
            raise FakeCudaError(status)

    @property
    def held_bytes(self) -> int:
        """Device memory in use."""
        return sum(block.size for block in self.live.values())

    @property
    def idle(self) -> bool:
        """Whether everything that was taken was given back."""
        return not (self.live or self.pinned or self.streams or self.graphs or self.contexts)

    def alloc(self, size: int) -> int:
        """Return the address of ``size`` bytes of garbage."""
        self.enter("alloc")
        if self.held_bytes + size > self.total_bytes:
            raise FakeCudaError(OUT_OF_MEMORY)
        address = self._place(size)
        self.live[address] = np.full(size, _GARBAGE, np.uint8)
        return address

    def free(self, address: int) -> None:
        """Free; twice is an error."""
        self.enter("free")
        if self.live.pop(address, None) is None:
            raise FakeCudaError(INVALID)

    def pin(self, size: int) -> Array:
        """``size`` bytes of page-locked host memory."""
        self.enter("pin")
        block = np.full(size, _GARBAGE, np.uint8)
        self.pinned[block.ctypes.data] = block
        return block

    def unpin(self, address: int) -> None:
        """Free page-locked memory."""
        self.enter("unpin")
        if self.pinned.pop(address, None) is None:
            raise FakeCudaError(INVALID)

    def view(self, address: int, size: int) -> Array:
        """Bytes of device memory; outside of an allocation is an illegal address."""
        for base, block in self.live.items():
            if base <= address and address + size <= base + block.size:
                return block[address - base : address - base + size]
        raise FakeCudaError(ILLEGAL_ADDRESS)

    def stream(self) -> int:
        """Create a stream."""
        self.enter("stream")
        handle = self._place(8)
        self.streams[handle] = []
        return handle

    def destroy_stream(self, handle: int) -> None:
        """Destroy it; its work is lost."""
        self.enter("destroy_stream")
        if self.streams.pop(handle, None) is None:
            raise FakeCudaError(INVALID)

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        """Put work on a stream, or into the graph that is being captured."""
        if handle not in self.streams:
            raise FakeCudaError(INVALID)
        if self._capturing == handle:
            self.graphs[handle].append(work)
        else:
            self.streams[handle].append(work)

    def to_device(self, address: int, host: Array, handle: int) -> None:
        """Copy when the stream gets there; the host memory must be page-locked."""
        self.enter("to_device")
        source = self._bytes(host)
        self.enqueue(handle, lambda: np.copyto(self.view(address, source.size), source))

    def to_host(self, host: Array, address: int, handle: int) -> None:
        """Copy when the stream gets there."""
        self.enter("to_host")
        target = self._bytes(host)
        self.enqueue(handle, lambda: np.copyto(target, self.view(address, target.size)))

    def wait(self, handle: int) -> None:
        """Do the work of a stream."""
        if self._capturing == handle:
            raise FakeCudaError(CAPTURE)
        self.enter("wait")
        if handle not in self.streams:
            raise FakeCudaError(INVALID)
        work, self.streams[handle] = self.streams[handle], []
        for item in work:
            item()

    def begin_capture(self, handle: int) -> None:
        """From here on work on the stream is recorded instead of done."""
        self.enter("begin_capture")
        self._capturing = handle
        self.graphs[handle] = []

    def end_capture(self, handle: int) -> int:
        """Return the recorded graph."""
        self._capturing = None
        recorded = self.graphs.pop(handle)
        self.enter("end_capture")
        graph = self._place(8)
        self.graphs[graph] = recorded
        return graph

    def launch(self, graph: int, handle: int) -> None:
        """Put everything recorded on the stream."""
        self.enter("launch")
        self.streams[handle].extend(self.graphs[graph])

    def destroy_graph(self, graph: int) -> None:
        """Forget a graph."""
        self.enter("destroy_graph")
        if self.graphs.pop(graph, None) is None:
            raise FakeCudaError(INVALID)

    def _bytes(self, host: Array) -> Array:
        start, flat = host.ctypes.data, host.reshape(-1).view(np.uint8)
        if not any(base <= start and start + flat.size <= base + block.size for base, block in self.pinned.items()):
            raise FakeCudaError("cudaErrorInvalidHostPointer")
        return flat

    def _place(self, size: int) -> int:
        address = self._next
        self._next += (size // _ALIGNMENT + 2) * _ALIGNMENT
        return address
