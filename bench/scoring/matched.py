"""Match the detections of a set once; every number and every resample then comes from the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.scoring.pairing import AreaTable, match_tables
from bench.scoring.protocol import PROTOCOLS
from bench.scoring.threads import side_by_side
from bench.scoring.truth import Truth, truth_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.scoring.protocol import Protocol, Task
    from bench.scoring.table import Detections
    from bench.types import Array, FixtureSet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matched:
    """One system's detections, matched with the ground truth of a set."""

    task: Task
    truth: Truth
    detections: int
    tables: Mapping[str, AreaTable]
    """By name of the area range."""
    stats: Mapping[str, float | None]
    """COCO's numbers, 0..1; None where no ground truth defines one."""
    class_ap: Mapping[int, float | None]
    """Category id -> AP; None without an object that counts."""

    @property
    def images(self) -> Array:
        """(I,) int64 image ids, ascending."""
        return self.truth.image_ids

    @property
    def protocol(self) -> Protocol:
        """What was measured."""
        return PROTOCOLS[self.task]


def match(
    fixtures: FixtureSet,
    detections: Detections,
    *,
    task: Task = "detect",
    truth: Truth | None = None,
    area_px2: tuple[float, float] | None = None,
) -> Matched:
    """Match and score at COCO's standard numbers of detections per image.

    Args:
        fixtures: images, categories and annotations; an image without detections counts.
        detections: what a model found; may be empty, then every defined number is 0.
        task: ``detect`` compares boxes by IoU, ``pose`` keypoints by OKS with the set's sigmas.
        truth: ``truth_arrays`` of ``fixtures``, for who scores the same set again and again.
        area_px2: smallest and largest area of objects that count, both inclusive, as an area range of pycocotools:
            others are ignored, and so are detections outside it that match nothing. None: all.

    Raises:
        InputError: a detection or an annotation of an unknown image or category, ids used twice, keypoints that do not
            agree with the sigmas.
    """
    from bench.scoring.accumulate import mean_defined, precision_recall

    truth = truth or truth_arrays(fixtures, task=task)
    protocol = PROTOCOLS[task]
    within = (0.0, 1e10) if area_px2 is None else area_px2
    if area_px2 is not None:  # said in the truth too: it is then no longer that of all objects, and cannot be paired
        outside = (truth.area_px2 < within[0]) | (truth.area_px2 > within[1])
        truth = replace(truth, ignored=truth.ignored | outside)
    tables = match_tables(truth, detections, protocol.max_detections[-1], within_px2=within)
    once = np.ones(len(truth.image_ids), np.int64)
    stats: dict[str, float | None] = {}
    keys = list(dict.fromkeys((stat.area, stat.max_detections) for stat in protocol.stats))
    done = dict(zip(keys, side_by_side(lambda key: precision_recall(tables[key[0]], once, key[1]), keys), strict=True))
    for stat in protocol.stats:
        values = done[stat.area, stat.max_detections][1 if stat.recall else 0]
        stats[stat.name] = mean_defined(values if stat.threshold is None else values[stat.threshold])
    precision = done["all", protocol.max_detections[-1]][0]
    class_ap = {c: mean_defined(precision[:, :, k]) for k, c in enumerate(truth.category_ids.tolist())}
    return Matched(task=task, truth=truth, detections=len(detections), tables=tables, stats=stats, class_ap=class_ap)


def score(fixtures: FixtureSet, detections: Detections, *, task: Task = "detect") -> dict[str, float | None]:
    """COCO's 12 numbers (10 for keypoints) by name, 0..1, None where undefined; arguments and errors of ``match``."""
    return dict(match(fixtures, detections, task=task).stats)


def precision_recall_arrays(
    fixtures: FixtureSet,
    detections: Detections,
    *,
    task: Task = "detect",
    max_detections: Sequence[int] | None = None,
    weights: Array | None = None,
) -> tuple[Array, Array]:
    """Everything that COCO's accumulation yields, at any numbers of detections per image.

    Args:
        fixtures: as for ``match``.
        detections: as for ``match``.
        task: as for ``match``.
        max_detections: M numbers, ascending; None: the protocol's.
        weights: (I,) whole numbers, how often each image counts; None: once.

    Returns:
        Precision (T, R, C, A, M) and recall (T, C, A, M), float64, -1 where undefined.
    """
    from bench.scoring.accumulate import precision_recall

    truth = truth_arrays(fixtures, task=task)
    limits = tuple(max_detections or PROTOCOLS[task].max_detections)
    tables = match_tables(truth, detections, max(limits))
    if weights is None:
        weights = np.ones(len(truth.image_ids), np.int64)
    done = [[precision_recall(table, weights, most) for most in limits] for table in tables.values()]
    precision = np.stack([np.stack([p for p, _ in row], axis=-1) for row in done], axis=-2)
    recall = np.stack([np.stack([r for _, r in row], axis=-1) for row in done], axis=-2)
    return precision, recall
