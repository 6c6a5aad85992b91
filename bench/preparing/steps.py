"""Which steps are finished: a file beside the results, so that a killed preparation goes on where it stopped.

A step counts as finished when it was recorded with the same identity (everything that its files depend on) and every
file of it still has the recorded hash. Files get their names by a rename, so half a file never has one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.artifacts import key_of
from bench.errors import InputError
from bench.files import sha256_file, write_atomic
from bench.schema import dumps, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATE = ".prepare.json"
IN_PLACE = "in_place"
"""Fact of an export that left a file where the user had put it: it is never overwritten."""
_TEMPORARY = ".prepare-tmp-"
_FORM = "prepare-state/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One file as it was written."""

    name: str
    sha256: str
    bytes: int


class Steps:
    """The finished steps of one folder.

    Args:
        folder: where the results lie; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: str | None = None
        """Why the record of an earlier start was not used."""
        self._steps: dict[str, dict[str, Any]] = {}
        path = folder / STATE
        if path.is_file():
            try:
                self._steps = _checked(read_json(path), path)
            except InputError as error:
                self.unreadable = str(error)

    def sweep(self) -> None:
        """Drop what a killed start left half-written; only while nobody else works in the folder."""
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                path.unlink()

    def finished(self, step: str, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Facts of a finished step, or None when it has to be done (again)."""
        entry = self._steps.get(step)
        if entry is None or entry["identity"] != key_of(identity):
            return None
        whole = all(_is_same(self.folder / f["name"], f["sha256"]) for f in entry["files"])
        return entry["facts"] if whole else None

    def record(
        self, step: str, identity: Mapping[str, Any], names: Sequence[str], facts: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """Remember that a step wrote these files, and return ``facts``.

        Raises:
            InputError: a file is missing, or the record cannot be written.
        """
        files = [
            {"name": n, "sha256": sha256_file(self.folder / n), "bytes": (self.folder / n).stat().st_size}
            for n in names
        ]
        self._steps[step] = {"identity": key_of(identity), "files": files, "facts": dict(facts or {})}
        write_atomic(self.folder / STATE, dumps({"schema": _FORM, "steps": self._steps}))
        return self._steps[step]["facts"]  # type: ignore[no-any-return]

    def facts(self, step: str) -> Mapping[str, Any]:
        """What was recorded of a step, finished or not; empty when it never was."""
        entry = self._steps.get(step)
        return entry["facts"] if entry is not None else {}

    def stored(self) -> dict[str, Stored]:
        """Every file that a finished step recorded, whether it is still there or not."""
        return {f["name"]: Stored(**f) for entry in self._steps.values() for f in entry["files"]}

    def foreign(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that lie in the folder and that no step wrote."""
        return [n for n in names if (self.folder / n).exists() and n not in self.stored()]

    def changed(self, name: str) -> bool:
        """Whether a recorded file is there with another content."""
        stored = self.stored().get(name)
        path = self.folder / name
        return stored is not None and path.is_file() and not _is_same(path, stored.sha256)


def make_folder(folder: Path) -> None:
    """Make a folder and see that it can be written; InputError otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_TEMPORARY):
            pass
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made or written ({error.strerror}). Choose another folder with --out DIR."
        ) from error


def place(source: Path, target: Path, sha256: str) -> None:
    """Copy a file beside ``target``, check its hash and rename it into place.

    Raises:
        InputError: the disk is full or read-only, or the copy differs; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        shutil.copyfile(source, temporary)
        if sha256_file(temporary) != sha256:
            raise InputError(f"{target}: the copy of {source} has another hash. Check the disk, then type it again.")
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}). Free space, or choose another folder with --out DIR; "
            "then type the same command again: finished steps are kept."
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _is_same(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def _checked(document: Any, path: Path) -> dict[str, dict[str, Any]]:
    """Take only what ``record`` writes: names in it are joined to the folder."""
    try:
        if document["schema"] != _FORM:
            raise KeyError("schema")
        steps = {
            str(step): {
                "identity": str(entry["identity"]),
                "files": [
                    {"name": _plain(f["name"]), "sha256": str(f["sha256"]), "bytes": int(f["bytes"])}
                    for f in entry["files"]
                ],
                "facts": dict(entry["facts"]),
            }
            for step, entry in document["steps"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a record of parity prepare ({error!r})") from error
    return steps


def _plain(name: Any) -> str:
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no plain file name")
    return name
