"""An onnxruntime with a GPU that is not there: the surface that the backend uses, and a script of what goes wrong.

Names and arguments are those of the real package (``test_backend_onnxrt_surface`` holds every one of them against the
installed one); anything else is an AttributeError or a TypeError, as it would be there. Outputs are those of the
contract network. Nothing of CUDA or TensorRT is executed by it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from bench.testing.artifacts import contract_outputs

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
CONTRACT_NODES = (("Conv", "conv"), ("Relu", "relu"), ("ReduceMean", "mean"))


@dataclass
class Script:
    """What the fake does; the defaults are a machine on which everything works."""

    available: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    loadable: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    """Providers whose libraries can be loaded; onnxruntime leaves the others out of the session."""
    nodes: dict[str, tuple[tuple[str, str], ...]] | None = None
    """Provider -> (operator, name); None: all of the contract network on the first provider."""
    reported: dict[str, dict[str, str]] = field(default_factory=dict)
    """Options that a provider reports instead of those it was given."""
    open_error: Exception | None = None
    """Raised while a session with a GPU provider is created."""
    value_error: Exception | None = None
    run_error: Exception | None = None
    log: list[Any] = field(default_factory=list)
    """What was called, in order."""
    watch: Any = None
    """Called when a session is created; what it returns is logged."""


class SessionOptions:
    __slots__ = ("entries", "execution_mode", "graph_optimization_level", "inter_op_num_threads",
                 "intra_op_num_threads", "log_severity_level", "optimized_model_filepath")  # fmt: skip

    def __init__(self):
        self.entries = {}
        self.optimized_model_filepath = ""

    def add_session_config_entry(self, key, value):
        self.entries[key] = value


class ExecutionMode(Enum):
    ORT_SEQUENTIAL = 0


class GraphOptimizationLevel(Enum):
    ORT_ENABLE_ALL = 99


class OrtEpAssignedNode:
    def __init__(self, op_type, name):
        self.op_type, self.name, self.domain = op_type, name, ""


class OrtEpAssignedSubgraph:
    def __init__(self, ep_name, nodes):
        self.ep_name, self._nodes = ep_name, nodes

    def get_nodes(self):
        return [OrtEpAssignedNode(*node) for node in self._nodes]


class NodeArg:
    def __init__(self, name, shape):
        self.name, self.shape, self.type = name, shape, "tensor(float)"


def make(script: Script) -> ModuleType:
    """The module, to be put in the place of onnxruntime."""

    class OrtValue:
        def __init__(self, array, device_type, device_id):
            self._array, self._place = np.array(array), (device_type, device_id)

        @classmethod
        def ortvalue_from_numpy(cls, numpy_obj, /, device_type="cpu", device_id=0, vendor_id=-1):
            if script.value_error is not None:
                raise script.value_error
            script.log.append(("value", device_type, device_id))
            return cls(numpy_obj, device_type, device_id)

        def update_inplace(self, data):
            script.log.append("update_inplace")
            self._array[...] = data

    class IOBinding:
        def __init__(self, session):
            self._inputs, self._outputs, self._results = {}, [], {}

        def bind_ortvalue_input(self, name, ortvalue):
            self._inputs[name] = ortvalue

        def bind_output(self, name, device_type="cpu", device_id=0, element_type=None, shape=None, buffer_ptr=None):
            script.log.append(("output", device_type, device_id))
            self._outputs.append(name)

        def synchronize_inputs(self):
            script.log.append("synchronize_inputs")

        def synchronize_outputs(self):
            script.log.append("synchronize_outputs")

        def copy_outputs_to_cpu(self):
            return [self._results[name] for name in self._outputs]

    class InferenceSession:
        def __init__(self, path_or_bytes, sess_options=None, providers=None, provider_options=None, **kwargs):
            self._asked = [(p, {}) if isinstance(p, str) else p for p in providers or []]
            self._options = sess_options
            seen = script.watch() if script.watch else None
            entries, optimised = dict(sess_options.entries), sess_options.optimized_model_filepath
            script.log.append(("session", self._asked, entries, optimised, seen))
            try:
                self._create()
            except (ValueError, RuntimeError):
                if not int(kwargs.get("enable_fallback", 1)):
                    raise
                self._asked = [(CPU, {})]  # the real constructor prints the error and opens the file on the CPU
                self._create()
            if sess_options.optimized_model_filepath:
                if self._registered[0] == TENSORRT:
                    raise errors.Fail("Unable to serialize model as it contains compiled nodes.")
                shutil.copy(path_or_bytes, sess_options.optimized_model_filepath)

        def _create(self):
            names = [name for name, _ in self._asked]
            if script.open_error is not None and names != [CPU]:
                raise script.open_error
            usable = [n for n in names if n in script.loadable and n in script.available]
            self._registered = [*usable, *([] if CPU in usable else [CPU])]

        def disable_fallback(self):
            script.log.append("disable_fallback")

        def get_providers(self):
            return list(self._registered)

        def get_provider_options(self):
            given = dict(self._asked)
            return {n: {**given.get(n, {}), **script.reported.get(n, {})} for n in self._registered}

        def get_provider_graph_assignment_info(self):
            placed = script.nodes if script.nodes is not None else {self._registered[0]: CONTRACT_NODES}
            return [OrtEpAssignedSubgraph(name, nodes) for name, nodes in placed.items()]

        def get_inputs(self):
            return [NodeArg("images", ["batch", 3, 8, 8])]

        def get_outputs(self):
            return [NodeArg("maps", ["batch", 4, 8, 8]), NodeArg("means", ["batch", 4])]

        def run(self, output_names, input_feed, run_options=None):
            if script.run_error is not None:
                raise script.run_error
            outputs = contract_outputs(input_feed)
            return [outputs[name] for name in output_names]

        def io_binding(self):
            return IOBinding(self)

        def run_with_iobinding(self, iobinding, run_options=None):
            if script.run_error is not None:
                raise script.run_error
            script.log.append("run")
            iobinding._results = contract_outputs({name: value._array for name, value in iobinding._inputs.items()})

    module = ModuleType("onnxruntime")
    module.__version__ = "1.31.1"
    module.__path__ = []
    for made in (SessionOptions, ExecutionMode, GraphOptimizationLevel, OrtValue, IOBinding, InferenceSession):
        setattr(module, made.__name__, made)
    module.get_available_providers = lambda: list(script.available)
    module.preload_dlls = lambda cuda=True, cudnn=True, msvc=True, directory=None: script.log.append("preload_dlls")
    return module
