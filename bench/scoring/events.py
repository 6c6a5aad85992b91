"""AP and AR of one weight vector in a fraction of the exact form's time. Import lazily: this loads numba.

Precision has its maxima where a detection is right, and recall changes only there. So per category and threshold only
those detections are visited (and the neutral ones, which leave the running sum); the sum over all detections of a
category is taken once for all thresholds. The precision at every recall point is the exact form's own, bit for bit: the
sums are whole numbers and the division is the same. Only the order in which points are averaged differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.scoring.accumulate import EPSILON
from bench.scoring.jit import compiled
from bench.scoring.protocol import RECALL_POINTS, THRESHOLDS

if TYPE_CHECKING:
    from bench.scoring.pairing import AreaTable
    from bench.scoring.protocol import Stat
    from bench.types import Array

_PER_CATEGORY = len(THRESHOLDS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Events:
    """One system in one area range: N detections up to the last right one of their category, E events."""

    starts: Array
    """(C + 1,) int64."""
    image: Array
    """(N,) int32."""
    event_starts: Array
    """(C * T + 1,) int64, by category, then threshold."""
    place: Array
    """(E,) int32: place among the category's detections when right; -1 - place when neutral."""
    event_image: Array
    """(E,) int32."""
    entry_starts: Array
    """(C + 1,) int64."""
    entry_image: Array
    """(M,) int32, images with an object of the category that counts."""
    sums: Array
    """(M, 1 + S) int32: objects that count, then per recall number the right detections over its thresholds."""


def compile_events(table: AreaTable, recalls: tuple[Stat, ...]) -> Events:
    """Turn matches into event lists.

    Args:
        table: matches of one area range, at COCO's largest number of detections per image.
        recalls: the S recall numbers that are wanted of this area range.
    """
    categories = len(table.starts) - 1
    category = np.repeat(np.arange(categories), np.diff(table.starts))
    any_hit = np.flatnonzero(table.hits)
    # detections after the last right one touch no precision that is read
    ends = table.starts[:-1].copy()
    np.maximum.at(ends, category[any_hit], any_hit + 1)
    kept = np.arange(len(category)) < ends[category]
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(ends - table.starts[:-1])))
    category, image, hits, neutral = category[kept], table.image[kept], table.hits[kept], table.neutral[kept]
    place = (np.arange(len(category)) - starts[category]).astype(np.int32)
    event_starts, places, images = _lists(place, image, category, hits, neutral, categories)
    return Events(
        starts=starts,
        image=image,
        event_starts=event_starts,
        place=places,
        event_image=images,
        entry_starts=table.object_starts,
        entry_image=table.object_image,
        sums=_sums(table, recalls),
    )


def _lists(
    place: Array, image: Array, category: Array, hits: Array, neutral: Array, categories: int
) -> tuple[Array, Array, Array]:
    counts = np.zeros((categories, _PER_CATEGORY), np.int64)
    chosen = []
    for t in range(_PER_CATEGORY):
        rows = np.flatnonzero((hits | neutral) & (1 << t))
        counts[:, t] = np.bincount(category[rows], minlength=categories)
        chosen.append(rows)
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts.ravel())))
    places, images = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    for t, rows in enumerate(chosen):
        begin = starts[:-1].reshape(counts.shape)[:, t]
        within = np.arange(len(rows)) - (np.cumsum(counts[:, t]) - counts[:, t])[category[rows]]
        target = begin[category[rows]] + within
        places[target] = np.where(hits[rows] & (1 << t), place[rows], -1 - place[rows])
        images[target] = image[rows]
    return starts, places, images


def _sums(table: AreaTable, recalls: tuple[Stat, ...]) -> Array:
    categories = len(table.starts) - 1
    images = int(max(table.image.max(initial=0), table.object_image.max(initial=0))) + 1
    entry_key = np.repeat(np.arange(categories), np.diff(table.object_starts)) * images + table.object_image
    category = np.repeat(np.arange(categories), np.diff(table.starts))
    right = np.flatnonzero(table.hits)
    # a right detection stands where an object counts, so its entry exists
    entry = np.searchsorted(entry_key, category[right] * images + table.image[right])
    sums = np.zeros((len(entry_key), 1 + len(recalls)), np.int32)
    sums[:, 0] = table.object_count
    for s, stat in enumerate(recalls, start=1):
        bits = table.hits[right] if stat.threshold is None else table.hits[right] & (1 << stat.threshold)
        number = np.where(table.rank[right] < stat.max_detections, np.bitwise_count(bits), 0)
        sums[:, s] = np.bincount(entry, weights=number, minlength=len(entry_key))
    return sums


@compiled
def weighted_sums(starts: Array, image: Array, sums: Array, weights: Array, totals: Array) -> None:
    """``totals`` (C, 1 + S) int64 = per category, the sums of its images times their weights."""
    for c in range(len(starts) - 1):
        for s in range(sums.shape[1]):
            totals[c, s] = 0
        for entry in range(starts[c], starts[c + 1]):
            weight = weights[image[entry]]
            if weight:
                for s in range(sums.shape[1]):
                    totals[c, s] += weight * np.int64(sums[entry, s])


@compiled
def needed_hits(objects: Array, recall_points: Array, needed: Array) -> None:
    """``needed`` (C, R) int64: the fewest right detections whose recall, as a double, reaches each recall point."""
    for c in range(len(objects)):
        count = objects[c]
        if count == 0:
            continue
        for r in range(len(recall_points)):
            point = recall_points[r]
            n = np.int64(np.ceil(point * count))
            while n > 0 and float(n - 1) / float(count) >= point:
                n -= 1
            while float(n) / float(count) < point:
                n += 1
            needed[c, r] = n


@compiled
def average_precision(
    starts: Array,
    image: Array,
    event_starts: Array,
    place: Array,
    event_image: Array,
    weights: Array,
    objects: Array,
    needed: Array,
    epsilon: float,
    running: Array,
    ap: Array,
) -> None:
    """``ap`` (C, T) = mean precision over the recall points, -1 where no object counts.

    Args:
        starts: as in ``Events``; so are image, event_starts, place and event_image.
        image: see above.
        event_starts: see above.
        place: see above.
        event_image: see above.
        weights: (I,) int32.
        objects: (C,) int64, weighted number of objects.
        needed: (C, R) int64 of ``needed_hits``.
        epsilon: of COCO's precision.
        running: scratch, int32, as long as the longest category.
        ap: filled.
    """
    points = needed.shape[1]
    thresholds = ap.shape[1]
    best = np.empty(points + 1)
    for c in range(len(objects)):
        if objects[c] == 0:
            for t in range(thresholds):
                ap[c, t] = -1.0
            continue
        total = np.int32(0)
        for d in range(starts[c], starts[c + 1]):
            total += weights[image[d]]
            running[d - starts[c]] = total
        for t in range(thresholds):
            # best[r] is the highest precision seen while exactly r recall points were reached
            for r in range(points + 1):
                best[r] = 0.0
            reached, right, out = 0, 0, 0
            highest = 0.0
            for e in range(event_starts[c * thresholds + t], event_starts[c * thresholds + t + 1]):
                weight = weights[event_image[e]]
                if weight == 0:
                    continue
                where = place[e]
                if where < 0:
                    out += weight
                    continue
                right += weight
                if reached < points and needed[c, reached] <= right:
                    best[reached] = highest
                    highest = 0.0
                    while reached < points and needed[c, reached] <= right:
                        reached += 1
                precision = float(right) / (float(running[where] - out) + epsilon)
                highest = max(highest, precision)
            best[reached] = highest
            highest = 0.0
            total_precision = 0.0
            for r in range(points, 0, -1):
                highest = max(highest, best[r])
                total_precision += highest
            ap[c, t] = total_precision / points


class Resampler:
    """Computes the numbers of one system in one area range for weight vector after weight vector."""

    def __init__(self, events: Events) -> None:
        self._events = events
        categories = len(events.starts) - 1
        self._running = np.empty(int(np.diff(events.starts).max(initial=0)), np.int32)
        self.totals = np.zeros((categories, events.sums.shape[1]), np.int64)
        """(C, 1 + S), of the last weights: objects, then right detections per recall number."""
        self.ap = np.empty((categories, _PER_CATEGORY))
        """(C, T), of the last weights; -1 where no object counts."""

    def weigh(self, weights: Array) -> None:
        """Fill ``totals``; weights (I,) int32."""
        events = self._events
        weighted_sums(events.entry_starts, events.entry_image, events.sums, weights, self.totals)

    def precision(self, weights: Array, needed: Array) -> None:
        """Fill ``ap``; after ``weigh`` with the same weights. ``needed``: (C, R) int64, see ``needed_points``."""
        events = self._events
        average_precision(
            events.starts,
            events.image,
            events.event_starts,
            events.place,
            events.event_image,
            weights,
            self.totals[:, 0],
            needed,
            EPSILON,
            self._running,
            self.ap,
        )


def needed_points(objects: Array, needed: Array) -> None:
    """Fill ``needed`` (C, R) for weighted object counts (C,), shared by thresholds and by both sides of a pair."""
    needed_hits(objects, RECALL_POINTS, needed)
