"""Training examples of a fixture set: images decoded on demand at the training size, with their cleaned boxes.

Pixel edges throughout: a box from 0 to W covers the whole width. H, W of an image, N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from adapters._shared.training.cache import PixelCache
from adapters._shared.training.cleaning import cleaned
from bench.errors import InputError, UsageError, did_you_mean
from bench.geometry import Letterbox
from bench.images import read_image_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, FixtureSet, Sample

PLACEMENT = "placement"
"""Attribute that accompanies all others: (N, 2, 3) float64 maps from pixels of the image file to pixels of the example.
Points (keypoints, centres) go through it; a negative determinant says mirrored, its root is the zoom."""
CACHE_LIMIT_BYTES = 4 << 30
"""What ``cache="auto"`` takes at most: 4,600 photographs at 640 px."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One image with its boxes."""

    image_rgb_u8: Array
    """(H, W, 3) uint8."""
    boxes_xyxy: Array
    """(N, 4) float32, pixels of this image."""
    labels: Array
    """(N,) int64."""
    attributes: Mapping[str, Array] = field(default_factory=dict)
    """Further columns by name, N rows each."""
    image_id: int = -1
    """Of the fixture set; of the first image where several are joined."""


class ExampleSource:
    """Examples by index, their longer side resized to ``side_px`` as `bench.geometry.Letterbox` would.

    Args:
        fixtures: images and truth.
        label_of: category id -> label.
        side_px: longer side of each example.
        attributes: annotation keys to carry along per box, for example ``depth_m``; equal shapes within a key, NaN
            where an annotation has no such key. ``PLACEMENT`` comes with them. ``CAMERA`` is the camera of the image.
        stretch: resize both sides to ``side_px`` instead of keeping the aspect ratio.
        cache: keep decoded images: ``on``, ``off``, or ``auto``: when all fit into ``cache_limit_bytes``.
        cache_limit_bytes: for ``auto``.

    Raises:
        InputError: a category without a label, an attribute that no annotation has or whose shapes differ, no image.
        UsageError: an unknown ``cache``.
    """

    def __init__(
        self,
        fixtures: FixtureSet,
        label_of: Mapping[int, int],
        side_px: int,
        *,
        attributes: Sequence[str] = (),
        stretch: bool = False,
        cache: Literal["auto", "on", "off"] = "auto",
        cache_limit_bytes: int = CACHE_LIMIT_BYTES,
    ) -> None:
        if cache not in ("auto", "on", "off"):
            raise UsageError(
                f"cache must be auto, on or off, not {cache!r}.{did_you_mean(cache, ('auto', 'on', 'off'))}"
            )
        if not fixtures.samples:
            raise InputError(f"{fixtures.name}: the {fixtures.split} split has no image to train on.")
        self.name = fixtures.name
        self.side_px = side_px
        self._stretch = stretch
        self._samples = fixtures.samples
        self._truths, self.cleaning = cleaned(fixtures, label_of, tuple(attributes))
        sizes_hw = [self._kept_hw(sample) for sample in self._samples]
        needed = sum(3 * height * width for height, width in sizes_hw)
        self.cached = cache == "on" or (cache == "auto" and needed <= cache_limit_bytes)
        self._cache = PixelCache(sizes_hw) if self.cached else None

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        """Decode one image, or take it from memory, at its training size; its pixels are not to be written to.

        Raises:
            InputError: the file is missing, truncated, no image, or of another size than its truth says.
        """
        height, width = self.size_hw(index)
        kept = self.kept(index)
        if kept.image_rgb_u8.shape[:2] == (height, width):
            return kept
        image = cv2.resize(kept.image_rgb_u8, (width, height), interpolation=cv2.INTER_LINEAR)
        return self._example(index, image)

    def kept(self, index: int) -> Example:
        """The same as it is kept: an image smaller than its training size is not enlarged.

        What enlarges it anyway does so once: a mosaic of files of 320 px at 640 px spent a tenth of its time on this.

        Raises:
            InputError: see ``__getitem__``.
        """
        image = self._cache.get(index) if self._cache else None
        if image is None:
            image = self._decode(self._samples[index])
            if self._cache:
                self._cache.put(index, image)
        return self._example(index, image)

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width at which an image is trained, pixels."""
        return self._resized_hw(self._samples[index])

    def _example(self, index: int, image: Array) -> Example:
        sample, truth = self._samples[index], self._truths[index]
        gain_y, gain_x = image.shape[0] / sample.height, image.shape[1] / sample.width
        attributes = dict(truth.attributes)
        if attributes:
            attributes[PLACEMENT] = np.tile([[gain_x, 0, 0], [0, gain_y, 0]], (len(truth.labels), 1, 1)).astype(float)
        return Example(
            image_rgb_u8=image,
            boxes_xyxy=(truth.boxes_xyxy * (gain_x, gain_y, gain_x, gain_y)).astype(np.float32),
            labels=truth.labels,
            attributes=attributes,
            image_id=sample.image_id,
        )

    def labels(self, index: int) -> Array:
        """(N,) int64 labels of one image, without decoding it."""
        return self._truths[index].labels

    def file_name(self, index: int) -> str:
        """Name of the image file, for people."""
        return self._samples[index].path.name

    def _decode(self, sample: Sample) -> Array:
        image = read_image_rgb(sample.path, (sample.height, sample.width))
        height, width = self._kept_hw(sample)
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return image

    def _kept_hw(self, sample: Sample) -> tuple[int, int]:
        height, width = self._resized_hw(sample)
        enlarged = sample.height <= height and sample.width <= width
        return (sample.height, sample.width) if enlarged else (height, width)

    def _resized_hw(self, sample: Sample) -> tuple[int, int]:
        if self._stretch:
            return self.side_px, self.side_px
        return Letterbox.fit((sample.height, sample.width), (self.side_px, self.side_px)).resized_hw
