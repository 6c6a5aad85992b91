"""OpenVINO on the CPU, with the inference precision set instead of left to the plug-in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, Unsupported
from bench.runner_base import RunnerBase, check_signature, first_line, import_runtime
from bench.types import Bound, Evidence, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, Artifact, Cell, Feeds, Mode, NodeTime, Outputs, Runner

_COMPUTE = frozenset(["Convolution", "Deconvolution", "MatMul", "FullyConnected", "GroupConvolution"])
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "u8": "int8", "i8": "int8"}
_DTYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32", "u8": "uint8",
           "i8": "int8", "boolean": "bool"}  # fmt: skip


class OpenVinoRunner(RunnerBase):
    """One model, compiled per batch size; ``bind`` has an infer request of its own, so that its inputs stay resident.

    A dynamic batch axis costs speed: FastestDet fp32 took 5.7 ms with it and 3.3 to 3.6 ms with the batch set, yolov10n
    13.0 and 10.9 ms (2026.4.1, 1 thread). So the axis is set before compiling, as whoever deploys the file would.
    """

    def __init__(self, artifact: Artifact, *, hint: str, threads: int, batch: int) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"openvino {artifact.path.name}")
        import openvino

        self._ov = openvino
        self._hint = hint
        # Model files are read by the C++ frontend: telemetry belongs to openvino.convert_model, which is not used.
        core = openvino.Core()
        try:
            model = core.read_model(str(artifact.path))
            inputs, outputs = _specs(model.inputs, self.inputs), _specs(model.outputs, self.outputs)
            check_signature(inputs, outputs, self.inputs, self.outputs, where=str(artifact.path))
            self._stored = Counter(
                op.get_element_type().to_string() for op in model.get_ops()
                if op.get_type_name() == "Constant" and len(op.get_output_shape(0)) > 0
            )  # fmt: skip
            self._core, self._source, self._config = core, model, _config(hint, threads)
            self._requests: dict[int, Any] = {}
            self._model = self._compile(batch)
        except RuntimeError as error:
            raise ArtifactError(f"{artifact.path}: openvino cannot load it: {_reason(error)}") from error
        self._models = {batch: self._model}
        self._resident: list[Any] = []

    def _compile(self, batch: int, **config: Any) -> Any:
        """Compile for one batch size; a model whose first axis is fixed is compiled as it is."""
        model = self._source
        if isinstance(self.inputs[0].shape[0], str):
            model = model.clone()
            shapes = {port.get_any_name(): port.get_partial_shape() for port in model.inputs}
            for shape in shapes.values():
                shape[0] = batch
            model.reshape(shapes)
        return self._core.compile_model(model, "CPU", {**self._config, **config})

    def _new_request(self, feeds: Mapping[str, Array]) -> Any:
        batch = next(iter(feeds.values())).shape[0]
        if batch not in self._models:
            self._models[batch] = self._compile(batch)
        return self._models[batch].create_infer_request()

    def _run(self, feeds: dict[str, Array]) -> Mapping[str, Array]:
        batch = next(iter(feeds.values())).shape[0]
        if batch not in self._requests:
            self._requests[batch] = self._new_request(feeds)
        request = self._requests[batch]
        held = self._set(request, feeds)
        request.infer()
        del held
        return {spec.name: request.get_tensor(spec.name).data for spec in self.outputs}

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        request = self._new_request(feeds)
        # The request points into the tensors and does not own them: without this it reads freed memory and crashes.
        own = {name: value.copy() for name, value in feeds.items()}
        self._resident.append(self._set(request, own))

        def step() -> None:
            request.infer()

        def fetch() -> Outputs:
            return {spec.name: request.get_tensor(spec.name).data for spec in self.outputs}

        def load(feeds: Feeds) -> None:
            for name, value in feeds.items():
                own[name][...] = value

        return Bound(step, fetch, load)

    def _attest(self) -> Evidence:
        compute: Counter[str] = Counter()
        kernels: Counter[str] = Counter()
        for op in self._model.get_runtime_model().get_ops():
            info = op.get_rt_info()
            if "layerType" in info and str(info["layerType"].value) in _COMPUTE:
                compute[str(info["runtimePrecision"].value)] += 1
                kernels[str(info["primitiveType"].value)] += 1
        read_back = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        word = compute.most_common(1)[0][0] if compute else read_back
        observed = _NAMES.get(word, word)
        # Half graphs keep half constants; the plug-in widens them where the processor has no such arithmetic.
        emulated = observed == "fp32" and self._stored["f16"] + self._stored["bf16"] > self._stored["f32"]
        return Evidence(
            precision=observed, provider=" + ".join(self._model.get_property("EXECUTION_DEVICES")), emulated=emulated,
            details={"compute_nodes": dict(compute.most_common()), "kernels": dict(kernels.most_common()),
                     "stored_constants": dict(self._stored.most_common()), "hint": self._hint,
                     "hint_read_back": read_back,
                     "threads": int(self._model.get_property("INFERENCE_NUM_THREADS"))},
        )  # fmt: skip

    def _profile(self, feeds: dict[str, Array]) -> tuple[NodeTime, ...]:
        from bench.backends.openvino_profile import BLOCKS, medians, profile

        blocks = []
        for _ in range(BLOCKS):
            model = self._compile(next(iter(feeds.values())).shape[0], PERF_COUNT=True)
            request = model.create_infer_request()
            held = self._set(request, feeds)
            blocks.append(profile(model, request, _NAMES))
            del held
        return medians(blocks)

    def _close(self) -> None:
        self._requests.clear()
        self._models.clear()
        del self._model, self._source, self._core
        self._resident.clear()

    def _set(self, request: Any, feeds: Mapping[str, Array]) -> list[Any]:
        """Give the request its inputs; the returned tensors must outlive every ``infer`` on them."""
        # Read-only arrays cannot be shared.
        tensors = [self._ov.Tensor(value, shared_memory=value.flags.writeable) for value in feeds.values()]
        for name, tensor in zip(feeds, tensors, strict=True):
            request.set_tensor(name, tensor)
        return tensors


class OpenVinoBackend:
    """OpenVINO."""

    name = "openvino"
    aliases = ("ov",)
    artifact_kind = "onnx"
    precisions = ("fp32", "fp16", "bf16", "int8")
    measures_speed = True

    def require(self, device: str, precision: str) -> Mode:
        """Say how this processor runs a graph of this precision.

        Raises:
            Unsupported: a precision or device that this backend does not have.
            Unavailable: openvino is missing.
        """
        if precision not in self.precisions:
            raise Unsupported(_refusal(precision))
        if device != "cpu":
            raise Unsupported(f"openvino runs on cpu here, not on {device!r}; it has no plug-in for NVIDIA GPUs")
        capabilities = self._capabilities()
        needed = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}[precision]
        return "native" if needed in capabilities else "emulated"

    def version(self) -> str:
        """For example ``openvino 2026.4.1``."""
        number = import_runtime("openvino", backend=self.name, package="openvino").__version__
        return f"openvino {number.split('-')[0]}"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Identity: all graph runtimes take the same file."""
        return artifact

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Read and compile the graph.

        Raises:
            ArtifactError: the file cannot be loaded, or its tensors are not the declared ones.
            Unavailable, Unsupported: as ``require``.
        """
        mode = self.require(cell.device, cell.precision)
        return OpenVinoRunner(artifact, hint="f16" if (cell.precision, mode) == ("fp16", "native") else "f32",
                              threads=threads, batch=artifact.static_batch or cell.batch)  # fmt: skip

    def _capabilities(self) -> list[str]:
        openvino = import_runtime("openvino", backend=self.name, package="openvino")
        return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _config(hint: str, threads: int) -> dict[str, Any]:
    """Everything that the plug-in would otherwise choose by itself.

    The precision hint above all: on a processor with bf16 arithmetic the default runs fp32 graphs in bf16, and an f16
    hint reads back as bf16 (2026.4.1, avx512_bf16: 70 of 70 convolutions). int8 layers stay int8 under an f32 hint, and
    bf16 graphs follow their own types: of yolov10n with its head left in float32, 61 convolutions and products ran in
    bf16 and 25 in f32; a bf16 hint made all 86 bf16.
    """
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        # Lanes share the cores: pinning would put several on the same one. Same latency within 1 % (1 and 2 threads).
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": "",
    }


def _specs(ports: Any, declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Signature of a model; dynamic axes are symbolic. Of several names of one tensor the declared one counts."""
    wanted = {spec.name for spec in declared}
    specs: list[TensorSpec] = []
    for port in ports:
        shape = tuple(d.get_length() if d.is_static else "dynamic" for d in port.get_partial_shape())
        word = port.get_element_type().to_string()
        names = sorted(port.get_names(), key=lambda name: (name not in wanted, name)) or ["(unnamed)"]
        specs.append(TensorSpec(name=names[0], shape=shape, dtype=_DTYPES.get(word, word)))
    return tuple(specs)


def _refusal(precision: str) -> str:
    reasons = {
        "fp64": "the golden is computed by torch; no fp64 graph is made",
        "tf32": "TF32 is arithmetic of NVIDIA GPUs",
    }
    return f"openvino:{precision} is declared unsupported: {reasons.get(precision, 'unknown precision')}"


def _reason(error: RuntimeError) -> str:
    """The part of OpenVINO's message that says something: it starts with source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))]
    return useful[0] if useful else first_line(error)


backend = OpenVinoBackend()
