"""Single values of a predictions file: each is taken as it is or refused with its name.

Messages carry no place; the caller knows which entry and which file it is reading.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.ids import positions

if TYPE_CHECKING:
    from bench.types import Array, FixtureSet

BOX_KEYS = {
    "cxcywh_norm": ("cx", "cy", "w", "h"),
    "cxcywh_abs": ("cx", "cy", "w", "h"),
    "xywh_abs": ("x", "y", "w", "h"),
    "xyxy_abs": ("x1", "y1", "x2", "y2"),
}
"""Box format -> the keys of a box given as an object, in the order of a box given as a list."""
_LARGEST_ID = 2**62
_NOUNS = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
_NOT_FINITE = {"nan", "inf", "infinity"}


def read_container(value: Any, kind: type, what: str) -> Any:
    """Return ``value`` if it is a dict or a list as asked; ``what`` begins the message otherwise."""
    if not isinstance(value, kind):
        raise InputError(f"{what} must be {_NOUNS[kind]}, got {describe(value)}")
    return value


def read_integer(value: Any, name: str) -> int:
    """Return an integer; 1.0, "1" and true are refused."""
    if type(value) is not int:
        raise InputError(f"field '{name}' must be an integer, got {describe(value)}")
    return value


def read_number(value: Any, name: str) -> float:
    """Return a float, which may be NaN or infinite if JSON had a bare token; text is refused."""
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return float("inf")
    if isinstance(value, str) and value.lower().lstrip("+-") in _NOT_FINITE:
        raise InputError(f"field '{name}' is {value!r}, not finite; repair the model or the export that made it")
    raise InputError(f"field '{name}' must be a number, got {describe(value)}")


def read_box(value: Any, bbox_format: str) -> list[float]:
    """Return the four numbers of a box in the order of ``BOX_KEYS[bbox_format]``."""
    keys = BOX_KEYS[bbox_format]
    if isinstance(value, list) and len(value) == 4:
        if type(value[0]) is type(value[1]) is type(value[2]) is type(value[3]) is float:
            return value
        return [read_number(number, f"bbox {key}") for key, number in zip(keys, value, strict=True)]
    if not isinstance(value, dict):
        raise InputError(f"field 'bbox' must be 4 numbers or an object with {', '.join(keys)}, got {describe(value)}")
    if set(keys) <= set(value):
        return [read_number(value[key], f"bbox {key}") for key in keys]
    fitting = [name for name, others in BOX_KEYS.items() if set(others) <= set(value)]
    remedy = f"; these are the keys of {' or '.join(fitting)}: say so with --bbox-format" if fitting else ""
    raise InputError(f"bbox as {bbox_format} needs {', '.join(keys)}, got {names(value)}{remedy}")


def read_keypoints(value: Any) -> list[float]:
    """Return a flat list of x, y and a third number per keypoint, from one or from objects ``{x, y, v}``."""
    if isinstance(value, list) and value and all(isinstance(point, dict) for point in value):
        value = [number for at, point in enumerate(value) for number in _point(point, at)]
    if not isinstance(value, list) or not value or len(value) % 3:
        got = f"{len(value)} numbers" if isinstance(value, list) else describe(value)
        raise InputError(f"field 'keypoints' must be a list of x, y, score per keypoint, got {got}")
    return [read_number(number, f"keypoint {at // 3} {('x', 'y', 'score')[at % 3]}") for at, number in enumerate(value)]


def _point(point: dict[str, Any], at: int) -> list[Any]:
    third = next((name for name in ("v", "score") if name in point), None)
    if third is None or not {"x", "y"} <= set(point):
        raise InputError(f"keypoint {at} needs x, y and v, got {names(point)}")
    return [point["x"], point["y"], point[third]]


class Categories:
    """The categories of a fixture set, by COCO id and by label.

    A label counts categories in ascending order of their id. A set whose classes have no names shows only those it
    uses: any other positive id may be meant, and further labels get the ids that follow.
    """

    def __init__(self, fixtures: FixtureSet) -> None:
        self._ids = sorted(int(category["id"]) for category in fixtures.categories)
        self._known = set(self._ids)
        self._named = fixtures.named_categories

    def by_id(self, value: Any) -> int:
        """Return a COCO category id that the set has."""
        category = read_integer(value, "category_id")
        if category in self._known or (not self._named and 0 < category <= _LARGEST_ID):
            return category
        between = f" ({self._ids[0]} to {self._ids[-1]})" if self._ids else ""
        raise InputError(
            f"category_id {category} is not one of the {len(self._ids)} categories of the set{between}; "
            "0-based labels go in class_id"
        )

    def by_label(self, value: Any) -> int:
        """Return the category id of a contiguous label."""
        label = read_integer(value, "class_id")
        beyond = label - len(self._ids)
        if label >= 0 and beyond < 0:
            return self._ids[label]
        if not self._named and 0 <= beyond <= _LARGEST_ID:
            return max(self._ids, default=0) + 1 + beyond
        raise InputError(
            f"class_id {label} is outside 0 to {len(self._ids) - 1}: it is a label in the order of the category ids; "
            "sparse COCO ids go in category_id"
        )

    def of_ids(self, ids: Array) -> Array | None:
        """``by_id`` of (N,) int64 at once; None when it would refuse one of them."""
        fine = positions(np.array(self._ids, np.int64), ids) >= 0
        if not self._named:
            fine |= (ids > 0) & (ids <= _LARGEST_ID)
        return ids if bool(fine.all()) else None

    def of_labels(self, labels: Array) -> Array | None:
        """``by_label`` of (N,) int64 at once; None when it would refuse one of them."""
        table, count = np.array(self._ids, np.int64), len(self._ids)
        if bool(((labels < 0) | (labels >= (count if self._named else _LARGEST_ID))).any()):
            return None
        ids = labels - count + 1 + max(self._ids, default=0)
        within = labels < count
        ids[within] = table[labels[within]]
        return ids


def describe(value: Any) -> str:
    """Kind and short form of a JSON value, safe for huge and deeply nested ones."""
    return "null" if value is None else f"{_NOUNS[type(value)]}, {reprlib.repr(value)}"


def names(members: dict[str, Any]) -> str:
    """Member names of an object, at most eight."""
    shown = sorted(members)[:8]
    return (", ".join(f"{name:.30}" for name in shown) or "none") + (" ..." if len(members) > len(shown) else "")
