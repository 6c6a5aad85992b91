"""Ranges of activations over calibration images: the value, and the ``calibration/1`` document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

INT8_MAX = 127
"""Symmetric int8: scale = amax / 127 (TensorRT's cache and onnxruntime's symmetric QInt8 agree on it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """What one activation held, and the magnitude that its 8-bit grid will cover."""

    low: float
    """Smallest value seen."""
    high: float
    """Largest value seen."""
    amax: float
    """Largest magnitude that is represented; what lies beyond saturates."""

    @property
    def scale(self) -> float:
        """Step of the symmetric int8 grid."""
        return self.amax / INT8_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Ranges of one graph on one ordered list of images."""

    method: str
    """``minmax``, ``entropy``, ``percentile 99.999`` or ``migrated <header of the cache>``."""
    ranges: Mapping[str, TensorRange]
    """ONNX tensor -> range."""
    onnx_sha256: str
    """The fp32 file that was calibrated."""
    images: int
    images_sha256: str
    """Hash over the preprocessed tensors, in the order in which they were read."""
    set_name: str
    seed: int | None = None
    """Of the choice of images; None: the first ones of the set."""
    evaluation_images: int = 0
    """Images that are also in the evaluation set (only when forced)."""
