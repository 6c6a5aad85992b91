"""A folder of suites in order of time: each cell's accuracy, speed and verdict from run to run."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from bench.across.baselines import cell_id
from bench.across.notes import notes_of
from bench.errors import InputError
from bench.schema import read_suite, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_MARKED = ("cpu", "gpu", "version", "artifact", "fixtures", "reference", "protocol")
"""Kinds of notes that explain a step in a line; a new host name or a slower reference does not."""


def read_history(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Read every ``suite.json`` below ``folder``; a run that lies there twice counts once, a broken one is listed.

    Raises:
        InputError: no such folder, or no suite in it that can be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give one that holds the folders of runs.")
    paths = sorted(folder.rglob("suite.json"))
    if not paths:
        raise InputError(f"{folder}: holds no suite.json, in it or below. Give the folder of reports.")
    suites: dict[str, tuple[datetime.datetime, Path, dict[str, Any]]] = {}
    broken = []
    for done, path in enumerate(paths):
        if progress is not None:
            progress(done, len(paths))
        try:
            suite = read_suite(path)
            suites.setdefault(suite["run_id"], (_moment(suite, path), path, suite))
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ")
            broken.append({"path": str(path.relative_to(folder)), "reason": reason})
    if not suites:
        raise InputError(
            f"{folder}: none of {len(paths)} suites can be read; {broken[0]['path']}: {broken[0]['reason']}"
        )
    ordered = sorted(suites.values(), key=lambda item: (item[0], item[2]["run_id"]))
    document = {
        "schema": "history/1",
        "runs": _runs(folder, [(path, suite) for _, path, suite in ordered]),
        "broken": broken,
        "cells": _cells([suite for _, _, suite in ordered]),
    }
    validate(document, "history", where=str(folder))
    return document


def _moment(suite: Mapping[str, Any], path: Path) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(suite["started_at"])
    except ValueError as error:
        raise InputError(f"{path}: field started_at is no ISO 8601 time: {suite['started_at']!r}.") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)


def _runs(folder: Path, suites: list[tuple[Path, dict[str, Any]]]) -> list[dict[str, Any]]:
    runs = []
    before: dict[str, Any] | None = None
    for path, suite in suites:
        notes = [] if before is None else notes_of(before, suite)
        runs.append(
            {
                "run_id": suite["run_id"],
                "path": str(path.relative_to(folder)),
                "started_at": suite["started_at"],
                "commit": (suite["git"] or {}).get("commit"),
                "host": suite["host"]["name"],
                "exit_code": suite["exit_code"],
                "changed": [f"{n.kind}: {n.text}" for n in notes if n.kind in _MARKED],
            }
        )
        before = suite
    return runs


def _cells(suites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for suite in suites:
        for record in suite["cells"]:
            name = cell_id(record)
            entry = found.setdefault(name, {"cell": record["cell"], "id": name, "role": record["role"], "points": []})
            entry["role"] = record["role"]
            entry["points"].append(_point(suite, record))
    return list(found.values())


def _point(suite: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    accuracy, speed = record["accuracy"] or {}, record["speed"] or {}
    return {
        "run_id": suite["run_id"],
        "started_at": suite["started_at"],
        "commit": (suite["git"] or {}).get("commit"),
        "status": record["status"],
        "reason": record["reason"],
        "ap": accuracy.get("stats", {}).get("AP"),
        "delta": accuracy.get("delta"),
        "ci95": accuracy.get("ci95"),
        "margin": accuracy.get("margin"),
        "ratio": speed.get("ratio"),
        "ratio_ci95": speed.get("ratio_ci95"),
        "emulated": speed.get("verdict") == "emulated",
        "p50_ms": speed.get("latency_ms", {}).get("p50"),
        "artifact_sha256": (record["artifact"] or {}).get("sha256"),
    }
