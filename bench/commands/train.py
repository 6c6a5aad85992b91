"""``parity train``: the model's own training code, in this process (it has its own progress bar)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.errors import BenchError, InputError, UsageError
from bench.files import write_atomic
from bench.registry import load_adapter
from bench.schema import dumps, read_json, validate

LAST_FILE, RECORD_FILE, METRICS_FILE = "last.pt", "run.json", "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things go; None: not asked for."""

    out: Path | None = None
    """Folder of the run."""
    preview: Path | None = None
    """Page to write instead of training."""
    metrics: Path | None = None
    """Record of the run with the metrics of every epoch."""
    checkpoint: Path | None = None
    """Copy of the best weights."""


def train_command(
    model: str | None, options: Mapping[str, Any], places: Places, *, config: Path | None, settings: list[str]
) -> int:
    """Train, and print the path of the best weights; or write the preview.

    Args:
        model: name or path; None with a run to resume.
        options: option name -> value as typed, None where not given.
        places: of what is written.
        config: file with options; ``options`` and ``settings`` win over it.
        settings: ``KEY=VALUE`` each.

    Returns:
        0, or 1 when the training broke off (a loss that is not finite).
    """
    values = {**_from_file(config), **_from_settings(settings), **{k: v for k, v in options.items() if v is not None}}
    values = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    run = _run_of(values.get("resume"))
    name = model or _model_of(run)
    adapter = load_adapter(name)
    say = Console(soft_wrap=True, highlight=False, markup=False).print
    if places.preview is not None:
        write = getattr(adapter, "preview", None)
        if write is None:
            raise UsageError(f"{name} has no --preview: its training does not augment images.")
        say(f"Preview: {write(values, places.preview)}")
        return 0
    if places.out is None and run is None and str(values.get("devices", 1)) != "1":
        raise UsageError("parity train: several devices need --out DIR, the folder that their processes share.")
    folder = places.out or run or _new_folder(name, str(values.get("fixtures") or adapter.spec.default_fixtures))
    try:
        best = adapter.train(values, folder)
    except (UsageError, InputError):
        raise
    except BenchError as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"parity: {error}")
        return 1
    except KeyboardInterrupt:
        if (folder / LAST_FILE).is_file():
            say(f"Interrupted. Go on with: parity train --resume {folder / LAST_FILE}")
        raise
    if places.metrics is not None:
        write_atomic(places.metrics, _metrics(folder))
    if places.checkpoint is not None:
        write_atomic(places.checkpoint, best.read_bytes())
    say(f"Best weights: {best}")
    return 0


def _metrics(folder: Path) -> str:
    """The record of a run and its epochs as one document of the record's schema."""
    record = read_json(folder / RECORD_FILE)
    lines = (folder / METRICS_FILE).read_text("utf-8").splitlines()
    document = {**record, "epochs": [json.loads(line) for line in lines]}
    validate(document, "training_run", where=str(folder / RECORD_FILE))
    return dumps(document)


def _from_file(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        text = config.read_text("utf-8")
        found = json.loads(text) if config.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"--config {config}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {config}: neither TOML nor JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InputError(f"--config {config}: holds {type(found).__name__}, not options by name.")
    return found


def _from_settings(settings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in settings:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: the form is KEY=VALUE, for example --set epochs=10")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return values


def _run_of(resume: str | None) -> Path | None:
    """Folder of the run that is resumed."""
    if resume is None:
        return None
    path = Path(resume)
    return path if path.is_dir() else path.parent


def _model_of(run: Path | None) -> str:
    """Name of the model in the record of a run: the core cannot read a checkpoint without torch."""
    if run is None:
        raise UsageError("parity train: name a model, for example: parity train yolov10n --fixtures shapes")
    try:
        record = json.loads((run / RECORD_FILE).read_text("utf-8"))
        return str(record["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--resume: {run / RECORD_FILE} does not say which model it was ({error}). "
            "Name it: parity train MODEL --resume ..."
        ) from error


def _new_folder(model: str, fixtures: str) -> Path:
    """``runs/<model>-<fixtures>-<UTC time>``; a path gives its last part."""
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{Path(model).stem}-{Path(fixtures).name or 'set'}-{time}"
