"""Timed rounds of a cell as they are drawn and counted; files of the first version have neither numbers nor tags."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.report.cells import CellView


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One turn of one cell."""

    number: int
    """From 1, over all openings."""
    opening: int
    samples_ms: tuple[float, ...]
    """Finite and positive ones, in order."""
    tags: tuple[str, ...]
    """Why its samples are noisy: ``other load 31 %``."""

    @property
    def median_ms(self) -> float:
        """Median of its samples."""
        return float(np.median(self.samples_ms))


def rounds_of(cell: CellView) -> list[Round]:
    """Rounds with at least one usable sample; an emulated cell's latency is shown nowhere."""
    speed = None if cell.emulated else cell.raw["speed"]
    found = []
    for place, record in enumerate((speed or {}).get("rounds", []), 1):
        samples = tuple(s for v in record.get("samples_ms", []) if math.isfinite(s := float(v)) and s > 0)
        if samples:
            found.append(Round(
                number=int(record.get("round") or place), opening=int(record.get("opening") or 1), samples_ms=samples,
                tags=tuple(str(tag) for tag in record.get("tags") or ()),
            ))  # fmt: skip
    return found


def kind_of(tag: str) -> str:
    """``other load`` of ``other load 31 %``: what a tag says without its number."""
    return re.sub(r"\s*[-−]?\d.*$", "", tag).strip() or tag


def slows_the_clock(tag: str) -> bool:
    """True for what changes the machine's speed (throttling, a low clock), not who else uses it."""
    return any(word in tag.lower() for word in ("clock", "throttl", "gpu"))
