"""Values and protocols that every room shares: numpy and the standard library only.

Dimension letters: B batch, C channels, H height, W width, N boxes, K keypoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

Array: TypeAlias = np.ndarray[Any, Any]
Feeds: TypeAlias = "Mapping[str, Array]"
"""Input name -> array, batch first."""
Outputs: TypeAlias = "dict[str, Array]"
"""Output name -> fresh host array, batch first."""
Mode: TypeAlias = Literal["native", "emulated"]
"""``emulated``: the runtime stores the precision and computes in a higher one."""

PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "int8")
ARTIFACT_KINDS = ("weights", "onnx", "engine", "recording", "calibration")
POSE_ATTRIBUTES: dict[str, tuple[int, ...]] = {
    "rotation": (3, 3),
    "depth_m": (),
    "translation_m": (3,),
    "center_px": (2,),
}
"""Attributes of a detection that make up its pose -> shape of one row.

``rotation`` is camera from object; camera axes are x right, y down, z forward. ``depth_m`` and ``translation_m`` (x, y,
z) are of the object's centre in camera coordinates, ``center_px`` (x, y) is its projection on the original image.
"""
CONVERSION = "conversion"
"""What ``NodeTime.precision`` says of Casts, Quantize and Dequantize, reorders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, shape and dtype of one input or output."""

    name: str
    shape: tuple[int | str, ...]
    """One entry per axis; a string is a symbolic axis (``"batch"``)."""
    dtype: str
    """numpy name, for example ``float32``."""

    def __str__(self) -> str:
        """``images float32 (batch, 3, 320, 320)``."""
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What the harness may know about a model without importing its framework."""

    name: str
    """Registered name, for example ``yolov10n``."""
    task: Literal["detect", "pose"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image_hw: tuple[int, int]
    """Network input height and width in pixels."""
    class_names: tuple[str, ...]
    """Name of label 0, 1, ...; matched by name to the categories of a fixture set."""
    default_fixtures: str
    """Fixture set used when none is asked for."""
    default_weights: Path | None = None
    """Weights that ship with the model, or None: then ``--weights`` is required."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """What ``preprocess`` does, for a person who compares two files: resize, interpolation, colour order, scaling."""
    score_floor: float = 0.001
    """Detections below are not emitted."""
    max_detections: int = 300
    background: Mapping[str, int] = field(default_factory=dict)
    """Output -> index on its last axis of the class that stands for no object. It is compared by itself: nearly all
    rows are background, whose numbers would outweigh those of the classes."""
    nms_iou: float | None = None
    """Overlap above which ``postprocess`` drops a box of the same class; None: it suppresses nothing."""
    float_nodes: tuple[str, ...] = ()
    """Regular expressions on ONNX node names that an int8 artefact leaves in float (the head)."""
    keypoint_names: tuple[str, ...] = ()
    oks_sigmas: tuple[float, ...] = ()
    preprocess_goldens: Path | None = None
    """JSON with the hashes of the first preprocessed images of a fixture set (by ``parity goldens``), or None."""
    unsupported: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(backend or ``*``, precision) -> reason why the combination cannot exist."""
    parameters: int | None = None
    """Parameters of the inference graph: batch norms folded, heads of training left out; None: not stated."""
    full_scale: Mapping[str, float] = field(default_factory=dict)
    """Output -> largest value that it takes by construction (1 after a sigmoid), where there is one."""
    licence: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Detections of one image, in pixels of the original image, best score first."""

    boxes_xyxy: Array
    """(N, 4) float32."""
    scores: Array
    """(N,) float32."""
    labels: Array
    """(N,) int64, index into ``ModelSpec.class_names``."""
    keypoints_xys: Array | None = None
    """(N, K, 3) float32: x px, y px, score; None for detection."""
    attributes: Mapping[str, Array] | None = None
    """What else was found per detection, N rows each; ``POSE_ATTRIBUTES`` are measured. None: nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An immutable file with a hash and the recipe that made it."""

    kind: str
    """One of ``ARTIFACT_KINDS``."""
    path: Path
    sha256: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    made_from: str | None = None
    """sha256 of the artefact this one was made from."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Tool, versions and options; plain JSON values."""
    build: Callable[[], Any] | None = None
    """For weights only: returns the ``torch.nn.Module`` in eval mode, float32 on the CPU. The worker fills it in."""

    @property
    def static_batch(self) -> int | None:
        """The batch size that the file fixes, or None when the batch axis is symbolic."""
        first = self.inputs[0].shape[0]
        return first if isinstance(first, int) else None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """The identity of one result. Equal cells are the same measurement."""

    model: str
    backend: str
    device: str
    precision: str
    fixtures: str
    batch: int = 1

    @property
    def id(self) -> str:
        """The pytest id and file name, for example ``yolov10n-onnxrt-cpu-int8-shapes-b1``."""
        parts = (self.model, self.backend, self.device.replace(":", ""), self.precision, self.fixtures)
        return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts)) + f"-b{self.batch}"

    def __str__(self) -> str:
        """The id."""
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What really ran, read back from the runtime."""

    precision: str
    """Observed compute precision (one of ``PRECISIONS``)."""
    provider: str
    """Observed execution provider or device, in the runtime's own word."""
    emulated: bool
    """True when values are stored in the requested precision and computed in a higher one."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values: node counts, placement, casts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """Time of one node of the graph that a runtime really runs, from a profiled session of its own."""

    name: str
    """In the runtime's word; where a node of the file is meant, its name there."""
    operator: str
    """In the runtime's word, for example ``QLinearConv``."""
    ms: float
    """Per run, typical over several runs; profiling itself slows a runtime down."""
    precision: str
    """Of its arithmetic: one of ``PRECISIONS``; ``CONVERSION`` for a node that only changes type or layout; empty for
    integers, booleans and where the runtime does not say."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One batch made resident; independent of every other binding of the same runner.

    A bound input can be rewritten, so that a step which stopped working shows: its outputs are those of the old input.
    """

    step: Callable[[], None]
    """Run the whole graph once on the resident input and wait for it."""
    fetch: Callable[[], Outputs]
    """Fresh host copies of the outputs of the last ``step``; a ContractError when there was none since ``load``."""
    load: Callable[[Feeds], None]
    """Rewrite the resident input in place with feeds of the same shapes."""


@runtime_checkable
class Runner(Protocol):
    """One loaded artefact. Knows no clock, no model family and no tolerance."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Feeds) -> Outputs:
        """Run once; ``feeds`` were checked against ``inputs``. Returned arrays are never reused."""

    def bind(self, feeds: Feeds) -> Bound:
        """Make ``feeds`` resident, for steps that are timed."""

    def attest(self) -> Evidence:
        """Read back the precision and the provider that really run."""

    def close(self) -> None:
        """Release the runtime; a second call does nothing."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Profiler(Protocol):
    """What a runner may offer besides: which of its nodes take the time. ``RunnerBase`` says that it does not."""

    profiles: bool
    """False when ``profile`` has nothing to say: nobody then opens the artefact again to ask."""

    def profile(self, feeds: Feeds) -> tuple[NodeTime, ...]:
        """Run a few times in a session of its own, with the runtime's own profiler; empty: it does not say."""


@runtime_checkable
class Backend(Protocol):
    """A runtime that executes one kind of artefact."""

    name: str
    aliases: tuple[str, ...]
    artifact_kind: str
    """Kind of file that ``open`` takes: ``weights``, ``onnx``, ``engine`` or ``recording``."""
    precisions: tuple[str, ...]
    """Precisions this backend can have anywhere; others are declared unsupported."""
    measures_speed: bool
    """False for a backend whose latency means nothing (recorded outputs)."""

    def require(self, device: str, precision: str) -> Mode:
        """Say how this host runs ``precision``; raise Unavailable or Unsupported with the reason."""

    def version(self) -> str:
        """Version of the runtime, for example ``onnxruntime 1.31.1``."""

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Turn the shared file into the one that ``open`` takes; identity for most."""

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Load the artefact; raises ArtifactError when the file cannot be loaded."""


@runtime_checkable
class Adapter(Protocol):
    """A model: its own pre- and post-processing, network, export and training."""

    spec: ModelSpec

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> feeds with B = 1, and the meta that ``postprocess`` needs."""

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Raw outputs with B = 1 -> detections in pixels of the original image, NaN rows kept."""

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """``torch.nn.Module`` in eval mode; forward takes the inputs and returns a tuple of the outputs, in order."""

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """Write an fp32 ONNX file with the spec's names and a dynamic batch axis; return the recipe."""

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """Train and write a checkpoint folder; return the path of the best weights."""


@runtime_checkable
class Fitting(Protocol):
    """What an adapter may offer besides: the same model with the classes and the input size of given weights."""

    def fitted(self, weights: Path) -> Adapter:
        """Return the adapter for these weights; its spec keeps the model's name. InputError: they do not fit at all."""


@runtime_checkable
class Configured(Protocol):
    """What an adapter may offer besides: several network configs, of which weights have one."""

    def check_config(self, config: Mapping[str, Any], where: str) -> None:
        """Compare a config file with the network of the adapter's weights.

        Raises:
            InputError: names each setting that differs, or says that the file has none that is known; ``where`` is the
                file.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of a fixture set."""

    image_id: int
    path: Path
    width: int
    height: int
    camera: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels of the original image; None where the set does not say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixtureSet:
    """Images and ground truth in COCO's words."""

    name: str
    split: str
    """``train``, ``calibration`` or ``val``."""
    samples: tuple[Sample, ...]
    """Sorted by image id."""
    categories: tuple[Mapping[str, Any], ...]
    """COCO categories ``{id, name, ...}`` sorted by id."""
    annotations: tuple[Mapping[str, Any], ...]
    """COCO annotations ``{id, image_id, category_id, bbox xywh px, area, iscrowd, ...}``."""
    sha256: str
    """Hash of the manifest: names and hashes of all files."""
    origin: str = ""
    named_categories: bool = True
    """False when the source has no class names: labels then map by order."""

    def take(self, count: int | None) -> FixtureSet:
        """Keep the first ``count`` images (all when None) and their annotations."""
        if count is None or count >= len(self.samples):
            return self
        samples = self.samples[:count]
        kept = {s.image_id for s in samples}
        return FixtureSet(
            name=self.name,
            split=self.split,
            samples=samples,
            categories=self.categories,
            annotations=tuple(a for a in self.annotations if a["image_id"] in kept),
            sha256=self.sha256,
            origin=self.origin,
            named_categories=self.named_categories,
        )


def expect_specs(specs: Sequence[TensorSpec]) -> str:
    """Join specs for an error message."""
    return ", ".join(str(s) for s in specs)
