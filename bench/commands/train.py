"""``parity train``: the model's own training code, in this process (it has its own progress bar)."""

from __future__ import annotations

import json
import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.commands.export import Deployment, export_command, meta_path
from bench.errors import BenchError, InputError, UsageError
from bench.files import write_atomic
from bench.registry import load_adapter
from bench.schema import dumps, read_json, validate

LAST_FILE, RECORD_FILE, METRICS_FILE = "last.pt", "run.json", "metrics.jsonl"
ONNX_FILE, EXPORTED_HEAD = "model.onnx", "dense"


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
    """Train, print the path of the best weights, and export them where the run's option ``export`` says so; or preview.

    Args:
        model: name or path; None with a run to resume.
        options: option name -> value as typed, None where not given.
        places: of what is written.
        config: file with options; ``options`` and ``settings`` win over it.
        settings: ``KEY=VALUE`` each.

    Returns:
        0, or 1 when the training broke off (a loss that is not finite) or its weights could not be exported.
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
    return _export(name, best, folder) if _wants_export(folder) else 0


def _wants_export(folder: Path) -> bool:
    """Whether the training option ``export`` is on; a model with a training of its own need not have it.

    Of the processes of a run on several GPUs (``LOCAL_RANK`` is the launchers' convention), the first exports.
    """
    record = folder / RECORD_FILE
    if os.environ.get("LOCAL_RANK", "0") != "0" or not record.is_file():
        return False
    found = read_json(record)
    config = found.get("config") if isinstance(found, Mapping) else None
    return isinstance(config, Mapping) and config.get("export") is True


def _export(name: str, best: Path, folder: Path) -> int:
    """Write the raw outputs of the best weights as ``model.onnx`` and its document; 1 when that fails, training holds.

    A file of earlier weights goes first: beside new ones it would be taken for theirs.
    """
    out = folder / ONNX_FILE
    words = ["parity", "export", name, "--weights", str(best), "--head", EXPORTED_HEAD, "--output", str(out)]
    try:
        for old in (out, meta_path(out)):
            old.unlink(missing_ok=True)
        return export_command(
            {"models": [name], "weights": [str(best.absolute())], "precisions": "fp32"},
            out=out,
            deployment=Deployment(head=EXPORTED_HEAD),
        )
    except (BenchError, OSError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(
            f"parity: the training is finished and {best} is kept, but {ONNX_FILE} could not be written: {error}\n"
            f"Once that is mended, type: {shlex.join(words)}\nWithout the file next time: --set export=false"
        )
        return 1


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
