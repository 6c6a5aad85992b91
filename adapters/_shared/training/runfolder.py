"""The folder of one run: its name, and the record of what was asked, on what, with what result."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters._shared.training.checkpoint import BEST_FILE, LAST_FILE
from bench.errors import InputError
from bench.files import sha256_file, write_atomic
from bench.host import describe_git, describe_host, package_versions

if TYPE_CHECKING:
    from adapters._shared.training.config import TrainConfig
    from bench.types import FixtureSet

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
RECORD_FILE = "run.json"
SCHEMA = "training_run/1"
_PACKAGES = ("torch", "lightning", "albumentations", "numpy", "opencv-python-headless", "tensorboard")


def claim_folder(out: Path, *, resumed: bool) -> None:
    """Make the folder, writable and free of another run.

    Raises:
        InputError: it holds a run already, or cannot be written.
    """
    if not resumed and any((out / name).exists() for name in (BEST_FILE, LAST_FILE)):
        raise InputError(
            f"--out {out}: holds a run already. Go on with --resume {out}/last.pt, or choose another --out."
        )
    write_atomic(out / ".writable", "")  # says now, not after an epoch, that the folder is read-only
    (out / ".writable").unlink()


def config_json(config: TrainConfig) -> dict[str, Any]:
    """Plain values by option name; paths as they were given."""
    values = dataclasses.asdict(config)
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def describe_set(fixtures: FixtureSet) -> dict[str, Any]:
    """Name, split, size and hash of a set."""
    return {
        "name": fixtures.name,
        "split": fixtures.split,
        "images": len(fixtures.samples),
        "objects": len(fixtures.annotations),
        "sha256": fixtures.sha256,
    }


class RunRecord:
    """``run.json``: written at the start, completed at the end."""

    def __init__(self, out: Path, values: dict[str, Any]) -> None:
        self._path = out / RECORD_FILE
        earlier = _read(self._path)
        self._values = {
            "schema": SCHEMA,
            **values,
            "started_at": earlier.get("started_at") or datetime.now(UTC).isoformat(timespec="seconds"),
            "host": describe_host(),
            "git": describe_git(),
            "packages": package_versions(_PACKAGES),
            "resumed": earlier.get("resumed", 0) + 1 if earlier else 0,
            "finished_at": None,
            "ended_because": None,
            "best": earlier.get("best"),
        }
        self._write()

    def finish(self, *, because: str, best: dict[str, Any] | None) -> None:
        """Add how the run ended.

        Args:
            because: ``epochs``, ``steps``, ``time``, ``patience`` or ``interrupted``.
            best: epoch, step and AP of the best weights, with the file's sha256.
        """
        self._values["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._values["ended_because"] = because
        self._values["best"] = best or self._values["best"]
        self._write()

    def _write(self) -> None:
        write_atomic(self._path, json.dumps(self._values, indent=2, allow_nan=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Choose another --out.") from error
    return found if isinstance(found, dict) else {}


def file_facts(path: Path) -> dict[str, str]:
    """Name and sha256 of a file, without the folder: a record means the same on every machine."""
    return {"file": path.name, "sha256": sha256_file(path)}
