"""Match detections with ground truth: the arrays from which every number and every resample then comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.ids import positions
from bench.scoring.protocol import AREAS_PX2, PROTOCOLS, THRESHOLDS
from bench.scoring.threads import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.scoring.table import Detections
    from bench.scoring.truth import Truth
    from bench.types import Array

_PAIRS_AT_ONCE = 250_000
_MOST_KEYPOINTS = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AreaTable:
    """Matches within one area range: N detections by category, best score first; M (category, image) with objects.

    Detections that are neither right nor wrong at every threshold are left out: they enter no sum.
    """

    area: str
    starts: Array
    """(C + 1,) int64, where each category's detections begin."""
    image: Array
    """(N,) int32, index into the images."""
    rank: Array
    """(N,) int32, place by score within image and category, from 0."""
    hits: Array
    """(N,) uint16: bit t is set where it matches, at threshold t, an object that counts."""
    neutral: Array
    """(N,) uint16: bit t is set where it is neither right nor wrong."""
    object_starts: Array
    """(C + 1,) int64, where each category's entries begin."""
    object_image: Array
    """(M,) int32."""
    object_count: Array
    """(M,) int64, objects that count."""


def match_tables(
    truth: Truth, detections: Detections, most: int, *, within_px2: tuple[float, float] = (0.0, 1e10)
) -> dict[str, AreaTable]:
    """Match the ``most`` best detections per image and class, in every area range of the task.

    Every range is cut to ``within_px2``, smallest and largest area, both inclusive.
    """
    from bench.scoring.kernels import assign, counting_order, descending_order

    image, category, rows = _place(truth, detections)
    images, categories = len(truth.image_ids), len(truth.category_ids)
    rows = counting_order(rows, image, images)
    # equal scores keep the order of images, then of rows
    rows = descending_order(rows, detections.scores)
    by_score = counting_order(rows, category, categories)
    by_image = counting_order(counting_order(rows, image, images), category, categories)

    key = category[by_image].astype(np.int64) * images + image[by_image]
    first, last = _runs(key)
    rank = (np.arange(len(key)) - np.repeat(first, last - first)).astype(np.int32)
    kept = rank < most
    by_image, key, rank = by_image[kept], key[kept], rank[kept]
    first, last = _runs(key)
    truth_key = truth.category.astype(np.int64) * images + truth.image
    groups = np.stack(
        (
            first,
            last,
            np.searchsorted(truth_key, key[first], "left"),
            np.searchsorted(truth_key, key[first], "right"),
        ),
        axis=1,
    ).astype(np.int64)

    areas = PROTOCOLS[truth.task].areas
    low, high = np.array([AREAS_PX2[name] for name in areas]).T.copy()
    low, high = np.maximum(low, within_px2[0]), np.minimum(high, within_px2[1])
    boxes = detections.boxes_xywh.take(by_image, axis=0)  # 4 ms for 500,000 rows, where indexing takes 26
    hits = np.zeros((len(areas), len(by_image)), np.uint16)
    neutral = np.zeros_like(hits)
    with np.errstate(over="ignore"):  # an infinite area lies in no range
        area_px2 = boxes[:, 2] * boxes[:, 3]

    def fill(portion: tuple[Array, Array, int]) -> None:
        chunk, pair_starts, _ = portion
        assign(  # portions hold whole groups, so no two write the same row
            chunk,
            pair_starts,
            _overlaps(truth, detections, by_image, boxes, portion),
            area_px2,
            truth.area_px2,
            truth.crowd,
            truth.ignored,
            low,
            high,
            THRESHOLDS,
            hits,
            neutral,
        )

    side_by_side(fill, _portions(groups))
    place = np.full(len(detections), -1, np.int64)
    place[by_image] = np.arange(len(by_image))
    order = place[by_score]
    order = order[order >= 0]
    places = category[by_image], image[by_image]
    tables = side_by_side(
        lambda a: _table(areas[a], truth, truth_key, order, places, rank, hits[a], neutral[a], (low[a], high[a])),
        range(len(areas)),
    )
    return dict(zip(areas, tables, strict=True))


def _runs(key: Array) -> tuple[Array, Array]:
    """First and last + 1 of each run of equal keys."""
    first = np.flatnonzero(np.diff(key, prepend=-1))
    return first, np.append(first, len(key))[1:]


def _place(truth: Truth, detections: Detections) -> tuple[Array, Array, Array]:
    """Index of image and category of each detection, and the rows that are scored."""
    image = positions(truth.image_ids, detections.image_ids)
    category = positions(truth.category_ids, detections.category_ids)
    columns = [("image_id", detections.image_ids, truth.image_ids, image)]
    if truth.named_categories:
        # a set without names shows only the classes it uses; a detection of another one belongs to a class without
        # ground truth, which enters no mean
        listed_at = positions(truth.all_category_ids, detections.category_ids)
        columns.append(("category_id", detections.category_ids, truth.all_category_ids, listed_at))
    for field, column, known, found in columns:
        unknown = found < 0
        if unknown.any():
            row = int(np.argmax(unknown))
            listed = f"{known[0]} to {known[-1]}" if len(known) else "- to -"
            raise InputError(
                f"detection {row}: {field} {column[row]} is not in fixture set '{truth.name}' "
                f"({len(known)} known, {listed}); score against the set that the detections were made for"
            )
    return image, category, np.flatnonzero(category >= 0)


def _portions(groups: Array) -> Iterator[tuple[Array, Array, int]]:
    """Yield groups in portions of bounded size, with where each group's overlaps begin and how many there are."""
    pairs = (groups[:, 1] - groups[:, 0]) * (groups[:, 3] - groups[:, 2])
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(pairs)))
    start = 0
    while start < len(groups):
        stop = max(int(np.searchsorted(before, before[start] + _PAIRS_AT_ONCE, "right")) - 1, start + 1)
        chunk = groups[start:stop]
        yield chunk, before[start:stop] - before[start], int(before[stop] - before[start])
        start = stop


def _overlaps(
    truth: Truth, detections: Detections, rows: Array, boxes: Array, portion: tuple[Array, Array, int]
) -> Array:
    """IoU of every pair of a portion, or OKS when the task is pose."""
    from bench.scoring.kernels import box_overlaps

    chunk, pair_starts, pairs = portion
    if truth.keypoints_xyv is not None:
        return _keypoint_similarities(truth, detections, rows, chunk, pairs)
    overlaps = np.empty(pairs)
    box_overlaps(chunk, pair_starts, boxes, truth.boxes_xywh, truth.crowd, overlaps)
    return overlaps


def _keypoint_similarities(truth: Truth, detections: Detections, rows: Array, groups: Array, pairs: int) -> Array:
    from bench.scoring.accumulate import EPSILON
    from bench.scoring.kernels import keypoint_errors, mean_rows

    found, sigmas, wanted = detections.keypoints_xyv, truth.sigmas, truth.keypoints_xyv
    assert sigmas is not None
    assert wanted is not None
    if found is None or found.shape[1] != len(sigmas):
        has = "no keypoints" if found is None else f"{found.shape[1]} keypoints each"
        raise InputError(
            f"the detections have {has}, fixture set '{truth.name}' has {len(sigmas)} keypoints and sigmas; "
            "they must agree"
        )
    if len(sigmas) > _MOST_KEYPOINTS:
        raise InputError(
            f"fixture set '{truth.name}': {len(sigmas)} keypoints; at most {_MOST_KEYPOINTS} can be scored"
        )
    errors = np.zeros((pairs, len(sigmas)))
    counts = np.zeros(pairs, np.int64)
    keypoint_errors(
        groups,
        found[rows],
        wanted,
        truth.boxes_xywh,
        truth.area_px2,
        (sigmas * 2) ** 2,
        EPSILON,
        errors,
        counts,
    )
    similarities = np.empty(pairs)
    # numpy's own exp: its last bit is not that of the C library, and pycocotools uses numpy
    mean_rows(np.exp(-errors), counts, similarities)
    return similarities


def _table(
    name: str,
    truth: Truth,
    truth_key: Array,
    order: Array,
    places: tuple[Array, Array],
    rank: Array,
    hits: Array,
    neutral: Array,
    limits: tuple[float, float],
) -> AreaTable:
    """Keep what enters a sum. ``order``: by category and score; the other columns lie by category and image."""
    category, image = places
    images, categories = len(truth.image_ids), len(truth.category_ids)
    kept = order[neutral[order] != (1 << len(THRESHOLDS)) - 1]
    counts = ~truth.ignored & (truth.area_px2 >= limits[0]) & (truth.area_px2 <= limits[1])
    entries, per_entry = np.unique(truth_key[counts], return_counts=True)
    bounds = np.arange(categories + 1) * max(images, 1)
    return AreaTable(
        area=name,
        starts=np.searchsorted(category[kept], np.arange(categories + 1)),
        image=image[kept],
        rank=rank[kept],
        hits=hits[kept],
        neutral=neutral[kept],
        object_starts=np.searchsorted(entries, bounds),
        object_image=(entries % max(images, 1)).astype(np.int32),
        object_count=per_entry.astype(np.int64),
    )
