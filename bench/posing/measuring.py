"""From detections and true poses to one error per object and quantity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.geometry import box_iou, xyxy_from_xywh
from bench.ids import positions
from bench.posing.rotations import WORST_DEG, is_rotation, reversed_in_depth, symmetric_deg
from bench.posing.truth import back_project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.posing.truth import PoseTruth
    from bench.scoring.table import Detections
    from bench.types import Array

MATCH_IOU = 0.5
MOST_PER_CLASS = 100
"""Detections of one class on one image that take part, the best ones, as in COCO's AP."""
PCK_SHARE = 0.1
"""A keypoint is right within this share of the longer side of its object's box."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantity:
    """One kind of error, for the G objects of a set."""

    counts: Array
    """(G,) bool: the object has this truth, found or not."""
    found: Array
    """(G,) bool: of those, it was matched."""
    value: Array
    """(G,) float64: error, or similarity for ``oks``; the worst possible where broken, NaN where not found."""
    broken: Array
    """(G,) bool: matched, and what was predicted is not finite, or no rotation, or was left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Posed:
    """One system's poses on a set."""

    truth: PoseTruth
    detection: Array
    """(G,) int64: row of the matched detection, -1 for none."""
    quantities: Mapping[str, Quantity]
    """``rotation``, ``rotation_reversal`` in degrees, ``depth``, ``translation`` in metres, ``depth_relative`` and
    ``translation_relative`` as shares of depth and distance, ``oks``; those that both the system and the set have."""
    keypoints_within: Array
    """(G,) int64: labelled keypoints that are right; 0 without ``oks``."""
    keypoints_labelled: Array
    """(G,) int64."""

    @property
    def matched(self) -> Array:
        """(G,) bool: objects with a pose that were found."""
        return self.truth.posed & (self.detection >= 0)


def measure(truth: PoseTruth, detections: Detections, *, like: Posed | None = None) -> Posed | None:
    """Match detections with objects and measure every pose that both have.

    Args:
        truth: of the set.
        detections: of all images, of the same set.
        like: another system whose quantities are measured too: what is lacking here then counts as broken.

    Returns:
        None when the detections carry no pose that the set has the truth of (and ``like`` is None).

    Raises:
        InputError: detections of an image that is not in the set, keypoints of another number than the set's.
    """
    wanted = set(_available(truth, detections)) | set(like.quantities if like is not None else ())
    if not wanted:
        return None
    detection = match_objects(truth, detections)
    quantities: dict[str, Quantity] = {}
    within = labelled = np.zeros(len(truth), np.int64)
    if "rotation" in wanted:
        quantities |= _rotation(truth, detections, detection)
    if "depth" in wanted:
        depth_m = _found(detections, "depth_m", detection)
        quantities |= _distance("depth", truth.depth_m[:, None], depth_m[:, None], detection)
    if "translation" in wanted:
        quantities |= _distance(
            "translation", truth.translation_m, _translation(truth, detections, detection), detection
        )
    if "oks" in wanted:
        quantities["oks"], within, labelled = _keypoints(truth, detections, detection)
    return Posed(
        truth=truth,
        detection=detection,
        quantities=quantities,
        keypoints_within=within,
        keypoints_labelled=labelled,
    )


def match_objects(truth: PoseTruth, detections: Detections, *, iou: float = MATCH_IOU) -> Array:
    """Give every object the detection that takes it: of its class, best score first, the free object it overlaps most.

    Returns:
        (G,) int64 rows of the detections, -1 for an object that nothing takes.
    """
    image = positions(truth.image_ids, detections.image_ids)
    if (image < 0).any():
        row = int(np.argmin(image))
        raise InputError(f"detection {row}: image_id {detections.image_ids[row]} is not in fixture set '{truth.name}'")
    taken = np.full(len(truth), -1, np.int64)
    objects = dict(_groups(truth.image, truth.category_ids, np.arange(len(truth))))
    best_first = np.argsort(-detections.scores, kind="stable")
    for key, rows in _groups(image[best_first], detections.category_ids[best_first], best_first):
        if key not in objects:
            continue
        here, rows = objects[key], rows[:MOST_PER_CLASS]
        overlaps = box_iou(xyxy_from_xywh(detections.boxes_xywh[rows]), xyxy_from_xywh(truth.boxes_xywh[here]))
        for row, overlap in zip(rows.tolist(), overlaps, strict=True):
            free = np.where(taken[here] < 0, overlap, -1.0)
            best = int(np.argmax(free))
            if free[best] >= iou:
                taken[here[best]] = row
    return taken


def _groups(image: Array, category_ids: Array, rows: Array) -> Iterator[tuple[tuple[int, int], Array]]:
    """Rows of each image and class, in the order given."""
    order = np.lexsort((category_ids, image))
    image, category_ids = image[order], category_ids[order]
    first = np.flatnonzero((np.diff(image, prepend=-1) != 0) | (np.diff(category_ids, prepend=-1) != 0))
    for start, stop in zip(first.tolist(), np.append(first, len(order))[1:].tolist(), strict=True):
        yield (int(image[start]), int(category_ids[start])), rows[order[start:stop]]


def _available(truth: PoseTruth, detections: Detections) -> Iterator[str]:
    given = set(detections.attributes)
    if "rotation" in given and not np.isnan(truth.rotation).all():
        yield "rotation"
    if "depth_m" in given and not np.isnan(truth.depth_m).all():
        yield "depth"
    if not np.isnan(truth.translation_m).any(axis=1).all() and (
        "translation_m" in given or {"depth_m", "center_px"} <= given
    ):
        yield "translation"
    if detections.keypoints_xyv is not None and truth.keypoints_xyv is not None:
        yield "oks"


def _found(detections: Detections, name: str, detection: Array) -> Array:
    """(G, ...) an attribute of each object's detection; NaN where there is no detection, or no such attribute."""
    from bench.types import POSE_ATTRIBUTES

    values = np.full((len(detection), *POSE_ATTRIBUTES[name]), np.nan)
    column = detections.attributes.get(name)
    if column is not None:
        values[detection >= 0] = column[detection[detection >= 0]]
    return values


def _rotation(truth: PoseTruth, detections: Detections, detection: Array) -> dict[str, Quantity]:
    counts = ~np.isnan(truth.rotation[:, 0, 0])
    found = counts & (detection >= 0)
    rotation = _found(detections, "rotation", detection)
    broken = found & ~is_rotation(rotation)
    plain = symmetric_deg(rotation, truth.rotation, truth.symmetry)
    reversed_ = np.fmin(plain, symmetric_deg(reversed_in_depth(rotation), truth.rotation, truth.symmetry))
    return {
        name: Quantity(counts=counts, found=found, value=_worst(angles, found, broken, WORST_DEG), broken=broken)
        for name, angles in (("rotation", plain), ("rotation_reversal", reversed_))
    }


def _translation(truth: PoseTruth, detections: Detections, detection: Array) -> Array:
    """(G, 3) metres: as predicted, else from the predicted centre and depth and the set's camera."""
    if "translation_m" in detections.attributes:
        return _found(detections, "translation_m", detection)
    centre = _found(detections, "center_px", detection)
    return back_project(centre, _found(detections, "depth_m", detection), truth.cameras[truth.image])


def _distance(name: str, wanted: Array, given: Array, detection: Array) -> dict[str, Quantity]:
    """Euclidean distance of (G, D) from (G, D), in metres and as a share of the true one."""
    counts: Array = np.asarray(~np.isnan(wanted).any(axis=1))
    found = counts & (detection >= 0)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.linalg.norm(given - wanted, axis=1)
        share = error / np.linalg.norm(wanted, axis=1)
    broken = found & ~np.isfinite(error)
    return {
        f"{name}{suffix}": Quantity(
            counts=counts, found=found, value=_worst(values, found, broken, np.inf), broken=broken
        )
        for suffix, values in (("", error), ("_relative", share))
    }


def _keypoints(truth: PoseTruth, detections: Detections, detection: Array) -> tuple[Quantity, Array, Array]:
    """Similarity by COCO's formula over the labelled keypoints, and how many of them are right."""
    wanted, sigmas = truth.keypoints_xyv, truth.sigmas
    assert wanted is not None
    assert sigmas is not None
    labelled: Array = wanted[:, :, 2] > 0
    counts: Array = np.asarray(labelled.any(axis=1))
    found = counts & (detection >= 0)
    given = np.full((len(truth), len(sigmas), 2), np.nan)
    points = detections.keypoints_xyv
    if points is not None:
        if points.shape[1] != len(sigmas):
            raise InputError(
                f"the detections have {points.shape[1]} keypoints each, fixture set '{truth.name}' has {len(sigmas)}"
            )
        given[found] = points[detection[found], :, :2]
    with np.errstate(invalid="ignore", over="ignore"):
        squared = np.square(given - wanted[:, :, :2]).sum(axis=2)
        scale = 2 * (truth.area_px2[:, None] + np.spacing(1)) * np.square(2 * sigmas)
        similar = np.where(labelled, np.exp(-squared / scale), 0.0).sum(axis=1) / np.maximum(labelled.sum(axis=1), 1)
        limit = PCK_SHARE * truth.boxes_xywh[:, 2:].max(axis=1)
        right = labelled & (np.sqrt(squared) <= limit[:, None])  # a NaN is not
    broken = found & ~np.isfinite(np.where(labelled, squared, 0.0)).all(axis=1)
    oks = Quantity(counts=counts, found=found, value=_worst(similar, found, broken, 0.0), broken=broken)
    return oks, right.sum(axis=1), labelled.sum(axis=1)


def _worst(values: Array, found: Array, broken: Array, worst: float) -> Array:
    kept: Array = np.where(broken, worst, np.where(found, values, np.nan))
    return kept
