"""Read predictions files.

Four forms are read (``schemas/predictions.json``):

* ``coco``: a COCO results list, ``[{image_id, category_id, bbox, score}]``
* ``entries``: ``[{image, detections: [{class_id, score, bbox}]}]``
* ``wrapped``: ``{schema_version, predictions: [entry], meta: {bbox_format, ...}}``
* ``map``: ``{image: [detection]}``

A box is a list of four numbers or an object with the format's own keys; beside a list of keypoints it may be left out.
Nothing is cleaned: the first value that cannot be scored is refused with its place. Poses are read where the set has
true ones (``bench.predictions.poses``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.collector import collector_paused
from bench.errors import InputError, UsageError, did_you_mean
from bench.predictions import exact, quick
from bench.predictions.boxes import count_outside, to_xywh_abs
from bench.predictions.document import parse_document, read_document
from bench.predictions.fields import BOX_KEYS
from bench.predictions.points import keypoint_categories, keypoint_table
from bench.predictions.poses import has_poses
from bench.scoring.table import Detections

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.predictions.columns import Columns
    from bench.types import Array, FixtureSet

BOX_FORMATS = tuple(BOX_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionsFile:
    """What a predictions file holds, ready to score."""

    detections: Detections
    meta: Mapping[str, Any]
    """Empty unless the file is wrapped."""
    form: str
    """``coco``, ``entries``, ``wrapped`` or ``map``."""
    bbox_format: str
    """How the boxes were read, one of ``BOX_FORMATS``."""
    warnings: tuple[str, ...]
    """Sentences for a person."""
    listed: frozenset[int] | None
    """Ids of the images that have an entry, with or without detections; None for a results list, which lists none."""


def read_predictions(
    path: Path, fixtures: FixtureSet, *, bbox_format: str | None = None, keypoints: bool = True
) -> PredictionsFile:
    """Read a predictions file of any form and join it to a fixture set.

    Args:
        path: JSON in UTF-8, at most 1 GiB.
        fixtures: the images and categories that the predictions are about.
        bbox_format: one of ``BOX_FORMATS``; None takes the file's ``meta.bbox_format``, else ``xywh_abs`` for a COCO
            results list and ``cxcywh_norm`` for the other forms.
        keypoints: read them where the set has some; False leaves them out, whatever they hold.

    Returns:
        The table of detections in pixels, the meta and the warnings.

    Raises:
        UsageError: an unknown ``bbox_format``.
        InputError: the file cannot be used as it is; names file, place and remedy.
    """
    if bbox_format is not None and bbox_format not in BOX_KEYS:
        raise UsageError(f"--bbox-format {bbox_format!r} does not exist.{did_you_mean(bbox_format, BOX_KEYS)}")
    data = read_document(path)
    keypoints = keypoints and bool(keypoint_categories(fixtures))
    with collector_paused():
        columns = quick.read_columns(data, fixtures, bbox_format, keypoints=keypoints)
    if columns is None:
        document = parse_document(path, data)
        del data
    try:
        if columns is None:
            columns = exact.read_columns(
                document, fixtures, bbox_format, keypoints=keypoints, poses=has_poses(fixtures)
            )
        return _judged(columns, fixtures)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _judged(columns: Columns, fixtures: FixtureSet) -> PredictionsFile:
    """Check the values of all columns, and tell what is odd about the file."""
    notes = columns.notes
    if columns.meta.get("fixtures_sha256", fixtures.sha256) != fixtures.sha256:
        notes.add("the file was made on another version of the fixture set", str(columns.meta.get("fixtures")))
    absent = 0 if columns.listed is None else len(fixtures.samples) - len(columns.listed)
    if absent:
        notes.add("images without an entry count as images without detections", f"{absent} images")
    detections = _table(columns, fixtures)
    if detections.without_extent:
        notes.add("boxes of zero width or height match nothing", f"{detections.without_extent} of {len(detections)}")
    if not len(detections):
        notes.add("the file has no detections: every defined number is 0", columns.form)
    return PredictionsFile(
        detections=detections,
        meta=columns.meta,
        form=columns.form,
        bbox_format=columns.bbox_format,
        warnings=notes.sentences(),
        listed=columns.listed,
    )


def _table(columns: Columns, fixtures: FixtureSet) -> Detections:
    facts = np.array([(s.image_id, s.width, s.height) for s in fixtures.samples], np.int64).reshape(-1, 3)
    sizes_wh = facts[:, 1:].astype(np.float64).take(columns.samples, axis=0)
    keypoints = keypoint_table(columns, fixtures)
    boxes_xywh = _boxes_xywh(columns, sizes_wh, keypoints)
    outside = count_outside(boxes_xywh, sizes_wh)
    if outside >= 10 and outside > len(boxes_xywh) / 2:
        columns.notes.add(
            "most boxes end outside their image: is the box format right", f"{outside} of {len(boxes_xywh)} boxes"
        )
    image_ids = facts[columns.samples, 0]
    return Detections(
        image_ids, columns.category_ids, boxes_xywh, columns.scores, keypoints, attributes=columns.attributes
    )


def _boxes_xywh(columns: Columns, sizes_wh: Array, keypoints: Array | None) -> Array:
    """(N, 4) float64 pixels; the extent of the keypoints where a detection has no box, as pycocotools takes it."""
    if keypoints is None or columns.has_box.all():
        return to_xywh_abs(columns.boxes, columns.scores, sizes_wh, columns.bbox_format, columns.place)
    given = np.flatnonzero(columns.has_box)
    boxes_xywh = np.concatenate((keypoints[:, :, :2].min(axis=1), np.ptp(keypoints[:, :, :2], axis=1)), axis=1)
    boxes_xywh[given] = to_xywh_abs(
        columns.boxes[given],
        columns.scores[given],
        sizes_wh[given],
        columns.bbox_format,
        lambda row: columns.place(int(given[row])),
    )
    return boxes_xywh
