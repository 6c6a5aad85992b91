"""A tiny fixture set and single items of predictions files, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.predictions import PredictionsFile, read_predictions
from bench.types import FixtureSet, Sample


def fixture_set(paths: tuple[str, ...] = ("images/a.jpg", "images/b.jpg", "images/c.jpg")) -> FixtureSet:
    samples = tuple(Sample(image_id=10 * (n + 1), path=Path(p), width=200, height=100) for n, p in enumerate(paths))
    boxes = ([10, 10, 40, 30], [50, 20, 60, 60], [0, 0, 150, 90])
    annotations = [
        {
            "id": n,
            "image_id": sample.image_id,
            "category_id": (1, 3, 7)[n % 3],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for n, (sample, box) in enumerate(zip(samples * 2, boxes * 2, strict=False))
    ]
    return FixtureSet(
        name="tiny", split="val", samples=samples, annotations=tuple(annotations), sha256="0" * 64,
        categories=tuple({"id": i, "name": f"c{i}"} for i in (1, 3, 7)),
    )  # fmt: skip


def read(path: Path, document: Any, fixtures: FixtureSet, bbox_format: str | None = None) -> PredictionsFile:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return read_predictions(path, fixtures, bbox_format=bbox_format)


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 10, "category_id": 1, "bbox": [10.0, 10.0, 40.0, 30.0], "score": 0.9, **changes}


def detection(**changes: Any) -> dict[str, Any]:
    return {"class_id": 0, "score": 0.9, "bbox": {"cx": 0.15, "cy": 0.25, "w": 0.2, "h": 0.3}, **changes}


def entry(**changes: Any) -> dict[str, Any]:
    return {"image": "a.jpg", "detections": [detection()], **changes}
