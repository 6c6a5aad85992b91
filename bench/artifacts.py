"""The store of exports and conversions: content-addressed, file-locked, verified on every use.

The key of an artefact is the hash of everything that goes into it (source hash, tool versions, options, code of the
adapter). Two runs that need the same artefact at once make it once; a damaged file is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from bench.errors import ArtifactError, InputError
from bench.files import sha256_file, write_atomic
from bench.paths import cache_dir
from bench.schema import canonical, dumps, read_json, validate
from bench.types import Artifact, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RECORD = "artifact.json"


@dataclass(frozen=True, slots=True)
class Made:
    """What a maker reports about the file that it wrote."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    recipe: Mapping[str, Any]


class Store:
    """Artefacts under ``root`` (default: the user's cache folder).

    Args:
        root: folder of the cache.
        build: which of several files of equal identity; a builder that times its choices gives another file each time.
    """

    def __init__(self, root: Path | None = None, *, build: int = 0) -> None:
        self.root = (root or cache_dir()) / "artifacts"
        self._build = {"build": build} if build else {}

    def obtain(
        self,
        *,
        kind: str,
        precision: str,
        file_name: str,
        made_from: str | None,
        identity: Mapping[str, Any],
        make: Callable[[Path], Made],
    ) -> Artifact:
        """Return the artefact of this identity, making it when it is absent or damaged.

        Args:
            kind: artefact kind, for example ``onnx``.
            precision: precision of the artefact.
            file_name: name of the file inside its folder.
            made_from: sha256 of the source artefact.
            identity: everything that the content depends on; plain JSON values.
            make: writes the file to the given path and reports specs and recipe.

        Raises:
            ArtifactError: the file cannot be made.
            InputError: the store cannot be written.
        """
        key = key_of({"kind": kind, "precision": precision, "made_from": made_from, **identity, **self._build})
        folder = self.root / key[:2] / key
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                found = self._read(folder, kind, file_name)
                if found is not None:
                    return found
                return self._make(folder, kind, precision, file_name, made_from, make)
        except OSError as error:
            raise InputError(
                f"{self.root}: the artefact store cannot be written ({error.strerror}). "
                "Free space, or move it with PARITY_CACHE=DIR."
            ) from error

    def folder(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """Return a folder that a runtime fills itself (a cache of engines), keyed as artefacts are; made when absent.

        Raises:
            InputError: the store cannot be written.
        """
        key = key_of({"kind": kind, **identity, **self._build})
        folder = self.root.with_name(kind) / key[:2] / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder.parent}: cannot be written ({error.strerror}). Free space, or move it with PARITY_CACHE=DIR."
            ) from error
        return folder

    def _read(self, folder: Path, kind: str, file_name: str) -> Artifact | None:
        """Return the stored artefact, or None when there is none or its file does not have the recorded hash."""
        record, path = folder / RECORD, folder / file_name
        if not (record.is_file() and path.is_file()):
            return None
        try:
            document = read_json(record)
            validate(document, "artifact", where=str(record))
        except InputError:
            return None
        if sha256_file(path) != document["sha256"]:
            return None
        return Artifact(
            kind=kind,
            path=path,
            sha256=document["sha256"],
            precision=document["precision"],
            inputs=_specs(document["inputs"]),
            outputs=_specs(document["outputs"]),
            made_from=document["made_from"],
            recipe=document["recipe"],
        )

    def _make(
        self,
        folder: Path,
        kind: str,
        precision: str,
        file_name: str,
        made_from: str | None,
        make: Callable[[Path], Made],
    ) -> Artifact:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
            path = Path(scratch) / "content" / file_name
            path.parent.mkdir()
            made = make(path)
            if not path.is_file():
                raise ArtifactError(f"{kind} {precision}: the maker reported success but wrote no {file_name}.")
            artifact = Artifact(
                kind=kind,
                path=folder / file_name,
                sha256=sha256_file(path),
                precision=precision,
                inputs=made.inputs,
                outputs=made.outputs,
                made_from=made_from,
                recipe=made.recipe,
            )
            write_atomic(path.parent / RECORD, dumps(record_of(artifact)))
            shutil.rmtree(folder, ignore_errors=True)
            path.parent.rename(folder)
        return artifact


def record_of(artifact: Artifact) -> dict[str, Any]:
    """The JSON record that lies beside an artefact (schema ``artifact/1``)."""

    def specs(items: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in items]

    return {
        "schema": "artifact/1",
        "kind": artifact.kind,
        "sha256": artifact.sha256,
        "precision": artifact.precision,
        "inputs": specs(artifact.inputs),
        "outputs": specs(artifact.outputs),
        "made_from": artifact.made_from,
        "recipe": json.loads(canonical(artifact.recipe)),
    }


def key_of(identity: Mapping[str, Any]) -> str:
    """Hash of an identity: sha256 of its canonical JSON."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def source_sha256(folder: Path) -> str:
    """Hash of the Python sources below a folder, or of one file: a changed adapter must not find its old export."""
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*.py") if "tests" not in p.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _specs(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=t["name"], shape=tuple(t["shape"]), dtype=t["dtype"]) for t in items)
