"""Fixture sets by name or by folder, and what evaluation needs from one.

Names are those of the manifests in ``fixtures/``: the generated set ``shapes``, and real sets below ``PARITY_DATA``.
A folder needs no manifest: COCO layout (``annotations/*.json`` and ``images/``) or YOLO layout (``images/``,
``labels/``, optional ``data.yaml``).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.datasets import read_coco, read_plain_images, read_yolo
from bench.errors import InputError, UsageError, did_you_mean
from bench.images import IMAGE_SUFFIXES, image_size_hw, read_image_rgb
from bench.manifests import list_manifests, load_manifest, manifest_file, open_registered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.types import FixtureSet

__all__ = [
    "category_ids",
    "image_size_hw",
    "list_fixtures",
    "read_image_rgb",
    "resolve",
]

_log = logging.getLogger("bench")


def list_fixtures() -> tuple[str, ...]:
    """Names that ``resolve`` knows without a path, sorted."""
    return tuple(sorted(list_manifests()))


def resolve(name_or_dir: str, *, split: str = "val", progress: Callable[[int, int], None] | None = None) -> FixtureSet:
    """Open a fixture set.

    Args:
        name_or_dir: A registered name, a folder, or the path of a manifest (``.json``).
        split: ``train``, ``calibration`` or ``val``. A folder has a single split and is used whole.
        progress: Called with (images done, images in all) while a generated set is rendered.

    Raises:
        UsageError: No set of that name; the set has no such split.
        InputError: The folder or one of its files cannot be used as it is.
    """
    known = list_manifests()
    if name_or_dir in known:
        return _registered(known[name_or_dir], split, progress)
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return _folder(path.resolve(), split)
    if path.is_file() and path.suffix == ".json":
        return open_registered(path.resolve(), load_manifest(path.resolve()), split, base=path.resolve().parent)
    if os.sep in name_or_dir or "/" in name_or_dir or name_or_dir.startswith("."):
        raise InputError(
            f"{name_or_dir}: no such folder. Give an existing folder or one of: {', '.join(sorted(known))}."
        )
    raise UsageError(
        f"no fixture set is called {name_or_dir!r}.{did_you_mean(name_or_dir, known)} A folder is given by its path."
    )


def category_ids(class_names: Sequence[str], fixtures: FixtureSet) -> tuple[int, ...]:
    """Return the category id of each label: by name, or by order when the set has no class names.

    Without names the set only shows the classes it happens to use, so the model may have more than it shows.

    Raises:
        InputError: A class of the model is not in the set, or an unnamed set has more classes than the model.
    """
    if not fixtures.named_categories:
        shown = len(fixtures.categories)
        if shown > len(class_names):
            raise InputError(
                f"{fixtures.name}: uses {shown} classes, the model has {len(class_names)}; without class names labels "
                "map by order, so the numbers must agree. Add data.yaml with the names, or choose another set."
            )
        if shown < len(class_names):
            _log.info(
                "%s: shows %d classes without names, the model has %d; labels map by order",
                fixtures.name,
                shown,
                len(class_names),
            )
        # a set without names comes from YOLO labels: label k is category k + 1
        return tuple(range(1, len(class_names) + 1))
    by_name = {str(c["name"]): int(c["id"]) for c in fixtures.categories}
    missing = [n for n in class_names if n not in by_name]
    if missing:
        free = set(by_name) - set(class_names)
        listed = "; ".join(f"{n!r} is missing.{did_you_mean(n, free) if len(free) < 30 else ''}" for n in missing[:8])
        more = f" (and {len(missing) - 8} more)" if len(missing) > 8 else ""
        raise InputError(
            f"{fixtures.name}: {len(missing)} of the model's {len(class_names)} classes are not among its "
            f"{len(by_name)} categories: {listed}{more} Rename the categories, or choose a set of the model's classes."
        )
    return tuple(by_name[n] for n in class_names)


def _registered(path: Path, split: str, progress: Callable[[int, int], None] | None) -> FixtureSet:
    """Open a set of our own manifests: render it, or read it below ``PARITY_DATA``."""
    from bench.paths import data_dir

    facts = load_manifest(path)
    if facts["kind"] == "registered":
        return open_registered(path, facts, split, base=data_dir())
    from fixtures.shapes.render import set_sha256, split_dir

    folder = split_dir(split, progress)
    return read_coco(
        folder / "annotations.json",
        folder / "images",
        name=facts["name"],
        split=split,
        origin=facts["origin"],
        sha256=set_sha256(split),
    )


def _folder(root: Path, split: str) -> FixtureSet:
    """Open a folder by its layout; for calibration a folder of plain images will do."""
    name = root.name
    annotations = _coco_json(root)
    if annotations is not None:
        return read_coco(annotations, _coco_images(root, annotations), name=name, split=split)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return read_yolo(root, name=name, split=split)
    if split == "calibration":
        for images in (root / "images", root):
            if images.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in images.iterdir()):
                return read_plain_images(images, name=name, split=split)
    raise InputError(
        f"{root}: neither COCO (looked for annotations/instances.json, another json in annotations/, annotations.json) "
        "nor YOLO layout (looked for images/ and labels/). Give the folder that holds these."
    )


def _coco_json(root: Path) -> Path | None:
    """Choose the ground truth of a folder; panoptic and caption files are not box ground truth."""
    for preferred in (root / "annotations" / "instances.json", root / "annotations.json"):
        if preferred.is_file():
            return preferred
    found = sorted((root / "annotations").glob("*.json")) if (root / "annotations").is_dir() else []
    found = [p for p in found if not p.name.startswith(("panoptic", "captions", "stuff", "image_info"))]
    if len(found) > 1:
        found = [p for p in found if p.name.startswith("instances")] or found
    if len(found) > 1:
        raise InputError(
            f"{root / 'annotations'}: several ground-truth files ({', '.join(p.name for p in found)}). Name the one to "
            "use instances.json, or point at it with a manifest: " + manifest_file(root.name)
        )
    return found[0] if found else None


def _coco_images(root: Path, annotations: Path) -> Path:
    """Find the image folder: ``images/``, or as COCO unpacks it: ``val2017/`` beside ``instances_val2017.json``."""
    suffix = annotations.stem.rpartition("_")[2]
    candidates = [root / "images" / suffix, root / "images", root / suffix]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise InputError(
        f"{root}: {annotations.name} has no images beside it; looked for {candidates[1]} and {candidates[2]}."
    )
