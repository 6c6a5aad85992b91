"""The images on which two cells disagree most, small enough to live in ``suite.json``."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bench.fixtures import read_image_rgb
from bench.results import Box, Flip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.matching import ImageDifference
    from bench.types import FixtureSet, Prediction

MAX_FLIPS = 4
MAX_BYTES = 12_000
MAX_BOXES = 12
DRAWN_SCORE = 0.25
LONG_SIDE_PX = 420


def worst_flips(
    differences: Sequence[ImageDifference],
    fixtures: FixtureSet,
    reference: Mapping[int, Prediction],
    candidate: Mapping[int, Prediction],
    class_names: Sequence[str],
) -> tuple[Flip, ...]:
    """Draw the worst images first; images without an unexplained difference are left out."""
    samples = {s.image_id: s for s in fixtures.samples}
    flips = []
    for difference in [d for d in differences if d.badness > 0][:MAX_FLIPS]:
        sample = samples[difference.image_id]
        flips.append(
            Flip(
                image=sample.path.name,
                width=sample.width,
                height=sample.height,
                kind=difference.kind,
                explained=False,
                ref=_boxes(reference.get(sample.image_id), class_names),
                cand=_boxes(candidate.get(sample.image_id), class_names),
                thumb=thumbnail(read_image_rgb(sample.path)),
            )
        )
    return tuple(flips)


def thumbnail(image_rgb_u8: np.ndarray) -> str:
    """JPEG of at most ``MAX_BYTES`` as base64; quality, then size, gives way."""
    height, width = image_rgb_u8.shape[:2]
    side = min(LONG_SIDE_PX, max(height, width))
    while True:
        scale = side / max(height, width)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = cv2.resize(image_rgb_u8, size, interpolation=cv2.INTER_AREA)
        for quality in (80, 65, 50, 35):
            ok, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
            if ok and len(data) <= MAX_BYTES:
                return base64.b64encode(data.tobytes()).decode("ascii")
        side = int(side * 0.8)


def _boxes(prediction: Prediction | None, class_names: Sequence[str]) -> tuple[Box, ...]:
    """The best boxes worth drawing. Non-finite ones cannot be drawn; the parity rows count them."""
    if prediction is None:
        return ()
    finite = np.isfinite(prediction.scores) & np.isfinite(prediction.boxes_xyxy).all(axis=1)
    drawn = np.flatnonzero(finite & (prediction.scores >= DRAWN_SCORE))
    drawn = drawn[np.argsort(-prediction.scores[drawn], kind="stable")][:MAX_BOXES]
    return tuple(
        Box(
            box_xyxy=tuple(round(float(v), 1) for v in prediction.boxes_xyxy[i]),  # type: ignore[arg-type]
            score=round(float(prediction.scores[i]), 3),
            label=class_names[int(prediction.labels[i])],
        )
        for i in drawn
    )
