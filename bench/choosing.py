"""Which images of a set are taken, and whether two images are the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bench.images import read_image_rgb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.types import Sample


def choose_samples(samples: Sequence[Sample], count: int, seed: int) -> tuple[Sample, ...]:
    """``count`` images in an order that depends on seed, ids and file names alone, on no library's generator."""

    def place(sample: Sample) -> str:
        return hashlib.sha256(f"{seed} {sample.image_id} {sample.path.name}".encode()).hexdigest()

    return tuple(sorted(samples, key=place)[:count])


def pixels_sha256(sample: Sample) -> str:
    """Hash of an image's pixels: a renamed or re-saved copy (without loss) has the same one.

    Raises:
        InputError: the image cannot be read.
    """
    image_rgb = read_image_rgb(sample.path)
    return hashlib.sha256(f"{image_rgb.shape}".encode() + image_rgb.tobytes()).hexdigest()
