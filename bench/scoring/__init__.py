"""COCO numbers from a table of detections. numpy and pycocotools only.

The rest of the project calls ``score`` and knows no engine; ``scorer_name`` says which one computed the numbers.
"""

from __future__ import annotations

from bench.scoring.coco import score, scorer_name
from bench.scoring.table import Detections, from_predictions

__all__ = ["Detections", "from_predictions", "score", "scorer_name"]
