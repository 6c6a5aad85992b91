"""A predictions file of any form, walked once: a million detections take seconds, each violation has its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.predictions.exact import SCHEMA_VERSION
from bench.predictions.fields import BOX_KEYS
from bench.violations.detections import detection_violations, is_plain, result_violations, unread_fields
from bench.violations.schemas import schema_violations
from bench.violations.syntax import Repeated, oddities, repeated_name
from bench.violations.violation import Collected, Violation, describe, json_path, missing_field, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.violations.violation import Parts

_RESULT, _LABEL, _ID = ("image_id", "category_id"), ("class_id",), ("category_id",)
_BOTH = (*_LABEL, *_ID)
"""Fields that must be integers."""
_ENTRY = ("image", "image_id", "detections")
_SEEN_FIRST = 200
"""Items looked at to tell the form of a list and the format of its boxes."""
_ENTRY_EXTRAS = {"image_size", "preprocess", "intrinsics"}


@dataclass(slots=True, kw_only=True)
class Walked:
    """What a walk over a predictions document gathered for the checks that need all of it."""

    form: str
    """``coco``, ``entries``, ``wrapped`` or ``map``."""
    bbox_format: str
    declared: bool
    """By the command line or the meta; otherwise the form's own or that of the boxes' keys."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    boxes: list[Any] = field(default_factory=list)
    """Of detections without a violation, in the order of ``BOX_KEYS[bbox_format]``."""
    objects: bytearray = field(default_factory=bytearray)
    """Of the same: 1 where the box is an object with keys, 0 where it is a list."""
    classes: list[tuple[str, int]] = field(default_factory=list)
    """Field and value, of the same detections."""
    spots: list[tuple[int, int]] = field(default_factory=list)
    """Of the same: which of ``entries``, and which detection of it."""
    entries: list[tuple[Parts, str | int | None, int | None]] = field(default_factory=list)
    """Place, image and image id of every entry, or of every COCO result."""
    notes: list[str] = field(default_factory=list)

    def place(self, row: int) -> Parts:
        """Where the detection of a row stands."""
        entry, number = self.spots[row]
        parts = self.entries[entry][0]
        if self.form == "coco":
            return parts
        return (*parts, number) if self.form == "map" else (*parts, "detections", number)


def walk(document: Any, asked: str | None, found: Collected) -> Walked:
    """Check form, fields and values of a predictions document.

    Args:
        document: a list or an object of JSON.
        asked: box format of the command line, or None.
        found: violations are added.
    """
    form = _form_of(document)
    meta = document.get("meta") if form == "wrapped" else None
    declared = asked or (meta.get("bbox_format") if isinstance(meta, dict) else None)
    known = isinstance(declared, str) and declared in BOX_KEYS
    items = _items(form, document)
    keys_format = _format_of_keys(items)
    bbox_format = declared if known else keys_format or ("xywh_abs" if form == "coco" else "cxcywh_norm")
    walked = Walked(form=form, bbox_format=str(bbox_format), declared=known)
    if isinstance(document, Repeated):
        for name in document.names:
            found.add(repeated_name((), name))
    if form == "wrapped":
        _check_wrapping(document, walked, found)
    if not known and keys_format not in (None, "cxcywh_norm") and form != "coco":
        walked.notes.append(
            f"the boxes have the keys of {keys_format}: score the file with --bbox-format {keys_format}"
        )
    if form == "coco":
        _walk_results(document, walked, found)
    else:
        _walk_entries(document, walked, found)
    return walked


def _form_of(document: Any) -> str:
    if isinstance(document, list):
        heads = [item for item in document[:_SEEN_FIRST] if isinstance(item, dict)]
        entries = sum(bool({"detections", "image"} & head.keys()) or nearest("detections", head) is not None
                      for head in heads)  # fmt: skip
        by_reader = bool(document) and isinstance(document[0], dict) and "detections" in document[0]
        return "entries" if by_reader or entries * 2 > len(heads) else "coco"
    return "wrapped" if "predictions" in document or misspelt_predictions(document) is not None else "map"


def misspelt_predictions(document: Mapping[str, Any]) -> str | None:
    """The name under which a list of entries stands in a wrapped file that has no ``predictions``."""
    lists = [name for name, value in document.items() if isinstance(value, list) and any(
        isinstance(item, dict) and {"image", "detections"} & item.keys() for item in value[:5])]  # fmt: skip
    return nearest("predictions", lists) or (lists[0] if len(lists) == 1 else None)


def _items(form: str, document: Any) -> list[Any]:
    """Some of the detections or results."""
    if form == "coco":
        return [item for item in document[:_SEEN_FIRST] if isinstance(item, dict)]
    lists: Iterable[Any]
    if form == "map":
        lists = list(document.values())[:_SEEN_FIRST]
    else:
        entries = document if form == "entries" else document.get("predictions")
        heads = entries[:_SEEN_FIRST] if isinstance(entries, list) else []
        lists = [entry.get("detections") for entry in heads if isinstance(entry, dict)]
    return [item for some in lists if isinstance(some, list) for item in some[:_SEEN_FIRST] if isinstance(item, dict)]


def _format_of_keys(items: list[Any]) -> str | None:
    """Format that the keys of most boxes alone can mean; None for lists, and for centres: either unit."""
    boxes = [item["bbox"] for item in items if isinstance(item.get("bbox"), dict)]
    for name in ("xyxy_abs", "xywh_abs"):
        if sum(set(BOX_KEYS[name]) <= set(box) for box in boxes) > len(boxes) / 2:
            return name
    return None


def _check_wrapping(document: Mapping[str, Any], walked: Walked, found: Collected) -> None:
    if "predictions" not in document:
        name = misspelt_predictions(document)
        found.add(missing_field((), "predictions", "a list of entries", [name] if name else []))
    elif not isinstance(document["predictions"], list):
        found.add(_must_be(("predictions",), "a list of entries", document["predictions"]))
    version = document.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version < 1:
        quotes = ", without quotes" if isinstance(version, str) else ""
        found.add(Violation(path="$.schema_version", problem="must be a whole number >= 1", found=describe(version),
                            fix=f"write {SCHEMA_VERSION}{quotes}"))  # fmt: skip
    elif version > SCHEMA_VERSION:
        walked.notes.append(f"schema_version {version} is later than {SCHEMA_VERSION} and is read as {SCHEMA_VERSION}")
    for wanted in ("schema_version", "meta"):
        other = None if wanted in document else nearest(wanted, document.keys() - {"predictions"})
        if other is not None:
            walked.notes.append(f"the field '{other}' is not read: is {wanted} meant?")
    meta = document.get("meta", {})
    if not isinstance(meta, dict):
        found.add(_must_be(("meta",), "an object", meta))
        return
    walked.meta = meta
    for violation in schema_violations(meta, "predictions", part="meta", parts=("meta",)):
        found.add(violation)
    for violation in oddities(meta, ("meta",)):
        found.add(violation)


def _must_be(parts: Parts, wanted: str, value: Any) -> Violation:
    return Violation(path=json_path(parts), problem=f"must be {wanted}", found=describe(value), fix=f"give {wanted}")


def _walk_results(results: list[Any], walked: Walked, found: Collected) -> None:
    keys, told = BOX_KEYS[walked.bbox_format], set[str]()
    for number, item in enumerate(results):
        plain = is_plain(item, _RESULT, keys)
        if not plain:
            violations = list(result_violations(item, (number,), keys))
            for violation in violations:
                found.add(violation)
            if violations or "bbox" not in item:
                continue
        if len(item) > 4:
            walked.notes += unread_fields(item, told)
        _keep(item, keys, walked, (len(walked.entries), 0), "category_id")
        walked.entries.append(((number,), None, item["image_id"]))


def _keep(item: Mapping[str, Any], keys: tuple[str, ...], walked: Walked, spot: tuple[int, int], name: str) -> None:
    box = item["bbox"]
    listed = type(box) is list
    walked.boxes.append(box if listed else [box[key] for key in keys])
    walked.objects.append(not listed)
    walked.classes.append((name, item[name]))
    walked.spots.append(spot)


def _walk_entries(document: Any, walked: Walked, found: Collected) -> None:
    keys, told = BOX_KEYS[walked.bbox_format], set[str]()
    for parts, image, image_id, detections in _entries(document, walked, found):
        entry = len(walked.entries)
        walked.entries.append((parts, image, image_id))
        at = parts if walked.form == "map" else (*parts, "detections")
        if not isinstance(detections, list):
            found.add(_must_be(at, "a list of detections, [] for none", detections))
            continue
        for number, item in enumerate(detections):
            by_id = type(item) is dict and item.get("category_id") is not None
            if not is_plain(item, (_BOTH if "class_id" in item else _ID) if by_id else _LABEL, keys):
                violations = list(detection_violations(item, (*at, number), keys))
                for violation in violations:
                    found.add(violation)
                if violations or "bbox" not in item:
                    continue
            if len(item) > 3:
                walked.notes += unread_fields(item, told)
            _keep(item, keys, walked, (entry, number), "category_id" if by_id else "class_id")


def _entries(document: Any, walked: Walked, found: Collected) -> Iterable[tuple[Parts, Any, Any, Any]]:
    """Yield place, image, image id and detections of every entry that can be walked into."""
    if walked.form == "map":
        for image, detections in document.items():
            yield (image,), image, None, detections
        return
    top: Parts = ("predictions",) if walked.form == "wrapped" else ()
    entries = document
    if walked.form == "wrapped":
        name = "predictions" if "predictions" in document else misspelt_predictions(document)
        top, entries = (str(name),), document[name]
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        parts = (*top, number)
        if not isinstance(entry, dict):
            found.add(_must_be(parts, "an object with image and detections", entry))
            continue
        if isinstance(entry, Repeated):
            for name in entry.names:
                found.add(repeated_name(parts, name))
        spare = [name for name in entry if name not in _ENTRY and name not in _ENTRY_EXTRAS]
        image, image_id = entry.get("image", entry.get("image_id")), entry.get("image_id")
        if "image" not in entry and image_id is None:
            found.add(missing_field(parts, "image", "the file name of the image", spare))
        elif type(image) not in (str, int):
            found.add(_must_be((*parts, "image"), "a file name in quotes or a whole number (the image id)", image))
        if image_id is not None and type(image_id) is not int:
            found.add(_must_be((*parts, "image_id"), "a whole number", image_id))
        if "detections" not in entry:
            found.add(missing_field(parts, "detections", "a list, [] for none", spare))
            continue
        usable = image if type(image) in (str, int) else None
        yield parts, usable, image_id if type(image_id) is int else None, entry["detections"]
