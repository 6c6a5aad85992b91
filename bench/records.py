"""Manifests of records: a list of images to run, each with optional labels, as a JSON list or one object per line.

A record is ``{"image": PATH, "labels": [{"class_id", "bbox": {"cx", "cy", "w", "h"}}], "intrinsics": {"fx", ...}}``;
boxes are shares of the image, a label may hold ``cx, cy, w, h`` itself. A path is absolute or relative to the manifest.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from bench.datasets import fingerprint
from bench.errors import InputError, did_you_mean
from bench.images import image_size_hw
from bench.types import FixtureSet, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BOX = ("cx", "cy", "w", "h")
_CAMERA = ("fx", "fy", "cx", "cy")


def read_records(path: Path, class_names: Sequence[str], *, limit: int | None = None) -> FixtureSet:
    """Read a manifest as a fixture set; image ids count from 1 in the order of the records.

    Args:
        path: JSON list, or JSON lines.
        class_names: of the model that will run; ``class_id`` of a label is an index into them.
        limit: open only the first ``limit`` records; all are checked for what they say.

    Raises:
        InputError: names file, record and field: no list of records, an image that is not there or not readable, one
            that is listed twice, a label that cannot be.
    """
    records = list(_records(path))
    files = [_file(path, place, record) for place, record in records]
    _refuse_duplicates(path, records, files)
    samples: list[Sample] = []
    annotations: list[dict[str, Any]] = []
    for number, ((place, record), file) in enumerate(zip(records[:limit], files[:limit], strict=True), start=1):
        if not file.is_file():
            raise InputError(
                f"{path}: {place}.image: {record['image']!r} is not there (looked for {file}). "
                "Correct the path; a relative one starts at the manifest's folder."
            )
        height, width = image_size_hw(file)
        camera = _camera(f"{path}: {place}", record.get("intrinsics"))
        samples.append(Sample(image_id=number, path=file, width=width, height=height, camera=camera))
        for truth in _labels(f"{path}: {place}", record, class_names, (width, height)):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **truth})
    return FixtureSet(
        name=path.stem,
        split="val",
        samples=tuple(samples),
        categories=tuple({"id": i + 1, "name": name} for i, name in enumerate(class_names)),
        annotations=tuple(annotations),
        sha256=fingerprint(samples, [path]),
        origin=f"records of {path.name}",
    )


def record_names(path: Path) -> dict[int, str]:
    """Image id -> what its record calls the image, letter by letter."""
    return {number: record["image"] for number, (_, record) in enumerate(_records(path), start=1)}


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every record."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a manifest of records.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}).") from error
    whole = text.lstrip().startswith("[")
    if whole:
        items = _parsed(path, text, 1)
        listed = [(f"[{number}]", item) for number, item in enumerate(items)]
    else:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        listed = [(f"line {number}", _parsed(path, line, number)) for number, line in lines]
    if not listed:
        raise InputError(f"{path}: holds no record. Write a list of objects with the field 'image'.")
    for place, item in listed:
        if not isinstance(item, dict):
            raise InputError(f'{path}: {place}: a record is an object such as {{"image": "1.jpg"}}, not {item!r:.60}.')
        if "image" not in item:
            near = did_you_mean("image", item) if item else ""
            raise InputError(f"{path}: {place}: has no field 'image'.{near}")
        if not isinstance(item["image"], str) or not item["image"].strip() or "\0" in item["image"]:
            raise InputError(f"{path}: {place}.image: must be a path, not {item['image']!r:.60}.")
        yield place, item


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise InputError(
            f"{path}: line {at}, column {error.colno}: not JSON: {error.msg}. A manifest is one JSON list, or one "
            "object per line."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON is nested too deeply for a manifest of records.") from error


def _file(path: Path, place: str, record: Mapping[str, Any]) -> Path:
    """The image's place on this system; Windows separators are read where the name itself is not there."""
    name = str(record["image"])
    windows = PureWindowsPath(name)
    given = path.parent / name
    if "\\" not in name or given.is_file():
        return given
    if windows.drive:
        raise InputError(
            f"{path}: {place}.image: {name!r} names a drive of another system. Use a path relative to the manifest."
        )
    return path.parent / name.replace("\\", "/")


def _refuse_duplicates(path: Path, records: Sequence[tuple[str, Mapping[str, Any]]], files: Sequence[Path]) -> None:
    first: dict[Path, int] = {}
    twice = []
    for number, file in enumerate(files):
        at = first.setdefault(Path(file).resolve(), number)
        if at != number:
            twice.append((records[at][0], records[number][0], records[number][1]["image"]))
    if twice:
        one, other, name = twice[0]
        raise InputError(
            f"{path}: {other}.image: {name!r} is the image of {one} again ({len(twice)} in all): its detections would "
            "be there twice. Take the repeated records out."
        )


def _labels(
    where: str, record: Mapping[str, Any], class_names: Sequence[str], size_wh: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Yield the labels of a record as annotations without ids."""
    labels = record.get("labels") or []
    if not isinstance(labels, list):
        raise InputError(f"{where}.labels: must be a list of objects.")
    width, height = size_wh
    for index, label in enumerate(labels):
        place = f"{where}.labels[{index}]"
        if not isinstance(label, dict):
            raise InputError(f"{place}: must be an object with class_id and bbox, not {label!r:.60}.")
        class_id = label.get("class_id")
        if type(class_id) is not int or not 0 <= class_id < len(class_names):
            raise InputError(
                f"{place}.class_id: {class_id!r:.30} is no class of the model, which has {len(class_names)} "
                f"(0 to {len(class_names) - 1}). Correct it, or choose the model's own checkpoint."
            )
        box = label["bbox"] if isinstance(label.get("bbox"), dict) else label
        cx, cy, w, h = _numbers(place, box, _BOX)
        if not (w >= 0 and h >= 0 and max(abs(cx), abs(cy), w, h) <= 2):
            raise InputError(f"{place}: the box ({cx:g}, {cy:g}, {w:g}, {h:g}) is not in shares of the image (0 to 1).")
        bbox = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        yield {"category_id": class_id + 1, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}


def _camera(where: str, value: Any) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError(f"{where}.intrinsics: must be an object with {', '.join(_CAMERA)} in pixels.")
    fx, fy, cx, cy = _numbers(f"{where}.intrinsics", value, _CAMERA)
    if not (fx > 0 and fy > 0):
        raise InputError(f"{where}.intrinsics: fx and fy must be above 0, in pixels.")
    return fx, fy, cx, cy


def _numbers(place: str, value: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    found = []
    for name in names:
        number = value.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InputError(f"{place}.{name}: must be a finite number, not {number!r:.30}.")
        found.append(float(number))
    return found
