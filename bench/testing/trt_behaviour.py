"""What the calls of the fake TensorRT do when all is well: parse, "build", load and run an ONNX file in numpy.

The ways to fail that callers must be ready for are those of the documentation: None and False after a log line, never
an exception. ``BEHAVIOUR`` maps ``Class.method`` to a function of the object and the arguments.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.testing.cuda_fake import FakeCudaError
from bench.testing.trt_network import ELEMENT_TYPES, Network, read_network

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"FAKE-ENGINE\n"
TIMING_MAGIC = b"FAKE-TIMING "
_STORAGE = {"FLOAT": "float32", "HALF": "float16", "BF16": "uint16", "INT8": "int8", "INT32": "int32",
            "INT64": "int64", "BOOL": "bool", "UINT8": "uint8"}  # fmt: skip


def _create_network(self: Any, flags: int = 0) -> Any:
    world = self._state.world
    creation = world.module.NetworkDefinitionCreationFlag
    typed = bool(flags & (1 << int(creation.STRONGLY_TYPED))) or int(world.version.split(".")[0]) >= 11
    return world.made("INetworkDefinition", content=None, typed=typed)


def _create_config(self: Any) -> Any:
    # TF32 is on unless it is cleared, as in TensorRT.
    return self._state.world.made("IBuilderConfig", flag_names={"TF32"}, profiles=[], cache=None, pools={})


def _parser(self: Any, network: Any, logger: Any) -> None:
    self._state.network, self._state.errors = network, []


def _parse_from_file(self: Any, path: str) -> bool:
    return _parse(self, Path(path).read_bytes(), path)


def _parse(self: Any, model: bytes, path: str = "") -> bool:
    try:
        self._state.network._state.content = read_network(bytes(model))
    except ValueError as error:
        self._state.errors.append(self._state.world.made("ParserError", text=str(error)))
        self._state.world.log("ERROR", f"[fake parser] {error}")
        return False
    return True


def _tensor(self: Any, io: Any) -> Any:
    return self._state.world.made("ITensor", io=io)


def _set_flag(self: Any, flag: Any) -> None:
    self._state.flag_names.add(flag.name)


def _add_profile(self: Any, profile: Any) -> int:
    self._state.profiles.append(dict(profile._state.shapes))
    return len(self._state.profiles) - 1


def _set_shape(self: Any, name: str, low: Any, best: Any, high: Any) -> None:
    self._state.shapes[name] = [list(low), list(best), list(high)]


def _set_pool(self: Any, pool: Any, size: int) -> None:
    self._state.pools[pool.name] = size


def _create_timing_cache(self: Any, content: bytes) -> Any:
    world, data = self._state.world, bytes(content)
    if data and not data.startswith(TIMING_MAGIC + world.version.encode()):
        world.log("ERROR", "[fake] the timing cache is of another version")
        return None
    return world.made("ITimingCache", content=data or TIMING_MAGIC + world.version.encode())


def _set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
    self._state.cache = cache
    return True


def _build(self: Any, network: Any, config: Any, kernel_text: Any = None) -> Any:
    world, state = self._state.world, config._state
    found: Network = network._state.content
    dynamic = [io.name for io in found.inputs if any(isinstance(d, str) for d in io.shape)]
    covered = state.profiles[0] if state.profiles else {}
    if missing := [name for name in dynamic if name not in covered]:
        world.log("ERROR", f"[fake] no optimization profile for the dynamic inputs {missing}")
        return None
    calibrator = getattr(state, "int8_calibrator", None)
    if calibrator is not None and not _calibrated(world, calibrator, found):
        return None
    world.builds += 1
    verbosity = getattr(state, "profiling_verbosity", None)
    header = {
        "tensorrt": world.version, "gpu": world.gpu, "typed": network._state.typed, "flags": sorted(state.flag_names),
        "profiles": state.profiles, "build": world.builds, "verbosity": getattr(verbosity, "name", "LAYER_NAMES_ONLY"),
        "calibrated": calibrator is not None,
    }  # fmt: skip
    body = json.dumps(header).encode() + b"\n" + found.content
    return world.module.IHostMemory(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _calibrated(world: Any, calibrator: Any, found: Network) -> bool:
    calibrator.get_batch_size()
    cache = calibrator.read_calibration_cache()
    if cache is not None and bytes(cache).startswith(b"TRT-"):
        return True
    calibrator.get_batch([io.name for io in found.inputs])
    world.log("ERROR", "[fake] calibration failure: there are no images")
    return False


def _deserialize(self: Any, data: Any) -> Any:
    world, plan = self._state.world, bytes(data)
    digest, _, body = plan[len(MAGIC) :].partition(b"\n")
    if not plan.startswith(MAGIC) or hashlib.sha256(body).hexdigest().encode() != digest:
        world.log("ERROR", "[fake] Serialization assertion failed: magic tag or checksum mismatch")
        return None
    line, _, content = body.partition(b"\n")
    header = json.loads(line)
    if header["tensorrt"] != world.version or header["gpu"] != world.gpu:
        world.log("ERROR", f"[fake] the engine is of TensorRT {header['tensorrt']} on {header['gpu']}")
        return None
    return world.made("ICudaEngine", header=header, network=read_network(content))


def _io(engine: Any, name: str) -> Any:
    network: Network = engine._state.network
    return next((io for io in (*network.inputs, *network.outputs) if io.name == name), None)


def _ios(engine: Any) -> list[Any]:
    return [*engine._state.network.inputs, *engine._state.network.outputs]


def _mode(self: Any, name: str) -> Any:
    modes, io = self._state.world.module.TensorIOMode, _io(self, name)
    return modes.NONE if io is None else modes.INPUT if io in self._state.network.inputs else modes.OUTPUT


def _dtype(self: Any, name: str) -> Any:
    return getattr(self._state.world.module.DataType, _io(self, name).dtype)


def _static_shape(self: Any, name: str) -> tuple[int, ...]:
    return tuple(-1 if isinstance(d, str) else d for d in _io(self, name).shape)


def _profile_shape(self: Any, name: str, profile: int) -> list[tuple[int, ...]]:
    return [tuple(shape) for shape in self._state.header["profiles"][profile][name]]


def _context(self: Any, strategy: Any = None) -> Any:
    static = {io.name: tuple(io.shape) for io in self._state.network.inputs
              if all(isinstance(d, int) for d in io.shape)}  # fmt: skip
    return self._state.world.made(
        "IExecutionContext", header=self._state.header, network=self._state.network, shapes=static, addresses={},
        allocators={}, profile=0,
    )  # fmt: skip


def _set_input_shape(self: Any, name: str, shape: Any) -> bool:
    world, shape = self._state.world, tuple(int(d) for d in shape)
    io = next((one for one in self._state.network.inputs if one.name == name), None)
    if io is None or len(io.shape) != len(shape):
        world.log("ERROR", f"[fake] setInputShape: {name} {shape}")
        return False
    profiles = self._state.header["profiles"]
    low, _, high = profiles[self._state.profile][name] if any(isinstance(d, str) for d in io.shape) else [io.shape] * 3
    if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
        world.log("ERROR", f"[fake] setInputShape: {name} {shape} is outside of {low} to {high}")
        return False
    self._state.shapes[name] = shape
    return True


def _set_address(self: Any, name: str, memory: int) -> bool:
    known = {io.name for io in (*self._state.network.inputs, *self._state.network.outputs)}
    if name not in known or not isinstance(memory, int):
        return False
    self._state.addresses[name] = memory
    return True


def _infer_shapes(self: Any) -> list[str]:
    return [io.name for io in self._state.network.inputs if io.name not in self._state.shapes]


def _context_shape(self: Any, name: str) -> tuple[int, ...]:
    if name in self._state.shapes:
        return tuple(self._state.shapes[name])
    io = next(o for o in self._state.network.outputs if o.name == name)
    return tuple(self._state.network.resolved(io, self._state.shapes))


def _set_allocator(self: Any, name: str, allocator: Any) -> bool:
    self._state.allocators[name] = allocator
    return True


def _set_profile(self: Any, index: int, stream: int) -> bool:
    if index >= len(self._state.header["profiles"]):
        return False
    self._state.profile = index
    return True


def _execute(self: Any, stream: int) -> bool:
    state = self._state
    world, network = state.world, state.network
    device, addresses, shapes = world.device, dict(state.addresses), dict(state.shapes)
    wanted = [io.name for io in (*network.inputs, *network.outputs)]
    if missing := [n for n in wanted if n not in addresses and n not in state.allocators]:
        world.log("ERROR", f"[fake] enqueueV3: no address for {missing}")
        return False
    if stream not in device.streams:
        world.log("ERROR", f"[fake] enqueueV3: {stream} is not a stream of this device")
        return False

    def compute() -> dict[str, Any]:
        feeds = {}
        for io in network.inputs:
            kind = np.dtype(_STORAGE[io.dtype])
            size = int(np.prod(shapes[io.name], dtype=np.int64)) * kind.itemsize
            feeds[io.name] = device.view(addresses[io.name], size).view(kind).reshape(shapes[io.name]).copy()
        results: dict[str, Any] = network.run(feeds)
        return results

    def store(results: dict[str, Any]) -> None:
        for io in network.outputs:
            raw = np.ascontiguousarray(results[io.name]).reshape(-1).view(np.uint8)
            np.copyto(device.view(addresses[io.name], raw.size), raw)

    try:
        if state.allocators:  # their sizes are known after the arithmetic: TensorRT waits here as well
            device.wait(stream)
            results = compute()
            for name, allocator in state.allocators.items():
                address = allocator.reallocate_output(name, 0, results[name].nbytes, 256)
                if not address:
                    world.log("ERROR", f"[fake] enqueueV3: the output allocator gave no memory for {name}")
                    return False
                addresses[name] = address
                allocator.notify_shape(name, results[name].shape)
            device.enqueue(stream, lambda: store(results))
        else:
            device.enqueue(stream, lambda: store(compute()))
    except FakeCudaError as error:
        world.log("ERROR", f"[fake] enqueueV3: {error.status}")
        return False
    return True


def _inspector(self: Any) -> Any:
    return self._state.world.made("EngineInspector", engine=self._state)


def _information(self: Any, form: Any) -> str:
    engine, world = self._state.engine, self._state.world
    header, network = engine.header, engine.network
    split = int(world.version.split(".")[0]) >= 11
    context = getattr(self._state, "execution_context", None)
    shown = context is not None or not any(isinstance(d, str) for io in network.inputs for d in io.shape)
    entries: list[Any] = []
    for layer in network.layers(header["flags"], typed=header["typed"], calibrated=header["calibrated"]):
        if header["verbosity"] != "DETAILED":
            entries.append(layer.name)
            continue
        word = layer.word if shown else "N/A due to dynamic shapes"
        types = {"Format": "Row major linear", "DataType": word} if split else {
            "Format/Datatype": f"Row major linear {word}"}  # fmt: skip
        tensor = [{"Name": "t", "Dimensions": [1], **types}]
        entries.append({"Name": layer.name, "LayerType": layer.kind, "Inputs": tensor, "Outputs": tensor,
                        "TacticName": layer.tactic, "ParameterType": layer.operator})  # fmt: skip
    names = [io.name for io in (*network.inputs, *network.outputs)]
    tail = {"I/O Tensors": [{"Name": name} for name in names]} if split else {"Bindings": names}
    return json.dumps({"Layers": entries, **tail})


def _host_memory(content: Callable[[Any], bytes]) -> Callable[[Any], Any]:
    return lambda self: self._state.world.module.IHostMemory(content(self))


BEHAVIOUR: dict[str, Callable[..., Any]] = {
    "init_libnvinfer_plugins": lambda world, logger, namespace: True,
    "Logger": lambda self, severity=None: None,
    "Logger.log": lambda self, severity, text: None,
    "Builder.create_network": _create_network,
    "Builder.create_builder_config": _create_config,
    "Builder.create_optimization_profile": lambda self: self._state.world.made("IOptimizationProfile", shapes={}),
    "Builder.build_serialized_network": _build,
    "OnnxParser": _parser,
    "OnnxParser.parse": _parse,
    "OnnxParser.parse_from_file": _parse_from_file,
    "OnnxParser.num_errors": lambda self: len(self._state.errors),
    "OnnxParser.get_error": lambda self, index: self._state.errors[index],
    **{f"ParserError.{name}": lambda self: 0 for name in ("node", "line", "code")},
    **{f"ParserError.{name}": lambda self: "" for name in ("node_name", "node_operator", "file", "func")},
    "ParserError.desc": lambda self: self._state.text,
    "INetworkDefinition.num_inputs": lambda self: len(self._state.content.inputs) if self._state.content else 0,
    "INetworkDefinition.num_outputs": lambda self: len(self._state.content.outputs) if self._state.content else 0,
    "INetworkDefinition.get_input": lambda self, index: _tensor(self, self._state.content.inputs[index]),
    "INetworkDefinition.get_output": lambda self, index: _tensor(self, self._state.content.outputs[index]),
    "ITensor.name": lambda self: self._state.io.name,
    "ITensor.shape": lambda self: tuple(-1 if isinstance(d, str) else d for d in self._state.io.shape),
    "ITensor.dtype": lambda self: getattr(self._state.world.module.DataType, self._state.io.dtype),
    "ITensor.is_shape_tensor": lambda self: False,
    "IBuilderConfig.set_flag": _set_flag,
    "IBuilderConfig.clear_flag": lambda self, flag: self._state.flag_names.discard(flag.name),
    "IBuilderConfig.get_flag": lambda self, flag: flag.name in self._state.flag_names,
    "IBuilderConfig.add_optimization_profile": _add_profile,
    "IBuilderConfig.set_memory_pool_limit": _set_pool,
    "IBuilderConfig.set_calibration_profile": lambda self, profile: True,
    "IBuilderConfig.create_timing_cache": _create_timing_cache,
    "IBuilderConfig.set_timing_cache": _set_timing_cache,
    "IBuilderConfig.get_timing_cache": lambda self: self._state.cache,
    "IOptimizationProfile.set_shape": _set_shape,
    "ITimingCache.serialize": _host_memory(lambda self: self._state.content),
    "Runtime.deserialize_cuda_engine": _deserialize,
    "ICudaEngine.num_io_tensors": lambda self: len(_ios(self)),
    "ICudaEngine.get_tensor_name": lambda self, index: _ios(self)[index].name,
    "ICudaEngine.get_tensor_mode": _mode,
    "ICudaEngine.get_tensor_dtype": _dtype,
    "ICudaEngine.get_tensor_shape": _static_shape,
    "ICudaEngine.get_tensor_location": lambda self, name: self._state.world.module.TensorLocation.DEVICE,
    "ICudaEngine.is_shape_inference_io": lambda self, name: False,
    "ICudaEngine.get_tensor_profile_shape": _profile_shape,
    "ICudaEngine.num_optimization_profiles": lambda self: max(1, len(self._state.header["profiles"])),
    "ICudaEngine.num_layers": lambda self: len(self._state.network.layers([], typed=True, calibrated=False)),
    "ICudaEngine.create_execution_context": _context,
    "ICudaEngine.create_engine_inspector": _inspector,
    "EngineInspector.get_engine_information": _information,
    "IExecutionContext.set_input_shape": _set_input_shape,
    "IExecutionContext.set_tensor_address": _set_address,
    "IExecutionContext.infer_shapes": _infer_shapes,
    "IExecutionContext.get_tensor_shape": _context_shape,
    "IExecutionContext.set_output_allocator": _set_allocator,
    "IExecutionContext.active_optimization_profile": lambda self: self._state.profile,
    "IExecutionContext.set_optimization_profile_async": _set_profile,
    "IExecutionContext.execute_async_v3": _execute,
}
assert set(_STORAGE) == set(ELEMENT_TYPES.values())
