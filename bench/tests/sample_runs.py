"""Small finished runs on disk: a suite, its stored detections, and the images they are about."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench import testing
from bench.predictions import write_predictions
from bench.scoring import from_predictions, score
from bench.tests.sample_suite import cell_id, make_cell, sample_suite
from bench.types import FixtureSet, Prediction

IMAGES = 60
LABELS = (1, 2, 3)
SHA = {"weights": "a" * 64, "onnx": "b" * 64}


def detections(fixtures: FixtureSet, *, missed: float = 0.0, seed: int = 0) -> dict[int, Prediction]:
    """The ground truth as detections with falling scores; a share of the boxes is missed."""
    generator = np.random.default_rng(seed)
    found = {}
    for sample in fixtures.samples:
        boxes = [a for a in fixtures.annotations if a["image_id"] == sample.image_id]
        kept = [a for a in boxes if generator.random() >= missed]
        xywh = np.array([a["bbox"] for a in kept], np.float64).reshape(-1, 4)
        found[sample.image_id] = Prediction(
            boxes_xyxy=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32),
            scores=(0.5 + 0.5 * generator.random(len(kept))).astype(np.float32),
            labels=np.array([a["category_id"] - 1 for a in kept], np.int64),
        )
    return found


def make_suite(run_id: str, *, ratio: float = 2.0, interval: float = 0.005) -> dict[str, Any]:
    """A suite of the model ``fake``: reference torch fp32, onnxrt fp32 and int8, and what never runs here."""
    suite = sample_suite()
    reference = make_cell("fake", "torch", "fp32", delta=0.0, ratio=1.0, fixtures="fakes", images=IMAGES)
    reference["role"] = "reference"
    reference["accuracy"].update(verdict="reference", margin=None, delta=None)
    reference["speed"].update(verdict="reference")
    cells = [
        reference,
        make_cell("fake", "onnxrt", "fp32", delta=0.0, ratio=ratio, fixtures="fakes", images=IMAGES),
        make_cell("fake", "onnxrt", "int8", delta=0.0, ratio=2 * ratio, fixtures="fakes", images=IMAGES),
        make_cell("fake", "trt", "fp16", "skipped", fixtures="fakes", reason="No GPU.", reason_short="no GPU"),
    ]
    for cell in cells:
        if cell["speed"] and cell["role"] == "candidate":
            middle = cell["speed"]["ratio"]
            cell["speed"].update(ratio_ci95=[middle * (1 - interval), middle * (1 + interval)], verdict="faster")
        if cell["artifact"]:
            cell["artifact"]["sha256"] = SHA[cell["artifact"]["kind"]]
        if cell["accuracy"]:
            cell["accuracy"]["verdict"] = "reference" if cell is reference else "passed"
        cell["findings"] = []
    suite.update(
        run_id=run_id,
        cells=cells,
        exit_code=0,
        command="parity run --models fake --out reports",
        protocol={"harness": "backend-parity 0.1.0", "threads": 1, "batch": 1, "rounds": "20"},
        reference={"asked": "torch:fp32:cpu", "cells": {"fake": cell_id(reference)}},
    )
    return suite


class Runs:
    """Writes runs below a folder, all about the same fake images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = testing.fake_folder(folder / "fakes", IMAGES)
        from bench.fixtures import resolve

        self.fixtures = resolve(str(self.images))

    def write(
        self, name: str, suite: dict[str, Any] | None = None, *, missed: dict[str, float] | None = None, seed: int = 0
    ) -> Path:
        """Write a run; ``missed`` maps ``backend precision`` to the share of boxes it does not find."""
        suite = copy.deepcopy(suite or make_suite(name))
        suite["run_id"] = name
        suite["protocol"]["fixtures"] = {"fakes": {"sha256": self.fixtures.sha256, "images": IMAGES}}
        folder = self.folder / name
        for cell in suite["cells"]:
            if cell["accuracy"] is None:
                continue
            key = f"{cell['cell']['backend']} {cell['cell']['precision']}"
            found = detections(self.fixtures, missed=(missed or {}).get(key, 0.0), seed=seed)
            cell["accuracy"]["stats"] = dict(score(self.fixtures, from_predictions(found, LABELS)))
            path = folder / "predictions" / f"{cell_id(cell)}.json"
            meta = {"fixtures_sha256": self.fixtures.sha256, "model": "fake", "score_floor": 0.05}
            write_predictions(path, found, self.fixtures, LABELS, wrap=True, meta=meta)
        folder.mkdir(exist_ok=True)
        (folder / "suite.json").write_text(json.dumps(suite), "utf-8")
        return folder
