"""The table of detections that every scorer takes, and the checks that keep a NaN from raising AP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError
from bench.geometry import xywh_from_xyxy
from bench.types import POSE_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, Prediction

_COLUMNS = (
    ("image_ids", "int64", ()),
    ("category_ids", "int64", ()),
    ("boxes_xywh", "float64", (4,)),
    ("scores", "float64", ()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first value of a table that no scorer may see."""

    index: int
    """Row."""
    problem: str
    """For example ``field 'score' is nan``."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N detections of a whole fixture set, in any order of images; equal scores keep their order.

    Raises:
        InputError: a column has the wrong shape or dtype, a value is not finite, a width or height is negative.
    """

    image_ids: Array
    """(N,) int64."""
    category_ids: Array
    """(N,) int64, COCO category ids."""
    boxes_xywh: Array
    """(N, 4) float64, pixels of the original image."""
    scores: Array
    """(N,) float64."""
    keypoints_xyv: Array | None = None
    """(N, K, 3) float64: x px, y px, and a third value that OKS does not read; None when only boxes were found."""
    attributes: Mapping[str, Array] = field(default_factory=dict)
    """Those of ``POSE_ATTRIBUTES`` that were found -> (N, ...) float64; NaN where one was not, and allowed."""

    def __post_init__(self) -> None:
        count = len(self.scores)
        for name, dtype, tail in _COLUMNS:
            column: Array = getattr(self, name)
            if column.shape != (count, *tail) or column.dtype != dtype:
                expected = f"{dtype} {(count, *tail)}"
                raise InputError(f"detections: column '{name}' must be {expected}, got {column.dtype} {column.shape}")
        points = self.keypoints_xyv
        if points is not None and (points.ndim != 3 or len(points) != count or points.shape[2] != 3):
            raise InputError(f"detections: column 'keypoints_xyv' must be ({count}, K, 3), got {points.shape}")
        for name, column in self.attributes.items():
            if name not in POSE_ATTRIBUTES or column.shape != (count, *POSE_ATTRIBUTES[name]):
                known = ", ".join(f"{name} {('N', *shape)}" for name, shape in POSE_ATTRIBUTES.items())
                raise InputError(f"detections: attribute '{name}' {column.shape} is none of {known}; N is {count}")
        fault = find_fault(self.boxes_xywh, self.scores, points)
        if fault is not None:
            raise InputError(f"detection {fault.index} (image {self.image_ids[fault.index]}): {fault.problem}")

    def __len__(self) -> int:
        """N."""
        return len(self.scores)

    def take(self, rows: Array) -> Detections:
        """The rows of a mask (N,) bool, or of indices."""
        points = self.keypoints_xyv
        return Detections(
            self.image_ids[rows],
            self.category_ids[rows],
            self.boxes_xywh[rows],
            self.scores[rows],
            None if points is None else points[rows],
            {name: column[rows] for name, column in self.attributes.items()},
        )

    @property
    def without_extent(self) -> int:
        """How many have zero width or height: they can be scored and match nothing."""
        return int(np.count_nonzero((self.boxes_xywh[:, 2] == 0) | (self.boxes_xywh[:, 3] == 0)))


def find_fault(boxes_xywh: Array, scores: Array, keypoints_xyv: Array | None = None) -> Fault | None:
    """Find the first row with a non-finite value or a negative size.

    Args:
        boxes_xywh: (N, 4) float64.
        scores: (N,) float64.
        keypoints_xyv: (N, K, 3) float64, or None.

    Returns:
        Row and problem, or None when all rows can be scored.
    """
    # written so that NaN loses: it compares false
    if np.isfinite(scores).all() and np.isfinite(boxes_xywh).all() and (boxes_xywh[:, 2:] >= 0).all():
        return None if keypoints_xyv is None else _find_keypoint_fault(keypoints_xyv)
    values = np.concatenate((scores[:, None], boxes_xywh), axis=1)
    good = np.isfinite(values)
    good[:, 3:] &= values[:, 3:] >= 0
    row, column = (int(i) for i in np.argwhere(~good)[0])
    field = ("score", "bbox x", "bbox y", "bbox width", "bbox height")[column]
    value = values[row, column]
    return Fault(index=row, problem=f"field '{field}' is {value:g}" + ("" if np.isfinite(value) else ", not finite"))


def _find_keypoint_fault(keypoints_xyv: Array) -> Fault | None:
    good = np.isfinite(keypoints_xyv[:, :, :2])
    if good.all():
        return None
    row, point, axis = (int(i) for i in np.argwhere(~good)[0])
    value = keypoints_xyv[row, point, axis]
    return Fault(index=row, problem=f"field 'keypoint {point} {'xy'[axis]}' is {value:g}, not finite")


def from_predictions(predictions: Mapping[int, Prediction], category_ids: Sequence[int]) -> Detections:
    """Join the predictions of all images into one table.

    Args:
        predictions: image id -> detections in pixels of the original image.
        category_ids: COCO category id of label 0, 1, ...

    Returns:
        Rows in ascending image id, in the order of each prediction; boxes converted in float64.

    Raises:
        InputError: a label without a category, a non-finite value, a negative width or height, keypoints or a pose
            attribute in some of the images with detections and not in others. A pose may hold NaN: it counts as wrong.
    """
    table = np.asarray(category_ids, np.int64)
    images, labels, boxes, scores, keypoints = [], [], [], [], []
    for image_id in sorted(predictions):
        prediction = predictions[image_id]
        label = np.asarray(prediction.labels, np.int64)
        unknown = (label < 0) | (label >= len(table))
        if unknown.any():
            raise InputError(
                f"image {image_id}, detection {int(np.argmax(unknown))}: label {label[unknown][0]} has no category; "
                f"labels 0 to {len(table) - 1} are mapped"
            )
        images.append(np.full(len(label), image_id, np.int64))
        labels.append(table[label])
        boxes.append(xywh_from_xyxy(np.asarray(prediction.boxes_xyxy, np.float64).reshape(-1, 4)))
        scores.append(np.asarray(prediction.scores, np.float64))
        if prediction.keypoints_xys is not None and len(label):
            keypoints.append(np.asarray(prediction.keypoints_xys, np.float64))
    found = [image_id for image_id, label in zip(sorted(predictions), labels, strict=True) if len(label)]
    if keypoints and (len(keypoints) != len(found) or len({points.shape[1] for points in keypoints}) != 1):
        counts = sorted({points.shape[1] for points in keypoints})
        raise InputError(
            f"keypoints are given for {len(keypoints)} of the {len(found)} images with detections, "
            f"{' or '.join(map(str, counts))} per detection; all detections need the same number"
        )
    return Detections(
        np.concatenate(images or [np.zeros(0, np.int64)]),
        np.concatenate(labels or [np.zeros(0, np.int64)]),
        np.concatenate(boxes or [np.zeros((0, 4))]),
        np.concatenate(scores or [np.zeros(0)]),
        np.concatenate(keypoints) if keypoints else None,
        _attributes([predictions[image_id] for image_id in found], found),
    )


def _attributes(predictions: Sequence[Prediction], image_ids: Sequence[int]) -> dict[str, Array]:
    """Join the pose attributes of the images that have detections."""
    joined: dict[str, Array] = {}
    for name, shape in POSE_ATTRIBUTES.items():
        columns = [(p.attributes or {}).get(name) for p in predictions]
        given = [column for column in columns if column is not None]
        if not given:
            continue
        for image_id, column, prediction in zip(image_ids, columns, predictions, strict=True):
            expected = (len(prediction.scores), *shape)
            if column is None or np.shape(column) != expected:
                got = "nothing" if column is None else f"{np.shape(column)}"
                raise InputError(
                    f"image {image_id}: attribute '{name}' must be {expected}, got {got}; a model that finds it gives "
                    "a row for every detection of every image"
                )
        joined[name] = np.concatenate([np.asarray(column, np.float64) for column in given])
    return joined
