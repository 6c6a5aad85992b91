"""One thing wrong at one place of a JSON document, and the words for it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Parts: TypeAlias = "tuple[str | int, ...]"
"""Names and indices from the top of a document to a value."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN_TEXT, _SHOWN_NAMES = 60, 8
_NOT_FINITE = {"nan", "inf", "infinity"}
OTHER_WORDS = {
    "score": ("confidence", "conf", "prob", "probability", "scores"),
    "bbox": ("box", "boxes", "xyxy", "xywh", "cxcywh", "bounding_box", "bboxes"),
    "class_id": ("class", "label", "cls", "category", "label_id", "class_idx"),
    "category_id": ("category", "label", "class"),
    "image": ("file_name", "filename", "image_path", "path", "img", "file", "image_name"),
    "image_id": ("img_id", "id"),
    "detections": ("dets", "objects", "instances", "boxes", "results", "annotations"),
    "predictions": ("results", "entries", "preds"),
    "w": ("width", "bw", "box_w"),
    "h": ("height", "bh", "box_h"),
    "cx": ("xc", "x_center", "x_centre", "center_x", "centre_x", "x"),
    "cy": ("yc", "y_center", "y_centre", "center_y", "centre_y", "y"),
    "x": ("left", "xmin", "x_min", "x0"),
    "y": ("top", "ymin", "y_min", "y0"),
    "x1": ("xmin", "x_min", "left", "x0"),
    "y1": ("ymin", "y_min", "top", "y0"),
    "x2": ("xmax", "x_max", "right"),
    "y2": ("ymax", "y_max", "bottom"),
    "v": ("visibility", "visible", "conf", "confidence"),
}
"""Field -> names under which other tools write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A value that may not stand where it stands."""

    path: str
    """JSON path, such as ``$.predictions[3].detections[0].bbox.w``."""
    problem: str
    """What it must be, or what is wrong."""
    found: str
    """What is there; empty where nothing is."""
    fix: str
    """What to do, in words."""

    def __str__(self) -> str:
        """The three in a line."""
        found = f"; found {self.found}" if self.found else ""
        return f"{self.path}: {self.problem}{found}. Fix: {self.fix}"


@dataclass(slots=True)
class Collected:
    """The first violations; of further ones the number."""

    limit: int
    violations: list[Violation] = field(default_factory=list)
    more: int = 0

    @property
    def full(self) -> bool:
        """Further ones are only counted."""
        return len(self.violations) >= self.limit

    def add(self, violation: Violation) -> None:
        """Keep it, or count it."""
        if self.full:
            self.more += 1
        else:
            self.violations.append(violation)


def json_path(parts: Iterable[str | int]) -> str:
    """``$.a[3].b``; a name that is not a plain word stands in brackets and quotes."""
    text = "$"
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if _NAME.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


def describe(value: Any) -> str:
    """Kind and short form of a JSON value."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the string {_quoted(value)}"
    if isinstance(value, (int, float)):
        return f"the number {_number(value)}"
    if isinstance(value, dict):
        names = [_cut(name) for name in list(value)[:_SHOWN_NAMES]]
        return f"an object with {', '.join(names)}{' ...' if len(value) > len(names) else ''}" if names else "{}"
    if 0 < len(value) <= 6 and all(type(v) in (int, float) for v in value):
        return f"the list [{', '.join(map(_number, value))}]"
    return f"a list of {len(value)}" if value else "an empty list"


def kind(value: Any) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    known = ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number"), (dict, "object"))
    return next((name for cls, name in known if isinstance(value, cls)), "array")


def nearest(missing: str, present: Iterable[str]) -> str | None:
    """The field that stands there under a wrong name: misspelt, or as another tool calls it."""
    names = list(present)
    by_lower = {name.lower().replace("-", "_"): name for name in names}
    if missing.lower() in by_lower:
        return by_lower[missing.lower()]
    for word in OTHER_WORDS.get(missing, ()):
        if word in by_lower:
            return by_lower[word]
    close = get_close_matches(missing, by_lower, n=1, cutoff=0.7)
    return by_lower[close[0]] if close else None


def missing_field(parts: Parts, name: str, wanted: str, present: Iterable[str]) -> Violation:
    """A field that is not there; perhaps it stands under another name."""
    other = nearest(name, present)
    return Violation(
        path=json_path((*parts, name)),
        problem=f"is missing{f'; it must be {wanted}' if wanted else ''}",
        found="" if other is None else f"the field {_quoted(other)} instead",
        fix=f"add it: {wanted}" if other is None and wanted else "add it" if other is None else f"rename it to {name}",
    )


def wrong_number(parts: Parts, value: Any, wanted: str, *, whole: bool = False) -> Violation:
    """A value that is not the number it must be.

    Args:
        parts: where it stands.
        value: what stands there.
        wanted: such as ``a number >= 0``.
        whole: it must be an integer.
    """
    return Violation(path=json_path(parts), problem=f"must be {wanted}", found=describe(value),
                     fix=number_fix(value, whole=whole))  # fmt: skip


def number_fix(value: Any, *, whole: bool = False) -> str:
    """How to turn a value into the number that was meant."""
    repair = "nothing can be measured with it: repair the model or the export that made it"
    if isinstance(value, str):
        if value.strip().lower().lstrip("+-") in _NOT_FINITE:
            return repair
        plain = value.strip().replace(",", ".")
        number = _read(plain)
        if number is not None and math.isfinite(number):
            bare = plain if not whole else _whole(number)
            if bare is None:
                return "give a whole number, without quotes"
            return f"remove the quotes: {bare}" if plain == value.strip() else f"write {bare}"
        return "give a number, without quotes"
    if isinstance(value, float):
        if not math.isfinite(value):
            return repair
        exact = _whole(value)
        return f"write {exact}" if whole and exact is not None else "give a whole number" if whole else "give a number"
    if isinstance(value, list) and len(value) == 1 and type(value[0]) in (int, float):
        return f"take it out of the list: {_number(value[0])}"
    return f"give a {'whole ' if whole else ''}number"


def _read(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(number: float) -> str | None:
    return str(int(number)) if number.is_integer() else None


def _number(value: float) -> str:
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), repr(value))
    return _cut(str(value)) if abs(value) < 10**40 else "of more than 40 digits"


def _quoted(text: str) -> str:
    return json.dumps(_cut(text), ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
