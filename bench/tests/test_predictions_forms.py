"""One set of detections in every form and box format: the reader must not tell them apart."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.predictions import BOX_FORMATS, PredictionsFile, read_predictions
from bench.predictions.fields import BOX_KEYS
from bench.scoring import score
from bench.tests.sample_predictions import detection, entry, fixture_set, read
from bench.types import FixtureSet

FORMS = ("coco", "entries", "wrapped", "map")
FIXTURES = fixture_set()
IDS = (1, 3, 7)


@st.composite
def detections(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Detections on a grid of eighths of a pixel, on which every box format is exact."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        x, y = draw(st.integers(0, 199 * 8)) / 8, draw(st.integers(0, 99 * 8)) / 8
        width, height = draw(st.integers(16, 800)) / 8, draw(st.integers(16, 400)) / 8  # smaller ones look normalised
        found.append(
            {
                "sample": draw(st.integers(0, 2)),
                "label": draw(st.integers(0, 2)),
                "score": draw(st.integers(0, 1024)) / 1024,
                "xywh": [x, y, width, height],
            }
        )
    return found


def box(xywh: list[float], bbox_format: str, *, as_object: bool) -> Any:
    x, y, w, h = xywh
    numbers = {
        "xywh_abs": [x, y, w, h],
        "xyxy_abs": [x, y, x + w, y + h],
        "cxcywh_abs": [x + w / 2, y + h / 2, w, h],
        "cxcywh_norm": [(x + w / 2) / 200, (y + h / 2) / 100, w / 200, h / 100],
    }[bbox_format]
    return dict(zip(BOX_KEYS[bbox_format], numbers, strict=True)) if as_object else numbers


def written(rows: list[dict[str, Any]], form: str, bbox_format: str, *, as_object: bool = False) -> Any:
    """The document that says ``rows`` in one form."""
    boxes = [box(row["xywh"], bbox_format, as_object=as_object) for row in rows]
    if form == "coco":
        return [
            {"image_id": 10 * (row["sample"] + 1), "category_id": IDS[row["label"]], "bbox": b, "score": row["score"]}
            for row, b in zip(rows, boxes, strict=True)
        ]
    images: dict[str, list[dict[str, Any]]] = {}
    for row, b in zip(rows, boxes, strict=True):
        name = f"{'abc'[row['sample']]}.jpg"
        images.setdefault(name, []).append({"class_id": row["label"], "score": row["score"], "bbox": b})
    entries = [{"image": name, "detections": found} for name, found in images.items()]
    return {
        "entries": entries,
        "wrapped": {"schema_version": 1, "predictions": entries, "meta": {"bbox_format": bbox_format}},
        "map": images,
    }[form]


def read_back(document: Any, bbox_format: str | None) -> PredictionsFile:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return read_predictions(path, FIXTURES, bbox_format=bbox_format)


def rows_of(found: PredictionsFile) -> list[list[float]]:
    """All detections in one order, whatever the order of the file."""
    table = found.detections
    columns = (table.image_ids, table.category_ids, table.scores, *table.boxes_xywh.T)
    return sorted(np.stack([np.asarray(column, np.float64) for column in columns], axis=1).tolist())


@settings(deadline=None, max_examples=30)
@given(rows=detections(), as_object=st.booleans())
def test_every_form_and_format_is_the_same_detections_and_the_same_score(
    rows: list[dict[str, Any]], as_object: bool
) -> None:
    plain = read_back(written(rows, "coco", "xywh_abs"), None)
    for bbox_format in BOX_FORMATS:
        exact = bbox_format != "cxcywh_norm"  # a division by 200 or 100 rounds
        scores = []
        for form in FORMS:
            got = read_back(written(rows, form, bbox_format, as_object=as_object), bbox_format)
            assert (got.form, got.bbox_format) == (form, bbox_format)
            if exact:
                assert rows_of(got) == rows_of(plain)
            else:
                assert np.array(rows_of(got)) == pytest.approx(np.array(rows_of(plain)), abs=1e-9)
            scores.append(score(FIXTURES, got.detections))
        for found in scores[1:]:  # list by image or by result: the order within an image is the same
            assert found == pytest.approx(scores[0], nan_ok=True, abs=0 if exact else 1e-12)


@given(rows=detections())
@settings(deadline=None, max_examples=20)
def test_a_form_turns_into_the_others_and_back(rows: list[dict[str, Any]]) -> None:
    """Entries -> map -> wrapped -> entries, by hand as a team's script would do it."""
    entries = written(rows, "entries", "xyxy_abs")
    as_map = {item["image"]: item["detections"] for item in entries}
    wrapped = {"schema_version": 1, "predictions": [{"image": k, "detections": v} for k, v in as_map.items()]}
    assert wrapped["predictions"] == entries
    found = [read_back(document, "xyxy_abs") for document in (entries, as_map, wrapped)]
    assert rows_of(found[0]) == rows_of(found[1]) == rows_of(found[2])
    assert found[0].listed == found[1].listed == found[2].listed


# optional fields of the contract


def test_every_optional_field_of_the_contract_may_stand_beside_the_box(tmp_path: Path) -> None:
    rich = detection(
        bbox_abs={"cx": 30, "cy": 25, "w": 40, "h": 30},
        mask={"size": [2, 2], "counts": "04"},
        mask_path="masks/a_0.png",
        depth=1.5,
        rot6d=[1, 0, 0, 0, 1, 0],
        R=[[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        t_xyz=[0.1, 0.2, 1.5],
        k_delta=[0, 0, 0, 0],
        k_prime={"fx": 300, "fy": 300, "cx": 100, "cy": 50},
        keypoints=[10.0, 20.0, 2.0],
    )
    item = entry(
        detections=[rich, detection(keypoints=[{"x": 1, "y": 2, "v": 2}])],
        image_size=320,
        preprocess={"orig_size": [100, 200], "method": "resize"},
        intrinsics={"fx": 300},
    )
    plain = read(tmp_path / "p.json", [entry(detections=[detection()] * 2)], FIXTURES)
    assert rows_of(read(tmp_path / "r.json", [item], FIXTURES)) == rows_of(plain)


# which image an entry means


@pytest.mark.parametrize(
    "image", ["images\\a.jpg", ".\\images\\a.jpg", "D:\\runs\\7\\images\\a.jpg", "\\\\host\\s\\a.jpg"]
)
def test_windows_separators_make_no_difference(tmp_path: Path, image: str) -> None:
    assert read(tmp_path / "p.json", [entry(image=image)], FIXTURES).detections.image_ids.tolist() == [10]
    assert read(tmp_path / "p.json", {image: [detection()]}, FIXTURES).detections.image_ids.tolist() == [10]


@pytest.mark.parametrize("written_as", ["NFC", "NFD"])
@pytest.mark.parametrize("stored_as", ["NFC", "NFD"])
def test_an_accent_written_as_one_character_or_as_two_is_the_same_name(
    tmp_path: Path, written_as: str, stored_as: str
) -> None:
    name = "café 画像.jpg"
    fixtures = fixture_set((f"images/{unicodedata.normalize(stored_as, name)}", "b.jpg"))  # type: ignore[arg-type]
    found = read(tmp_path / "p.json", [entry(image=unicodedata.normalize(written_as, name))], fixtures)  # type: ignore[arg-type]
    assert found.detections.image_ids.tolist() == [10]


def test_two_images_that_differ_in_their_accents_alone_are_told_apart_exactly_or_not_at_all(tmp_path: Path) -> None:
    composed, split = unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")
    fixtures = fixture_set((composed, split))
    for number, name in enumerate((composed, split)):
        found = read(tmp_path / "p.json", [entry(image=name)], fixtures)
        assert found.detections.image_ids.tolist() == [10 * (number + 1)]


def test_two_names_that_mean_one_image_are_a_collision_and_say_so(tmp_path: Path) -> None:
    got = read(tmp_path / "p.json", {"camera1/a.jpg": [detection()], "camera2/a.jpg": [detection()]}, FIXTURES)
    assert len(got.detections) == 2
    assert got.warnings[0] == (
        "an entry means an image that has one already, under another name, and its detections are added "
        "(entry 'camera2/a.jpg', 'camera2/a.jpg' as 'camera1/a.jpg')"
    )


@pytest.mark.parametrize("extra", [{}, {"id": 5}])  # a field more: the exact reader instead of the quick one
def test_a_later_schema_version_is_read_and_said(tmp_path: Path, extra: dict[str, Any]) -> None:
    document = {"schema_version": 2, "predictions": [entry(**extra)], "meta": {}}
    assert (
        "later schema_version and is read as version 1 (2)" in read(tmp_path / "p.json", document, FIXTURES).warnings[0]
    )


def test_a_set_kept_with_windows_separators_is_found_by_file_name(tmp_path: Path) -> None:
    fixtures: FixtureSet = fixture_set(("images\\a.jpg", "images\\b.jpg"))
    assert read(tmp_path / "p.json", [entry(image="b.jpg")], fixtures).detections.image_ids.tolist() == [20]
