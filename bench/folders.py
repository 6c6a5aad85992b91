"""One split of a folder that the user brings, read by the layout that ``bench.layouts`` recognises."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from bench.datasets import read_plain_images
from bench.errors import InputError, UsageError
from bench.layouts import BESIDE_IMAGES, has_images, layout_of

if TYPE_CHECKING:
    from pathlib import Path

    from bench.types import FixtureSet

_log = logging.getLogger("bench")


def open_folder(root: Path, split: str) -> FixtureSet:
    """Open one split of a folder.

    A folder without splits is used whole, whatever was asked for. Calibration takes ``calibration``, else ``train``,
    else the only split there is, else plain images without ground truth.

    Raises:
        UsageError: The folder has splits, but not this one.
        InputError: No layout is recognised, or the files cannot be used as they are.
    """
    layout = layout_of(root)
    if layout.whole is not None:
        return layout.whole.open(root, split)
    if split in layout.splits:
        return layout.splits[split].open(root, split)
    if split == "calibration":
        plain = None if layout.known else _plain_images(root)
        if plain is not None:
            return read_plain_images(plain, name=root.name, split=split)
        stand_in = "train" if "train" in layout.splits else next(iter(layout.splits), None)
        if stand_in == "train" or len(layout.splits) == 1:
            assert stand_in is not None
            _log.info("%s: has no calibration split, %s is taken", root, stand_in)
            return layout.splits[stand_in].open(root, split)
    if split in layout.missing:
        raise InputError(layout.missing[split])
    if layout.splits:
        raise UsageError(
            f"{root} has no split {split!r}; it has: {', '.join(layout.splits)}. Add that split, give the folder of "
            "other images by its path, or call a json that is to be used whole instances.json."
        )
    raise InputError(
        f"{root}: neither COCO (looked for annotations/instances.json, another json in annotations/, annotations.json, "
        f"train/{BESIDE_IMAGES}) nor YOLO layout (looked for images/ and labels/, images/train and labels/train, "
        "train/images and train/labels, paths in data.yaml). Give the folder that holds these."
    )


def _plain_images(root: Path) -> Path | None:
    return next((p for p in (root / "images", root) if has_images(p)), None)
