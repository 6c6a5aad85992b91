"""``Runner`` over an engine: feeds in, arrays out, and the evidence of what it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, InputError
from bench.runner_base import RunnerBase, check_signature
from bench.trt.cudagraph import capture
from bench.trt.execute import Execution
from bench.trt.inspector import inspect_engine, label_problem, observed_precision
from bench.types import Bound, Evidence, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.trt.execute import Batch
    from bench.trt.inspector import Observed
    from bench.trt.memory import Memory
    from bench.types import Array, Artifact, Cell, Feeds, Outputs


class TensorRTRunner(RunnerBase):
    """One engine on one GPU.

    Args:
        trt: the module ``tensorrt``; CUDA must be known to work.
        artifact: the engine; its recipe holds what the builder was told.
        cell: what is asked for.
        memory: memory of the GPU; closed here.
        cuda_graph: replay recorded launches in ``bind`` (``run`` never does).
        note: what to add to the provider's name; a fake says here that it is one.

    Raises:
        ArtifactError: the engine cannot be loaded, or its tensors are not the declared ones.
        LaneError: the device fails or has not enough memory.
    """

    def __init__(
        self,
        trt: Any,
        artifact: Artifact,
        cell: Cell,
        *,
        memory: Memory,
        cuda_graph: bool = False,
        note: str = "",
    ) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"trt {artifact.path.name}")
        self._trt = trt
        self._artifact = artifact
        self._cell = cell
        self._memory = memory
        self._cuda_graph = cuda_graph
        self._note = note
        self._own: Batch | None = None
        self._execution: Execution | None = None
        try:
            self._execution = Execution(trt, _content(artifact), memory, where=str(artifact.path))
            found = {mode: _specs(self._execution, mode) for mode in ("input", "output")}
            check_signature(found["input"], found["output"], self.inputs, self.outputs, where=str(artifact.path))
            self.inputs = tuple(_narrowed(spec, found["input"]) for spec in self.inputs)
        except BaseException:
            self._close()
            raise

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        execution, shapes = self._ready, _shapes(feeds)
        if self._own is None or self._own.shapes != shapes:
            if self._own is not None:
                execution.release(self._own)
                self._own = None
            self._own = execution.batch(shapes)
        execution.load(self._own, feeds)
        execution.enqueue(self._own)
        return execution.fetch(self._own)

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        execution, memory = self._ready, self._memory
        batch = execution.batch(_shapes(feeds), own_context=self._cuda_graph)
        execution.load(batch, feeds)
        enqueue: Callable[[], None] = lambda: execution.enqueue(batch)  # noqa: E731
        if self._cuda_graph:
            enqueue = capture(execution, memory, batch)

        def step() -> None:
            enqueue()
            memory.wait()

        def fetch() -> Outputs:
            return execution.fetch(batch)

        def load(feeds: Feeds) -> None:
            execution.load(batch, feeds)

        return Bound(step, fetch, load)

    def _attest(self) -> Evidence:
        recipe = self._artifact.recipe
        flags = recipe.get("flags")
        if flags is None:
            raise ArtifactError(
                f"{self._artifact.path}: nothing says which builder flags this engine was built with, so fp32 and tf32 "
                "cannot be told apart. Give the ONNX file instead: the engine is then built here"
            )
        observed = observed_precision(inspect_engine(self._trt, self._ready.engine))
        in_graph = recipe.get("compute_nodes") or None
        return Evidence(
            precision=attested(self._cell.precision, observed, tf32="TF32" in flags, in_graph=in_graph),
            provider=f"CUDA TensorRT {self._trt.__version__}{self._note}",
            emulated=False,
            details={
                "compute_layers": observed.counts, "share": observed.share, "inspector": observed.precision,
                "engine_sha256": self._artifact.sha256, "flags": list(flags),
                "creation_flags": list(recipe.get("creation_flags", ())), "trtexec": recipe.get("trtexec"),
                "host": recipe.get("host"), "memory": self._memory.library, "cuda_graph": self._cuda_graph,
                "buffers_mb": self._memory.device_bytes / 2**20,
            },
        )  # fmt: skip

    def _close(self) -> None:
        """Contexts, engine and runtime before the memory they point to."""
        self._own = None
        if self._execution is not None:
            self._execution.close()
            self._execution = None
        self._memory.close()

    @property
    def _ready(self) -> Execution:
        if self._execution is None:
            raise ArtifactError(f"{self.name}: closed")
        return self._execution


def attested(requested: str, observed: Observed, *, tf32: bool, in_graph: dict[str, int] | None) -> str:
    """The precision that an engine bears out.

    fp32 and tf32 are told apart by the builder flag: a kernel's name need not say that it rounds. A kernel that says so
    although the flag is clear is tf32 too.

    Args:
        requested: label of the cell.
        observed: of the engine's compute layers.
        tf32: whether the builder flag TF32 was set.
        in_graph: compute nodes of the ONNX file by precision.

    Raises:
        ArtifactError: the layers do not show their type, or a part of the file's precision got lost in the engine.
    """
    family = "tf32" if observed.precision == "fp32" and tf32 else observed.precision
    if requested in ("fp32", "tf32") and family in ("fp32", "tf32"):
        return family
    problem = label_problem(requested, observed, in_graph=in_graph)
    if problem is None:
        return requested
    if family in ("unknown", requested):
        raise ArtifactError(f"The label of this engine is not borne out: {problem}.")
    return family


def _content(artifact: Artifact) -> bytes:
    try:
        return artifact.path.read_bytes()
    except OSError as error:
        raise InputError(f"{artifact.path}: cannot be read ({error.strerror}). Give the path of an engine.") from error


def _specs(execution: Execution, mode: str) -> tuple[TensorSpec, ...]:
    """Signature of the engine; bfloat16 outputs are widened, so they count as float32."""
    return tuple(
        TensorSpec(
            name=t.name,
            dtype="float32" if (mode, t.dtype) == ("output", "bfloat16") else t.dtype,
            shape=tuple(
                "batch" if axis == 0 and d < 0 else f"axis{axis}" if d < 0 else d for axis, d in enumerate(t.shape)
            ),
        )
        for t in execution.tensors
        if t.mode == mode
    )


def _narrowed(declared: TensorSpec, found: Iterable[TensorSpec]) -> TensorSpec:
    """The declared input with the axes fixed that the engine fixes."""
    other = next(spec for spec in found if spec.name == declared.name)
    shape = tuple(b if isinstance(b, int) else a for a, b in zip(declared.shape, other.shape, strict=True))
    return TensorSpec(name=declared.name, dtype=declared.dtype, shape=shape)


def _shapes(feeds: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in feeds.items()}
