"""Precomputed predictions: the scorer against published numbers, and every form of file against the scorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.paths import data_dir
from bench.predictions import read_predictions
from bench.results import STAT_NAMES
from bench.scoring import score
from bench.types import FixtureSet, Sample

COCOAPI = data_dir() / "cocoapi-results"
RESULTS = COCOAPI / "instances_val2014_fakebbox100_results.json"

pytestmark = pytest.mark.skipif(
    not COCOAPI.is_dir(), reason=f"{COCOAPI} is not present; set PARITY_DATA to the folder of shared data"
)


@pytest.fixture(scope="module")
def fixtures() -> FixtureSet:
    truth = json.loads((COCOAPI / "instances_val2014_100.json").read_text("utf-8"))
    samples = [
        Sample(image_id=i["id"], path=Path(i["file_name"]), width=i["width"], height=i["height"])
        for i in truth["images"]
    ]
    return FixtureSet(
        name="val2014-100",
        split="val",
        samples=tuple(sorted(samples, key=lambda sample: sample.image_id)),
        categories=tuple(sorted(truth["categories"], key=lambda category: category["id"])),
        annotations=tuple(truth["annotations"]),
        sha256="0" * 64,
    )


@pytest.fixture(scope="module")
def published() -> dict[str, float]:
    expected = json.loads((COCOAPI / "expected.json").read_text("utf-8"))
    return dict(zip(STAT_NAMES, expected["bbox"]["stats"], strict=True))


def test_the_scorer_reproduces_the_published_numbers(fixtures: FixtureSet, published: dict[str, float]) -> None:
    stats = score(fixtures, read_predictions(RESULTS, fixtures).detections)
    assert stats == pytest.approx(published, abs=1e-9)
    assert [f"{stats[name]:.3f}" for name in ("AP", "AP50", "AP75")] == ["0.505", "0.697", "0.573"]


@pytest.mark.parametrize("form", ["coco", "entries", "wrapped", "map"])
@pytest.mark.parametrize("bbox_format", ["cxcywh_norm", "cxcywh_abs", "xywh_abs", "xyxy_abs"])
def test_every_form_and_box_format_scores_the_same(
    tmp_path: Path, fixtures: FixtureSet, published: dict[str, float], form: str, bbox_format: str
) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(rewritten(fixtures, form, bbox_format)), "utf-8")
    got = read_predictions(path, fixtures, bbox_format=bbox_format)
    assert got.form == form
    # a division by the image size moves a box by 1e-13 px, and some demo boxes overlap their truth by exactly 0.75
    tolerance = 1e-3 if bbox_format == "cxcywh_norm" else 1e-9
    assert score(fixtures, got.detections) == pytest.approx(published, abs=tolerance)


def rewritten(fixtures: FixtureSet, form: str, bbox_format: str) -> Any:
    """The demo results in another form and box format."""
    samples = {sample.image_id: sample for sample in fixtures.samples}
    labels = {category["id"]: label for label, category in enumerate(fixtures.categories)}
    items = json.loads(RESULTS.read_text("utf-8"))
    for item in items:
        item["bbox"] = converted(item["bbox"], samples[item["image_id"]], bbox_format)
    if form == "coco":
        return items
    by_image: dict[str, list[dict[str, Any]]] = {sample.path.name: [] for sample in fixtures.samples}
    for item in items:
        found = {"class_id": labels[item["category_id"]], "score": item["score"], "bbox": item["bbox"]}
        by_image[samples[item["image_id"]].path.name].append(found)
    if form == "map":
        return by_image
    entries = [{"image": image, "detections": found} for image, found in by_image.items()]
    return entries if form == "entries" else {"schema_version": 1, "predictions": entries, "meta": {}}


def converted(box_xywh: list[float], sample: Sample, bbox_format: str) -> Any:
    x, y, w, h = box_xywh
    if bbox_format == "xywh_abs":
        return [x, y, w, h]
    if bbox_format == "xyxy_abs":
        return {"x1": x, "y1": y, "x2": x + w, "y2": y + h}
    scale_x, scale_y = (sample.width, sample.height) if bbox_format == "cxcywh_norm" else (1, 1)
    return {"cx": (x + w / 2) / scale_x, "cy": (y + h / 2) / scale_y, "w": w / scale_x, "h": h / scale_y}
