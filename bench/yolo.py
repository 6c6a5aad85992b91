"""Reader of YOLO text folders: ``images/``, ``labels/`` with the same stems, optional ``data.yaml`` with the names.

One line per box: ``class cx cy w h``, centre and size as fractions of the image, class counted from 0.
"""

from __future__ import annotations

import hashlib
import logging
import math
from typing import TYPE_CHECKING, Any

from bench.errors import InputError
from bench.files import sha256_file
from bench.images import IMAGE_SUFFIXES, image_size_hw
from bench.types import FixtureSet, Sample

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("bench")
_EDGE = 1e-3
"""Slack on 0 and 1: labels are written with few digits."""
_NO_LABELS = frozenset(("classes.txt", "notes.txt", "readme.txt"))
"""Texts that labelling tools put beside the labels."""


def read_yolo(
    root: Path, *, name: str, split: str, origin: str = "", images: Path | None = None, labels: Path | None = None
) -> FixtureSet:
    """Read a YOLO folder into COCO's words.

    Label k becomes category k + 1. Image ids are the file stems where all of them are numbers (``000000000139.jpg`` is
    image 139, as in COCO), else they count from 1 in the order of file names. ``area`` is the box's width times height.
    An image without a label file, or with an empty one, is background. Odd but usable truth goes to the log, counted.

    Args:
        root: Folder that holds ``images``, ``labels`` and ``data.yaml``.
        name: Name of the set.
        split: ``train``, ``calibration`` or ``val``.
        origin: Where the set comes from.
        images: Folder of the images where it is not ``root / "images"``.
        labels: Folder of the labels where it is not ``root / "labels"``.

    Raises:
        InputError: A malformed line (named as file:line), a class without a name, an unreadable image, no image, or
            labels of which none belongs to an image.
    """
    paths = _image_paths(images or root / "images")
    label_files = _label_files(labels or root / "labels", paths)
    names, counted = _class_names(root / "data.yaml")
    samples: list[Sample] = []
    annotations: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    for image_id, path in zip(_image_ids(paths), paths, strict=True):
        height, width = image_size_hw(path)
        samples.append(Sample(image_id=image_id, path=path, width=width, height=height))
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
        label_file = label_files.get(path.stem)
        if label_file is None:
            continue
        digest.update(f"{label_file.name} {sha256_file(label_file)}\n".encode())
        for label, bbox_xywh in read_labels(label_file, (height, width), class_count=counted):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": bbox_xywh,
                    "area": bbox_xywh[2] * bbox_xywh[3],
                    "iscrowd": 0,
                }
            )
    if (root / "data.yaml").is_file():
        digest.update(f"data.yaml {sha256_file(root / 'data.yaml')}\n".encode())
    used = max((a["category_id"] for a in annotations), default=0)
    listed = names or [f"class {k}" for k in range(counted or used)]
    return FixtureSet(
        name=name,
        split=split,
        origin=origin,
        samples=tuple(sorted(samples, key=lambda s: s.image_id)),
        categories=tuple({"id": k + 1, "name": n} for k, n in enumerate(listed)),
        annotations=tuple(annotations),
        sha256=digest.hexdigest(),
        named_categories=names is not None,
    )


def read_labels(
    path: Path, image_hw: tuple[int, int], *, class_count: int | None = None
) -> list[tuple[int, list[float]]]:
    """Read one label file.

    Returns:
        (label, ``[x, y, width, height]`` in pixels) per line.

    Raises:
        InputError: A malformed line, named as file:line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}). Replace the file.") from error
    boxes = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            boxes.append(_parse_line(f"{path}:{number}", line.split(), image_hw, class_count))
    return boxes


def _parse_line(
    where: str, words: list[str], image_hw: tuple[int, int], class_count: int | None
) -> tuple[int, list[float]]:
    if len(words) != 5:
        raise InputError(f"{where}: has {len(words)} columns, expected 5: class cx cy w h (fractions of the image).")
    try:
        label, (cx, cy, w, h) = int(words[0]), map(float, words[1:])
    except ValueError as error:
        raise InputError(
            f"{where}: {error}; expected a whole class number and four fractions: class cx cy w h."
        ) from error
    if label < 0 or (class_count is not None and label >= class_count):
        limit = "" if class_count is None else f" to {class_count - 1} (data.yaml has {class_count} classes)"
        raise InputError(f"{where}: class {label} is outside 0{limit}.")
    if not all(map(math.isfinite, (cx, cy, w, h))):
        raise InputError(f"{where}: cx cy w h must be finite, not {' '.join(words[1:])}.")
    if w < 0 or h < 0:
        raise InputError(f"{where}: negative width or height: {' '.join(words[1:])}.")
    if min(cx, cy) < -_EDGE or max(cx, cy, w, h) > 1 + _EDGE:
        raise InputError(f"{where}: cx cy w h are fractions of the image, 0 to 1, not {' '.join(words[1:])}.")
    if w == 0 or h == 0:
        _log.warning("%s: the box has no width or no height", where)
    height, width = image_hw
    return label, [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]


def _image_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a YOLO set has images/ and labels/.")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in it. Subfolders are not searched.")
    stems: dict[str, Path] = {}
    for path in paths:
        if path.stem in stems:
            raise InputError(
                f"{folder}: {stems[path.stem].name} and {path.name} share one label file. Rename or remove one of them."
            )
        stems[path.stem] = path
    return paths


def _label_files(folder: Path, images: list[Path]) -> dict[str, Path]:
    """Stem -> label file, for images that have one.

    Raises:
        InputError: there are labels, and none of them belongs to an image.
    """
    if not folder.is_dir():
        return {}
    stems = {p.stem for p in images}
    found = {p.stem: p for p in sorted(folder.glob("*.txt")) if p.stem in stems or p.name.lower() not in _NO_LABELS}
    strangers = [p.name for stem, p in found.items() if stem not in stems]
    if strangers and len(strangers) == len(found):
        raise InputError(
            f"{folder}: none of its {len(found)} label files (the first is {strangers[0]}) belongs to an image in "
            f"{images[0].parent} (the first is {images[0].name}). Labels have the name of their image and .txt."
        )
    if strangers:
        _log.warning(
            "%s: %d label files have no image in %s, the first is %s",
            folder,
            len(strangers),
            images[0].parent,
            strangers[0],
        )
    bare = len(stems - found.keys())
    if bare:
        _log.info("%s: %d of %d images have no label file: background", images[0].parent, bare, len(images))
    return {stem: path for stem, path in found.items() if stem in stems}


def _image_ids(paths: list[Path]) -> list[int]:
    if all(p.stem.isascii() and p.stem.isdigit() for p in paths):
        ids = [int(p.stem) for p in paths]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(paths) + 1))


def read_data_yaml(path: Path) -> dict[Any, Any]:
    """Read ``data.yaml``; an absent file is an empty mapping.

    Raises:
        InputError: Not YAML, or no mapping.
    """
    if not path.is_file():
        return {}
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping with 'names', a list or a mapping from class number to name.")
    return content


def _class_names(path: Path) -> tuple[list[str] | None, int | None]:
    """Return the names and their count; without names the count ``nc``; (None, None) when the file says neither."""
    content = read_data_yaml(path)
    count = content.get("nc")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(f"{path}: nc must be a whole number of at least 1, not {count!r}.")
    names = content.get("names")
    if names is None:
        return None, count
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise InputError(f"{path}: names must have the keys 0 to {len(names) - 1}, each once.")
        names = [names[k] for k in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(
            f"{path}: names must be a list of texts, or a mapping from class number to text (quote numbers)."
        )
    if len(set(names)) != len(names):
        raise InputError(f"{path}: names holds a name twice.")
    if count is not None and count != len(names):
        raise InputError(f"{path}: nc is {count}, but there are {len(names)} names.")
    return names, len(names)
