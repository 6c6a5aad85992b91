"""COCO numbers from a table of detections, exact, and intervals of their differences.

numba is loaded when something is scored, not when this package is imported.
"""

from __future__ import annotations

from bench import __version__
from bench.scoring.bootstrap import MIN_IMAGES, Paired, paired_bootstrap
from bench.scoring.matched import Matched, match, precision_recall_arrays, score
from bench.scoring.oracle import cross_check
from bench.scoring.protocol import KEYPOINT_STAT_NAMES
from bench.scoring.table import Detections, from_predictions

__all__ = [
    "KEYPOINT_STAT_NAMES",
    "MIN_IMAGES",
    "Detections",
    "Matched",
    "Paired",
    "cross_check",
    "from_predictions",
    "match",
    "paired_bootstrap",
    "precision_recall_arrays",
    "score",
    "scorer_name",
]


def scorer_name() -> str:
    """Name and version of the engine that computes the numbers."""
    return f"backend-parity exact COCO {__version__}"
