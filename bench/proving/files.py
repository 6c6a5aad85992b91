"""Faults in predictions files, which no lane sees: ``parity score --against`` has to."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bench.fixtures import read_image_rgb
from bench.predictions import write_predictions
from bench.proving.prover import HONEST, Catch, Shown
from bench.testing.fakes import write_folder
from bench.verdicts import signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.proving.prover import Fault
    from bench.types import Adapter, FixtureSet

_STATUS = {0: "passed", 1: "failed", 2: "refused", 3: "undecided"}
_DROPPED = 20


class Files:
    """The honest detections of a fake model in two files, one of which is tampered with.

    Args:
        adapter: of a model whose network is a numpy function.
        fixtures: images in ``folder / "images"``, with their truth.
        folder: for files.
    """

    name = "predictions file"

    def __init__(self, adapter: Adapter, fixtures: FixtureSet, folder: Path) -> None:
        self._truth = write_folder(fixtures, folder) / "annotations" / "instances.json"
        self._fixtures = fixtures
        self._folder = folder
        network = adapter.build(None)
        found = {}
        for sample in fixtures.samples:
            feeds, meta = adapter.preprocess(read_image_rgb(sample.path, (sample.height, sample.width)))
            outputs = network(*feeds.values())
            named = dict(zip([s.name for s in adapter.spec.outputs], outputs, strict=True))
            found[sample.image_id] = adapter.postprocess(named, meta)
        categories = [int(c["id"]) for c in fixtures.categories]
        self._reference = folder / "reference.json"
        write_predictions(self._reference, found, fixtures, categories, wrap=True, meta={})

    def show(self, fault: Fault) -> Shown:
        """Tamper with a copy and score it against the honest file, by the command line."""
        document = json.loads(self._reference.read_text("utf-8"))
        if fault.backend != HONEST:
            EDITS[fault.backend](document["predictions"], self._fixtures)
        candidate, result = self._folder / "candidate.json", self._folder / "result.json"
        candidate.write_text(json.dumps(document), "utf-8")
        result.unlink(missing_ok=True)
        words = ["--against", str(self._reference), "--annotations", str(self._truth), "--json", str(result)]
        done = subprocess.run(
            [sys.executable, "-m", "bench", "score", str(candidate), "--task", "detect", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        status = _STATUS.get(done.returncode, "error")
        caught: tuple[Catch, ...] = ()
        reason = None
        if done.returncode == 2:
            reason = " ".join(done.stderr.split()).removeprefix("parity: ").replace(f"{self._folder}/", "")
            caught = (Catch(check="reader", sentence=reason),)
        elif result.is_file():
            judged = json.loads(result.read_text("utf-8"))["against"]["delta"]["AP"]
            reason = f"AP {judged['verdict']}: ΔAP {signed(judged['value'])}, {_interval(judged['ci95'])}"
            caught = (Catch(check="accuracy", sentence=reason),) if done.returncode == 1 else ()
        return Shown(fault=fault, status=status, caught=caught, reason=reason)


def _interval(ci95: list[float] | None) -> str:
    return "no interval" if ci95 is None else f"[{signed(ci95[0])}, {signed(ci95[1])}]"


def _drop(entries: list[dict[str, Any]], fixtures: FixtureSet) -> None:
    del entries[_DROPPED]


def _break(entries: list[dict[str, Any]], fixtures: FixtureSet) -> None:
    next(e for e in entries if e["detections"])["detections"][0]["score"] = "nan"


def _shift(entries: list[dict[str, Any]], fixtures: FixtureSet) -> None:
    """Every image gets the detections of the next one."""
    detections = [e["detections"] for e in entries]
    for entry, found in zip(entries, [*detections[1:], detections[0]], strict=True):
        entry["detections"] = found


def _leak(entries: list[dict[str, Any]], fixtures: FixtureSet) -> None:
    by_image: dict[int, list[dict[str, Any]]] = {e["image_id"]: [] for e in entries}
    for a in fixtures.annotations:
        x, y, width, height = a["bbox"]
        box_xyxy = [x, y, x + width, y + height]
        by_image[a["image_id"]].append(
            {"class_id": a["category_id"] - 1, "category_id": a["category_id"], "score": 0.9, "bbox": box_xyxy}
        )
    for entry in entries:
        entry["detections"] = by_image[entry["image_id"]]


EDITS: dict[str, Callable[[list[dict[str, Any]], FixtureSet], None]] = {
    "drop": _drop,
    "nan": _break,
    "shift": _shift,
    "leak": _leak,
}
"""Name -> what is done to the entries of the candidate's file."""
