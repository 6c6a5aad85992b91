"""Layouts of a folder that the user brings, and the splits it holds; ``bench.folders`` opens them.

COCO: ``annotations/instances.json`` (one set), or a json per split (``instances_train2017.json``, ``val.json``) with
images in ``images/train2017``, ``train2017``, ``images/train`` or ``images``; or a folder per split with
``_annotations.coco.json`` beside its images. YOLO: ``images`` and ``labels`` (one set), ``images/train`` and
``labels/train``, ``train/images`` and ``train/labels``, or the paths that ``data.yaml`` names. ``val``, ``valid`` and
``validation`` are one word. COCO comes before YOLO where a folder has both.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from bench.datasets import read_coco, read_yolo
from bench.errors import InputError
from bench.images import IMAGE_SUFFIXES
from bench.manifests import manifest_file
from bench.yolo import read_data_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bench.types import FixtureSet

_log = logging.getLogger("bench")
_SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "calib": "calibration",
    "calibration": "calibration",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_LAST_WORD = re.compile(rf"(?:^|[_-])(?P<token>(?P<word>{'|'.join(_SPLIT_OF_WORD)})(?:\d{{4}})?)$", re.IGNORECASE)
"""``instances_val2017``: token ``val2017``, word ``val``."""
BESIDE_IMAGES = "_annotations.coco.json"
_NO_BOXES = ("panoptic", "captions", "stuff", "image_info")
"""Beginnings of json files of COCO that hold no box ground truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoPart:
    """One split as a json file and a folder of images, or the places where that folder was looked for."""

    annotations: Path
    image_folders: tuple[Path, ...]
    """In the order of preference; the first that exists counts."""

    def open(self, root: Path, split: str) -> FixtureSet:
        """Read it; InputError when there are no images beside the truth."""
        for folder in self.image_folders:
            if folder.is_dir():
                return read_coco(self.annotations, folder, name=root.name, split=split)
        looked = " and ".join(str(p) for p in self.image_folders)
        raise InputError(
            f"{root}: {self.annotations.name} has no images beside it; looked for {looked}. Add the images there."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloPart:
    """One split as a folder of images and a folder of labels."""

    images: Path
    labels: Path

    def open(self, root: Path, split: str) -> FixtureSet:
        """Read it; InputError when there is no folder of labels at all."""
        if not self.labels.is_dir():
            raise InputError(
                f"{self.labels}: no such folder, so the images in {self.images} have no ground truth. Add the labels; "
                "an empty folder says that all images are background."
            )
        return read_yolo(root, name=root.name, split=split, images=self.images, labels=self.labels)


Part = CocoPart | YoloPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a folder holds: one set without a name, or splits."""

    whole: Part | None = None
    splits: Mapping[str, Part] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """Splits that ``data.yaml`` names and the folder lacks, with the sentence for the error."""

    @property
    def known(self) -> bool:
        """Whether a set was recognised."""
        return self.whole is not None or bool(self.splits)


def layout_of(root: Path) -> Layout:
    """Recognise the layout of a folder; nothing but names and ``data.yaml`` is read.

    Raises:
        InputError: several files or folders claim one split, or ``data.yaml`` cannot be read.
    """
    coco = _coco_layout(root)
    if not coco.known:
        return _yolo_layout(root)
    if (root / "labels").is_dir():
        _log.warning("%s: has COCO json and YOLO labels/; the json is read, the labels are not", root)
    return coco


def has_images(folder: Path) -> bool:
    """Whether image files lie directly in a folder."""
    return folder.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())


def _split_of(name: str) -> str | None:
    found = _LAST_WORD.search(name)
    return _SPLIT_OF_WORD[found["word"].lower()] if found else None


def _folders_by_split(parent: Path, qualifies: Callable[[Path], bool]) -> dict[str, Path]:
    """Folders below ``parent`` whose whole name is a split's word, ``val`` or ``val2017``."""
    found: dict[str, Path] = {}
    if not parent.is_dir():
        return found
    for folder in sorted(parent.iterdir()):
        named = _LAST_WORD.fullmatch(folder.name)
        if named is None or not folder.is_dir() or not qualifies(folder):
            continue
        split = _SPLIT_OF_WORD[named["word"].lower()]
        if split in found:
            raise InputError(
                f"{parent}: {found[split].name} and {folder.name} are both the split {split}. Rename or move one."
            )
        found[split] = folder
    return found


def _coco_layout(root: Path) -> Layout:
    for preferred in (root / "annotations" / "instances.json", root / "annotations.json"):
        if preferred.is_file():
            return Layout(whole=CocoPart(annotations=preferred, image_folders=_image_folders(root, preferred, None)))
    found = _truth_files(root / "annotations")
    if not found and not (root / "labels").is_dir():
        found = [p for p in _truth_files(root) if _split_of(p.stem)]
    by_split: dict[str, list[Path]] = {}
    for path in found:
        split = _split_of(path.stem)
        if split is not None:
            by_split.setdefault(split, []).append(path)
    if by_split:
        files = {split: _one_truth(paths) for split, paths in by_split.items()}
        return Layout(
            splits=_ordered(
                {s: CocoPart(annotations=p, image_folders=_image_folders(root, p, s)) for s, p in files.items()}
            )
        )
    if found:
        only = _one_truth(found)
        return Layout(whole=CocoPart(annotations=only, image_folders=_image_folders(root, only, None)))
    beside = _folders_by_split(root, lambda folder: (folder / BESIDE_IMAGES).is_file())
    if beside:
        return Layout(
            splits=_ordered({s: CocoPart(annotations=d / BESIDE_IMAGES, image_folders=(d,)) for s, d in beside.items()})
        )
    if (root / BESIDE_IMAGES).is_file():
        return Layout(whole=CocoPart(annotations=root / BESIDE_IMAGES, image_folders=(root,)))
    return Layout()


def _truth_files(folder: Path) -> list[Path]:
    """Json files of a folder; panoptic and caption files are not box ground truth."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(_NO_BOXES)]


def _one_truth(paths: list[Path]) -> Path:
    """Choose the file of one split: COCO has ``person_keypoints`` beside ``instances``."""
    if len(paths) > 1:
        paths = [p for p in paths if p.name.startswith("instances")] or paths
    if len(paths) > 1:
        folder = paths[0].parent
        raise InputError(
            f"{folder}: several ground-truth files ({', '.join(p.name for p in paths)}). Name the one to "
            "use instances.json, or point at it with a manifest: " + manifest_file(folder.parent.name)
        )
    return paths[0]


def _image_folders(root: Path, annotations: Path, split: str | None) -> tuple[Path, ...]:
    """Places of the images: of a split by its word first, of a whole set in ``images/`` first."""
    images = root / "images"
    named = _LAST_WORD.search(annotations.stem)
    if split is None or named is None:
        suffix = annotations.stem.rpartition("_")[2]
        return (images / suffix, images, root / suffix)
    token = named["token"]
    same_word = [found[split] for parent in (images, root) if split in (found := _folders_by_split(parent, has_images))]
    return tuple(dict.fromkeys((images / token, root / token, *same_word, images)))


def _yolo_layout(root: Path) -> Layout:
    flat = YoloPart(images=root / "images", labels=root / "labels")
    is_flat = has_images(flat.images) and flat.labels.is_dir()
    splits: dict[str, Part] = {
        split: YoloPart(images=folder, labels=root / "labels" / folder.name)
        for split, folder in _folders_by_split(flat.images, Path.is_dir).items()
    }
    for split, folder in _folders_by_split(root, lambda folder: (folder / "images").is_dir()).items():
        if split in splits:
            raise InputError(
                f"{root}: images/{split} and {folder.name}/images are both the split {split}. Remove one of them."
            )
        splits[split] = YoloPart(images=folder / "images", labels=folder / "labels")
    if not any(isinstance(part, YoloPart) and part.labels.is_dir() for part in splits.values()):
        splits = {}  # folders of images without any labels are no ground truth
    by_word, (named, missing) = set(splits), _named_parts(root)
    for split in set(missing) & by_word:
        _log.info("%s The folder of that word is taken.", missing[split])
    splits.update(named)
    missing = {split: reason for split, reason in missing.items() if split not in splits}
    if is_flat and all(part == flat for part in splits.values()):
        return Layout(whole=flat)
    if is_flat and flat not in splits.values():
        raise InputError(
            f"{root}: images/ holds images beside the splits {', '.join(_ordered(splits))}, so it is unclear which "
            "are meant. Move them into a split, or give the folder of one split by its path."
        )
    if not splits and flat.images.is_dir() and flat.labels.is_dir() and not missing:
        return Layout(whole=flat)  # its reader says that there is no image
    return Layout(splits=_ordered(splits), missing=missing)


def _named_parts(root: Path) -> tuple[dict[str, YoloPart], dict[str, str]]:
    """Splits that ``data.yaml`` names: those found, and why the others cannot be used."""
    path = root / "data.yaml"
    content = read_data_yaml(path)
    found: dict[str, YoloPart] = {}
    missing: dict[str, str] = {}
    for word, value in content.items():
        split = _SPLIT_OF_WORD.get(word) if isinstance(word, str) else None
        if split is None or value is None:
            continue
        if not isinstance(value, str):
            missing[split] = f"{path}: {word} must be the path of one folder of images, not {value!r}."
            continue
        folder = _inside(root, value)
        if folder is None:
            missing[split] = (
                f"{path}: {word}: {value!r} leaves {root}. Use a path relative to data.yaml, inside its folder."
            )
        elif not folder.is_dir():
            missing[split] = (
                f"{path}: {word}: {value!r} is not a folder in {root}. Add the images, correct the path (relative to "
                "data.yaml; its 'path' is not read), or take the line out."
            )
        else:
            found[split] = _part_at(root, folder)
    return found, missing


def _inside(root: Path, text: str) -> Path | None:
    """``root / text`` for a relative path that stays inside, in the notation of either system; None for any other.

    Leading ``..`` are dropped where the rest exists: a well-known exporter writes ``../train/images`` for
    ``train/images`` beside its data.yaml. What is returned always lies below ``root``.
    """
    windows = PureWindowsPath(text)
    if windows.drive or windows.root or PurePosixPath(text).is_absolute():
        return None
    parts = list(windows.parts)
    dropped = [p for p in parts if p == ".."]
    while parts and parts[0] == "..":
        parts.pop(0)
    if ".." in parts or (dropped and not (parts and (root / Path(*parts)).is_dir())):
        return None
    return root / Path(*parts)


def _part_at(root: Path, images: Path) -> YoloPart:
    """Find the labels of a folder of images: the last ``images`` in its path is ``labels``; else beside the images."""
    if (images / "images").is_dir() and not has_images(images):
        images /= "images"
    parts = list(images.relative_to(root).parts)
    if "images" not in parts:
        return YoloPart(images=images, labels=images)
    place = len(parts) - 1 - parts[::-1].index("images")
    parts[place] = "labels"
    return YoloPart(images=images, labels=root / Path(*parts))


def _ordered(splits: Mapping[str, Part]) -> dict[str, Part]:
    order: Iterable[str] = dict.fromkeys(_SPLIT_OF_WORD.values())
    return {split: splits[split] for split in order if split in splits}
