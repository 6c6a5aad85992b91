"""Fixture sets by name or by folder, and what evaluation needs from one.

Names are those of the manifests in ``fixtures/``: the generated set ``shapes``, and real sets below ``PARITY_DATA``.
A folder needs no manifest: its layout, COCO or YOLO, whole or in splits, is recognised by ``bench.layouts``.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.datasets import read_coco
from bench.errors import InputError, UsageError, did_you_mean
from bench.folders import open_folder
from bench.images import image_size_hw, read_image_rgb
from bench.layouts import layout_of
from bench.manifests import list_manifests, load_manifest, open_registered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.errors import BenchError
    from bench.types import FixtureSet

__all__ = [
    "category_ids",
    "image_size_hw",
    "list_fixtures",
    "read_image_rgb",
    "resolve",
    "splits_of",
]

_log = logging.getLogger("bench")


def list_fixtures() -> tuple[str, ...]:
    """Names that ``resolve`` knows without a path, sorted."""
    return tuple(sorted(list_manifests()))


def resolve(name_or_dir: str, *, split: str = "val", progress: Callable[[int, int], None] | None = None) -> FixtureSet:
    """Open a fixture set.

    Args:
        name_or_dir: A registered name, a folder, or the path of a manifest (``.json``).
        split: ``train``, ``calibration`` or ``val``. A folder without splits is used whole.
        progress: Called with (images done, images in all) while a generated set is rendered.

    Raises:
        UsageError: No set of that name; the set, or a folder that has splits, has no such split.
        InputError: The folder or one of its files cannot be used as it is.
    """
    known = list_manifests()
    if name_or_dir in known:
        return _registered(known[name_or_dir], split, progress)
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        return open_folder(path.resolve(), split)
    if path.is_file() and path.suffix == ".json":
        return open_registered(path.resolve(), load_manifest(path.resolve()), split, base=path.resolve().parent)
    raise _unknown(name_or_dir, known)


def splits_of(name_or_dir: str) -> tuple[str, ...]:
    """Names of the splits that a set has; none for a folder that is used whole. No image is read.

    Raises:
        UsageError: No set of that name.
        InputError: The folder or manifest cannot be used as it is.
    """
    known = list_manifests()
    path = Path(name_or_dir).expanduser()
    if name_or_dir in known or (path.is_file() and path.suffix == ".json"):
        facts = load_manifest(known.get(name_or_dir, path))
        return tuple(facts["splits"])
    if path.is_dir():
        layout = layout_of(path.resolve())
        return tuple(dict.fromkeys((*layout.splits, *layout.missing)))
    raise _unknown(name_or_dir, known)


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


def _unknown(name_or_dir: str, known: Iterable[str]) -> BenchError:
    if os.sep in name_or_dir or "/" in name_or_dir or name_or_dir.startswith("."):
        return InputError(
            f"{name_or_dir}: no such folder. Give an existing folder or one of: {', '.join(sorted(known))}."
        )
    return UsageError(
        f"no fixture set is called {name_or_dir!r}.{did_you_mean(name_or_dir, known)} A folder is given by its path."
    )


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
