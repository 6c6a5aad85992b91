"""The set that a DataLoader reads: a key in, an augmented example out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from adapters._shared.training.augment import Augmentation, Pipeline
from adapters._shared.training.mosaic import mixup, mosaic

if TYPE_CHECKING:
    from adapters._shared.training.examples import Example, ExampleSource

MEETING_SPREAD = 0.25
"""The meeting point of a mosaic lies within this share of S around the centre, on either axis."""
MIXUP_BETA = 32.0
"""Shares of mixup come from Beta(32, 32): 0.5 +- 0.06, so that the objects of both images stay visible."""


class SampleKey(NamedTuple):
    """What a sampler yields; with the seed of the set it determines every byte of a sample."""

    epoch: int
    index: int  # type: ignore[assignment]  # the name hides tuple.index, which nobody asks a key for
    closing: bool = False
    """Mosaic and mixup are closed: the last epochs see images as inference does."""


class TrainingSet:
    """Augmented examples by key, the same ones whatever the order of access or the process.

    Args:
        source: decoded examples whose longer side is ``side_px``.
        side_px: S, side of the square network input.
        augmentation: strengths.
        seed: with the key it determines every random number; at least 0.
    """

    def __init__(self, source: ExampleSource, side_px: int, augmentation: Augmentation, seed: int) -> None:
        self.source = source
        self.side_px = side_px
        self.augmentation = augmentation
        self.seed = seed
        self._single = Pipeline(augmentation, side_px)
        self._joined = Pipeline(augmentation, side_px, joined=True)

    def __len__(self) -> int:
        """Images of the source."""
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> Example:
        """Make the example of ``key``: (S, S, 3) uint8 RGB.

        Raises:
            InputError: an image file that cannot be used; names it.
        """
        rng = np.random.default_rng((self.seed, key.epoch, key.index, int(key.closing)))
        example = self._one(key.index, rng, key.closing)
        if not key.closing and rng.random() < self.augmentation.mixup:
            other = self._one(int(rng.integers(len(self))), rng, key.closing)
            example = mixup(example, other, rng.beta(MIXUP_BETA, MIXUP_BETA))
        return example

    def _one(self, index: int, rng: np.random.Generator, closing: bool) -> Example:
        """Place one image, or four."""
        if closing or rng.random() >= self.augmentation.mosaic:
            return self._single(self.source[index], rng)
        # every part shows the corner that lies at the meeting point: the places are shuffled, so that all corners do
        chosen = [int(i) for i in rng.permutation([index, *rng.integers(len(self), size=3)])]
        zoom = 1 + self.augmentation.scale * rng.uniform(-1, 1)
        meet_xy = np.rint(self.side_px * (0.5 + MEETING_SPREAD * rng.uniform(-1, 1, 2))).astype(int)
        joined = mosaic(
            [self.source.kept(i) for i in chosen],
            self.side_px,
            zoom=zoom,
            meet_xy=(int(meet_xy[0]), int(meet_xy[1])),
            sizes_hw=[self.source.size_hw(i) for i in chosen],
        )
        return self._joined(joined, rng)
