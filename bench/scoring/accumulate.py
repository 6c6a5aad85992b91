"""AP and AR of matched detections, every image counted a whole number of times. Import lazily: this loads numba."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.scoring.jit import compiled
from bench.scoring.protocol import RECALL_POINTS, THRESHOLDS

if TYPE_CHECKING:
    from bench.scoring.pairing import AreaTable
    from bench.types import Array

EPSILON = float(np.spacing(1))


def precision_recall(table: AreaTable, weights: Array, max_detections: int) -> tuple[Array, Array]:
    """Accumulate one area range.

    Bit-identical to pycocotools when all weights are one, and to pycocotools on a set in which image i stands
    ``weights[i]`` times, copies adjacent (equal scores of different images apart: copies then interleave).

    Args:
        table: matched detections of one area range.
        weights: (I,) int64, how often each image counts; 0 leaves it out.
        max_detections: per image and class, best scores first.

    Returns:
        Precision (T, R, C) and the last recall (T, C), float64; -1 where a category has no object that counts.
    """
    categories = len(table.starts) - 1
    precision = np.full((len(THRESHOLDS), len(RECALL_POINTS), categories), -1.0)
    recall = np.full((len(THRESHOLDS), categories), -1.0)
    _accumulate(
        table.starts,
        table.image,
        table.rank,
        table.hits,
        table.neutral,
        table.object_starts,
        table.object_image,
        table.object_count,
        np.asarray(weights, np.int64),
        max_detections,
        RECALL_POINTS,
        EPSILON,
        precision,
        recall,
    )
    return precision, recall


def mean_defined(values: Array) -> float | None:
    """Mean of what is not -1, as pycocotools' summarize takes it; None when nothing is."""
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else None


@compiled
def _accumulate(
    starts: Array,
    image: Array,
    rank: Array,
    hits: Array,
    neutral: Array,
    object_starts: Array,
    object_image: Array,
    object_count: Array,
    weights: Array,
    max_detections: int,
    recall_points: Array,
    epsilon: float,
    precision: Array,
    recall: Array,
) -> None:
    thresholds, points, categories = precision.shape
    longest = 0
    for c in range(categories):
        longest = max(longest, starts[c + 1] - starts[c])
    rc, pr = np.empty(longest), np.empty(longest)
    counted_weight = np.empty(longest, np.int64)
    counted_hits, counted_neutral = np.empty(longest, np.uint16), np.empty(longest, np.uint16)
    for c in range(categories):
        objects = 0
        for o in range(object_starts[c], object_starts[c + 1]):
            objects += weights[object_image[o]] * object_count[o]
        if objects == 0:
            continue
        counted = 0  # gathered once, where each threshold would look them up again
        for d in range(starts[c], starts[c + 1]):
            weight = weights[image[d]]
            if weight == 0 or rank[d] >= max_detections:
                continue
            counted_weight[counted], counted_hits[counted], counted_neutral[counted] = weight, hits[d], neutral[d]
            counted += 1
        for t in range(thresholds):
            bit = 1 << t
            right = wrong = count = 0
            # Only where a detection is right: between two of them recall stands still and precision falls, so neither
            # the envelope nor a recall point takes its value anywhere else.
            for d in range(counted):
                if counted_hits[d] & bit:
                    right += counted_weight[d]
                    rc[count] = float(right) / float(objects)
                    pr[count] = float(right) / (float(wrong) + float(right) + epsilon)
                    count += 1
                elif not counted_neutral[d] & bit:
                    wrong += counted_weight[d]
            recall[t, c] = rc[count - 1] if count else 0.0
            for d in range(count - 1, 0, -1):
                pr[d - 1] = max(pr[d - 1], pr[d])
            d = 0
            for r in range(points):
                while d < count and rc[d] < recall_points[r]:
                    d += 1
                precision[t, r, c] = pr[d] if d < count else 0.0
