"""Images of COCO train2017 for calibration: N of them by seed, one by one, without the 18 GB archive.

The names come from a file that the user gives, or from COCO's archive of annotations (241 MB, once). val2017 is the
evaluation set: calibrating on it makes int8 look better than it is.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bench.errors import InputError, UsageError
from bench.files import write_atomic
from bench.images import image_size_hw
from bench.paths import cache_dir
from bench.preparing.download import Expected, Missing, Policy, Unreachable, fetch, safe_name
from bench.preparing.namelists import SPLITS, choose, names_in, read_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PREFIX = "coco-"
EVALUATION_SPLIT = "val2017"
BASE_URL = "http://images.cocodataset.org"
"""The host has no certificate of its own name; sizes, MD5 and the image's own end marker are checked instead."""
IMAGE_LIMIT = 32 << 20
_LISTED_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """COCO's archive of annotations, as published."""

    path: str = "annotations/annotations_trainval2017.zip"
    size: int = 252_907_541
    md5: str = "f4bbac642086de4f52a3fdda2de5fa2c"

    def member(self, split: str) -> str:
        """The smallest file in it that lists every image of a split."""
        return f"annotations/captions_{split}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a choice of images needs, and what of it has to be fetched."""

    split: str
    count: int
    seed: int
    folder: Path
    """Where the images lie, or will."""
    base_url: str
    names: tuple[str, ...] | None
    """The chosen file names, or None while the list of names is not on this host."""
    archive: Archive

    @property
    def list_url(self) -> str | None:
        """The archive to fetch first, or None when the names are known."""
        return None if self.names is not None else f"{self.base_url}/{self.archive.path}"

    def url(self, name: str) -> str:
        """Address of one image."""
        return f"{self.base_url}/{self.split}/{name}"

    def missing(self) -> tuple[str, ...]:
        """Chosen names that are not in the folder, whole."""
        return tuple(n for n in self.names or () if not is_whole(self.folder / n))

    def describe(self) -> list[str]:
        """Say in lines what would be fetched."""
        lines = []
        if self.names is None:
            lines.append(f"list of names: {self.list_url} ({self.archive.size / 1e6:.0f} MB, once)")
            lines.append(
                f"images: {self.count} of {self.split} by seed {self.seed}, from {self.base_url}/{self.split}/"
            )
            return lines
        todo = self.missing()
        lines.append(f"images: {len(todo)} of {len(self.names)} ({len(self.names) - len(todo)} are in {self.folder})")
        lines += [f"  {self.url(n)}" for n in todo[:3]]
        if len(todo) > 3:
            lines.append(f"  and {len(todo) - 3} more (all of them: --dry-run --json)")
        return lines


def is_source(name: str | None) -> bool:
    """Whether a value of ``--calibration`` names COCO images to fetch."""
    return name is not None and name.startswith(PREFIX) and name.removeprefix(PREFIX) in SPLITS


def want(
    name: str,
    *,
    count: int,
    seed: int,
    listed: Path | None,
    allow_evaluation: bool,
    base_url: str | None = None,
    archive: Archive | None = None,
) -> Wanted:
    """Choose the images of ``coco-train2017``, as far as that is possible without the network.

    Args:
        name: ``coco-train2017``, or ``coco-val2017`` when it is forced.
        count: how many.
        seed: of the choice.
        listed: COCO json or text file (a name per line) with the names to choose from.
        allow_evaluation: take images of the evaluation set all the same.
        base_url: a mirror; default ``PARITY_COCO_URL``, else COCO's own host.
        archive: facts of the archive of annotations.

    Raises:
        UsageError: the evaluation set, unforced.
        InputError: a list that cannot be used, or that is shorter than ``count``.
    """
    split = name.removeprefix(PREFIX)
    if split == EVALUATION_SPLIT and not allow_evaluation:
        raise UsageError(
            f"--calibration {name}: {EVALUATION_SPLIT} is what models are evaluated on; calibrated on it, int8 looks "
            f"better than it is. Type: --calibration {PREFIX}train2017 (or force it: --allow-evaluation-images)"
        )
    folder = cache_dir() / "images" / name
    names: tuple[str, ...] | None = None
    if listed is not None:
        names = read_names(listed, split)
    elif _cached_list(folder, split).is_file():
        names = read_names(_cached_list(folder, split), split)
    chosen = None if names is None else choose(names, count, seed, where=str(listed or _cached_list(folder, split)))
    return Wanted(
        split=split,
        count=count,
        seed=seed,
        folder=folder,
        base_url=(base_url or os.environ.get("PARITY_COCO_URL") or BASE_URL).rstrip("/"),
        names=chosen,
        archive=archive or Archive(),
    )


def obtain(
    wanted: Wanted, *, policy: Policy | None = None, progress: Callable[[str, int, int], None] | None = None
) -> Wanted:
    """Fetch what is missing and return the choice with all its images in the folder.

    Raises:
        InputError: no network, a name that the server does not have, a full disk; what arrived is kept, and the message
            says what would be fetched and how to go on without.
    """
    report = progress or (lambda text, done, total: None)
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(wanted.folder / ".lock", timeout=1):
            if wanted.names is None:
                wanted = _fetch_list(wanted, policy, report)
            _fetch_images(wanted, policy, report)
    except Timeout:
        raise InputError(
            f"{wanted.folder}: another parity prepare fetches images into it. Type the same command again when "
            "it is done."
        ) from None
    except (Unreachable, Missing) as error:
        raise InputError(f"{error} {how_to_go_on(wanted)}") from error
    except OSError as error:
        raise InputError(
            f"{wanted.folder}: cannot be written ({error.strerror}). Free space, or move the cache with "
            "PARITY_CACHE=DIR."
        ) from error
    return wanted


def how_to_go_on(wanted: Wanted) -> str:
    """What would be fetched, and the ways without."""
    lines = "; ".join(line.strip() for line in wanted.describe())
    return (
        f"Would fetch: {lines}. What is in {wanted.folder} is kept: with a network, type the same command again. "
        "Without one: --calibration DIR with images of your own; or --calibration-list FILE with names, the images "
        f"copied into {wanted.folder}, and --skip-calibration-download."
    )


def require(wanted: Wanted) -> Wanted:
    """Check that everything is there already, as ``--skip-calibration-download`` promises.

    Raises:
        InputError: the names or some of the images are not on this host.
    """
    todo = wanted.missing()
    if wanted.names is None or todo:
        raise InputError(f"--skip-calibration-download: not all images are on this host. {how_to_go_on(wanted)}")
    return wanted


def is_whole(path: Path) -> bool:
    """Whether a file is an image that does not end early."""
    if not path.is_file():
        return False
    try:
        image_size_hw(path)
    except InputError:
        return False
    return True


def _cached_list(folder: Path, split: str) -> Path:
    return folder / f"{split}.txt"


def _fetch_list(wanted: Wanted, policy: Policy | None, report: Callable[[str, int, int], None]) -> Wanted:
    """Fetch the archive of annotations, keep the names in it, drop the archive."""
    archive = wanted.archive
    path = wanted.folder / safe_name(archive.path.rpartition("/")[2], where="archive")
    fetch(
        f"{wanted.base_url}/{archive.path}",
        path,
        expected=Expected(limit_bytes=archive.size, size=archive.size, md5=archive.md5),
        policy=policy,
        progress=lambda done, total: report("fetch the list of images (MB)", done >> 20, total >> 20),
    )
    member = archive.member(wanted.split)
    try:
        with zipfile.ZipFile(path) as opened:
            if opened.getinfo(member).file_size > _LISTED_LIMIT:
                raise InputError(f"{path}: {member} is too long to be COCO's.")
            names = names_in(opened.read(member), f"{path.name}: {member}", wanted.split, is_json=True)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise InputError(f"{path}: holds no {member} ({error}). Delete it and type the same command again.") from error
    head = f"# images of COCO {wanted.split}, from {member} in {archive.path} (MD5 {archive.md5})\n"
    listed = write_atomic(_cached_list(wanted.folder, wanted.split), head + "\n".join(sorted(names)) + "\n")
    path.unlink(missing_ok=True)
    return replace(wanted, names=choose(names, wanted.count, wanted.seed, where=str(listed)))


def _fetch_images(wanted: Wanted, policy: Policy | None, report: Callable[[str, int, int], None]) -> None:
    refused: list[str] = []
    names = wanted.names or ()
    todo = set(wanted.missing())
    for number, name in enumerate(names, start=1):
        if name in todo:
            try:
                fetch(
                    wanted.url(name),
                    wanted.folder / safe_name(name, where="list"),
                    expected=Expected(limit_bytes=IMAGE_LIMIT),
                    policy=policy,
                    check=_check_image,
                )
            except Missing as error:  # the others may be there
                refused.append(str(error))
        report(f"fetch images of {wanted.split}", number, len(names))
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise Missing(f"{len(refused)} of {len(names)} images cannot be had: {refused[0]}{more}")


def _check_image(path: Path) -> None:
    image_size_hw(path)
