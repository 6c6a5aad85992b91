"""The document that ``parity score --json`` writes: ``schemas/score_result.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.results import STAT_NAMES
from bench.scoring.coco import scorer_name

if TYPE_CHECKING:
    from collections.abc import Mapping


def score_document(
    stats: Mapping[str, float | None],
    *,
    images: int,
    against: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Build a ``score_result/1`` document of plain JSON values.

    Args:
        stats: numbers of the scored file, as ``score`` returns them.
        images: number of scored images.
        against: numbers of the file compared with; every delta is then ``stats - against``.

    Returns:
        The document; intervals are null and verdicts "not judged" until something measures them.
    """
    document: dict[str, Any] = {
        "schema": "score_result/1",
        "images": images,
        "scorer": scorer_name(),
        "stats": {name: stats[name] for name in STAT_NAMES},
        "against": None,
    }
    if against is not None:
        document["against"] = {
            "stats": {name: against[name] for name in STAT_NAMES},
            "delta": {name: _delta(stats[name], against[name]) for name in STAT_NAMES},
        }
    return document


def _delta(value: float | None, base: float | None) -> dict[str, Any]:
    difference = None if value is None or base is None else value - base
    return {"value": difference, "ci95": None, "margin": None, "resolvable": None, "verdict": "not judged"}
