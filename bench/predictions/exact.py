"""Read any predictions document value by value: slower, and able to name what is wrong and where.

``bench.predictions.quick`` reads well-formed files to the same columns; everything it does not understand comes here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.predictions.columns import Columns, Notes, entry_place
from bench.predictions.fields import (
    BOX_KEYS,
    Categories,
    describe,
    names,
    read_box,
    read_container,
    read_integer,
    read_keypoints,
    read_number,
)
from bench.predictions.join import ImageIndex, plain_path
from bench.predictions.poses import pose_table, read_pose

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.types import FixtureSet


SCHEMA_VERSION = 1
"""Latest version of the wrapped form."""


@dataclass(slots=True)
class _Rows:
    """Columns under construction. ``spots`` says where in the file each row came from."""

    keep_keypoints: bool
    keep_poses: bool = False
    image_ids: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    boxes: list[list[float] | None] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    keypoints: list[list[float] | None] = field(default_factory=list)
    poses: list[Mapping[str, Any]] = field(default_factory=list)
    spots: list[tuple[int | str, int | None]] = field(default_factory=list)

    def place(self, row: int) -> str:
        key, number = self.spots[row]
        return f"result {key}" if number is None else f"{entry_place(key)}, detection {number}"


def read_columns(
    document: Any, fixtures: FixtureSet, asked: str | None, *, keypoints: bool, poses: bool = False
) -> Columns:
    """Read a parsed document.

    Args:
        document: what JSON held.
        fixtures: the set that its images and categories are joined to.
        asked: box format of the command line, or None.
        keypoints: read keypoints too; otherwise the field is one of those that may be added and are not read.
        poses: the same of the pose fields.

    Raises:
        InputError: the first thing that cannot be used, with its place in the document.
    """
    form = form_of(document)
    notes = Notes()
    meta = read_meta(document, notes) if form == "wrapped" else {}
    bbox_format = choose_format(form, meta, asked, notes)
    index, categories, rows = ImageIndex(fixtures), Categories(fixtures), _Rows(keypoints, poses)
    listed = None
    if form == "coco":
        _read_coco(document, index, categories, bbox_format, rows)
    else:
        listed = _read_entries(_entries(form, document), index, categories, bbox_format, rows, notes)
    for name in index.collisions:
        notes.add("images that share a file name were told apart by their folder", name)
    samples = index.rows(np.array(rows.image_ids, np.int64))
    assert samples is not None, "every image id was found one by one"
    return Columns(
        form=form,
        meta=meta,
        bbox_format=bbox_format,
        samples=samples,
        category_ids=np.array(rows.categories, np.int64),
        scores=np.array(rows.scores, np.float64),
        boxes=np.array([box or [0.0] * 4 for box in rows.boxes], np.float64).reshape(-1, 4),
        has_box=np.array([box is not None for box in rows.boxes], bool),
        keypoints=tuple(rows.keypoints) if any(points is not None for points in rows.keypoints) else None,
        place=rows.place,
        listed=None if listed is None else frozenset(listed),
        notes=notes,
        attributes=pose_table(rows.poses),
    )


def form_of(document: Any) -> str:
    """Tell the four forms apart; InputError for JSON of another kind."""
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


def read_meta(document: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Return the meta of a wrapped document after a look at its version; note one that is not known yet."""
    version = document.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise InputError(f"field 'schema_version' must be an integer of at least 1, got {describe(version)}")
    if version > SCHEMA_VERSION:
        notes.add(f"the file is of a later schema_version and is read as version {SCHEMA_VERSION}", f"{version}")
    meta = document.get("meta", {})
    return read_container(meta, dict, "field 'meta'")  # type: ignore[no-any-return]


def choose_format(form: str, meta: Mapping[str, Any], asked: str | None, notes: Notes) -> str:
    """Box format: that of the command line, else that of the file, else the form's own."""
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
            needed = ("image_id", "category_id", *_box_field(item, rows), "score")
            missing = [name for name in needed if name not in item]
            if missing:
                raise InputError(
                    f"field {missing[0]!r} is missing; a COCO result has image_id, category_id, bbox and score, "
                    "a predictions entry has image and detections"
                )
            rows.image_ids.append(index.by_id(read_integer(item["image_id"], "image_id")).image_id)
            rows.categories.append(categories.by_id(item["category_id"]))
            _read_found(item, bbox_format, rows)
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
    notes: Notes,
) -> set[int]:
    """Fill ``rows``; return the ids of the images that have an entry."""
    seen: dict[int, str | int] = {}
    for key, image, image_id, found in entries:
        try:
            sample_id = join_entry(index, key, image, image_id, seen, notes)
            read_container(found, list, "field 'detections'")
        except InputError as error:
            raise InputError(f"{entry_place(key)}: {error}") from error
        for number, detection in enumerate(found):
            try:
                _read_detection(detection, categories, bbox_format, rows)
            except InputError as error:
                raise InputError(f"{entry_place(key)}, detection {number}: {error}") from error
            rows.image_ids.append(sample_id)
            rows.spots.append((key, number))
    return set(seen)


def join_entry(
    index: ImageIndex, key: int | str, image: str | int, image_id: int | None, seen: dict[int, str | int], notes: Notes
) -> int:
    """Return the id of the image that an entry means; note what is odd about it.

    Args:
        index: of the set's images.
        key: number or name of the entry, for the notes.
        image: as the entry names it.
        image_id: the entry's own, or None.
        seen: image id -> name in the first entry that meant it; this entry's is added.
        notes: added to.

    Raises:
        InputError: the set has no such image, or several; without a place.
    """
    sample_id = index.find(image).image_id
    if image_id is not None and image_id != sample_id:
        notes.add("the image has another id here and its name counts", f"{image!r} is {sample_id}")
    if sample_id in seen:
        first = seen[sample_id]
        same = plain_path(str(first)) == plain_path(str(image))
        notes.add(
            "the image has an entry already and its detections are added"
            if same
            else "an entry means an image that has one already, under another name, and its detections are added",
            f"{entry_place(key)}, {image!r}" + ("" if same else f" as {first!r}"),
        )
    seen.setdefault(sample_id, image)
    return sample_id


def _read_detection(detection: Any, categories: Categories, bbox_format: str, rows: _Rows) -> None:
    read_container(detection, dict, "it")
    for name in ("score", *_box_field(detection, rows)):
        if name not in detection:
            raise InputError(f"field {name!r} is missing")
    if detection.get("category_id") is not None:
        rows.categories.append(categories.by_id(detection["category_id"]))
    elif "class_id" in detection:
        rows.categories.append(categories.by_label(detection["class_id"]))
    else:
        raise InputError("field 'class_id' is missing")
    _read_found(detection, bbox_format, rows)


def _box_field(item: Mapping[str, Any], rows: _Rows) -> tuple[str, ...]:
    """A keypoint result may leave its box out: COCO's own do."""
    return () if rows.keep_keypoints and item.get("keypoints") is not None else ("bbox",)


def _read_found(item: Mapping[str, Any], bbox_format: str, rows: _Rows) -> None:
    rows.scores.append(read_number(item["score"], "score"))
    rows.boxes.append(read_box(item["bbox"], bbox_format) if "bbox" in item else None)
    keypoints = item.get("keypoints") if rows.keep_keypoints else None
    rows.keypoints.append(None if keypoints is None else read_keypoints(keypoints))
    if rows.keep_poses:
        rows.poses.append(read_pose(item))
