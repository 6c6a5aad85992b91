"""Chance that depends on the seed and the image alone: not on order, on other images or on how many there are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Of one step on one image."""

    seed: int
    image_id: int
    step: int

    def _digest(self, what: str) -> int:
        text = f"{self.seed} {self.image_id} {self.step} {what}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")

    def below(self, count: int, what: str) -> int:
        """A whole number of 0 to ``count - 1``; by hash, so that no library's generator takes part."""
        return self._digest(what) % count

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Standard normal float32 values."""
        return np.random.default_rng(self._digest("normal")).standard_normal(shape, np.float32)
