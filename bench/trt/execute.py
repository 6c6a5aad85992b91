"""Run a serialised engine: names that TensorRT 8.6 to 11 share, and every answer checked.

TensorRT logs a failure and returns None or False. Each such answer is an exception here that names the call and carries
the log lines. Written against the bindings' names and signatures; not executed on a GPU yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError, ContractError, LaneError
from bench.trt.inspector import IOTensor, io_tensors
from bench.trt.log import make_logger
from bench.trt.names import name_of
from bench.trt.outputs import make_output_allocator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.trt.memory import Memory, Pinned
    from bench.types import Array

_STORED = {"bfloat16": "uint16", "float32": "float32", "float16": "float16", "int8": "int8", "int32": "int32",
           "int64": "int64", "bool": "bool", "uint8": "uint8"}  # fmt: skip
"""Type of a tensor -> numpy type of the same size; numpy has no bfloat16."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Memory of one tensor of one batch, on the device and page-locked on the host."""

    address: int
    host: Pinned


@dataclass(slots=True, eq=False)
class Batch:
    """Inputs of certain shapes and the outputs they give, resident on the device."""

    context: Any
    shapes: dict[str, tuple[int, ...]]
    """Of the inputs."""
    inputs: dict[str, Slot] = field(default_factory=dict)
    outputs: dict[str, Slot] = field(default_factory=dict)
    """Outputs of known size."""
    growing: dict[str, Any] = field(default_factory=dict)
    """Outputs whose size the data decides: name -> output allocator."""


class Execution:
    """One engine with its runtime and execution contexts, on one stream.

    Args:
        trt: the module ``tensorrt``; CUDA must be known to work, without it the library ends the process.
        plan: the serialised engine.
        memory: memory and stream of the GPU; closed by whoever opened it, after this.
        where: words for error messages.

    Raises:
        ArtifactError: the engine cannot be loaded or used (truncated, another GPU or version).
    """

    def __init__(self, trt: Any, plan: bytes, memory: Memory, *, where: str) -> None:
        self._trt = trt
        self._memory = memory
        self._where = where
        self._runtime: Any = None
        self._engine: Any = None
        self._contexts: list[Any] = []
        self._current: dict[int, Batch] = {}
        self.logger = make_logger(trt)
        try:
            self._load(trt, plan)
            self.tensors = self._checked_tensors()
            self._shared = self._new_context()
        except BaseException:
            self.close()
            raise

    @property
    def engine(self) -> Any:
        """``ICudaEngine``, for the inspector."""
        return self._engine

    def batch(self, shapes: Mapping[str, tuple[int, ...]], *, own_context: bool = False) -> Batch:
        """Take memory for inputs of these shapes and for their outputs.

        Args:
            shapes: of every input.
            own_context: an execution context that no other batch uses (a CUDA graph needs one).

        Raises:
            ContractError: the engine was not built for these shapes.
            ArtifactError: TensorRT refuses a shape or an address.
            LaneError: the device has not enough memory.
        """
        context = self._new_context() if own_context else self._shared
        batch = Batch(context, dict(shapes))
        self._current.pop(id(context), None)
        try:
            for tensor in self._of("input"):
                batch.inputs[tensor.name] = self._slot(tensor, batch.shapes[tensor.name])
            self._set_inputs(batch)
            for tensor in self._of("output"):
                shape = tuple(int(d) for d in context.get_tensor_shape(tensor.name))
                if any(d < 0 for d in shape):
                    batch.growing[tensor.name] = make_output_allocator(self._trt, self._memory)
                else:
                    batch.outputs[tensor.name] = self._slot(tensor, shape)
            self._set_outputs(batch)
        except BaseException:
            self.release(batch)
            raise
        self._current[id(context)] = batch
        return batch

    def load(self, batch: Batch, feeds: Mapping[str, Array]) -> None:
        """Copy the inputs to the device and wait."""
        for name, slot in batch.inputs.items():
            np.copyto(slot.host.array, feeds[name])
            self._memory.to_device(slot.address, slot.host)
        self._memory.wait()

    def enqueue(self, batch: Batch) -> None:
        """Put one run on the stream; it has not happened yet when this returns.

        Raises:
            LaneError: TensorRT refuses to run.
        """
        context = batch.context
        if self._current.get(id(context)) is not batch:  # another batch used the context: its shapes and addresses
            self._current.pop(id(context), None)
            self._set_inputs(batch)
            self._set_outputs(batch)
            self._current[id(context)] = batch
        if not context.execute_async_v3(self._memory.stream):
            for allocator in batch.growing.values():
                if allocator.error is not None:
                    raise allocator.error
            raise LaneError(f"{self._where}: execute_async_v3 failed. {self.logger.explain()}")

    def fetch(self, batch: Batch) -> dict[str, Array]:
        """Copy the outputs to the host and wait; the arrays are reused by the next call, bfloat16 is widened."""
        slots = {**batch.outputs, **{name: self._grown(name, batch) for name in batch.growing}}
        try:
            for slot in slots.values():
                self._memory.to_host(slot.host, slot.address)
            self._memory.wait()
            found = {t.name: _widened(slots[t.name].host.array, t.dtype) for t in self._of("output")}
            if batch.growing:  # their page-locked memory goes with this call
                found = {name: value.copy() for name, value in found.items()}
        finally:
            for name in batch.growing:
                self._memory.unpin(slots[name].host)
        return found

    def release(self, batch: Batch) -> None:
        """Free the memory of a batch."""
        for slot in (*batch.inputs.values(), *batch.outputs.values()):
            self._memory.free(slot.address)
            self._memory.unpin(slot.host)
        for allocator in batch.growing.values():
            if allocator.address:
                self._memory.free(allocator.address)
        batch.inputs, batch.outputs, batch.growing = {}, {}, {}
        if self._current.get(id(batch.context)) is batch:
            del self._current[id(batch.context)]

    def close(self) -> None:
        """Destroy contexts, engine and runtime, in this order: each uses the next."""
        self._current.clear()
        self._shared = None
        self._contexts.clear()
        self._engine = None
        self._runtime = None

    def _load(self, trt: Any, plan: bytes) -> None:
        if not trt.init_libnvinfer_plugins(self.logger, ""):
            raise ArtifactError(f"{self._where}: init_libnvinfer_plugins failed. {self.logger.explain()}")
        # No local names: the traceback of a failure would keep runtime and engine beyond the memory they use.
        try:
            self._runtime = trt.Runtime(self.logger)
        except TypeError as error:  # the bindings' word for a factory that returned nothing
            raise ArtifactError(f"{self._where}: Runtime failed ({error}). {self.logger.explain()}") from error
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ArtifactError(
                f"{self._where}: deserialize_cuda_engine failed: the file is truncated, or was built by another "
                f"TensorRT or for another GPU. Delete it to have it built again. {self.logger.explain()}"
            )

    def _checked_tensors(self) -> tuple[IOTensor, ...]:
        """Inputs and outputs, refusing what this runner cannot feed."""
        engine = self._engine
        tensors = io_tensors(engine)
        for tensor in tensors:
            if tensor.dtype not in _STORED or (tensor.dtype == "bfloat16" and tensor.mode == "input"):
                raise ArtifactError(
                    f"{self._where}: {tensor.mode} {tensor.name} is {tensor.dtype}, which numpy cannot hold"
                )
            if engine.is_shape_inference_io(tensor.name) or name_of(engine.get_tensor_location(tensor.name)) == "HOST":
                raise ArtifactError(
                    f"{self._where}: {tensor.mode} {tensor.name} is a shape tensor on the host; engines here take "
                    "arrays on the device. Export with a static height and width."
                )
        return tensors

    def _new_context(self) -> Any:
        engine = self._engine
        context = engine.create_execution_context()
        if context is None:
            raise ArtifactError(f"{self._where}: create_execution_context failed. {self.logger.explain()}")
        self._contexts.append(context)
        return context

    def _set_inputs(self, batch: Batch) -> None:
        context = batch.context
        self._choose_profile(batch)
        for name, slot in batch.inputs.items():
            shape = batch.shapes[name]
            self._true(context.set_input_shape(name, shape), f"set_input_shape of {name} to {shape}")
            self._true(context.set_tensor_address(name, slot.address), f"set_tensor_address of {name}")
        missing = context.infer_shapes()
        if missing:
            names = ", ".join(map(str, missing))
            raise ArtifactError(f"{self._where}: infer_shapes: no shape or value for {names}. {self.logger.explain()}")

    def _set_outputs(self, batch: Batch) -> None:
        context = batch.context
        for name, slot in batch.outputs.items():
            self._true(context.set_tensor_address(name, slot.address), f"set_tensor_address of {name}")
        for name, allocator in batch.growing.items():
            self._true(context.set_output_allocator(name, allocator), f"set_output_allocator of {name}")

    def _choose_profile(self, batch: Batch) -> None:
        """The first profile that the shapes fit; engines made here have one."""
        engine, context = self._engine, batch.context
        dynamic = [t.name for t in self._of("input") if any(d < 0 for d in t.shape)]
        if not dynamic:
            return
        told = []
        for index in range(engine.num_optimization_profiles):
            limits = {name: engine.get_tensor_profile_shape(name, index) for name in dynamic}
            if all(_within(batch.shapes[name], *limits[name]) for name in dynamic):
                if context.active_optimization_profile != index:
                    changed = context.set_optimization_profile_async(index, self._memory.stream)
                    self._true(changed, f"set_optimization_profile_async to {index}")
                    self._memory.wait()
                return
            told += [f"{name} {tuple(low)} to {tuple(high)}" for name, (low, _, high) in limits.items()]
        asked = ", ".join(f"{name} {batch.shapes[name]}" for name in dynamic)
        raise ContractError(f"{self._where}: {asked}: the engine was built for {'; '.join(told)}")

    def _slot(self, tensor: IOTensor, shape: tuple[int, ...]) -> Slot:
        kind = np.dtype(_STORED[tensor.dtype])
        address = self._memory.alloc(math.prod(shape) * kind.itemsize)
        try:
            return Slot(address, self._memory.pinned(shape, kind))
        except LaneError:
            self._memory.free(address)
            raise

    def _grown(self, name: str, batch: Batch) -> Slot:
        allocator = batch.growing[name]
        if allocator.shape is None:
            raise LaneError(f"{self._where}: TensorRT did not say the shape of {name}. {self.logger.explain()}")
        kind = next(t.dtype for t in self.tensors if t.name == name)
        return Slot(allocator.address, self._memory.pinned(allocator.shape, _STORED[kind]))

    def _of(self, mode: str) -> list[IOTensor]:
        return [t for t in self.tensors if t.mode == mode]

    def _true(self, answer: Any, call: str) -> None:
        if not answer:
            raise ArtifactError(f"{self._where}: {call} failed. {self.logger.explain()}")


def _widened(values: Array, dtype: str) -> Array:
    """bfloat16 is the upper half of a float32."""
    if dtype != "bfloat16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def _within(shape: tuple[int, ...], low: Any, best: Any, high: Any) -> bool:
    return len(shape) == len(tuple(low)) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
