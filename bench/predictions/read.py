"""Read and write predictions files.

Four forms are read (``schemas/predictions.json``):

* ``coco``: a COCO results list, ``[{image_id, category_id, bbox, score}]``
* ``entries``: ``[{image, detections: [{class_id, score, bbox}]}]``
* ``wrapped``: ``{schema_version, predictions: [entry], meta: {bbox_format, ...}}``
* ``map``: ``{image: [detection]}``

A box is a list of four numbers or an object with the format's own keys. Nothing is cleaned: the first value that cannot
be scored is refused with its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError, UsageError, did_you_mean
from bench.predictions.boxes import count_outside, to_xywh_abs
from bench.predictions.document import load_json
from bench.predictions.fields import (
    BOX_KEYS,
    Categories,
    describe,
    names,
    read_box,
    read_container,
    read_integer,
    read_number,
)
from bench.predictions.join import ImageIndex
from bench.scoring.table import Detections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bench.types import FixtureSet, Sample

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


@dataclass(slots=True)
class _Rows:
    """Columns under construction. ``spots`` says where in the file each row came from."""

    images: list[Sample] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    spots: list[tuple[int | str, int | None]] = field(default_factory=list)


class _Notes:
    """Warnings, each told once with its first example and the number of times."""

    def __init__(self) -> None:
        self._told: dict[str, list[str]] = {}

    def add(self, what: str, example: str) -> None:
        self._told.setdefault(what, []).append(example)

    def sentences(self) -> tuple[str, ...]:
        return tuple(
            f"{what} ({examples[0]}" + (f" and {len(examples) - 1} more)" if len(examples) > 1 else ")")
            for what, examples in self._told.items()
        )


def read_predictions(path: Path, fixtures: FixtureSet, *, bbox_format: str | None = None) -> PredictionsFile:
    """Read a predictions file of any form and join it to a fixture set.

    Args:
        path: JSON in UTF-8, at most 1 GiB.
        fixtures: the images and categories that the predictions are about.
        bbox_format: one of ``BOX_FORMATS``; None takes the file's ``meta.bbox_format``, else ``xywh_abs`` for a COCO
            results list and ``cxcywh_norm`` for the other forms.

    Returns:
        The table of detections in pixels, the meta and the warnings.

    Raises:
        UsageError: an unknown ``bbox_format``.
        InputError: the file cannot be used as it is; names file, place and remedy.
    """
    if bbox_format is not None and bbox_format not in BOX_KEYS:
        raise UsageError(f"--bbox-format {bbox_format!r} does not exist.{did_you_mean(bbox_format, BOX_KEYS)}")
    document = load_json(path)
    try:
        return _read(document, fixtures, bbox_format)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(document: Any, fixtures: FixtureSet, asked: str | None) -> PredictionsFile:
    form = _form(document)
    meta = _meta(document) if form == "wrapped" else {}
    notes = _Notes()
    bbox_format = _choose_format(form, meta, asked, notes)
    if meta.get("fixtures_sha256", fixtures.sha256) != fixtures.sha256:
        notes.add("the file was made on another version of the fixture set", str(meta.get("fixtures")))
    index, categories, rows = ImageIndex(fixtures), Categories(fixtures), _Rows()
    if form == "coco":
        _read_coco(document, index, categories, bbox_format, rows)
    else:
        seen = _read_entries(_entries(form, document), index, categories, bbox_format, rows, notes)
        absent = len(fixtures.samples) - len(seen)
        if absent:
            notes.add("images without an entry count as images without detections", f"{absent} images")
    for name in index.collisions:
        notes.add("images that share a file name were told apart by their folder", name)
    detections = _table(rows, bbox_format, notes)
    if detections.without_extent:
        notes.add("boxes of zero width or height match nothing", f"{detections.without_extent} of {len(detections)}")
    if not len(detections):
        notes.add("the file has no detections: every defined number is 0", form)
    return PredictionsFile(
        detections=detections, meta=meta, form=form, bbox_format=bbox_format, warnings=notes.sentences()
    )


def _form(document: Any) -> str:
    if isinstance(document, list):
        first = document[0] if document else {}
        return "entries" if isinstance(first, dict) and "detections" in first else "coco"
    if "predictions" in document:
        return "wrapped"
    if "annotations" in document and "images" in document:
        raise InputError("is COCO ground truth, not predictions; give it as --annotations and the results list here")
    if isinstance(document.get("schema"), str):
        raise InputError(f"is a {document['schema']:.40} document, not predictions; give one of its predictions files")
    return "map"


def _meta(document: dict[str, Any]) -> dict[str, Any]:
    version = document.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise InputError(f"field 'schema_version' must be an integer of at least 1, got {describe(version)}")
    meta = document.get("meta", {})
    return read_container(meta, dict, "field 'meta'")  # type: ignore[no-any-return]


def _choose_format(form: str, meta: Mapping[str, Any], asked: str | None, notes: _Notes) -> str:
    declared = meta.get("bbox_format")
    if declared is not None and (not isinstance(declared, str) or declared not in BOX_KEYS):
        raise InputError(f"field 'meta.bbox_format' is {describe(declared)}; known: {', '.join(BOX_KEYS)}")
    if asked is not None and declared is not None and asked != declared:
        notes.add("the box format of the option counts, not that of the file", f"{asked}, not {declared}")
    return asked or declared or ("xywh_abs" if form == "coco" else "cxcywh_norm")


def _read_coco(items: list[Any], index: ImageIndex, categories: Categories, bbox_format: str, rows: _Rows) -> None:
    for number, item in enumerate(items):
        try:
            read_container(item, dict, "the item")
            missing = [name for name in ("image_id", "category_id", "bbox", "score") if name not in item]
            if missing:
                raise InputError(
                    f"field {missing[0]!r} is missing; a COCO result has image_id, category_id, bbox and score, "
                    "a predictions entry has image and detections"
                )
            rows.images.append(index.by_id(read_integer(item["image_id"], "image_id")))
            rows.categories.append(categories.by_id(item["category_id"]))
            rows.scores.append(read_number(item["score"], "score"))
            rows.boxes.append(read_box(item["bbox"], bbox_format))
        except InputError as error:
            raise InputError(f"result {number}: {error}") from error
        rows.spots.append((number, None))


def _entries(form: str, document: Any) -> Iterator[tuple[int | str, str | int, int | None, Any]]:
    """Yield key, image, explicit image id and detections of each entry."""
    if form == "map":
        for image, found in document.items():
            yield image, image, None, found
        return
    entries = read_container(document["predictions"], list, "field 'predictions'") if form == "wrapped" else document
    for number, entry in enumerate(entries):
        where = f"entry {number}"
        read_container(entry, dict, where)
        if "detections" not in entry or not {"image", "image_id"} & set(entry):
            raise InputError(f"{where}: fields 'image' and 'detections' are needed, got {names(entry)}")
        image_id = entry.get("image_id")
        if image_id is not None:
            read_integer(image_id, f"{where}: image_id")
        image = entry.get("image", image_id)
        if not isinstance(image, str) and type(image) is not int:
            raise InputError(f"{where}: field 'image' must be a file name or an integer id, got {describe(image)}")
        yield number, image, image_id, entry["detections"]


def _read_entries(
    entries: Iterator[tuple[int | str, str | int, int | None, Any]],
    index: ImageIndex,
    categories: Categories,
    bbox_format: str,
    rows: _Rows,
    notes: _Notes,
) -> set[int]:
    """Fill ``rows``; return the ids of the images that have an entry."""
    seen: set[int] = set()
    for key, image, image_id, found in entries:
        try:
            sample = index.find(image)
            read_container(found, list, "field 'detections'")
        except InputError as error:
            raise InputError(f"{_entry(key)}: {error}") from error
        if image_id is not None and image_id != sample.image_id:
            notes.add("the image has another id here and its name counts", f"{image!r} is {sample.image_id}")
        if sample.image_id in seen:
            notes.add("the image has an entry already and its detections are added", f"{_entry(key)}, {image!r}")
        seen.add(sample.image_id)
        for number, detection in enumerate(found):
            try:
                _read_detection(detection, categories, bbox_format, rows)
            except InputError as error:
                raise InputError(f"{_entry(key)}, detection {number}: {error}") from error
            rows.images.append(sample)
            rows.spots.append((key, number))
    return seen


def _read_detection(detection: Any, categories: Categories, bbox_format: str, rows: _Rows) -> None:
    read_container(detection, dict, "it")
    for name in ("score", "bbox"):
        if name not in detection:
            raise InputError(f"field {name!r} is missing")
    if detection.get("category_id") is not None:
        rows.categories.append(categories.by_id(detection["category_id"]))
    elif "class_id" in detection:
        rows.categories.append(categories.by_label(detection["class_id"]))
    else:
        raise InputError("field 'class_id' is missing")
    rows.scores.append(read_number(detection["score"], "score"))
    rows.boxes.append(read_box(detection["bbox"], bbox_format))


def _table(rows: _Rows, bbox_format: str, notes: _Notes) -> Detections:
    boxes = np.array(rows.boxes, np.float64).reshape(-1, 4)
    scores = np.array(rows.scores, np.float64)
    sizes_wh = np.array([(sample.width, sample.height) for sample in rows.images], np.float64).reshape(-1, 2)
    boxes_xywh = to_xywh_abs(boxes, scores, sizes_wh, bbox_format, lambda row: _place(rows, row))
    outside = count_outside(boxes_xywh, sizes_wh)
    if outside >= 10 and outside > len(boxes) / 2:
        notes.add("most boxes end outside their image: is the box format right", f"{outside} of {len(boxes)} boxes")
    image_ids = np.array([sample.image_id for sample in rows.images], np.int64)
    return Detections(image_ids, np.array(rows.categories, np.int64), boxes_xywh, scores)


def _place(rows: _Rows, row: int) -> str:
    key, number = rows.spots[row]
    return f"result {key}" if number is None else f"{_entry(key)}, detection {number}"


def _entry(key: int | str) -> str:
    return f"entry {key}" if isinstance(key, int) else f"entry {key!r}"
