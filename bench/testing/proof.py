"""The passing cell into which ``parity doctor --prove`` plants its faults: a fake model that makes mistakes.

A detector (``adapter``) and a pose model (``pose_adapter``) of coloured rectangles, letterboxed and interpolated as a
real one, over images on which their AP is clearly below 1: a leak of the ground truth can then show as a gain. No
runtime is needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from bench.errors import ContractError, Unsupported
from bench.geometry import Letterbox
from bench.testing.fakes import CLASSES, SIDE, FakeNetwork
from bench.types import FixtureSet, ModelSpec, Prediction, Sample, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array

IMAGE_HW = (60, 80)
"""Letterboxed to 24 x 32: a scale at which interpolations differ."""
KEYPOINTS = ("left_top", "right_top", "left_bottom", "right_bottom")
KEYPOINT_PLACES = np.array([[0.2, 0.2], [0.8, 0.25], [0.15, 0.85], [0.85, 0.8]], np.float32)
"""(K, 2) x and y of each keypoint, as a share of the box's width and height: not symmetric."""
SIGMAS = (0.08,) * len(KEYPOINTS)
GOLDENS = Path(__file__).resolve().parents[2] / "fixtures" / "goldens" / "preprocess-proof.json"
_FEEDS = (TensorSpec(name="images", shape=("batch", 3, SIDE, SIDE), dtype="float32"),)
_BOXES = (
    TensorSpec(name="boxes", shape=("batch", 3, 4), dtype="float32"),
    TensorSpec(name="scores", shape=("batch", 3), dtype="float32"),
)
_POINTS = (TensorSpec(name="keypoints", shape=("batch", 3, len(KEYPOINTS), 3), dtype="float32"),)


def letterbox(image_u8: Array, *, interpolation: int = cv2.INTER_LINEAR, shift_px: float = 0.0) -> Array:
    """(H, W, 3) uint8 -> (32, 32, 3) uint8 on black, centred; ``shift_px`` moves it down, in network pixels."""
    box = Letterbox.fit((image_u8.shape[0], image_u8.shape[1]), (SIDE, SIDE))
    height, width = box.resized_hw
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    small = cv2.resize(image_u8, (width, height), interpolation=interpolation)
    canvas[box.top : box.top + height, box.left : box.left + width] = small
    if shift_px:
        move = np.array([[1, 0, 0], [0, 1, shift_px]], np.float32)
        canvas = np.asarray(cv2.warpAffine(canvas, move, (SIDE, SIDE)))
    return canvas


def feeds_of(canvas_u8: Array, *, divisor: float = 255.0) -> dict[str, Array]:
    """(32, 32, 3) uint8 -> ``images`` (1, 3, 32, 32) float32."""
    return {"images": np.ascontiguousarray(canvas_u8.transpose(2, 0, 1)[None], np.float32) / np.float32(divisor)}


def meta_of(image_u8: Array) -> dict[str, Any]:
    """What ``postprocess`` needs."""
    return {"letterbox": Letterbox.fit((image_u8.shape[0], image_u8.shape[1]), (SIDE, SIDE))}


class ProofAdapter:
    """A detector of coloured rectangles; its weights are this file, because its network is a function."""

    spec: ClassVar[ModelSpec] = ModelSpec(
        name="proof", task="detect", image_hw=(SIDE, SIDE), class_names=CLASSES, default_fixtures="proof",
        inputs=_FEEDS, outputs=_BOXES, default_weights=Path(__file__), preprocess_goldens=GOLDENS,
        licence="Apache-2.0",
    )  # fmt: skip

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """Letterbox, bilinear, divided by 255."""
        return feeds_of(letterbox(image_rgb_u8)), meta_of(image_rgb_u8)

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Boxes and keypoints in pixels of the original image, best first; rows that are NaN are kept."""
        scores = outputs["scores"][0].astype(np.float32)
        kept = np.flatnonzero(~(scores < self.spec.score_floor))
        order = kept[np.argsort(-scores[kept], kind="stable")]
        box: Letterbox = meta["letterbox"]
        points = None
        if "keypoints" in outputs:
            points = outputs["keypoints"][0][order].astype(np.float32)
            corners = np.concatenate((points[..., :2], points[..., :2]), axis=-1).reshape(-1, 4)
            points[..., :2] = box.to_image(corners)[:, :2].reshape(*points.shape[:2], 2)
        boxes_xyxy = box.to_image(outputs["boxes"][0][order]).astype(np.float32)
        return Prediction(boxes_xyxy, scores[order], (order % len(CLASSES)).astype(np.int64), points)

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """The network; there is nothing to load."""
        return FakeNetwork()

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """The fake network runs in the fake backend only."""
        raise Unsupported("the proof model has no ONNX export: its network is a numpy function")

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """Nothing to train."""
        raise Unsupported("the proof model has nothing to train")


class PoseNetwork:
    """A ``FakeNetwork`` whose boxes carry keypoints (B, 3, K, 3): x, y in network pixels, score."""

    def __init__(self, boxes: FakeNetwork) -> None:
        self._boxes = boxes

    def __call__(self, images: Array) -> tuple[Array, Array, Array]:
        """Boxes, scores, keypoints."""
        boxes_xyxy, scores = self._boxes(images)
        places = keypoints_of(boxes_xyxy).astype(boxes_xyxy.dtype)
        sure = np.broadcast_to(scores[..., None, None], (*places.shape[:-1], 1))
        return boxes_xyxy, scores, np.concatenate((places, sure), axis=-1)


class ProofPoseAdapter(ProofAdapter):
    """The detector with four keypoints per rectangle."""

    spec: ClassVar[ModelSpec] = ModelSpec(
        name="proof-pose", task="pose", image_hw=(SIDE, SIDE), class_names=CLASSES, default_fixtures="proof",
        inputs=_FEEDS, outputs=(*_BOXES, *_POINTS), default_weights=Path(__file__), preprocess_goldens=GOLDENS,
        keypoint_names=KEYPOINTS, oks_sigmas=SIGMAS, licence="Apache-2.0",
    )  # fmt: skip

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """The network; there is nothing to load."""
        return PoseNetwork(FakeNetwork())


adapter = ProofAdapter()
pose_adapter = ProofPoseAdapter()


def keypoints_of(boxes_xyxy: Array) -> Array:
    """(..., 4) corners -> (..., K, 2) where the keypoints of such a rectangle are."""
    low, size = boxes_xyxy[..., None, :2], boxes_xyxy[..., None, 2:] - boxes_xyxy[..., None, :2]
    places: Array = low + size * KEYPOINT_PLACES
    return places


def proof_image(seed: int) -> tuple[Array, list[tuple[int, Array]]]:
    """Render one image and the truth about it.

    The truth is not quite what is drawn: edges are off by up to a tenth of the size, one rectangle in eight is not
    annotated and one in eight is annotated and not drawn. A model that sees the image only stays below AP 1.

    Returns:
        (60, 80, 3) uint8 RGB, and (label, box xyxy px) of each annotated rectangle.
    """
    generator = np.random.default_rng([2468, seed])
    height, width = IMAGE_HW
    image_rgb_u8 = generator.integers(0, 90, (height, width, 3), np.uint8)
    truth: list[tuple[int, Array]] = []
    for label in range(len(CLASSES)):
        kind = generator.random()
        w, h = (int(v) for v in generator.integers((14, 12), (44, 38)))
        x, y = int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1))
        value = int(generator.integers(170, 250))
        off = np.round(generator.uniform(-0.1, 0.1, 4) * (w, h, w, h))
        if kind < 0.2:
            continue  # no rectangle of this colour
        if kind >= 0.3:
            image_rgb_u8[y : y + h, x : x + w, label] = value
        if kind < 0.9:
            box_xyxy = np.array([x, y, x + w, y + h], np.float64) + off
            truth.append((label, np.clip(box_xyxy, 0, (width, height, width, height))))
    return image_rgb_u8, truth


def proof_fixtures(folder: Path, count: int = 40, *, first: int = 1) -> FixtureSet:
    """Write ``count`` PNG images to ``folder`` and return them with boxes and keypoints as ground truth.

    The hash is over pixels and truth, not over PNG bytes, which depend on the version of a compressor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    annotations: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    for image_id in range(first, first + count):
        image_rgb_u8, truth = proof_image(image_id)
        path = folder / f"{image_id:06d}.png"
        if not cv2.imwrite(str(path), image_rgb_u8[..., ::-1]):
            raise ContractError(f"{path}: cannot be written")
        digest.update(image_rgb_u8.tobytes())
        samples.append(Sample(image_id=image_id, path=path, width=IMAGE_HW[1], height=IMAGE_HW[0]))
        for label, box_xyxy in truth:
            digest.update(f"{label} {box_xyxy.tolist()}".encode())
            points = np.concatenate((keypoints_of(box_xyxy), np.full((len(KEYPOINTS), 1), 2.0)), axis=1)
            (x, y), (width, height) = box_xyxy[:2].tolist(), (box_xyxy[2:] - box_xyxy[:2]).tolist()
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1,
                                "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0,
                                "keypoints": points.ravel().tolist(), "num_keypoints": len(KEYPOINTS)})  # fmt: skip
    return FixtureSet(
        name="proof", split="val", samples=tuple(samples), annotations=tuple(annotations), sha256=digest.hexdigest(),
        categories=tuple({"id": i + 1, "name": name, "keypoints": list(KEYPOINTS), "sigmas": list(SIGMAS)}
                         for i, name in enumerate(CLASSES)), origin="bench.testing.proof",
    )  # fmt: skip
