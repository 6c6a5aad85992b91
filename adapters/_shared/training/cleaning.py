"""Ground truth of a fixture set brought into a form that can be learnt from: labels, clean boxes, further columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError, did_you_mean
from bench.geometry import xyxy_from_xywh

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, FixtureSet

CAMERA = "intrinsics"
"""Attribute that comes from the image, not from its annotations: fx, fy, cx, cy in pixels of the image file."""
THIN_PX = 0.01
"""Boxes thinner than this have no area: annotations are written with two decimals, and float32 corners of a thinner
box may coincide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What was found odd in the truth of a set, and what was done about it."""

    images: int
    boxes: int
    """Kept."""
    clipped: int
    """Boxes that reached beyond their image by more than THIN_PX, cut at its edge."""
    empty: int
    """Boxes without area inside their image, dropped."""
    duplicates: int
    """Boxes equal to an earlier one of the same image and class, dropped."""
    crowds: int
    """Regions with ``iscrowd``: no boxes to learn from."""
    background: int
    """Images that keep no box, used as background."""

    def __str__(self) -> str:
        """One sentence, for the log and the preview."""
        oddities = (
            (self.clipped, "{} reached outside their image and were clipped"),
            (self.empty, "{} without area inside their image were dropped"),
            (self.duplicates, "{} exact duplicates were dropped"),
            (self.crowds, "{} crowd regions carry no box"),
            (self.background, "{} images without boxes stay as background"),
        )
        found = [words.format(f"{count:,}") for count, words in oddities if count]
        return f"{self.images:,} images, {self.boxes:,} boxes: {'; '.join(found) or 'nothing to clean'}."


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanTruth:
    """Boxes of one image, pixels of its file."""

    boxes_xyxy: Array
    labels: Array
    attributes: Mapping[str, Array]


def labels_by_name(fixtures: FixtureSet, class_names: Sequence[str]) -> dict[int, int]:
    """Map category ids to labels: by name, or by order where the set has no class names.

    Raises:
        InputError: The set has a category that the model does not know, or more classes than the model.
    """
    if not fixtures.named_categories:
        beyond = [int(c["id"]) for c in fixtures.categories if int(c["id"]) > len(class_names)]
        if beyond:
            raise InputError(
                f"{fixtures.name}: uses class {max(beyond) - 1}, the model has {len(class_names)} classes counted from "
                "0. Correct the labels, or add data.yaml with the names."
            )
        # a set without names comes from YOLO labels: label k is category k + 1
        return {int(c["id"]): int(c["id"]) - 1 for c in fixtures.categories}
    known = {name: label for label, name in enumerate(class_names)}
    strangers = [str(c["name"]) for c in fixtures.categories if str(c["name"]) not in known]
    if strangers:
        more = f" and {len(strangers) - 4} more" if len(strangers) > 4 else ""
        raise InputError(
            f"{fixtures.name}: the model has no class named {', '.join(map(repr, strangers[:4]))}{more}."
            f"{did_you_mean(strangers[0], class_names)} Rename the categories, or train with the classes of this set."
        )
    return {int(c["id"]): known[str(c["name"])] for c in fixtures.categories}


def cleaned(
    fixtures: FixtureSet, label_of: Mapping[int, int], keys: tuple[str, ...]
) -> tuple[list[CleanTruth], Cleaning]:
    """Group the annotations by image; clip, drop and count what cannot be learnt from.

    Args:
        fixtures: images and truth.
        label_of: category id -> label.
        keys: annotation keys to carry along per box; `CAMERA` is the camera of the image.

    Returns:
        One truth per image, in the set's order, and what was found odd.

    Raises:
        InputError: a category without a label, a key that no annotation has, or whose shapes differ.
    """
    _check_labels(fixtures, label_of)
    shapes = {key: _attribute_shape(fixtures, key) for key in keys if key != CAMERA}
    notes_of: dict[int, list[Mapping[str, Any]]] = {sample.image_id: [] for sample in fixtures.samples}
    crowds = 0
    for note in fixtures.annotations:
        if note.get("iscrowd"):
            crowds += 1
        else:
            notes_of[note["image_id"]].append(note)
    truths, clipped, empty, duplicates = [], 0, 0, 0
    for sample in fixtures.samples:
        notes = notes_of[sample.image_id]
        raw = xyxy_from_xywh(np.array([note["bbox"] for note in notes], np.float64).reshape(-1, 4))
        inside = np.clip(raw, 0, [sample.width, sample.height, sample.width, sample.height])
        solid = (inside[:, 2:] - inside[:, :2] >= THIN_PX).all(axis=1)
        labels = np.array([label_of[note["category_id"]] for note in notes], np.int64)
        first = _first_of_equals(np.column_stack((raw, labels)))
        keep = np.flatnonzero(solid & first)
        clipped += int((np.abs(raw - inside)[keep] > THIN_PX).any(axis=1).sum())
        empty += int((~solid).sum())
        duplicates += int((solid & ~first).sum())
        attributes = {key: _column([notes[k] for k in keep], key, shape) for key, shape in shapes.items()}
        if CAMERA in keys:
            camera = (np.nan,) * 4 if sample.camera is None else sample.camera
            attributes[CAMERA] = np.tile(np.asarray(camera, np.float64), (len(keep), 1))
        truths.append(CleanTruth(boxes_xyxy=inside[keep], labels=labels[keep], attributes=attributes))
    return truths, Cleaning(
        images=len(truths),
        boxes=sum(len(truth.labels) for truth in truths),
        clipped=clipped,
        empty=empty,
        duplicates=duplicates,
        crowds=crowds,
        background=sum(not len(truth.labels) for truth in truths),
    )


def _check_labels(fixtures: FixtureSet, label_of: Mapping[int, int]) -> None:
    """Refuse a category that is used and has no label."""
    names = {int(c["id"]): str(c["name"]) for c in fixtures.categories}
    for category_id in sorted({note["category_id"] for note in fixtures.annotations} - label_of.keys()):
        raise InputError(
            f"{fixtures.name}: category {category_id} ({names.get(category_id, 'not listed')!r}) has no "
            "label in this model. Rename the category, take its boxes out, or train with the classes of this set."
        )


def _attribute_shape(fixtures: FixtureSet, key: str) -> tuple[int, ...]:
    """Return the shape that all values of an annotation key share."""
    shapes: dict[tuple[int, ...], int] = {}
    for note in fixtures.annotations:
        if key in note:
            try:
                shapes.setdefault(np.asarray(note[key], np.float64).shape, note["id"])
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{fixtures.name}: annotation {note['id']}: {key} holds no numbers: {error}."
                ) from error
    if not shapes:
        known = {name for note in fixtures.annotations[:100] for name in note}
        raise InputError(f"{fixtures.name}: no annotation has {key!r}.{did_you_mean(key, known)}")
    if len(shapes) > 1:
        (one, first), (other, second), *_ = shapes.items()
        raise InputError(
            f"{fixtures.name}: {key} has shape {one} in annotation {first} and {other} in annotation {second}; one "
            "column needs one shape."
        )
    return next(iter(shapes))


def _column(notes: Sequence[Mapping[str, Any]], key: str, shape: tuple[int, ...]) -> Array:
    """(N, *shape) float64 values of one key, NaN where an annotation has none."""
    column = np.full((len(notes), *shape), np.nan)
    for row, note in enumerate(notes):
        if key in note:
            column[row] = note[key]
    return column


def _first_of_equals(rows: Array) -> Array:
    """(N, C) -> (N,) bool: no earlier row is the same."""
    first = np.zeros(len(rows), bool)
    if len(rows):
        first[np.unique(rows, axis=0, return_index=True)[1]] = True
    return first
