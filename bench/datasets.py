"""Readers of ground truth: COCO json, and folders of plain images. YOLO text folders are in ``bench.yolo``.

Every fault is an InputError that names file, list, index and field. What is odd but usable (zero width, an annotation
id of 0, an image listed twice) goes to the log ``bench``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import msgspec

from bench.annotations import REMEDY, check_annotations, field_of, kind_of, whole
from bench.collector import collector_paused
from bench.errors import InputError
from bench.files import sha256_file
from bench.images import IMAGE_SUFFIXES, image_size_hw
from bench.types import FixtureSet, Sample
from bench.yolo import read_yolo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["fingerprint", "read_coco", "read_plain_images", "read_yolo"]

_log = logging.getLogger("bench")
_SEPARATORS = frozenset("/\\:")


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
    with collector_paused():
        content = _read_object(annotations)
        samples = _samples(annotations, _list(annotations, content, "images"), images)
        categories = _categories(annotations, _list(annotations, content, "categories"))
        truths = check_annotations(
            annotations,
            _list(annotations, content, "annotations"),
            {sample.image_id for sample in samples},
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
            content = _parse(stream.read())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give the path of a COCO json file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text at byte {error.start}. {REMEDY}") from error
    except json.JSONDecodeError as error:
        hint = " The file seems to be truncated." if error.pos >= len(error.doc.rstrip()) - 1 else ""
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}.{hint} {REMEDY}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply for COCO ground truth. {REMEDY}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: COCO ground truth is a JSON object, this is {kind_of(content)}.")
    return content


def _parse(data: bytes) -> Any:
    """Parse json: twice as fast by msgspec, and by the standard library what only it takes or can explain."""
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return json.loads(data.decode("utf-8-sig"))


def _list(path: Path, content: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    if field not in content:
        raise InputError(f"{path}: has no field {field!r}; COCO ground truth has images, annotations and categories.")
    entries = content[field]
    if not isinstance(entries, list):
        raise InputError(f"{path}: {field} must be a list, not {kind_of(entries)}. {REMEDY}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {field}[{index}] must be an object, not {kind_of(entry)}. {REMEDY}")
    return entries


def _samples(path: Path, entries: list[dict[str, Any]], images: Path | None) -> tuple[Sample, ...]:
    seen: dict[int, int] = {}
    samples, missing, translated = [], [], 0
    folder = f"{images or Path()}/"  # one path is parsed per image, where a joined one takes two
    plain = _all_plain(entries)
    for index, entry in enumerate(entries):
        if not plain:
            _check_image(f"{path}: images[{index}]", entry, index, seen)
        image_id, name = entry["id"], entry["file_name"]
        file = Path(folder + name)
        if images is not None and not file.is_file():
            other = Path(folder + name.replace("\\", "/"))
            if other != file and other.is_file():
                file, translated = other, translated + 1
            else:
                missing.append((index, name))
        camera = _camera(f"{path}: images[{index}]", entry["camera"]) if "camera" in entry else None
        samples.append(
            Sample(image_id=image_id, path=file, width=entry["width"], height=entry["height"], camera=camera)
        )
    if missing:
        index, name = missing[0]
        raise InputError(
            f"{path}: images[{index}].file_name: {name!r} is listed but is not in {images} "
            f"({len(missing)} of {len(entries)} images are missing). Add the files, or take them out of the list."
        )
    if translated:
        _log.info("%s: %d file names with Windows separators are read with /", path, translated)
    repeated = len(entries) - len({entry["file_name"] for entry in entries})
    if repeated:
        _log.warning("%s: %d images are listed again under another id; each counts as an image", path, repeated)
    return tuple(sorted(samples, key=lambda s: s.image_id))


def _camera(where: str, value: Any) -> tuple[float, float, float, float] | None:
    """Intrinsics of a pinhole camera, in pixels of the image; what others put under this name is theirs."""
    fields = ("fx", "fy", "cx", "cy")
    if not isinstance(value, dict) or not set(fields) & set(value):
        return None
    if not all(type(value.get(field)) in (int, float) for field in fields):
        raise InputError(f"{where}.camera: must be an object with the numbers fx, fy, cx, cy in pixels. {REMEDY}")
    fx, fy, cx, cy = (float(value[field]) for field in fields)
    if not (0 < fx < math.inf and 0 < fy < math.inf and math.isfinite(cx) and math.isfinite(cy)):
        raise InputError(f"{where}.camera: fx and fy must be finite and above 0, cx and cy finite. {REMEDY}")
    return fx, fy, cx, cy


def _all_plain(entries: list[dict[str, Any]]) -> bool:
    """Whether all images are beyond doubt; a few columns say so in a third of the time that ``_check_image`` takes."""
    try:
        ids, widths, heights = ([entry[field] for entry in entries] for field in ("id", "width", "height"))
        names = [entry["file_name"] for entry in entries]
    except KeyError:
        return False
    return (
        {*map(type, ids), *map(type, widths), *map(type, heights)} <= {int}
        and len(set(ids)) == len(ids)
        and min((*widths, *heights, 1)) >= 1
        and set(map(type, names)) <= {str}
        and all(names)
        and _SEPARATORS.isdisjoint("".join(names))
        and ".." not in names
    )


def _check_image(where: str, entry: Mapping[str, Any], index: int, seen: dict[int, int]) -> None:
    """Refuse an image whose id, name or size cannot be used; ``seen`` collects id -> index."""
    image_id = whole(where, entry, "id", least=None)
    if image_id in seen:
        raise InputError(f"{where}.id: {image_id} is already the id of images[{seen[image_id]}]. {REMEDY}")
    seen[image_id] = index
    name = field_of(where, entry, "file_name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}.file_name: must be a file name, not {kind_of(name)}. {REMEDY}")
    _refuse_outside(where, name)
    for field in ("width", "height"):
        whole(where, entry, field, least=1)


def _refuse_outside(where: str, name: str) -> None:
    """Refuse absolute names and ``..``, in the notation of either system."""
    if not _SEPARATORS.intersection(name) and name != "..":
        return
    for pure in (PurePosixPath(name), PureWindowsPath(name)):
        if pure.root or pure.drive or ".." in pure.parts:
            raise InputError(f"{where}.file_name: {name!r} leaves the images folder. Use a name relative to it.")


def _categories(path: Path, entries: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    ids: dict[int, int] = {}
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: categories[{index}]"
        category_id = whole(where, entry, "id", least=None)
        name = field_of(where, entry, "name")
        if not isinstance(name, str):
            raise InputError(f"{where}.name: must be text, not {kind_of(name)}. {REMEDY}")
        if category_id in ids:
            raise InputError(f"{where}.id: {category_id} is already the id of categories[{ids[category_id]}]. {REMEDY}")
        if name in names:
            raise InputError(f"{where}.name: {name!r} is already the name of categories[{names[name]}]. {REMEDY}")
        ids[category_id] = names[name] = index
    return tuple(sorted(entries, key=lambda c: c["id"]))
