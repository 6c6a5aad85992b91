from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import InputError
from bench.paths import REPOSITORY, data_dir
from bench.results import STAT_NAMES
from bench.scoring import Detections, from_predictions, score, scorer_name
from bench.types import FixtureSet, Prediction, Sample

COCOAPI = data_dir() / "cocoapi-results"
needs_cocoapi = pytest.mark.skipif(
    not COCOAPI.is_dir(), reason="shared data cocoapi-results is not present (PARITY_DATA)"
)


def fixture_set(
    annotations: list[dict[str, Any]], *, images: int = 2, categories: tuple[int, ...] = (1, 3)
) -> FixtureSet:
    return FixtureSet(
        name="tiny",
        split="val",
        samples=tuple(Sample(image_id=i + 1, path=Path(f"{i + 1}.jpg"), width=100, height=80) for i in range(images)),
        categories=tuple({"id": i, "name": f"c{i}"} for i in categories),
        annotations=tuple(annotations),
        sha256="0" * 64,
    )


def truth(number: int, image_id: int, box: list[float], category_id: int = 1, **more: Any) -> dict[str, Any]:
    area = box[2] * box[3]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
        **more,
    }


def table(*rows: tuple[int, int, list[float], float]) -> Detections:
    return Detections(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.float64).reshape(-1, 4),
        np.array([r[3] for r in rows], np.float64),
    )


def cocoapi_set() -> tuple[FixtureSet, list[dict[str, Any]], dict[str, Any]]:
    files = ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json", "expected.json")
    gt, dt, expected = (json.loads((COCOAPI / name).read_text()) for name in files)
    samples = (
        Sample(image_id=i["id"], path=Path(i["file_name"]), width=i["width"], height=i["height"]) for i in gt["images"]
    )
    fixtures = FixtureSet(
        name="val2014-100",
        split="val",
        samples=tuple(samples),
        categories=tuple(gt["categories"]),
        annotations=tuple(gt["annotations"]),
        sha256="0" * 64,
    )
    return fixtures, dt, expected["bbox"]


BOXES = [[10.0, 10.0, 40.0, 30.0], [5.0, 20.0, 20.0, 50.0]]


@needs_cocoapi
def test_the_demo_detections_of_cocoapi_get_their_published_numbers_with_an_image_without_detections_counted() -> None:
    fixtures, dt, expected = cocoapi_set()
    detections = table(*((d["image_id"], d["category_id"], d["bbox"], d["score"]) for d in dt))
    assert len({d["image_id"] for d in dt}) == len(fixtures.samples) - 1
    stats = score(fixtures, detections)
    assert tuple(stats) == STAT_NAMES
    assert list(stats.values()) == pytest.approx(expected["stats"], abs=1e-9)
    assert [round(stats[n] or 0, 3) for n in ("AP", "AP50", "AP75")] == [0.505, 0.697, 0.573]


def test_perfect_detections_score_one_and_an_undefined_area_range_is_none() -> None:
    stats = score(
        fixture_set([truth(1, 1, BOXES[0]), truth(2, 2, BOXES[1], 3)]),
        table((1, 1, BOXES[0], 0.9), (2, 3, BOXES[1], 0.8)),
    )
    assert stats["AP"] == pytest.approx(1.0)
    assert stats["APl"] is None
    assert stats["ARl"] is None


def test_an_image_without_detections_lowers_recall() -> None:
    stats = score(fixture_set([truth(1, 1, BOXES[0]), truth(2, 2, BOXES[1])]), table((1, 1, BOXES[0], 0.9)))
    assert stats["AR100"] == pytest.approx(0.5)


def test_no_detections_score_zero_without_an_exception() -> None:
    stats = score(fixture_set([truth(1, 1, BOXES[0])]), from_predictions({}, [1, 3]))
    assert stats["AP"] == stats["AP50"] == stats["AR100"] == 0.0


def test_without_ground_truth_every_number_is_undefined() -> None:
    assert set(score(fixture_set([]), table((1, 1, BOXES[0], 0.9))).values()) == {None}


def test_ground_truth_id_zero_counts_as_a_match() -> None:
    first = score(fixture_set([truth(0, 1, BOXES[0])]), table((1, 1, BOXES[0], 0.9)))
    assert first["AP"] == pytest.approx(1.0)


def test_two_annotations_with_one_id_are_refused_by_id() -> None:
    with pytest.raises(InputError, match="annotation 7: the id is used twice"):
        score(fixture_set([truth(7, 1, BOXES[0]), truth(7, 2, BOXES[1])]), table())


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (truth(4, 9, BOXES[0]), "annotation 4: image_id 9"),
        (truth(4, 1, BOXES[0], 2), "annotation 4: category_id 2"),
        ({k: v for k, v in truth(4, 1, BOXES[0]).items() if k != "area"}, "annotation 4: field 'area' is missing"),
    ],
)
def test_an_annotation_that_does_not_fit_the_set_is_refused(annotation: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(fixture_set([annotation]), table())


def test_a_detection_of_an_unknown_image_or_category_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"detection 1: image_id 8 is not in fixture set 'tiny'"):
        score(fixture_set([]), table((1, 1, BOXES[0], 0.9), (8, 1, BOXES[0], 0.9)))
    with pytest.raises(InputError, match=r"detection 0: category_id 2 is not in fixture set 'tiny'"):
        score(fixture_set([]), table((1, 2, BOXES[0], 0.9)))


def test_a_crowd_region_makes_detections_inside_it_neither_right_nor_wrong() -> None:
    crowd = truth(2, 1, [50, 0, 50, 80], iscrowd=1)
    rows = [(1, 1, BOXES[0], 0.5), (1, 1, [60.0, 10.0, 10.0, 10.0], 0.9)]
    assert score(fixture_set([truth(1, 1, BOXES[0]), crowd]), table(*rows))["AP"] == pytest.approx(1.0)
    assert score(fixture_set([truth(1, 1, BOXES[0])]), table(*rows))["AP"] == pytest.approx(0.5)


def test_scoring_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    score(fixture_set([truth(1, 1, BOXES[0])]), table((1, 1, BOXES[0], 0.9)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("box", "value", "message"),
    [
        ([1, 1, 2, 2], float("nan"), r"detection 1 \(image 2\): field 'score' is nan"),
        ([1, 1, 2, 2], float("inf"), r"field 'score' is inf"),
        ([float("nan"), 1, 2, 2], 0.5, r"field 'bbox x' is nan"),
        ([1, float("-inf"), 2, 2], 0.5, r"field 'bbox y' is -inf"),
        ([1, 1, float("nan"), 2], 0.5, r"field 'bbox width' is nan"),
        ([1, 1, -2, 2], 0.5, r"field 'bbox width' is -2"),
        ([1, 1, 2, -0.5], 0.5, r"field 'bbox height' is -0.5"),
    ],
)
def test_a_value_that_cannot_be_scored_is_refused_with_its_row_and_field(
    box: list[float], value: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        table((1, 1, BOXES[0], 0.9), (2, 1, box, value))


def test_boxes_of_zero_width_or_height_are_kept_and_counted() -> None:
    made = table((1, 1, [1, 1, 0, 5], 0.9), (1, 1, [1, 1, 5, 0], 0.9), (1, 1, BOXES[0], 0.9))
    assert (len(made), made.without_extent) == (3, 2)


def test_columns_of_different_length_or_dtype_are_refused() -> None:
    ids, boxes = np.array([1]), np.zeros((2, 4))
    with pytest.raises(InputError, match=r"column 'boxes_xywh' must be float64 \(1, 4\), got float64 \(2, 4\)"):
        Detections(ids, ids, boxes, np.zeros(1))
    with pytest.raises(InputError, match=r"column 'scores' must be float64 \(1,\), got float32 \(1,\)"):
        Detections(ids, ids, boxes[:1], np.zeros(1, np.float32))


def test_predictions_become_rows_with_the_category_of_their_label_and_float64_boxes() -> None:
    boxes = np.array([[0.1, 0.2, 10.3, 20.4]], np.float32)
    prediction = Prediction(boxes, np.array([0.7], np.float32), np.array([1]))
    detections = from_predictions({2: prediction, 1: prediction}, [1, 3])
    assert detections.image_ids.tolist() == [1, 2]
    assert detections.category_ids.tolist() == [3, 3]
    x1, y1, x2, y2 = boxes[0].astype(np.float64)
    assert detections.boxes_xywh[0].tolist() == [x1, y1, x2 - x1, y2 - y1]


def test_keypoints_become_a_column_and_images_without_detections_need_none() -> None:
    points = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    box, nothing = np.array([[0, 0, 5, 5]] * 2, np.float32), np.zeros(0, np.float32)
    found = Prediction(box, np.array([0.7, 0.6], np.float32), np.zeros(2, np.int64), points)
    empty = Prediction(np.zeros((0, 4), np.float32), nothing, nothing.astype(np.int64))
    detections = from_predictions({1: found, 2: empty, 3: found}, [1])
    assert detections.keypoints_xyv is not None
    np.testing.assert_array_equal(detections.keypoints_xyv, np.concatenate((points, points)))
    assert detections.keypoints_xyv.dtype == np.float64
    assert from_predictions({2: empty}, [1]).keypoints_xyv is None
    boxes_only = Prediction(box, found.scores, found.labels)
    with pytest.raises(InputError, match="keypoints are given for 1 of the 2 images with detections, 2 per detection"):
        from_predictions({1: found, 2: boxes_only}, [1])
    more = Prediction(box, found.scores, found.labels, np.zeros((2, 3, 3), np.float32))
    with pytest.raises(InputError, match="2 or 3 per detection; all detections need the same number"):
        from_predictions({1: found, 2: more}, [1])


def test_a_keypoint_that_is_not_finite_is_refused_with_its_row_and_a_wrong_shape_by_name() -> None:
    plain = table((1, 1, BOXES[0], 0.9), (2, 1, BOXES[1], 0.8))
    columns = (plain.image_ids, plain.category_ids, plain.boxes_xywh, plain.scores)
    points = np.zeros((2, 17, 3))
    points[1, 4, 1] = np.nan
    with pytest.raises(InputError, match=r"detection 1 \(image 2\): field 'keypoint 4 y' is nan, not finite"):
        Detections(*columns, points)
    for wrong in (np.zeros((2, 17)), np.zeros((3, 17, 3)), np.zeros((2, 17, 2))):
        with pytest.raises(InputError, match=r"column 'keypoints_xyv' must be \(2, K, 3\)"):
            Detections(*columns, wrong)


def test_ground_truth_that_is_not_finite_is_refused_by_id() -> None:
    for field, value in (("area", float("nan")), ("bbox", [1.0, 1.0, float("inf"), 2.0])):
        with pytest.raises(InputError, match="annotation 4: bbox or area is not finite"):
            score(fixture_set([truth(3, 1, BOXES[0]), {**truth(4, 1, BOXES[0]), field: value}]), table())


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_category_is_refused(label: int) -> None:
    prediction = Prediction(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), np.array([label]))
    with pytest.raises(InputError, match=f"image 5, detection 0: label {label} has no category; labels 0 to 1"):
        from_predictions({5: prediction}, [1, 3])


def test_the_schema_takes_a_score_with_and_without_a_comparison_and_no_other() -> None:
    import jsonschema

    schema = jsonschema.Draft202012Validator(json.loads((REPOSITORY / "schemas" / "score_result.json").read_text()))
    stats = score(fixture_set([truth(1, 1, BOXES[0])]), table((1, 1, BOXES[0], 0.9)))
    delta = {"value": -0.01, "ci95": None, "margin": None, "resolvable": None, "verdict": "not judged"}
    against = {"stats": stats, "delta": dict.fromkeys(STAT_NAMES, delta)}
    document = {"schema": "score_result/1", "images": 2, "scorer": scorer_name(), "stats": stats, "against": None}
    schema.validate(document)
    schema.validate({**document, "against": against})
    assert scorer_name().startswith("backend-parity exact COCO ")
    for broken in ({"stats": {**stats, "AP": -1}}, {"stats": {"AP": 0.5}}, {"against": {"stats": stats}}):
        assert not schema.is_valid({**document, **broken})


def test_parity_score_runs_where_no_runtime_can_be_imported(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import runpy, sys
        BLOCKED = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "lightning", "transformers", "safetensors"}

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in BLOCKED:
                    raise ImportError(f"{name} is blocked")

        sys.meta_path.insert(0, Blocker())
        import bench.fixtures, bench.predictions, bench.scoring
        runpy.run_module("bench", run_name="__main__")
    """)
    annotations, predictions = tmp_path / "truth.json", tmp_path / "predictions.json"
    images = [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}]
    content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [truth(1, 1, BOXES[0])]}
    annotations.write_text(json.dumps(content))
    predictions.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": BOXES[0], "score": 0.5}]))
    command = [sys.executable, "-c", program, "score", str(predictions), "--annotations", str(annotations)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert run.returncode == 0, run.stderr
    assert "1.0000" in run.stdout
