"""Outputs whose size the data decides: TensorRT asks for memory while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import LaneError

if TYPE_CHECKING:
    from bench.trt.memory import Memory


def make_output_allocator(trt: Any, device: Memory) -> Any:
    """An ``IOutputAllocator`` that grows one buffer: ``address``, ``shape`` and ``error`` after a run."""

    class GrowingOutput(trt.IOutputAllocator):  # type: ignore[misc]
        """Memory of one output."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)  # the bindings want the base called by name
            self.address = 0
            self.shape: tuple[int, ...] | None = None
            self.error: LaneError | None = None
            self._size = 0

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            """Called by TensorRT 8; returns an address, or 0: an exception here would end the process."""
            if self.address and size <= self._size:
                return self.address
            try:
                fresh = device.alloc(size)
                if self.address:
                    device.free(self.address)
            except LaneError as error:
                self.error = error
                return 0
            self.address, self._size = fresh, max(size, 1)
            return self.address

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            """Called by TensorRT 10 and 11; plain allocations are valid on every stream."""
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            """Called by TensorRT once the size is known."""
            self.shape = tuple(int(d) for d in shape)

    return GrowingOutput()
