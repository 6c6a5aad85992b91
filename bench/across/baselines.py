"""Stored runs: reading one side of a comparison, and the baseline file that keeps several runs of one plan.

A suite that was written to a file of its own (``--output FILE.json``) stands beside the folder of its run. A baseline
is a folder: ``suite.json`` and ``predictions/`` of its last run, ``baseline.json`` with the in-run ratios of all its
runs, and ``runs/`` with each run's own folder (evidence; a comparison does not read it).
"""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError
from bench.files import sha256_file, write_atomic
from bench.schema import dumps, from_number, read_json, validate
from bench.types import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SUITE_NAME, BASELINE_NAME, PREDICTIONS = "suite.json", "baseline.json", "predictions"
_SUITE_SCHEMA, _BASELINE_SCHEMA = "suite_result/1", "baseline/1"
_CELL_FIELDS = ("model", "backend", "device", "precision", "fixtures", "batch")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One side of a comparison."""

    path: Path
    """As it was given."""
    suite: Mapping[str, Any]
    folder: Path
    """Holds ``predictions/``."""
    runs: tuple[Mapping[str, Any], ...]
    """``runs`` of ``baseline.json``; for a lone suite the one run that it is."""
    note: str | None = None
    """Why a ``baseline.json`` beside the suite is not used."""

    def cells(self) -> dict[str, Mapping[str, Any]]:
        """Cell id -> record, in the suite's order."""
        return {cell_id(c): c for c in self.suite["cells"]}

    def predictions_of(self, cell: str) -> Path:
        """Where a cell's detections are stored."""
        return self.folder / PREDICTIONS / f"{cell}.json"


def cell_id(record: Mapping[str, Any]) -> str:
    """Id of a cell's record, as it names files and tests."""
    return Cell(**{k: record["cell"][k] for k in _CELL_FIELDS}).id


def load_side(path: Path) -> Side:
    """Open a ``suite.json``, a ``baseline.json``, or a folder that holds one.

    Raises:
        InputError: unreadable, of another schema, of another version, or with a number that cannot be compared.
    """
    found = _document_of(path)
    label = schema_label(found)
    if label == _BASELINE_SCHEMA or (found.name == BASELINE_NAME and label != _SUITE_SCHEMA):
        return _load_baseline(path, found)
    suite = read_finite_suite(found)
    side = Side(path=path, suite=suite, folder=_run_folder(found, suite), runs=(run_record(suite),))
    stored = found.parent / BASELINE_NAME
    if found.name != SUITE_NAME or not stored.is_file() or schema_label(stored) == _SUITE_SCHEMA:
        return side
    document = _read_baseline(stored)
    if document["suite_sha256"] == sha256_file(found):
        return Side(path=path, suite=suite, folder=found.parent, runs=tuple(document["runs"]))
    note = f"{BASELINE_NAME} beside the base belongs to another {SUITE_NAME} and is not used."
    return Side(path=path, suite=suite, folder=found.parent, runs=side.runs, note=note)


def _run_folder(suite_path: Path, suite: Mapping[str, Any]) -> Path:
    """Folder of the run's detections: the file's own, or that of the run's name beside a file written by --output."""
    named = suite_path.parent / str(suite["run_id"])
    return named if (named / SUITE_NAME).is_file() else suite_path.parent


def schema_label(path: Path) -> str | None:
    """The ``schema`` field of a JSON file, None when it has none; InputError when it is not JSON."""
    document = read_json(path)
    label = document.get("schema") if isinstance(document, dict) else None
    return label if isinstance(label, str) else None


def refuse_versions(base: Path, cand: Path) -> None:
    """Refuse a pair of which one was written by another version; the message names both versions."""
    labels = [(p, schema_label(_document_of(p))) for p in (base, cand)]
    known = (_SUITE_SCHEMA, _BASELINE_SCHEMA)
    if all(label in known for _, label in labels):
        return
    words = " and ".join(f"{path} is {label or 'no suite (it has no field schema)'}" for path, label in labels)
    raise InputError(
        f"{words}; this version compares {_SUITE_SCHEMA} only (a base may be {_BASELINE_SCHEMA}). "
        "Measure both with one version."
    )


def read_finite_suite(path: Path) -> dict[str, Any]:
    """Read and validate a suite whose numbers can be compared.

    Raises:
        InputError: as ``bench.schema.read_suite``; a cell twice; a latency, ratio or AP that is not finite, named.
    """
    from bench.schema import read_suite

    suite = read_suite(path)
    seen: set[str] = set()
    for record in suite["cells"]:
        name = cell_id(record)
        if name in seen:
            raise InputError(f"{path}: cell {name} is there twice.")
        seen.add(name)
        for field, value in _numbers(record):
            number = from_number(value)
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"{path}: cell {name}: field {field} is {number}: a run with it cannot be compared.")
            if field.startswith("speed.ratio") and not number > 0:
                raise InputError(f"{path}: cell {name}: field {field} is {number}, a speed ratio is above 0.")
    return suite


def run_record(suite: Mapping[str, Any]) -> dict[str, Any]:
    """What a baseline keeps of one run."""
    return {
        "run_id": suite["run_id"],
        "started_at": suite["started_at"],
        "finished_at": suite["finished_at"],
        "host": suite["host"],
        "protocol": suite["protocol"],
        "reference": suite["reference"],
        "cells": [_cell_record(c) for c in suite["cells"]],
    }


def store_run(out: Path, run_folder: Path) -> int:
    """Add a finished run to the baseline in ``out`` (made when absent); the number of runs it then has.

    ``baseline.json`` is written last and holds the hash of ``suite.json``: what is interrupted in between is refused by
    the next reader, and put right by storing the run again.

    Raises:
        InputError: the run cannot be read, is incomplete, is there already, or differs from the stored ones in what a
            measurement depends on; the baseline stays as it was.
    """
    suite = read_finite_suite(run_folder / SUITE_NAME)
    if suite["interrupted"] or suite.get("aborted"):
        raise InputError(f"{run_folder}: the run did not finish; a baseline holds finished runs.")
    record = run_record(suite)
    runs = list(_read_baseline(out / BASELINE_NAME)["runs"]) if (out / BASELINE_NAME).is_file() else []
    refuse_other(out, runs, record)
    document = {
        "schema": _BASELINE_SCHEMA,
        "suite_sha256": sha256_file(run_folder / SUITE_NAME),
        "runs": [*runs, record],
    }
    validate(document, "baseline", where=str(out / BASELINE_NAME))
    _put_predictions(run_folder / PREDICTIONS, out / PREDICTIONS)
    write_atomic(out / SUITE_NAME, (run_folder / SUITE_NAME).read_bytes())
    write_atomic(out / BASELINE_NAME, dumps(document))
    return len(document["runs"])


def refuse_other(out: Path, runs: list[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    """Refuse a run that is not another measurement of the same plan on the same host."""
    if not runs:
        return
    if record["run_id"] in [r["run_id"] for r in runs]:
        raise InputError(f"{out}: run {record['run_id']} is in this baseline already; each run counts once.")
    differences = list(_differences(runs[0], record))
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise InputError(
            f"{out}: run {record['run_id']} does not belong to this baseline: {'; '.join(differences[:3])}{more}. "
            "Start a new one with another --out DIR."
        )


def refuse_host(out: Path, host: Mapping[str, Any]) -> None:
    """Refuse, before anything is measured, to add to a baseline of another host or other versions."""
    if not (out / BASELINE_NAME).is_file():
        return
    differences = list(_host_differences(_read_baseline(out / BASELINE_NAME)["runs"][0]["host"], host))
    if differences:
        raise InputError(
            f"{out}: holds a baseline of another host: {'; '.join(differences[:3])}. "
            "Start a new one with another --out DIR."
        )


def _host_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in ("cpu", "cores", "gpu", "os", "python"):
        if first[name] != other[name]:
            yield f"{name} {first[name]}, now {other[name]}"
    here, there = first["versions"], other["versions"]
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            yield f"version of {name} {here.get(name, 'absent')}, now {there.get(name, 'absent')}"


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    yield from _host_differences(first["host"], other["host"])
    for part, here, there in (
        ("", first["protocol"], other["protocol"]),
        ("reference of ", first["reference"]["cells"], other["reference"]["cells"]),
    ):
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                yield f"{part}{name} {here.get(name, 'absent')}, now {there.get(name, 'absent')}"
    stored = {c["id"]: c["artifact_sha256"] for c in first["cells"]}
    given = {c["id"]: c["artifact_sha256"] for c in other["cells"]}
    for name in sorted(stored.keys() ^ given.keys()):
        yield f"cell {name} is {'not in the new run' if name in stored else 'new'}"
    for name in sorted(stored.keys() & given.keys()):
        if stored[name] != given[name]:
            yield f"artefact of {name} {str(stored[name])[:12]}, now {str(given[name])[:12]}"


def _document_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (BASELINE_NAME, SUITE_NAME):
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: holds no {SUITE_NAME}. Give a run's folder, or the file itself.")


def _load_baseline(given: Path, path: Path) -> Side:
    document = _read_baseline(path)
    suite_path = path.parent / SUITE_NAME
    suite = read_finite_suite(suite_path)
    if sha256_file(suite_path) != document["suite_sha256"]:
        raise InputError(f"{path}: {SUITE_NAME} beside it is another one; store the baseline again: parity baseline.")
    return Side(path=given, suite=suite, folder=path.parent, runs=tuple(document["runs"]))


def _read_baseline(path: Path) -> dict[str, Any]:
    document = read_json(path)
    label = document.get("schema") if isinstance(document, dict) else None
    if label != _BASELINE_SCHEMA:
        raise InputError(
            f"{path}: not a baseline: field 'schema' is {label!r}, this version reads {_BASELINE_SCHEMA!r}."
        )
    validate(document, "baseline", where=str(path))
    for run in document["runs"]:
        for cell in run["cells"]:
            ratio = from_number(cell["ratio"])
            if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
                raise InputError(f"{path}: run {run['run_id']}, cell {cell['id']}: field ratio is {ratio}.")
    return document  # type: ignore[no-any-return]


def _cell_record(record: Mapping[str, Any]) -> dict[str, Any]:
    speed, accuracy, artifact = (record[k] or {} for k in ("speed", "accuracy", "artifact"))
    return {
        "id": cell_id(record),
        "status": record["status"],
        "artifact_sha256": artifact.get("sha256"),
        "ap": accuracy.get("stats", {}).get("AP"),
        "ratio": speed.get("ratio"),
        "ratio_ci95": speed.get("ratio_ci95"),
        "p50_ms": speed.get("latency_ms", {}).get("p50"),
    }


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The numbers of a cell that a comparison reads, with their field names; absent ones are left out."""
    speed, accuracy = record["speed"], record["accuracy"]
    if speed is not None:
        for name, value in speed["latency_ms"].items():
            if value is not None:
                yield f"speed.latency_ms.{name}", value
        if speed["ratio"] is not None:
            yield "speed.ratio", speed["ratio"]
        for end, value in enumerate(speed["ratio_ci95"] or ()):
            yield f"speed.ratio_ci95.{end}", value
        for number, row in enumerate(speed["rounds"]):
            for at, value in enumerate(row.get("samples_ms", ())):
                yield f"speed.rounds.{number}.samples_ms.{at}", value
    if accuracy is not None and accuracy["stats"]["AP"] is not None:
        yield "accuracy.stats.AP", accuracy["stats"]["AP"]


def _put_predictions(source: Path, target: Path) -> None:
    """Replace a folder by a copy of another, by renaming: half a copy is never seen under the final name."""
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir()
        for path in sorted(source.glob("*.json")):
            shutil.copyfile(path, fresh / path.name)
        if target.is_dir():
            target.rename(old)
        fresh.rename(target)
    except OSError as error:
        with suppress(OSError):
            shutil.rmtree(fresh)
        raise InputError(
            f"{target}: cannot be written ({error.strerror}). Choose another folder with --out."
        ) from error
    shutil.rmtree(old, ignore_errors=True)
