"""ONNX Runtime: the CPU provider, and the CUDA provider without any fallback."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import cuda
from bench.backends.onnx_evidence import read_graph
from bench.errors import ArtifactError, Unavailable, Unsupported
from bench.runner_base import RunnerBase, check_signature, first_line, import_runtime
from bench.types import Bound, Evidence, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array, Artifact, Cell, Feeds, Mode, Outputs, Runner

_PACKAGE = "onnxruntime"
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(bool)": "bool",
}  # fmt: skip
_ERRORS_ONLY = 3


class OnnxRuntimeRunner(RunnerBase):
    """One session."""

    def __init__(self, artifact: Artifact, cell: Cell, *, threads: int) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"onnxrt {artifact.path.name}")
        import onnxruntime

        self._ort = onnxruntime
        self._path = artifact.path
        self._threads = threads
        self._cuda = cuda.index(cell.device)
        self._resident: list[dict[str, Any]] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="parity-onnxrt-")
        try:
            self._session = self._open(threads)
            check_signature(_specs(self._session.get_inputs()), _specs(self._session.get_outputs()), self.inputs,
                            self.outputs, where=str(artifact.path))  # fmt: skip
        except ArtifactError:
            self._scratch.cleanup()
            raise

    @property
    def _optimised(self) -> Path:
        return Path(self._scratch.name) / "optimised.onnx"

    def _open(self, threads: int) -> Any:
        ort = self._ort
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        providers: list[Any] = [_CPU]
        options = _options(ort, threads)
        options.optimized_model_filepath = str(self._optimised)
        if self._cuda is not None:
            # Without this a node that CUDA does not take, or a missing CUDA library, silently means the CPU.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            # HEURISTIC: the default EXHAUSTIVE picks convolution algorithms by timing, differently on each opening.
            providers = [(_CUDA, {"device_id": self._cuda, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"})]
        try:
            with warnings.catch_warnings():  # what it warns of, a provider that is not there, is an error below
                warnings.simplefilter("ignore", UserWarning)
                session = ort.InferenceSession(str(self._path), options, providers=providers)
        except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NoSuchFile, errors.InvalidArgument,
                errors.NotImplemented, errors.RuntimeException, errors.EPFail) as error:  # fmt: skip
            raise ArtifactError(f"{self._path}: onnxruntime cannot load it: {first_line(error)}") from error
        session.disable_fallback()
        wanted = _CPU if self._cuda is None else _CUDA
        if session.get_providers()[0] != wanted:
            raise ArtifactError(f"{self._path}: asked for {wanted}, the session has {session.get_providers()}")
        return session

    def _run(self, feeds: dict[str, Array]) -> Mapping[str, Array]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        session, ort = self._session, self._ort
        device, number = ("cpu", 0) if self._cuda is None else ("cuda", self._cuda)
        binding = session.io_binding()
        # On the CPU an OrtValue shares the array's memory: a copy, and kept, as older versions of the binding do not.
        resident = {n: ort.OrtValue.ortvalue_from_numpy(v.copy(), device, number) for n, v in feeds.items()}
        self._resident.append(resident)
        for name, value in resident.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self.outputs:
            binding.bind_output(spec.name, device, number)
        waits = self._cuda is not None

        def step() -> None:
            session.run_with_iobinding(binding)
            if waits:
                binding.synchronize_outputs()

        def fetch() -> Outputs:
            return dict(zip((spec.name for spec in self.outputs), binding.copy_outputs_to_cpu(), strict=True))

        def load(feeds: Feeds) -> None:
            for name, value in feeds.items():
                resident[name].update_inplace(value)

        return Bound(step, fetch, load)

    def _attest(self) -> Evidence:
        graph = read_graph(self._optimised)
        source = read_graph(self._path)
        placement: dict[str, Counter[str]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            counts = placement.setdefault(part.ep_name, Counter())
            counts.update(node.op_type for node in part.get_nodes())
        # A graph without arithmetic nodes is float32 unless its weights say otherwise.
        observed = graph.dominant or source.dominant or "fp32"
        halves = source.stored.get("FLOAT16", 0)
        # The CPU provider has few fp16 kernels: it widens the weights and puts Casts around the rest.
        emulated = observed == "fp32" and halves > source.stored.get("FLOAT", 0)
        return Evidence(
            precision=observed, provider=" + ".join(sorted(placement)) or self._session.get_providers()[0],
            emulated=emulated,
            details={"compute_nodes": graph.compute, "casts": graph.casts, "casts_in_file": source.casts,
                     "stored_weights": source.stored, "operators": graph.operators, "threads": self._threads,
                     "placement": {name: dict(c.most_common()) for name, c in sorted(placement.items())}},
        )  # fmt: skip

    def _close(self) -> None:
        del self._session
        self._resident.clear()
        self._scratch.cleanup()


class OnnxRuntimeBackend:
    """ONNX Runtime."""

    name = "onnxrt"
    aliases = ("onnxruntime", "ort")
    artifact_kind = "onnx"
    precisions = ("fp32", "fp16", "int8")
    measures_speed = True

    def require(self, device: str, precision: str) -> Mode:
        """Say how this host runs a graph of this precision.

        Raises:
            Unsupported: a precision or device that this backend does not have.
            Unavailable: onnxruntime, its CUDA provider or a GPU is missing.
        """
        if precision not in self.precisions:
            raise Unsupported(_refusal(precision))
        number = cuda.index(device)
        if device != "cpu" and number is None:
            raise Unsupported(f"onnxrt runs on cpu and cuda[:N] here, not on {device!r}")
        ort = import_runtime(_PACKAGE, backend=self.name, package=_PACKAGE)
        import_runtime("onnx", backend=self.name, package="onnx")  # the evidence is read from the optimised graph
        if number is None:
            return "emulated" if precision == "fp16" else "native"
        if _CUDA not in ort.get_available_providers():
            raise Unavailable(
                f"onnxrt:{device}: this onnxruntime ({ort.__version__}) has no {_CUDA}. Type: pip uninstall "
                "onnxruntime && pip install onnxruntime-gpu, on a machine with an NVIDIA GPU"
            )
        if problem := cuda.problem():
            raise Unavailable(f"onnxrt:{device}: {problem}")
        return "native"

    def version(self) -> str:
        """For example ``onnxruntime 1.31.1``."""
        return f"onnxruntime {import_runtime(_PACKAGE, backend=self.name, package=_PACKAGE).__version__}"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Identity: all graph runtimes take the same file."""
        return artifact

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Create the session.

        Raises:
            ArtifactError: the file cannot be loaded, or its tensors are not the declared ones.
            Unavailable, Unsupported: as ``require``; never another provider than the one asked for.
        """
        self.require(cell.device, cell.precision)
        return OnnxRuntimeRunner(artifact, cell, threads=threads)


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _ERRORS_ONLY  # it warns that the optimised graph fits this processor only: it may
    # Idle workers must not burn the processor of the lane that is being timed. allow_spinning=0 costs that in the run
    # itself (FastestDet, 2 threads on 2 quiet cores, fastest of 800: 1.36 ms spinning, 1.8 ms not spinning, 1.33 ms
    # with force_spinning_stop; 1 thread: all 2.1 ms). With the latter the workers sleep as soon as run returns.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _specs(nodes: Any) -> tuple[TensorSpec, ...]:
    """Signature of a session; an axis that it does not name is symbolic."""
    return tuple(
        TensorSpec(name=n.name, dtype=_DTYPES.get(n.type, n.type),
                   shape=tuple(d if isinstance(d, int) else str(d) for d in n.shape))
        for n in nodes
    )  # fmt: skip


def _refusal(precision: str) -> str:
    reasons = {
        "fp64": "the golden is computed by torch; no fp64 graph is made",
        "tf32": "it is an option of the CUDA provider that is pinned off, so that fp32 is fp32",
        "bf16": "no bf16 graph is made yet",
    }
    return f"onnxrt:{precision} is declared unsupported: {reasons.get(precision, 'unknown precision')}"


backend = OnnxRuntimeBackend()
