"""Decoded images kept in memory that forked worker processes share."""

from __future__ import annotations

import mmap
import multiprocessing
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.types import Array


class PixelCache:
    """Room for one (H, W, 3) uint8 image per index; whoever decodes an image first fills it for all.

    The memory is a shared anonymous mapping: forked workers of a DataLoader see one copy of each image, and pages that
    nobody filled cost nothing. A pickled copy (workers started by ``spawn``) arrives empty and stays empty: mappings
    do not travel, and a copy of its own in each worker would multiply the memory.
    """

    def __init__(self, sizes_hw: Sequence[tuple[int, int]]) -> None:
        self._sizes_hw = tuple(sizes_hw)
        counts = [3 * height * width for height, width in self._sizes_hw]
        self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self._pixels: Array | None = np.frombuffer(mmap.mmap(-1, max(int(self._starts[-1]), 1)), np.uint8)
        self._filled = np.frombuffer(mmap.mmap(-1, max(len(counts), 1)), np.uint8)
        # a processor may reorder the flag before the pixels it speaks of; taking a lock forbids that
        self._lock = multiprocessing.Lock()

    def get(self, index: int) -> Array | None:
        """Return the image as a read-only view, or None when nobody has put it yet."""
        if self._pixels is None:
            return None
        with self._lock:
            if not self._filled[index]:
                return None
        view = self._room(index)
        view.flags.writeable = False
        return view

    def put(self, index: int, image_rgb_u8: Array) -> None:
        """Copy an image of the promised size into its room; two processes may do so at once, with the same bytes."""
        if self._pixels is None:
            return
        self._room(index)[:] = image_rgb_u8
        with self._lock:
            self._filled[index] = 1

    def _room(self, index: int) -> Array:
        assert self._pixels is not None
        height, width = self._sizes_hw[index]
        return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        return {"_sizes_hw": self._sizes_hw}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._sizes_hw = state["_sizes_hw"]
        self._pixels = None
