"""COCO's protocol as values: IoU thresholds, recall points, area ranges, detections per image, and its numbers.

Source: the parameters and ``summarize`` of pycocotools 2.0.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from bench.results import STAT_NAMES

if TYPE_CHECKING:
    from bench.types import Array

Task: TypeAlias = Literal["detect", "pose"]

THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)
"""(T,) IoU or OKS from which a detection matches; linspace, whose last bits differ from multiples of 0.05."""
RECALL_POINTS: Array = np.linspace(0.0, 1.0, 101)
"""(R,)."""
AREAS_PX2: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 1024.0),
    "medium": (1024.0, 9216.0),
    "large": (9216.0, 1e10),
}
"""Smallest and largest area in square pixels, both inclusive."""
KEYPOINT_STAT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_AREA_OF_SUFFIX = {"s": "small", "m": "medium", "l": "large"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """One of COCO's numbers: a mean over thresholds and categories that have ground truth."""

    name: str
    recall: bool
    """Mean of the last recall; otherwise of the precision at the recall points."""
    threshold: int | None
    """Index into ``THRESHOLDS``; None: all."""
    area: str
    max_detections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What one task measures."""

    task: Task
    areas: tuple[str, ...]
    max_detections: tuple[int, ...]
    """Per image and class, ascending."""
    stats: tuple[Stat, ...]


def _stat(name: str, most: int) -> Stat:
    kind, rest = name[:2], name[2:]
    return Stat(
        name=name,
        recall=kind == "AR",
        threshold={"50": 0, "75": 5}.get(rest),
        area=_AREA_OF_SUFFIX.get(rest, "all"),
        # AR1, AR10 and AR100 say their number; AR50 and AR75 are thresholds of the keypoint numbers
        max_detections=int(rest) if kind == "AR" and rest in ("1", "10", "100") else most,
    )


PROTOCOLS: dict[Task, Protocol] = {
    "detect": Protocol(
        task="detect",
        areas=("all", "small", "medium", "large"),
        max_detections=(1, 10, 100),
        stats=tuple(_stat(name, 100) for name in STAT_NAMES),
    ),
    "pose": Protocol(
        task="pose",
        areas=("all", "medium", "large"),
        max_detections=(20,),
        stats=tuple(_stat(name, 20) for name in KEYPOINT_STAT_NAMES),
    ),
}
