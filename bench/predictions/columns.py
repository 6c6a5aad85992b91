"""What both readers of a predictions file hand on: columns as they stand in the file, joined to a fixture set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.types import Array


class Notes:
    """Warnings, each told once with its first example and the number of times."""

    def __init__(self) -> None:
        self._told: dict[str, list[str]] = {}

    def add(self, what: str, example: str) -> None:
        """Note that ``what`` holds for ``example``."""
        self._told.setdefault(what, []).append(example)

    def sentences(self) -> tuple[str, ...]:
        """One sentence per ``what``, in the order in which they were first told."""
        return tuple(
            f"{what} ({examples[0]}" + (f" and {len(examples) - 1} more)" if len(examples) > 1 else ")")
            for what, examples in self._told.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """N detections before any value is judged."""

    form: str
    """``coco``, ``entries``, ``wrapped`` or ``map``."""
    meta: Mapping[str, Any]
    bbox_format: str
    samples: Array
    """(N,) int64, index into the set's samples."""
    category_ids: Array
    """(N,) int64."""
    scores: Array
    """(N,) float64."""
    boxes: Array
    """(N, 4) float64 in ``bbox_format``; zeros where there is no box."""
    has_box: Array
    """(N,) bool; a detection without a box has keypoints."""
    keypoints: tuple[tuple[float, ...] | list[float] | None, ...] | None
    """Flat ``[x, y, v] * K`` of each detection; None when nobody has any, or the set has no keypoints."""
    place: Callable[[int], str]
    """Row -> where in the file it stands, for messages."""
    listed: frozenset[int] | None
    """Ids of the images that have an entry; None for a results list, which lists no images."""
    notes: Notes
    attributes: Mapping[str, Array] = field(default_factory=dict)
    """Pose attributes that any detection has -> (N, ...) float64; NaN where it lacks them."""


def entry_place(key: int | str) -> str:
    """Say which entry is meant: ``entry 3`` of a list, ``entry 'a.jpg'`` of a map."""
    return f"entry {key}" if isinstance(key, int) else f"entry {key!r}"
