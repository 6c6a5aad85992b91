"""ONNX Runtime: the CPU provider, and the CUDA and TensorRT providers without any silent fallback."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import warnings
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends import cuda
from bench.backends.onnx_evidence import read_graph
from bench.errors import ArtifactError, LaneError, Unavailable, Unsupported
from bench.ort import providers
from bench.ort.evidence import details_of, observed_precision
from bench.ort.placement import read_placement
from bench.runner_base import RunnerBase, check_signature, first_line, import_runtime
from bench.types import Bound, Evidence, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array, Artifact, Cell, Feeds, Mode, NodeTime, Outputs, Runner

_PACKAGE = "onnxruntime"
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(bool)": "bool",
}  # fmt: skip
_ERRORS_ONLY = 3
_ENGINES = "engines"
"""Key of a recipe under which ``prepare`` tells ``open`` the folder of the TensorRT provider's engines."""
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_STRONGLY_TYPED = 11
"""From this TensorRT on the types of the file are the only source of precision."""


class OnnxRuntimeRunner(RunnerBase):
    """One session."""

    def __init__(self, artifact: Artifact, cell: Cell, *, threads: int) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"onnxrt {artifact.path.name}")
        import onnxruntime

        self._ort = onnxruntime
        self._failures = _failures()
        self._path = artifact.path
        self._threads = threads
        self._place = providers.place_of(cell.device)
        engines = artifact.recipe.get(_ENGINES)
        self._asked = providers.provider_list(self._place, cell.precision, inputs=self.inputs, batch=cell.batch,
                                              engines=Path(engines) if engines else None)  # fmt: skip
        self._resident: list[dict[str, Any]] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="parity-onnxrt-")
        try:
            self._session = self._open(threads)
            self._tensorrt, major = providers.tensorrt_library(providers.loaded_libraries())
            _refuse_weak_typing(self._place, cell.precision, self._tensorrt, major)
            check_signature(_specs(self._session.get_inputs()), _specs(self._session.get_outputs()), self.inputs,
                            self.outputs, where=str(artifact.path))  # fmt: skip
        except (ArtifactError, Unsupported):
            self._scratch.cleanup()
            raise

    @property
    def _optimised(self) -> Path:
        return Path(self._scratch.name) / "optimised.onnx"

    def _open(self, threads: int) -> Any:
        ort, place = self._ort, self._place
        options = _options(ort, threads)
        if place.provider != providers.TENSORRT:  # a graph with compiled nodes cannot be written: the session fails
            options.optimized_model_filepath = str(self._optimised)
        try:
            with warnings.catch_warnings():  # what it warns of, a provider that is not there, is an error below
                warnings.simplefilter("ignore", UserWarning)
                # Its own fallback would open the file again on the CPU when a provider fails, and print that only.
                session = ort.InferenceSession(str(self._path), options, providers=self._asked, enable_fallback=0)
        except self._failures as error:
            raise ArtifactError(f"{self._path}: onnxruntime cannot load it: {first_line(error)}") from error
        session.disable_fallback()
        wrong = providers.unmet(self._asked, session.get_providers(), session.get_provider_options())
        if wrong:
            hint = "" if place.gpu is None else (
                " A library of CUDA, cuDNN or TensorRT of the version that this onnxruntime was built for may be "
                "missing; onnxruntime's own words are in the log. Type: parity doctor"
            )  # fmt: skip
            raise ArtifactError(f"{self._path}: {wrong}.{hint}")
        return session

    def _failed(self, what: str, error: BaseException) -> LaneError:
        return LaneError(f"{self.name}: {what} on {self._place.device} failed: {first_line(error)}")

    def _run(self, feeds: dict[str, Array]) -> Mapping[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except self._failures as error:
            raise self._failed("the run", error) from error

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        session, ort, failures = self._session, self._ort, self._failures
        device, number = self._place.memory
        waits = self._place.gpu is not None
        binding = session.io_binding()
        try:
            # On the CPU an OrtValue shares the array's memory: a copy, and kept, as older versions of the binding do
            # not.
            resident = {n: ort.OrtValue.ortvalue_from_numpy(v.copy(), device, number) for n, v in feeds.items()}
            self._resident.append(resident)
            for name, value in resident.items():
                binding.bind_ortvalue_input(name, value)
            for spec in self.outputs:
                binding.bind_output(spec.name, device, number)
            if waits:
                binding.synchronize_inputs()
        except failures as error:
            megabytes = sum(v.nbytes for v in feeds.values()) / 2**20
            raise self._failed(f"binding {megabytes:.1f} MB of inputs (a smaller --batch needs less)", error) from error

        def step() -> None:
            try:
                session.run_with_iobinding(binding)
                if waits:
                    binding.synchronize_outputs()
            except failures as error:
                raise self._failed("a step", error) from error

        def fetch() -> Outputs:
            return dict(zip((spec.name for spec in self.outputs), binding.copy_outputs_to_cpu(), strict=True))

        def load(feeds: Feeds) -> None:
            for name, value in feeds.items():
                resident[name].update_inplace(value)
            if waits:
                binding.synchronize_inputs()

        return Bound(step, fetch, load)

    def _attest(self) -> Evidence:
        place = self._place
        source = read_graph(self._path)
        ran = read_graph(self._optimised) if self._optimised.is_file() else source
        placement = read_placement(self._session.get_provider_graph_assignment_info(), self._path, place)
        applied = self._session.get_provider_options()
        precision, emulated = observed_precision(place, self._path, ran=ran, source=source, applied=applied)
        return Evidence(
            precision=precision, emulated=emulated, provider=placement.provider or self._without_nodes(),
            details={"threads": self._threads, **details_of(place, placement, ran=ran, source=source, applied=applied),
                     **({"tensorrt_library": self._tensorrt} if place.provider == providers.TENSORRT else {})},
        )  # fmt: skip

    def _without_nodes(self) -> str:
        """A graph that was folded away ran on the CPU; on a GPU a table without nodes is no evidence of anything."""
        return str(self._session.get_providers()[0]) if self._place.gpu is None else "nothing that was recorded"

    def _profile(self, feeds: dict[str, Array]) -> tuple[NodeTime, ...]:
        if self._place.gpu is not None:  # the profiler sees a GPU's kernels being launched, not run
            return ()
        from bench.backends.onnx_profile import profile

        return profile(self._path, _options(self._ort, self._threads), feeds, [spec.name for spec in self.outputs])

    def _close(self) -> None:
        del self._session
        self._resident.clear()
        self._scratch.cleanup()


class OnnxRuntimeBackend:
    """ONNX Runtime."""

    name = "onnxrt"
    aliases = ("onnxruntime", "ort")
    artifact_kind = "onnx"
    precisions = ("fp32", "tf32", "fp16", "bf16", "int8")
    measures_speed = True

    def require(self, device: str, precision: str) -> Mode:
        """Say how this host runs a graph of this precision.

        Raises:
            Unsupported: a precision or device that this backend does not have.
            Unavailable: onnxruntime, its CUDA or TensorRT provider or a GPU is missing.
        """
        if precision not in self.precisions:
            raise Unsupported(_refusal(precision))
        place = providers.place_of(device)
        if precision == "tf32" and place.provider != providers.CUDA:
            raise Unsupported(_refusal(precision, place.provider))
        ort = import_runtime(_PACKAGE, backend=self.name, package=_PACKAGE)
        import_runtime("onnx", backend=self.name, package="onnx")  # the evidence is read from the optimised graph
        if place.gpu is None:
            return "emulated" if precision in ("fp16", "bf16") else "native"
        if place.provider not in ort.get_available_providers():
            raise Unavailable(
                f"onnxrt:{device}: this onnxruntime ({ort.__version__}) has no {place.provider}. Type: pip uninstall "
                "onnxruntime && pip install onnxruntime-gpu, on a machine with an NVIDIA GPU"
            )
        if problem := cuda.problem(place.gpu):
            raise Unavailable(f"onnxrt:{device}: {problem}")
        providers.refuse_environment(place, precision, os.environ)
        # The CUDA provider has kernels for Q and DQ and none for the convolution between them: it computes in floats.
        return "emulated" if precision == "int8" and place.provider == providers.CUDA else "native"

    def version(self) -> str:
        """For example ``onnxruntime 1.31.1``."""
        return f"onnxruntime {import_runtime(_PACKAGE, backend=self.name, package=_PACKAGE).__version__}"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """The same file for every graph runtime; for the TensorRT provider with a folder for its engines.

        On the CPU, which has no bf16 convolution, a bf16 graph becomes one that computes in float32 and rounds to bf16.

        The engines are keyed by file, GPU, driver, versions, batch and number of the build, so that all openings of a
        cell run one engine. Where TensorRT's version is not known from its package, no engine is kept.
        """
        place = providers.place_of(cell.device)
        if cell.precision == "bf16" and place.gpu is None:
            return _widened(artifact, store)
        tensorrt = _package_version(_TENSORRT_PACKAGES)
        if place.provider != providers.TENSORRT or place.gpu is None or tensorrt is None:
            return artifact
        from bench.trt.hostkey import read_host

        folder = store.folder(
            "onnxrt-tensorrt",
            {"onnx": artifact.sha256, "precision": cell.precision, "batch": cell.batch, "runtime": self.version(),
             "host": read_host(tensorrt, device=place.gpu).identity()},
        )  # fmt: skip
        return replace(artifact, recipe={**artifact.recipe, _ENGINES: str(folder)})

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Create the session.

        Raises:
            ArtifactError: the file cannot be loaded, its tensors are not the declared ones, or the session lacks the
                provider or an option that was asked for.
            Unavailable, Unsupported: as ``require``; never another provider than the one asked for.
        """
        self.require(cell.device, cell.precision)
        place = providers.place_of(cell.device)
        providers.forbid_tf32(place, cell.precision, os.environ, providers.loaded_libraries())
        if place.gpu is not None:
            _load_libraries(place)
        return OnnxRuntimeRunner(artifact, cell, threads=threads)


def _widened(artifact: Artifact, store: Any) -> Artifact:
    """The bf16 graph with float32 arithmetic and every bf16 tensor rounded to bf16, made once."""
    import onnx
    import onnxruntime

    from bench.artifacts import Made, source_sha256
    from bench.precision import widen

    def make(out: Path) -> Made:
        return Made(inputs=artifact.inputs, outputs=artifact.outputs, recipe=widen.widen(artifact.path, out))

    made: Artifact = store.obtain(
        kind="onnx",
        precision="bf16",
        file_name="model.onnx",
        made_from=artifact.sha256,
        identity={
            "form": "widened",
            "converter": source_sha256(Path(widen.__file__)),
            "versions": {"onnx": onnx.__version__, _PACKAGE: onnxruntime.__version__},
        },
        make=make,
    )
    return made


def _failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; a C++ exception that it does not translate arrives as RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NoSuchFile, errors.InvalidArgument,
            errors.NotImplemented, errors.RuntimeException, errors.EPFail, RuntimeError, ValueError)  # fmt: skip


def _load_libraries(place: providers.Place) -> None:
    """Load CUDA, cuDNN and TensorRT from the packages that pip installed, which the loader does not search."""
    import onnxruntime

    onnxruntime.preload_dlls()
    if place.provider == providers.TENSORRT and importlib.util.find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")


def _package_version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _refuse_weak_typing(place: providers.Place, precision: str, library: str, major: int | None) -> None:
    """Raise Unsupported when the TensorRT that a session has loaded does not take precision from the file."""
    if place.provider != providers.TENSORRT or precision == "fp32" or (major or 0) >= _STRONGLY_TYPED:
        return
    raise Unsupported(
        f"onnxrt:{place.device}:{precision}: this onnxruntime loaded {library or 'no TensorRT library'}; before "
        f"TensorRT {_STRONGLY_TYPED} lower precisions need options that let the builder choose by speed "
        f"({', '.join(providers.WEAK_TYPING)}), which are refused. Use an onnxruntime built for TensorRT "
        f"{_STRONGLY_TYPED}, or --backends trt"
    )


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
    # session.disable_cpu_ep_fallback is not set: it would refuse shape arithmetic on the CPU as well, and a session
    # that lists the CPU provider. The assignment is read back and judged instead (bench/ort/placement.py).
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _specs(nodes: Any) -> tuple[TensorSpec, ...]:
    """Signature of a session; an axis that it does not name is symbolic."""
    return tuple(
        TensorSpec(name=n.name, dtype=_DTYPES.get(n.type, n.type),
                   shape=tuple(d if isinstance(d, int) else str(d) for d in n.shape))
        for n in nodes
    )  # fmt: skip


def _refusal(precision: str, provider: str = "") -> str:
    reasons = {
        "fp64": "the golden is computed by torch; no fp64 graph is made",
        "tf32": "no CPU computes in it: it is a format of NVIDIA's tensor cores (cuda:0)",
    }
    if (precision, provider) == ("tf32", providers.TENSORRT):
        reason = "the TensorRT provider has no option for it (onnxruntime #26029): what is a default is not a setting"
    else:
        reason = reasons.get(precision, "unknown precision")
    return f"onnxrt:{precision} is declared unsupported: {reason}"


backend = OnnxRuntimeBackend()
