"""One detection of a predictions file: whether it is certainly fine, quickly, and otherwise what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.predictions.fields import BOX_KEYS
from bench.predictions.poses import FIELDS, ROT6D
from bench.types import POSE_ATTRIBUTES
from bench.violations.syntax import Repeated, repeated_name
from bench.violations.violation import (
    Violation,
    describe,
    json_path,
    missing_field,
    nearest,
    wrong_number,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.violations.violation import Parts

_LARGEST = 1.7e308
_LARGEST_ID = 2**62
_WORDS = {"nan", "inf", "-inf"}
_POSES = {FIELDS[name]: shape for name, shape in POSE_ATTRIBUTES.items()} | {ROT6D: (6,)}
"""Field -> shape of its numbers."""
KNOWN = frozenset(
    {"class_id", "category_id", "image_id", "score", "bbox", "keypoints", "bbox_abs", "mask", "mask_path", "k_delta",
     "k_prime", "id", "area", "iscrowd", *_POSES}
)  # fmt: skip
_CHECKED = {"keypoints", "mask_path", *_POSES}
_BOX_WORDS: dict[tuple[str, ...], str] = {
    keys: f"an object with {', '.join(keys)} or a list of these 4 numbers" for keys in set(BOX_KEYS.values())
}


def is_plain(item: Any, ids: tuple[str, ...], keys: tuple[str, ...]) -> bool:
    """Whether a detection is certainly fine: what every tool writes, at a speed that a million of them allow.

    Args:
        item: of a list of detections or results.
        ids: fields that must be integers: ``("class_id",)``, or the two ids of a COCO result.
        keys: of a box given as an object.
    """
    if type(item) is not dict or "score" not in item or "bbox" not in item:
        return False
    score, box = item["score"], item["bbox"]
    if type(score) is not float and type(score) is not int:
        return False
    if not -_LARGEST < score < _LARGEST:
        return False
    for name in ids:
        if type(item.get(name)) is not int or not 0 <= item[name] <= _LARGEST_ID:
            return False
    if type(box) is dict:
        if not all(key in box for key in keys):
            return False
        box = [box[key] for key in keys]
    elif type(box) is not list or len(box) != 4:
        return False
    for value in box:
        if (type(value) is not float and type(value) is not int) or not -_LARGEST < value < _LARGEST:
            return False
    return len(item) == len(ids) + 2 or _CHECKED.isdisjoint(item) or _extras_are_plain(item)


def _extras_are_plain(item: Mapping[str, Any]) -> bool:
    for name, shape in _POSES.items():
        if name in item and not _fits(item[name], shape):
            return False
    if "keypoints" in item:
        points = item["keypoints"]
        if type(points) is not list or not points or len(points) % 3 or not _fits(points, (len(points),)):
            return False
    return "mask_path" not in item


def _fits(value: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return (type(value) is float or type(value) is int) and -_LARGEST < value < _LARGEST
    return type(value) is list and len(value) == shape[0] and all(_fits(inner, shape[1:]) for inner in value)


def detection_violations(item: Any, parts: Parts, keys: tuple[str, ...]) -> Iterator[Violation]:
    """What is wrong with a detection of an entry.

    Args:
        item: the detection.
        parts: where it stands.
        keys: of a box given as an object.
    """
    if not isinstance(item, dict):
        yield _must_be(parts, "an object with class_id, score and bbox", item)
        return
    spare = [name for name in item if name not in KNOWN]
    if item.get("category_id") is not None:
        yield from _integer(item["category_id"], (*parts, "category_id"))
    elif "class_id" not in item:
        yield missing_field(parts, "class_id", "a whole number >= 0", spare)
    if "class_id" in item:
        yield from _integer(item["class_id"], (*parts, "class_id"), least=0)
    yield from _shared(item, parts, keys, spare)


def result_violations(item: Any, parts: Parts, keys: tuple[str, ...]) -> Iterator[Violation]:
    """What is wrong with a COCO result; arguments as of ``detection_violations``."""
    if not isinstance(item, dict):
        yield _must_be(parts, "an object with image_id, category_id, bbox and score", item)
        return
    spare = [name for name in item if name not in KNOWN]
    for name in ("image_id", "category_id"):
        if name in item:
            yield from _integer(item[name], (*parts, name))
        else:
            yield missing_field(parts, name, "a whole number", spare)
    yield from _shared(item, parts, keys, spare)


def _shared(item: Mapping[str, Any], parts: Parts, keys: tuple[str, ...], spare: list[str]) -> Iterator[Violation]:
    if isinstance(item, Repeated):
        yield from (repeated_name(parts, name) for name in item.names)
    if "score" not in item:
        yield missing_field(parts, "score", "a number", spare)
    elif not _fits(item["score"], ()):
        yield wrong_number((*parts, "score"), item["score"], "a finite number")
    if "bbox" in item:
        yield from _box(item["bbox"], (*parts, "bbox"), keys)
    elif item.get("keypoints") is None:
        yield missing_field(parts, "bbox", _BOX_WORDS[keys], spare)
    if item.get("keypoints") is not None:
        yield from _keypoints(item["keypoints"], (*parts, "keypoints"))
    for name, shape in _POSES.items():
        if item.get(name) is not None:
            yield from _pose(item[name], (*parts, name), shape)
    if "mask_path" in item and not isinstance(item["mask_path"], str):
        yield _must_be((*parts, "mask_path"), "the path of a file in quotes", item["mask_path"])


def _must_be(parts: Parts, wanted: str, value: Any) -> Violation:
    return Violation(path=json_path(parts), problem=f"must be {wanted}", found=describe(value), fix=f"give {wanted}")


def _integer(value: Any, parts: Parts, least: int | None = None) -> Iterator[Violation]:
    wanted = "a whole number" if least is None else f"a whole number >= {least}"
    if type(value) is not int:
        yield wrong_number(parts, value, wanted, whole=True)
    elif (least is not None and value < least) or abs(value) > _LARGEST_ID:
        yield wrong_number(parts, value, wanted)


def _box(box: Any, parts: Parts, keys: tuple[str, ...]) -> Iterator[Violation]:
    if isinstance(box, list):
        if len(box) != 4:
            yield Violation(
                path=json_path(parts), problem=f"must be 4 numbers ({', '.join(keys)})", found=describe(box),
                fix="one box per detection: split it" if len(box) > 4 and len(box) % 4 == 0 else "give all 4 numbers",
            )  # fmt: skip
            return
        for number, value in enumerate(box):
            if not _fits(value, ()):
                yield wrong_number((*parts, number), value, f"a finite number ({keys[number]})")
        yield from _extent(box, parts, keys, (0, 1, 2, 3))
        return
    if not isinstance(box, dict):
        yield _must_be(parts, _BOX_WORDS[keys], box)
        return
    if isinstance(box, Repeated):
        yield from (repeated_name(parts, name) for name in box.names)
    other = [name for name, others in BOX_KEYS.items() if others != keys and set(others) <= set(box)]
    if other and not set(keys) <= set(box):
        yield Violation(
            path=json_path(parts), problem=f"must have {', '.join(keys)}, as the boxes of this file are read",
            found=describe(box), fix=f"these are the keys of {' or '.join(other)}: say --bbox-format {other[0]}",
        )  # fmt: skip
        return
    spare = [name for name in box if name not in keys]
    for key in keys:
        if key not in box:
            yield missing_field(parts, key, "a number", spare)
        elif not _fits(box[key], ()):
            yield wrong_number((*parts, key), box[key], "a finite number >= 0" if key in "wh" else "a finite number")
    yield from _extent([box.get(key) for key in keys], parts, keys, keys)


def _extent(box: list[Any], parts: Parts, keys: tuple[str, ...], names: tuple[str | int, ...]) -> Iterator[Violation]:
    """Negative width and height, of the numbers that are there."""
    for axis in (0, 1):
        low, high = box[axis] if keys[2] == "x2" else 0, box[axis + 2]
        if _fits(low, ()) and _fits(high, ()) and high < low:
            yield negative_extent(box, axis, keys, (*parts, names[axis + 2]))


def negative_extent(box: list[Any], axis: int, keys: tuple[str, ...], parts: Parts) -> Violation:
    """A box that ends before it begins.

    Args:
        box: its values in the order of ``keys``.
        axis: 0 for width, 1 for height.
        keys: of its format.
        parts: where the wrong number stands.
    """
    low, high = keys[axis], keys[axis + 2]
    corners = high in ("x2", "y2")
    return Violation(
        path=json_path(parts),
        problem=f"must be >= {low}, which is {box[axis]:g}" if corners else "must be a number >= 0",
        found=f"the number {box[axis + 2]:g}",
        fix=f"swap {low} and {high}, or, if these are x, y, width, height, say --bbox-format xywh_abs"
        if corners
        else "give the size without its sign; a box that goes to the left starts at its left edge",
    )


def _keypoints(value: Any, parts: Parts) -> Iterator[Violation]:
    wanted = "a flat list of x, y, v per keypoint, or a list of objects with x, y, v"
    if not isinstance(value, list) or not value:
        yield _must_be(parts, wanted, value)
        return
    if all(isinstance(point, dict) for point in value):
        for number, point in enumerate(value):
            third = "score" if "score" in point and "v" not in point else "v"
            yield from _numbers_of(point, (*parts, number), ("x", "y", third))
        return
    if len(value) % 3:
        yield Violation(
            path=json_path(parts), problem="must hold 3 numbers per keypoint: x, y, v",
            found=f"{len(value)} numbers", fix="add the third number of each keypoint" if len(value) % 2 == 0
            else "give all three numbers of every keypoint",
        )  # fmt: skip
    for number, one in enumerate(value):
        if not _fits(one, ()):
            yield wrong_number((*parts, number), one, f"a finite number ({'xyv'[number % 3]} of a keypoint)")


def _numbers_of(point: Mapping[str, Any], parts: Parts, names: tuple[str, ...]) -> Iterator[Violation]:
    for name in names:
        if name not in point:
            yield missing_field(parts, name, "a number", [n for n in point if n not in names])
        elif not _fits(point[name], ()):
            yield wrong_number((*parts, name), point[name], "a finite number")


def _pose(value: Any, parts: Parts, shape: tuple[int, ...]) -> Iterator[Violation]:
    """A pose may say ``"nan"``, which counts as the worst possible where it is measured."""
    if not shape:
        if not _fits(value, ()) and not (isinstance(value, str) and value in _WORDS):
            yield wrong_number(parts, value, "a number")
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        inner = "numbers" if len(shape) == 1 else f"lists of {shape[1]} numbers"
        yield _must_be(parts, f"a list of {shape[0]} {inner}", value)
        return
    for number, one in enumerate(value):
        yield from _pose(one, (*parts, number), shape[1:])


def unread_fields(item: Any, told: set[str]) -> Iterator[str]:
    """Notes on fields whose names are nearly those of known ones; each name is told once.

    Args:
        item: a detection.
        told: names that were looked at before; added to.
    """
    if not isinstance(item, dict):
        return
    for name in item.keys() - KNOWN - told:
        told.add(name)
        near = _similar(name, KNOWN - item.keys())
        if near is not None:
            yield f"the field '{name}' of detections is not read: is {near} meant?"


def _similar(name: str, known: frozenset[str] | set[str]) -> str | None:
    found = nearest(name, sorted(known))
    return found if found is not None and found not in ("mask", "id", "area") else None
