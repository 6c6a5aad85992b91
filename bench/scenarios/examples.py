"""The image that stands for a scenario on the page, with its objects and what was found on it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from bench.images import read_image_rgb
from bench.results import Box
from bench.scenarios.results import Example
from bench.scenarios.selecting import counts
from bench.thumbs import DRAWN_SCORE, thumbnail

if TYPE_CHECKING:
    from bench.scoring import Detections
    from bench.types import FixtureSet

_MOST_OBJECTS = 12
"""An image with more would be covered by labels."""
_MOST_DRAWN = 40


def choose_image(fixtures: FixtureSet, area_px2: tuple[float, float] | None = None) -> int:
    """The image with the most objects that count, up to twelve; the first of several. It needs a sample."""
    counting = Counter(a["image_id"] for a in fixtures.annotations if counts(a, area_px2))
    few = [s.image_id for s in fixtures.samples if counting[s.image_id] <= _MOST_OBJECTS]
    choice = few or [s.image_id for s in fixtures.samples]
    return max(choice, key=lambda i: (counting[i], -i))


def example_of(
    fixtures: FixtureSet, detections: Detections, image_id: int, area_px2: tuple[float, float] | None = None
) -> Example:
    """Draw one image.

    Args:
        fixtures: of the scenario; its image file is read.
        detections: on it, COCO category ids.
        image_id: which image.
        area_px2: objects and detections outside it are not drawn.
    """
    names = {int(c["id"]): str(c.get("name", c["id"])) for c in fixtures.categories}
    sample = next(s for s in fixtures.samples if s.image_id == image_id)
    truth = [
        _box(np.array(a["bbox"], np.float64), 1.0, names.get(int(a["category_id"]), str(a["category_id"])))
        for a in fixtures.annotations
        if a["image_id"] == image_id and counts(a, area_px2)
    ]
    rows = np.flatnonzero((detections.image_ids == image_id) & (detections.scores >= DRAWN_SCORE))
    if area_px2 is not None:
        area = detections.boxes_xywh[rows, 2] * detections.boxes_xywh[rows, 3]
        rows = rows[(area >= area_px2[0]) & (area <= area_px2[1])]
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")][:_MOST_DRAWN]
    found = [
        _box(
            detections.boxes_xywh[row],
            float(detections.scores[row]),
            names.get(int(detections.category_ids[row]), str(detections.category_ids[row])),
        )
        for row in rows
    ]
    return Example(
        image=sample.path.name,
        width=sample.width,
        height=sample.height,
        truth=tuple(truth[:_MOST_DRAWN]),
        detections=tuple(found),
        thumb=thumbnail(read_image_rgb(sample.path)),
    )


def _box(box_xywh: np.ndarray, score: float, label: str) -> Box:
    x, y, width, height = (float(v) for v in box_xywh)
    corners = (round(x, 1), round(y, 1), round(x + width, 1), round(y + height, 1))
    return Box(box_xyxy=corners, score=round(score, 3), label=label)
