"""A model, a backend and fixtures in plain numpy: what ``bench.testing`` offers, without anything that is wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.errors import ContractError, Unavailable, Unsupported
from bench.runner_base import RunnerBase
from bench.types import Bound, Evidence, FixtureSet, ModelSpec, Prediction, Sample, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array, Artifact, Cell, Feeds, Mode, Outputs, Runner

SIDE = 32
"""Height and width of the fake network's input in pixels."""
CLASSES = ("red", "green", "blue")
_DTYPES = {"fp64": np.float64, "fp32": np.float32, "fp16": np.float16, "int8": np.float32}


@dataclass(frozen=True, slots=True, eq=False)
class FakeNetwork:
    """Finds one axis-parallel rectangle per colour channel, by the moments of the bright pixels.

    ``__call__`` takes (B, 3, 32, 32) in 0..1 and returns boxes (B, 3, 4) xyxy in network pixels and scores (B, 3), in
    the dtype of its input. A rectangle w pixels wide has variance (w^2 - 1) / 12.
    """

    mix: Array | None = None
    """(3, 3) that mixes the channels first, for who needs weights; None: the identity."""
    gain: float = 1.0
    """Factor on everything in between, taken out at the end; a power of two changes no bit until a number overflows."""
    backwards: bool = False
    """Sum from the last pixel to the first: the same network with other rounding."""

    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Continuous in its input, so that a lower precision moves the boxes a little instead of at random."""
        kind = images.dtype.type
        if self.mix is not None:
            images = np.einsum("oc,bchw->bohw", self.mix.astype(kind), images)
        gain = kind(self.gain)
        bright = gain * (kind(2) * np.maximum(images - kind(0.5), kind(0)))
        mass = self._sum(bright, (2, 3)) + gain * kind(1e-4)
        edges: list[tuple[Array, Array]] = []
        for axis in (3, 2):
            profile = self._sum(bright, (5 - axis,)) / mass[..., None]
            place = np.arange(SIDE, dtype=kind)
            centre = self._sum(profile * place, (2,))
            variance = self._sum(profile * (place - centre[..., None]) ** 2, (2,))
            half = np.sqrt(kind(12) * variance + kind(1)) / kind(2)
            edges.append((centre + kind(0.5) - half, centre + kind(0.5) + half))
        (left, right), (top, bottom) = edges
        boxes_xyxy = np.stack([left, top, right, bottom], axis=2)
        scores = bright.max(axis=(2, 3)) / gain * (mass / (mass + gain * kind(8)))
        return boxes_xyxy, scores

    def _sum(self, values: Array, axes: tuple[int, ...]) -> Array:
        if self.backwards:
            values = np.ascontiguousarray(np.flip(values, axes))
        total: Array = values.sum(axis=axes, dtype=values.dtype)
        return total


class FakeAdapter:
    """A detector of coloured rectangles; its weights are this file, because its network is written in it."""

    spec: ClassVar[ModelSpec] = ModelSpec(
        name="fake", task="detect", image_hw=(SIDE, SIDE), class_names=CLASSES, default_fixtures="fake",
        inputs=(TensorSpec(name="images", shape=("batch", 3, SIDE, SIDE), dtype="float32"),),
        outputs=(TensorSpec(name="boxes", shape=("batch", 3, 4), dtype="float32"),
                 TensorSpec(name="scores", shape=("batch", 3), dtype="float32")),
        default_weights=Path(__file__), licence="Apache-2.0",
    )  # fmt: skip

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """Nearest neighbour to 32 x 32, divided by 255."""
        height, width = image_rgb_u8.shape[:2]
        rows, columns = np.arange(SIDE) * height // SIDE, np.arange(SIDE) * width // SIDE
        small = image_rgb_u8[rows][:, columns].astype(np.float32) / np.float32(255)
        return {"images": np.ascontiguousarray(small.transpose(2, 0, 1)[None])}, {"image_hw": (height, width)}

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Boxes in pixels of the original image, best first; rows that are NaN are kept."""
        height, width = meta["image_hw"]
        boxes_xyxy = outputs["boxes"][0] * np.array([width, height, width, height], np.float32) / SIDE
        scores = outputs["scores"][0]
        kept = np.flatnonzero(~(scores < self.spec.score_floor))
        order = kept[np.argsort(-scores[kept], kind="stable")]
        return Prediction(boxes_xyxy=boxes_xyxy[order].astype(np.float32), scores=scores[order].astype(np.float32),
                          labels=(order % len(CLASSES)).astype(np.int64))  # fmt: skip

    def build(self, weights: Path | None, seed: int = 0) -> FakeNetwork:
        """The network; there is nothing to load."""
        return FakeNetwork()

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """The fake network runs in the fake backend only."""
        raise Unsupported("the fake model has no ONNX export: its network is a numpy function")

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """Nothing to train."""
        raise Unsupported("the fake model has nothing to train")


class FakeRunner(RunnerBase):
    """Runs the network in the cell's dtype; ``int8`` rounds the input to steps of 1/127."""

    def __init__(self, artifact: Artifact, cell: Cell) -> None:
        super().__init__(artifact.inputs, artifact.outputs, name=f"fake {cell.precision}")
        if artifact.build is None:
            raise ContractError(f"{self.name}: the artefact has no build()")
        self._network = artifact.build()
        self._cell = cell

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        images = feeds[self.inputs[0].name]
        if self._cell.precision == "int8":
            images = np.round(images * 127) / np.float32(127)
        results = self._network(images.astype(_DTYPES[self._cell.precision]))
        return {spec.name: value for spec, value in zip(self.outputs, results, strict=True)}

    def _bind(self, feeds: dict[str, Array]) -> Bound:
        resident = {name: value.copy() for name, value in feeds.items()}
        last: Outputs = {}

        def step() -> None:
            last.update(self._run(resident))

        def load(feeds: Feeds) -> None:
            for name, value in feeds.items():
                resident[name][...] = value

        return Bound(step, lambda: last, load)

    def _attest(self) -> Evidence:
        emulated = self._cell.precision == "fp16"
        return Evidence(precision="fp32" if emulated else self._cell.precision, provider="cpu", emulated=emulated,
                        details={"dtype": np.dtype(_DTYPES[self._cell.precision]).name})  # fmt: skip

    def _close(self) -> None:
        del self._network


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeBackend:
    """Numpy on the CPU: fp64, fp32 and int8 native, fp16 emulated."""

    name: str = "fake"
    aliases: tuple[str, ...] = ()
    artifact_kind: str = "weights"
    precisions: tuple[str, ...] = tuple(_DTYPES)
    measures_speed: bool = True

    def require(self, device: str, precision: str) -> Mode:
        """Say ``emulated`` for fp16; only the CPU exists."""
        if precision not in self.precisions:
            raise Unsupported(f"{self.name}:{precision} is declared unsupported: numpy has no such dtype")
        if device != "cpu":
            raise Unavailable(f"{self.name} runs on cpu only. Type: --devices cpu")
        return "emulated" if precision == "fp16" else "native"

    def version(self) -> str:
        """Version of numpy."""
        return f"numpy {np.__version__}"

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """Identity."""
        return artifact

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Build the network."""
        return FakeRunner(artifact, cell)


def fake_image(seed: int) -> tuple[Array, list[tuple[int, int, int, int, int]]]:
    """Render one image: (64, 64, 3) uint8 RGB, and its rectangles as (label, x, y, width, height) in pixels.

    One to three rectangles, one per colour, each in its own third; edges are even, so that the fake model's input of
    half the size holds them exactly.
    """
    generator = np.random.default_rng(seed)
    image_rgb_u8 = np.full((64, 64, 3), 12, np.uint8)
    rectangles = []
    for label in sorted(generator.permutation(3)[: generator.integers(1, 4)].tolist()):
        width, height = (2 * generator.integers((3, 3), (16, 10))).tolist()
        x, y = (2 * generator.integers((0, 0), (32 - width // 2 + 1, 10 - height // 2 + 1))).tolist()
        y += 20 * label
        image_rgb_u8[y : y + height, x : x + width, label] = 240
        rectangles.append((label, x, y, width, height))
    return image_rgb_u8, rectangles


def fake_fixtures(folder: Path, count: int = 8, *, split: str = "val") -> FixtureSet:
    """Write ``count`` PNG images to ``folder`` and return them with their ground truth; the fake model scores AP 1."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    annotations: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    for image_id in range(1, count + 1):
        image_rgb_u8, rectangles = fake_image(image_id)
        path = folder / f"{image_id:06d}.png"
        if not cv2.imwrite(str(path), image_rgb_u8[..., ::-1]):
            raise ContractError(f"{path}: cannot be written")
        digest.update(path.read_bytes())
        samples.append(Sample(image_id=image_id, path=path, width=64, height=64))
        for label, x, y, width, height in rectangles:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1,
                                "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0})  # fmt: skip
    return FixtureSet(
        name="fake", split=split, samples=tuple(samples), annotations=tuple(annotations), sha256=digest.hexdigest(),
        categories=tuple({"id": i + 1, "name": name} for i, name in enumerate(CLASSES)), origin="bench.testing",
    )  # fmt: skip


def fake_folder(folder: Path, count: int = 8) -> Path:
    """Write the fake images as a fixture folder in COCO layout, ready for ``--fixtures``; return the folder."""
    return write_folder(fake_fixtures(folder / "images", count), folder)


def write_folder(made: FixtureSet, folder: Path) -> Path:
    """Write the annotations of a set whose images lie in ``folder / "images"``; return the folder."""
    images = [{"id": s.image_id, "file_name": s.path.name, "width": s.width, "height": s.height} for s in made.samples]
    document = {"images": images, "annotations": list(made.annotations), "categories": list(made.categories)}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(json.dumps(document), "utf-8")
    return folder
