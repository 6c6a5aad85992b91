"""Images to learn from and images to judge on: the splits of a set, or a share held out of a set that has none."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.errors import InputError, UsageError
from bench.files import sha256_file
from bench.fixtures import resolve, splits_of
from bench.types import FixtureSet, Sample

TRAINING_IMAGES = "train"
"""The word of ``--val train``: judge on the images that are learnt from."""
LISTED_NAMES = 4
_HASH_BITS = 64
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """What to learn from and what to judge on; the categories of both are the same."""

    train: FixtureSet
    val: FixtureSet
    note: str = ""
    """What the user has to know about them, one line per fact; empty when there is nothing to say."""


def training_splits(
    name_or_dir: str,
    val: str | None = None,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    progress: Progress | None = None,
) -> Splits:
    """Open the images of a training run.

    A set with ``train`` and ``val`` uses them. One that has no ``val``, or no splits at all, gives up a share of its
    images: chosen by a hash of file name and seed, so that adding images moves none of the others.

    Args:
        name_or_dir: Registered set, folder, or manifest.
        val: Another set or folder to judge on (its ``val``, or all of it); ``train``: the training images themselves.
        seed: Of the choice.
        val_fraction: Share to hold out, above 0 and below 1.
        progress: Called with (images done, images in all) while a generated set is rendered.

    Raises:
        UsageError: A set or split that does not exist, or a share that is none.
        InputError: A split without images, or splits whose categories differ.
    """
    has = splits_of(name_or_dir)
    train = _opened(name_or_dir, "train", progress)
    notes: list[str] = []
    if val == TRAINING_IMAGES:
        judged = replace(train, split="val")
        notes.append(
            f"validation on the {len(train.samples)} training images of {train.name} themselves: the AP says how well "
            "they were learnt and is no estimate for unseen data"
        )
    elif val is not None:
        judged = _opened(val, "val", progress)
    elif "val" in has:
        judged = _opened(name_or_dir, "val", progress)
    else:
        train, judged, note = _hold_out(train, name_or_dir, seed, val_fraction)
        notes.append(note)
    train, judged = _same_categories(train, judged)
    if judged.samples is not train.samples:
        shared = shared_images(train, judged)
        if shared:
            notes.append(
                f"{shared} of the {len(judged.samples)} validation images of {judged.name} are training images too "
                "(same file): the AP is too good by what was learnt by heart"
            )
    return Splits(train=train, val=judged, note="\n".join(notes))


def shared_images(train: FixtureSet, val: FixtureSet) -> int:
    """Number of validation images whose file is, byte for byte, also a training image.

    Only files of equal length are read: of two sets of photographs a few percent.

    Raises:
        InputError: A file cannot be read.
    """
    by_size: dict[int, list[Sample]] = {}
    for sample in train.samples:
        by_size.setdefault(_bytes_of(sample), []).append(sample)
    hashes: dict[int, set[str]] = {}
    paths = {sample.path for sample in train.samples}
    count = 0
    for sample in val.samples:
        size = _bytes_of(sample)
        if sample.path in paths:
            count += 1
        elif size in by_size:
            if size not in hashes:
                hashes[size] = {sha256_file(other.path) for other in by_size[size]}
            count += sha256_file(sample.path) in hashes[size]
    return count


def _bytes_of(sample: Sample) -> int:
    try:
        return sample.path.stat().st_size
    except OSError as error:
        raise InputError(f"{sample.path}: cannot be read ({error.strerror}). Restore the file.") from error


def _opened(name_or_dir: str, split: str, progress: Progress | None) -> FixtureSet:
    found = resolve(name_or_dir, split=split, progress=progress)
    if not found.samples:
        raise InputError(f"{name_or_dir}: its split {split} holds no image. Add images, or choose another set.")
    return found


def _hold_out(
    fixtures: FixtureSet, name_or_dir: str, seed: int, val_fraction: float
) -> tuple[FixtureSet, FixtureSet, str]:
    """Part a set; a single image serves as both parts."""
    if not 0 < val_fraction < 1:
        raise UsageError(
            f"training option val_fraction must lie above 0 and below 1, got {val_fraction}; to judge on the training "
            "images type --val train"
        )
    samples = fixtures.samples
    if len(samples) == 1:
        note = f"the only image of {name_or_dir} is trained and judged on: the AP is no estimate for unseen data"
        return fixtures, replace(fixtures, split="val"), note
    places = [_place(sample, seed) for sample in samples]
    limit = int(val_fraction * 2**_HASH_BITS)
    # never none and never all: at least the lowest is held out, at most all but the highest
    chosen = {k for k, place in enumerate(places) if place < limit} or {places.index(min(places))}
    if len(chosen) == len(samples):
        chosen.remove(places.index(max(places)))
    held = _subset(fixtures, [s for k, s in enumerate(samples) if k in chosen], "val")
    kept = _subset(fixtures, [s for k, s in enumerate(samples) if k not in chosen], "train")
    note = (
        f"no val split in {name_or_dir}: {len(held.samples)} of {len(samples)} images held out (seed {seed}); "
        "type --val DIR to give your own"
    )
    return kept, held, note


def _place(sample: Sample, seed: int) -> int:
    """Uniform in 0 .. 2**64 - 1, from seed and file name alone; the name as all systems spell it (NFC)."""
    name = unicodedata.normalize("NFC", sample.path.name)
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[: _HASH_BITS // 8], "big")


def _subset(fixtures: FixtureSet, samples: Sequence[Sample], split: str) -> FixtureSet:
    ids = {sample.image_id for sample in samples}
    facts = f"{fixtures.sha256} {split} {' '.join(str(i) for i in sorted(ids))}"
    return replace(
        fixtures,
        split=split,
        samples=tuple(samples),
        annotations=tuple(a for a in fixtures.annotations if a["image_id"] in ids),
        sha256=hashlib.sha256(facts.encode()).hexdigest(),
    )


def _same_categories(train: FixtureSet, val: FixtureSet) -> tuple[FixtureSet, FixtureSet]:
    """Give sets without class names the same count; refuse any other difference."""
    if not train.named_categories and not val.named_categories:
        most = max((train, val), key=lambda fixtures: len(fixtures.categories)).categories
        return replace(train, categories=most), replace(val, categories=most)
    ours, theirs = _ids_by_name(train), _ids_by_name(val)
    if ours == theirs:
        return train, val
    here, there = f"{train.name} ({train.split})", f"{val.name} ({val.split})"
    differences = [
        *_listed(f"only in {here}", [name for name in ours if name not in theirs]),
        *_listed(f"only in {there}", [name for name in theirs if name not in ours]),
        *_listed(
            "of another id",
            [
                f"{name!r} {ours[name]} and {theirs[name]}"
                for name in ours
                if name in theirs and ours[name] != theirs[name]
            ],
        ),
    ]
    raise InputError(
        f"{here} and {there} have different categories: {'; '.join(differences)}. Give both files the same list of "
        "categories, or choose other images with --val DIR."
    )


def _ids_by_name(fixtures: FixtureSet) -> Mapping[str, Any]:
    return {str(category["name"]): category["id"] for category in fixtures.categories}


def _listed(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return [f"{title}: {', '.join(names[:LISTED_NAMES])}{more}"]
