"""Run a batch as a CUDA graph: launches are recorded once and replayed. Off unless it is asked for.

A graph replays fixed addresses and shapes, so a batch that is captured has an execution context of its own, and outputs
whose size the data decides cannot be had. One ordinary run goes before the capture: what TensorRT sets up lazily after
a change of shape must not be recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import LaneError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.trt.execute import Batch, Execution
    from bench.trt.memory import Memory


def capture(execution: Execution, memory: Memory, batch: Batch) -> Callable[[], None]:
    """Record one run of ``batch``; the result puts it on the stream again.

    Raises:
        Unsupported: this batch or this library has no graphs, or TensorRT cannot be recorded; says why.
        LaneError: the ordinary run before the capture failed.
    """
    if memory.no_graphs is not None:
        raise Unsupported(f"no CUDA graph: {memory.no_graphs}")
    if batch.growing:
        names = ", ".join(sorted(batch.growing))
        raise Unsupported(f"no CUDA graph: the data decides the size of {names}, and a graph replays fixed sizes")
    execution.enqueue(batch)
    memory.wait()
    try:
        graph = memory.capture(lambda: execution.enqueue(batch))
    except LaneError as error:
        raise Unsupported(f"no CUDA graph: it cannot be captured ({error})") from error
    return lambda: memory.launch(graph)
