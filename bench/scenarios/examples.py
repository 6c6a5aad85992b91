"""The image that stands for a scenario on the page, with its objects and what was found on it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.geometry import box_iou, xyxy_from_xywh
from bench.images import read_image_rgb
from bench.results import Box
from bench.scenarios.results import Example
from bench.scenarios.selecting import counts
from bench.thumbs import DRAWN_SCORE, thumbnail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.scoring import Detections
    from bench.types import Array, FixtureSet

_GOOD_OBJECTS = 5
"""Enough to see something, and room for labels."""
_SAME_IOU = 0.5
_MOST_DRAWN = 40


def choose_image(fixtures: FixtureSet, area_px2: tuple[float, float] | None = None) -> int:
    """The first image with about five objects that count; the set has at least one image."""
    counting = Counter(a["image_id"] for a in fixtures.annotations if counts(a, area_px2))
    return min((s.image_id for s in fixtures.samples), key=lambda i: (abs(counting[i] - _GOOD_OBJECTS), i))


def example_of(
    fixtures: FixtureSet, detections: Detections, image_id: int, area_px2: tuple[float, float] | None = None
) -> Example:
    """Draw one image.

    Args:
        fixtures: of the scenario; its image file is read.
        detections: on it, COCO category ids.
        image_id: which image.
        area_px2: objects outside it are not drawn, nor detections of them, nor detections outside it of nothing.
    """
    names = {int(c["id"]): str(c.get("name", c["id"])) for c in fixtures.categories}
    sample = next(s for s in fixtures.samples if s.image_id == image_id)
    there = [a for a in fixtures.annotations if a["image_id"] == image_id]
    counted = np.array([counts(a, area_px2) for a in there], bool)
    truth = [
        _box(np.array(a["bbox"], np.float64), 1.0, names.get(int(a["category_id"]), str(a["category_id"])))
        for a, counting in zip(there, counted, strict=True)
        if counting
    ]
    rows = np.flatnonzero((detections.image_ids == image_id) & (detections.scores >= DRAWN_SCORE))
    rows = rows[_worth_drawing(detections.boxes_xywh[rows], there, counted, area_px2)]
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


def _worth_drawing(
    boxes_xywh: Array, there: Sequence[Mapping[str, Any]], counted: Array, area_px2: tuple[float, float] | None
) -> Array:
    """(N,) bool: on an object that counts, or on nothing and within the area range. The scorer ignores the others."""
    truth_xywh = np.array([a["bbox"] for a in there], np.float64).reshape(-1, 4)
    same = box_iou(xyxy_from_xywh(boxes_xywh), xyxy_from_xywh(truth_xywh)) >= _SAME_IOU
    area = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    within = np.ones(len(area), bool) if area_px2 is None else (area >= area_px2[0]) & (area <= area_px2[1])
    drawn: Array = same[:, counted].any(axis=1) | (within & ~same.any(axis=1))
    return drawn


def _box(box_xywh: Array, score: float, label: str) -> Box:
    x, y, width, height = (float(v) for v in box_xywh)
    corners = (round(x, 1), round(y, 1), round(x + width, 1), round(y + height, 1))
    return Box(box_xyxy=corners, score=round(score, 3), label=label)
