"""Which image of a fixture set a predictions entry means."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError, did_you_mean
from bench.ids import positions

if TYPE_CHECKING:
    from bench.types import Array, FixtureSet, Sample

_MAX_ID_DIGITS = 18


class ImageIndex:
    """Finds samples by file name or path, then by basename, then by integer image id.

    A name that several images share is never guessed: the entry must give enough of the path. Separators of Windows
    and the two ways of writing an accented letter (macOS splits it) make no difference.
    """

    def __init__(self, fixtures: FixtureSet) -> None:
        self._set = fixtures.name
        self._samples = fixtures.samples
        self._by_id = {sample.image_id: sample for sample in fixtures.samples}
        self.collisions: list[str] = []
        """Entries that were told apart by their folder because several images share the file name."""

    @cached_property
    def _by_path(self) -> dict[str, list[Sample]]:
        found: dict[str, list[Sample]] = defaultdict(list)
        for sample in self._samples:
            found[plain_path(str(sample.path))].append(sample)
        return found

    @cached_property
    def _by_name(self) -> dict[str, list[Sample]]:
        named: dict[str, list[Sample]] = defaultdict(list)
        for path, samples in self._by_path.items():
            named[path.rsplit("/", 1)[-1]] += samples
        return named

    def rows(self, image_ids: Array) -> Array | None:
        """Index into the set's samples of (N,) int64 image ids; None when one of them is not in the set."""
        known = np.array([sample.image_id for sample in self._samples], np.int64)
        order = np.argsort(known, kind="stable")
        at = positions(known[order], image_ids)
        return order[at] if bool((at >= 0).all()) else None

    def find(self, image: str | int) -> Sample:
        """Return the sample that ``image`` names; InputError without a place when there is none or more than one."""
        if isinstance(image, int):
            return self.by_id(image)
        key = plain_path(image)
        exact = self._by_path.get(key, [])
        if len(exact) > 1:  # their paths differ in nothing but separators or accents
            exact = [sample for sample in exact if str(sample.path) == image]
        if len(exact) == 1:
            return exact[0]
        name = key.rsplit("/", 1)[-1]
        named = self._by_name.get(name, [])
        if len(named) == 1:
            return named[0]
        if named:
            return self._apart(image, key, named)
        if key.isascii() and key.isdecimal() and len(key) <= _MAX_ID_DIGITS and int(key) in self._by_id:
            return self._by_id[int(key)]
        hint = did_you_mean(name, self._by_name) if len(self._by_name) <= 10_000 else ""
        raise InputError(f"image {image!r} is not in fixture set '{self._set}'{_short(hint)}")

    def by_id(self, image_id: int) -> Sample:
        """Return the sample with this id; InputError without a place when there is none."""
        if image_id in self._by_id:
            return self._by_id[image_id]
        raise InputError(
            f"image_id {image_id} is not in fixture set '{self._set}' ({len(self._by_id)} images); "
            "score against the set that the predictions were made for"
        )

    def _apart(self, image: str, key: str, named: list[Sample]) -> Sample:
        """Tell images of one basename apart by the folders that the entry gives."""
        ending = [sample for sample in named if plain_path(str(sample.path)).endswith("/" + key)]
        if len(ending) != 1:
            shown = ", ".join(str(sample.path) for sample in named[:3])
            raise InputError(
                f"image {image!r} may be any of {len(named)} files ({shown}); give the path or the image id"
            )
        self.collisions.append(image)
        return ending[0]


def plain_path(path: str) -> str:
    """A path with ``/`` between its parts, without a leading ``./``, its accented letters as one character each."""
    plain = path.strip().replace("\\", "/").removeprefix("./")
    return plain if plain.isascii() else unicodedata.normalize("NFC", plain)


def _short(hint: str) -> str:
    """Drop the list of all names that ``did_you_mean`` falls back to."""
    return "." + hint if hint.startswith(" Did you mean") else ""
