"""Readers of ground truth: COCO json, and folders of plain images. YOLO text folders are in ``bench.yolo``.

Every fault is an InputError that names file, list, index and field. What is odd but usable (zero width, an annotation
id of 0) goes to the log ``bench``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from bench.errors import InputError
from bench.files import sha256_file
from bench.images import IMAGE_SUFFIXES, image_size_hw
from bench.types import FixtureSet, Sample
from bench.yolo import read_yolo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["fingerprint", "read_coco", "read_plain_images", "read_yolo"]

_log = logging.getLogger("bench")
_REMEDY = "Correct the file, or export it again."


def read_coco(
    annotations: Path,
    images: Path | None,
    *,
    name: str,
    split: str,
    origin: str = "",
    sha256: str | None = None,
) -> FixtureSet:
    """Read COCO ground truth and check all of it.

    Args:
        annotations: The json file (instances or keypoints).
        images: Folder that ``file_name`` is relative to; None when only the truth is needed: no image is looked for.
        name: Name of the set.
        split: ``train``, ``calibration`` or ``val``.
        origin: Where the set comes from.
        sha256: Hash of a set that was verified before; None hashes every image.

    Returns:
        Samples and categories sorted by id; annotations as in the file, with ``area`` and ``iscrowd`` filled in when
        absent and an annotation id of 0 replaced (pycocotools takes a match with id 0 for no match).

    Raises:
        InputError: The file is not COCO ground truth, contradicts itself, or lists an image that is missing.
    """
    content = _read_object(annotations)
    samples = _samples(annotations, _list(annotations, content, "images"), images)
    categories = _categories(annotations, _list(annotations, content, "categories"))
    truths = _annotations(
        annotations,
        _list(annotations, content, "annotations"),
        {s.image_id for s in samples},
        {c["id"]: c for c in categories},
    )
    if sha256 is None:
        sha256 = fingerprint(samples if images is not None else (), [annotations])
    return FixtureSet(
        name=name, split=split, samples=samples, categories=categories, annotations=truths, sha256=sha256, origin=origin
    )


def read_plain_images(folder: Path, *, name: str, split: str) -> FixtureSet:
    """Read a folder of images without ground truth, for calibration; ids count from 1 in the order of file names.

    Raises:
        InputError: There is no image in it, or one cannot be read.
    """
    samples = []
    for number, path in enumerate(sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), start=1):
        height, width = image_size_hw(path)
        samples.append(Sample(image_id=number, path=path, width=width, height=height))
    if not samples:
        raise InputError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in it.")
    found = tuple(samples)
    return FixtureSet(
        name=name,
        split=split,
        samples=found,
        categories=(),
        annotations=(),
        sha256=fingerprint(found, ()),
        named_categories=False,
    )


def fingerprint(samples: Iterable[Sample], others: Iterable[Path]) -> str:
    """Return the sha256 over the (file name, sha256) pairs of images and ground-truth files, in this order."""
    digest = hashlib.sha256()
    for path in (*(s.path for s in samples), *others):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _read_object(path: Path) -> dict[str, Any]:
    """Parse a json object; garbage is refused from its first bytes, before gigabytes are read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start.startswith(b"{"):
                found = "an empty file" if not start else f"{start[:12]!r}"
                raise InputError(f"{path}: COCO ground truth is a JSON object, this starts with {found}.")
            stream.seek(0)
            content = json.loads(stream.read().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give the path of a COCO json file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}. {_REMEDY}") from error
    except json.JSONDecodeError as error:
        hint = " The file seems to be truncated." if error.pos >= len(error.doc.rstrip()) - 1 else ""
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}.{hint} {_REMEDY}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply for COCO ground truth. {_REMEDY}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: COCO ground truth is a JSON object, this is {_kind(content)}.")
    return content


def _list(path: Path, content: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    if field not in content:
        raise InputError(f"{path}: has no field {field!r}; COCO ground truth has images, annotations and categories.")
    entries = content[field]
    if not isinstance(entries, list):
        raise InputError(f"{path}: {field} must be a list, not {_kind(entries)}. {_REMEDY}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {field}[{index}] must be an object, not {_kind(entry)}. {_REMEDY}")
    return entries


def _samples(path: Path, entries: list[dict[str, Any]], images: Path | None) -> tuple[Sample, ...]:
    seen: dict[int, int] = {}
    samples, missing = [], []
    for index, entry in enumerate(entries):
        where = f"{path}: images[{index}]"
        image_id = _whole(where, entry, "id", least=None)
        if image_id in seen:
            raise InputError(f"{where}.id: {image_id} is already the id of images[{seen[image_id]}]. {_REMEDY}")
        seen[image_id] = index
        name = _field(where, entry, "file_name")
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}.file_name: must be a file name, not {_kind(name)}. {_REMEDY}")
        _refuse_outside(where, name)
        file = (images or Path()) / name
        if images is not None and not file.is_file():
            missing.append((index, name))
        samples.append(
            Sample(
                image_id=image_id,
                path=file,
                width=_whole(where, entry, "width", least=1),
                height=_whole(where, entry, "height", least=1),
            )
        )
    if missing:
        index, name = missing[0]
        raise InputError(
            f"{path}: images[{index}].file_name: {name!r} is listed but is not in {images} "
            f"({len(missing)} of {len(entries)} images are missing). Add the files, or take them out of the list."
        )
    return tuple(sorted(samples, key=lambda s: s.image_id))


def _refuse_outside(where: str, name: str) -> None:
    """Refuse absolute names and ``..``, in the notation of either system."""
    for pure in (PurePosixPath(name), PureWindowsPath(name)):
        if pure.is_absolute() or pure.drive or ".." in pure.parts:
            raise InputError(f"{where}.file_name: {name!r} leaves the images folder. Use a name relative to it.")


def _categories(path: Path, entries: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    ids: dict[int, int] = {}
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        category_id = _whole(where, entry, "id", least=None)
        name = _field(where, entry, "name")
        if not isinstance(name, str):
            raise InputError(f"{where}.name: must be text, not {_kind(name)}. {_REMEDY}")
        if category_id in ids:
            raise InputError(
                f"{where}.id: {category_id} is already the id of categories[{ids[category_id]}]. {_REMEDY}"
            )
        if name in names:
            raise InputError(f"{where}.name: {name!r} is already the name of categories[{names[name]}]. {_REMEDY}")
        ids[category_id] = names[name] = index
    return tuple(sorted(entries, key=lambda c: c["id"]))


def _annotations(
    path: Path, entries: list[dict[str, Any]], image_ids: set[int], categories: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[str, Any], ...]:
    seen: dict[int, int] = {}
    truths, flat = [], []
    for index, entry in enumerate(entries):
        where = f"{path}: annotations[{index}]"
        number = _whole(where, entry, "id", least=None)
        if number in seen:
            raise InputError(f"{where}.id: {number} is already the id of annotations[{seen[number]}]. {_REMEDY}")
        seen[number] = index
        image_id = _whole(where, entry, "image_id", least=None)
        if image_id not in image_ids:
            raise InputError(f"{where}.image_id: {image_id} is not in the list of images. {_REMEDY}")
        category_id = _whole(where, entry, "category_id", least=None)
        if category_id not in categories:
            raise InputError(f"{where}.category_id: {category_id} is not in the list of categories. {_REMEDY}")
        box = _numbers(where, entry, "bbox")
        if len(box) != 4:
            raise InputError(f"{where}.bbox: must be [x, y, width, height], has {len(box)} numbers. {_REMEDY}")
        if box[2] < 0 or box[3] < 0:
            raise InputError(
                f"{where}.bbox: negative width or height in {box}; COCO is [x, y, width, height]. {_REMEDY}"
            )
        if box[2] == 0 or box[3] == 0:
            flat.append(index)
        truth = {"area": box[2] * box[3], "iscrowd": 0, **entry}
        _check_area_and_crowd(where, truth)
        if "keypoints" in entry:
            _check_keypoints(where, truth, categories[category_id])
        truths.append(truth)
    if flat:
        _log.warning("%s: %d boxes have no width or no height, the first is annotations[%d]", path, len(flat), flat[0])
    if 0 in seen:
        truths[seen[0]]["id"] = fresh = max(seen) + 1
        _log.info("%s: annotations[%d].id 0 is used as %d: pycocotools reads 0 as unmatched", path, seen[0], fresh)
    return tuple(truths)


def _check_area_and_crowd(where: str, truth: Mapping[str, Any]) -> None:
    area = truth["area"]
    if not _is_number(area) or area < 0:
        raise InputError(f"{where}.area: must be a finite number of at least 0, not {area!r}. {_REMEDY}")
    if truth["iscrowd"] not in (0, 1):
        raise InputError(f"{where}.iscrowd: must be 0 or 1, not {truth['iscrowd']!r}. {_REMEDY}")


def _check_keypoints(where: str, truth: dict[str, Any], category: Mapping[str, Any]) -> None:
    """Check ``[x, y, v] * K`` against the category's list of names; fill in ``num_keypoints``."""
    flat = _numbers(where, truth, "keypoints")
    names = category.get("keypoints")
    if len(flat) % 3 or (isinstance(names, list) and len(flat) != 3 * len(names)):
        expected = f"3 x {len(names)}" if isinstance(names, list) else "a multiple of 3"
        raise InputError(f"{where}.keypoints: has {len(flat)} numbers, expected {expected} (x, y, v each). {_REMEDY}")
    if any(v not in (0, 1, 2) for v in flat[2::3]):
        raise InputError(f"{where}.keypoints: visibility must be 0, 1 or 2. {_REMEDY}")
    truth.setdefault("num_keypoints", sum(v > 0 for v in flat[2::3]))


def _field(where: str, entry: Mapping[str, Any], field: str) -> Any:
    if field not in entry:
        raise InputError(f"{where}: has no field {field!r}. {_REMEDY}")
    return entry[field]


def _whole(where: str, entry: Mapping[str, Any], field: str, *, least: int | None) -> int:
    value = _field(where, entry, field)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where}.{field}: must be a whole number, not {_kind(value)} {value!r}. {_REMEDY}")
    if least is not None and value < least:
        raise InputError(f"{where}.{field}: must be at least {least}, not {value}. {_REMEDY}")
    return value


def _numbers(where: str, entry: Mapping[str, Any], field: str) -> list[float]:
    values = _field(where, entry, field)
    if not isinstance(values, list):
        raise InputError(f"{where}.{field}: must be a list of numbers, not {_kind(values)}. {_REMEDY}")
    for place, value in enumerate(values):
        if not _is_number(value):
            raise InputError(f"{where}.{field}[{place}]: must be a finite number, not {value!r}. {_REMEDY}")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return words.get(type(value), "null")
