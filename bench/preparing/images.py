"""Which images the model is calibrated on: a set's own calibration split, a folder, or COCO images to fetch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.choosing import choose_samples, pixels_sha256
from bench.errors import BenchError, InputError, UsageError
from bench.files import sha256_file
from bench.fixtures import list_fixtures, resolve
from bench.images import image_size_hw
from bench.manifests import list_manifests, load_manifest
from bench.preparing import cocoimages
from bench.types import FixtureSet, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.preparing.cocoimages import Wanted
    from bench.preparing.download import Policy

DEFAULT_COUNT = 100


class _NotHereError(Exception):
    """The evaluation set cannot be opened on this host; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was asked for."""

    calibration: str | None
    """Set, folder, ``coco-train2017``; None: the calibration split of ``evaluation``."""
    evaluation: str
    """Set or folder that the model is evaluated on."""
    count: int | None = None
    """None: ``DEFAULT_COUNT``, or all of a smaller set."""
    seed: int = 0
    listed: Path | None = None
    """File with the names to choose from, for COCO."""
    allow_evaluation: bool = False
    may_fetch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """The images that were chosen."""

    chosen: FixtureSet
    """Samples in the order of calibration; ``sha256`` over their names and files."""
    label: str
    seed: int
    hashes: tuple[tuple[str, str], ...]
    """(file name, sha256) in the order of calibration."""
    evaluation_images: int
    """How many of them are in the evaluation set (more than none only when forced)."""
    evaluation_sets: tuple[str, ...]
    """Sets that they were compared with."""
    compared_with: str
    """How that was done, or that it could not be; without folders, since it is published."""
    why_not_compared: str = ""

    @property
    def compared(self) -> bool:
        """Whether the evaluation set was there to be compared with."""
        return not self.why_not_compared


def own_split(choice: Choice) -> bool:
    """Whether the calibration split of the evaluation set itself is meant.

    Raises:
        UsageError: a folder has no such split.
    """
    if choice.calibration is not None:
        return choice.calibration == choice.evaluation and has_splits(choice.evaluation)
    if not has_splits(choice.evaluation):
        raise UsageError(
            f"{choice.evaluation} has no calibration split, and its own images are what is evaluated. Type: "
            "--calibration DIR (images of the same kind), or --calibration coco-train2017"
        )
    return True


def has_splits(name: str) -> bool:
    """Whether a set is described by a manifest; a folder is one split."""
    return name in list_fixtures() or name.endswith(".json")


def wanted_of(choice: Choice) -> Wanted | None:
    """What would be fetched, or None when nothing has to be.

    Raises:
        UsageError, InputError: as ``cocoimages.want``.
    """
    if not cocoimages.is_source(choice.calibration):
        if choice.listed is not None:
            raise UsageError("--calibration-list goes with --calibration coco-train2017.")
        return None
    return cocoimages.want(
        choice.calibration or "",
        count=choice.count or DEFAULT_COUNT,
        seed=choice.seed,
        listed=choice.listed,
        allow_evaluation=choice.allow_evaluation,
    )


def count_of(choice: Choice, available: int, name: str) -> int:
    """How many of ``available`` images are taken.

    Raises:
        UsageError: fewer than were asked for, or none.
    """
    if choice.count is not None and choice.count > available:
        raise UsageError(
            f"{name}: holds {available} images, {choice.count} are asked for. Type: --calibration-images {available}"
        )
    if not available:
        raise UsageError(f"{name}: holds no image to calibrate on.")
    return min(choice.count or DEFAULT_COUNT, available)


def open_images(choice: Choice, *, progress: Callable[[str, int, int], None], policy: Policy | None = None) -> Images:
    """Open (and fetch, where that was asked for) the calibration images and choose among them.

    Raises:
        UsageError: no calibration set, or fewer images than asked for.
        InputError: images that are missing, damaged, or part of the evaluation set.
    """
    found, label = _open(choice, progress, policy)
    samples = choose_samples(found.samples, count_of(choice, len(found.samples), label), choice.seed)
    hashes = tuple((s.path.name, sha256_file(s.path)) for s in samples)
    digest = hashlib.sha256("".join(f"{name} {sha}\n" for name, sha in hashes).encode())
    why_not = ""
    try:
        shared, sets, how = _shared_with_evaluation(choice, samples, progress)
    except _NotHereError as error:
        shared, sets, why_not = 0, (), str(error)
        how = f"not compared with {Path(choice.evaluation).name}, which the preparing host could not open"
    if shared and not choice.allow_evaluation:
        raise InputError(
            f"{label}: {shared} of {len(samples)} calibration images are in the evaluation set {choice.evaluation}: "
            "int8 would look better than it is. Choose other images with --calibration, or force it: "
            "--allow-evaluation-images"
        )
    return Images(
        chosen=replace(found, samples=samples, annotations=(), sha256=digest.hexdigest()),
        label=label,
        seed=choice.seed,
        hashes=hashes,
        evaluation_images=shared,
        evaluation_sets=sets,
        compared_with=how,
        why_not_compared=why_not,
    )


def is_rendered(name: str) -> bool:
    """Whether a set is generated on this host instead of read."""
    path = list_manifests().get(name)
    return path is not None and load_manifest(path)["kind"] == "generated"


def _open(choice: Choice, progress: Callable[[str, int, int], None], policy: Policy | None) -> tuple[FixtureSet, str]:
    wanted = wanted_of(choice)
    if wanted is not None:
        obtain = cocoimages.obtain if choice.may_fetch else None
        done = obtain(wanted, policy=policy, progress=progress) if obtain else cocoimages.require(wanted)
        return _fetched(done, choice.calibration or ""), f"COCO {wanted.split}"
    name = choice.evaluation if own_split(choice) else choice.calibration or ""
    found = resolve(
        name,
        split="calibration",
        progress=lambda done, total: progress("render calibration images", done, total),
    )
    return found, f"{found.name} calibration split" if has_splits(name) else found.name


def _fetched(wanted: Wanted, name: str) -> FixtureSet:
    samples = []
    for number, file_name in enumerate(wanted.names or (), start=1):
        path = wanted.folder / file_name
        height, width = image_size_hw(path)
        samples.append(Sample(image_id=number, path=path, width=width, height=height))
    return FixtureSet(
        name=name,
        split="calibration",
        samples=tuple(samples),
        categories=(),
        annotations=(),
        sha256="",
        origin=f"{wanted.base_url}/{wanted.split}",
        named_categories=False,
    )


def _shared_with_evaluation(
    choice: Choice, samples: Sequence[Sample], progress: Callable[[str, int, int], None]
) -> tuple[int, tuple[str, ...], str]:
    """How many of the images show the same pixels as one of the evaluation set, those sets, and how that is known."""
    if choice.calibration == f"{cocoimages.PREFIX}{cocoimages.EVALUATION_SPLIT}":
        return len(samples), (cocoimages.EVALUATION_SPLIT,), "val2017 is an evaluation set by its name"
    name = choice.evaluation
    if is_rendered(name) and own_split(choice):
        return 0, (name,), f"{name} renders its calibration and val splits from different seeds"
    try:
        evaluation = resolve(name, progress=lambda done, total: progress(f"render {name}", done, total))
    except BenchError as error:
        raise _NotHereError(str(error)) from error
    sizes = {(s.width, s.height) for s in samples}
    candidates = [s for s in evaluation.samples if (s.width, s.height) in sizes]
    known = set()
    for number, sample in enumerate(candidates, start=1):
        known.add(pixels_sha256(sample))
        progress(f"compare with {evaluation.name}", number, len(candidates))
    shared = sum(pixels_sha256(s) in known for s in samples) if known else 0
    return shared, (evaluation.name,), f"pixels of all {len(evaluation.samples)} images of {evaluation.name}"
