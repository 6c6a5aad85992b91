"""Manifests: sets that are registered by a small json file (schema ``fixture_manifest/1``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets import read_coco, read_yolo
from bench.errors import InputError, UsageError, did_you_mean
from bench.paths import REPOSITORY
from bench.schema import read_json, schema_of, validate

if TYPE_CHECKING:
    from bench.types import FixtureSet


def list_manifests() -> dict[str, Path]:
    """Name -> file, for ``fixtures/<name>/manifest.json`` of this schema."""
    found = (REPOSITORY / "fixtures").glob("*/manifest.json")
    return {p.parent.name: p for p in found if schema_of(read_json(p)) == "fixture_manifest/1"}


def load_manifest(path: Path) -> dict[str, Any]:
    """Read and validate a manifest; InputError names the first wrong place."""
    facts = read_json(path)
    validate(facts, "fixture_manifest", where=str(path))
    content: dict[str, Any] = facts
    return content


def open_registered(path: Path, facts: dict[str, Any], split: str, *, base: Path) -> FixtureSet:
    """Open one split of a set of kind ``registered``.

    Args:
        path: The manifest, for messages.
        facts: Its content.
        split: The split to open.
        base: Folder that ``root`` is relative to.

    Raises:
        UsageError: The set has no such split.
        InputError: The files are absent, unusable, or not those of the stated hash.
    """
    if facts["kind"] != "registered":
        raise InputError(
            f"{path}: kind is {facts['kind']!r}; only a registered set can be opened by its manifest's path."
        )
    name = facts["name"]
    if split not in facts["splits"]:
        raise UsageError(f"{name} has no split {split!r}.{did_you_mean(split, facts['splits'])}")
    entry = facts["splits"][split]
    root = base / entry["root"]
    if not root.is_dir():
        raise InputError(
            f"{name}: {root} does not exist. Get the images from {facts['origin']} and set PARITY_DATA to the folder "
            f"above {entry['root']}, or give the folder itself by its path."
        )
    if entry["format"] == "coco":
        fixtures = read_coco(
            root / entry["annotations"], root / entry["images"], name=name, split=split, origin=facts["origin"]
        )
    else:
        fixtures = read_yolo(root, name=name, split=split, origin=facts["origin"])
    expected = entry.get("sha256")
    if expected is not None and fixtures.sha256 != expected:
        raise InputError(
            f"{name}/{split}: the files in {root} have hash {fixtures.sha256}, {path.name} says {expected}: not "
            "the registered files. Restore them, or give the folder by its path."
        )
    return fixtures


def manifest_file(name: str) -> str:
    """Return an example of a manifest for an error message."""
    return (
        f'{{"schema": "fixture_manifest/1", "name": "{name}", "kind": "registered", "licence": "..", "origin": "..", '
        '"splits": {"val": {"root": ".", "format": "coco", "annotations": "annotations/FILE.json", '
        '"images": "images"}}}'
    )
