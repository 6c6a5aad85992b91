"""Training samples from a fixture set: decoded once, kept in memory as uint8, augmented on the fly.

S is the side of the square network input in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from adapters.yolov10.process import PAD_VALUE
from bench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.types import Array, FixtureSet

MIN_SIDE_PX = 2.0
"""Boxes that an augmentation leaves smaller than this are dropped."""
MIN_VISIBLE = 0.15
"""Boxes that keep less than this share of their area are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Strengths of the random changes; zero switches one off."""

    mosaic: float = 0.5
    """Probability of joining four images."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    scale: float = 0.4
    """Zoom is drawn from 1 - scale to 1 + scale."""
    translate: float = 0.1
    """Shift of the centre, share of S."""
    hue: float = 0.015
    saturation: float = 0.5
    value: float = 0.4
    """Gains are drawn from 1 - x to 1 + x."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image with its boxes."""

    image_rgb_u8: Array
    """(H, W, 3) uint8."""
    boxes_xyxy: Array
    """(N, 4) float32, pixels of this image."""
    labels: Array
    """(N,) int64."""


def label_of_category(fixtures: FixtureSet, class_names: tuple[str, ...]) -> dict[int, int]:
    """Map category ids to labels, by name, or by order where the set has no names.

    Raises:
        InputError: a category that the model does not know.
    """
    if not fixtures.named_categories:
        return {int(c["id"]): label for label, c in enumerate(fixtures.categories)}
    known = {name: label for label, name in enumerate(class_names)}
    strangers = [str(c["name"]) for c in fixtures.categories if c["name"] not in known]
    if strangers:
        raise InputError(f"fixtures {fixtures.name}: the model has no class named {', '.join(strangers)}")
    return {int(c["id"]): known[c["name"]] for c in fixtures.categories}


def read_rgb(path: Path) -> Array:
    """Decode an image file to (H, W, 3) uint8 RGB.

    Raises:
        InputError: not an image.
    """
    image_bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image_bgr is None:
        raise InputError(f"{path}: not an image that OpenCV can decode")
    return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)


def load_examples(fixtures: FixtureSet, label_of: dict[int, int], side_px: int) -> list[Example]:
    """Decode every image of a set, its longer side resized to ``side_px``; crowd regions carry no box.

    Raises:
        InputError: a file that is not an image.
    """
    by_image: dict[int, list[tuple[list[float], int]]] = {s.image_id: [] for s in fixtures.samples}
    for note in fixtures.annotations:
        if not note.get("iscrowd"):
            by_image[note["image_id"]].append((note["bbox"], label_of[note["category_id"]]))
    examples = []
    for sample in fixtures.samples:
        image = read_rgb(sample.path)
        gain = side_px / max(image.shape[:2])
        size = (max(round(image.shape[1] * gain), 1), max(round(image.shape[0] * gain), 1))
        gains = np.array([size[0] / image.shape[1], size[1] / image.shape[0]] * 2, np.float32)
        if gain != 1:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        boxes_xywh = np.array([b for b, _ in by_image[sample.image_id]], np.float32).reshape(-1, 4)
        boxes_xyxy = np.concatenate((boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]), 1) * gains
        labels = np.array([label for _, label in by_image[sample.image_id]], np.int64)
        examples.append(Example(image, boxes_xyxy, labels))
    return examples


class AugmentedSet:
    """Examples by index, placed on an S x S canvas with random changes.

    Args:
        examples: decoded images.
        side_px: S.
        augmentation: strengths.
        seed: with epoch and index it determines every random number, whatever the order of access.
    """

    def __init__(self, examples: list[Example], side_px: int, augmentation: Augmentation, seed: int) -> None:
        self._examples = examples
        self.side_px = side_px
        self._augmentation = augmentation
        self._seed = seed
        self.epoch = 0
        self.mosaic = True
        """Switched off for the last epochs."""

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        """Draw the random numbers of (seed, epoch, index) and place one image, or four."""
        rng = np.random.default_rng((self._seed, self.epoch, index))
        if self.mosaic and rng.random() < self._augmentation.mosaic:
            others = rng.integers(len(self._examples), size=3)
            example = self._place([self._examples[i] for i in (index, *others)], rng)
        else:
            example = self._place([self._examples[index]], rng)
        return _flip(_tint(example, self._augmentation, rng), self._augmentation, rng)

    def _place(self, parts: list[Example], rng: np.random.Generator) -> Example:
        """Draw one image around the canvas centre, or four images around a common corner."""
        side, strength = self.side_px, self._augmentation
        zoom = 1 + strength.scale * rng.uniform(-1, 1)
        meet = side * (0.5 + (0.25 if len(parts) == 4 else strength.translate) * rng.uniform(-1, 1, 2))
        canvas = np.full((side, side, 3), PAD_VALUE, np.uint8)
        boxes, labels = [], []
        for number, part in enumerate(parts):
            height, width = part.image_rgb_u8.shape[:2]
            if len(parts) == 1:
                shift = meet - zoom * np.array([width, height]) / 2
            else:
                shift = meet - zoom * np.array([width, height]) * [number % 2 == 0, number < 2]
            matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float32)
            cv2.warpAffine(
                part.image_rgb_u8,
                centred(matrix),
                (side, side),
                dst=canvas,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_TRANSPARENT,
            )
            moved = part.boxes_xyxy * zoom + np.tile(shift, 2)
            clipped = np.clip(moved, 0, side)
            size, area = clipped[:, 2:] - clipped[:, :2], np.prod(moved[:, 2:] - moved[:, :2], axis=1)
            keep = (size > MIN_SIDE_PX).all(1) & (size.prod(1) > MIN_VISIBLE * area)
            boxes.append(clipped[keep])
            labels.append(part.labels[keep])
        return Example(canvas, np.concatenate(boxes).astype(np.float32), np.concatenate(labels))


def centred(matrix: Array) -> Array:
    """Turn a map of pixel edges, as boxes use, into the map of pixel centres that OpenCV expects."""
    moved = matrix.copy()
    moved[:, 2] += 0.5 * (matrix[:, :2].sum(1) - 1)
    return moved


def _tint(example: Example, strength: Augmentation, rng: np.random.Generator) -> Example:
    gains = 1 + rng.uniform(-1, 1, 3) * (strength.hue, strength.saturation, strength.value)
    steps = np.arange(256)
    tables = (
        (steps * gains[0] % 180).astype(np.uint8),
        np.clip(steps * gains[1], 0, 255).astype(np.uint8),
        np.clip(steps * gains[2], 0, 255).astype(np.uint8),
    )
    planes = cv2.split(cv2.cvtColor(example.image_rgb_u8, cv2.COLOR_RGB2HSV))
    changed = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)])
    return Example(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB), example.boxes_xyxy, example.labels)


def _flip(example: Example, strength: Augmentation, rng: np.random.Generator) -> Example:
    if rng.random() >= strength.flip:
        return example
    width = example.image_rgb_u8.shape[1]
    boxes = example.boxes_xyxy[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    return Example(example.image_rgb_u8[:, ::-1], boxes.astype(np.float32), example.labels)
