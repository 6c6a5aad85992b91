"""``parity score A.json --against B.json``: what a person types, sees and gets as exit code."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.__main__ import main
from bench.schema import validate
from bench.scoring import MIN_IMAGES

Typed = Callable[..., tuple[int, str, str]]
Rows = list[dict[str, Any]]
IMAGES = 60
NAMES = ["cat", "dog", "bird"]


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Typed:
    monkeypatch.chdir(tmp_path)

    def typed(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["parity", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, re.sub(r"\s+", " ", err)

    return typed


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_truth(tmp_path / "truth.json", IMAGES)


def write_truth(path: Path, images: int) -> Path:
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(1, images + 1):
        for _ in range(4):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 300, 2), *rng.uniform(20, 150, 2)))
            category = int(rng.integers(1, 4))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0}
            )  # fmt: skip
    listed = [{"id": i, "file_name": f"{i:04}.jpg", "width": 640, "height": 480} for i in range(1, images + 1)]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, start=1)]
    path.write_text(json.dumps({"images": listed, "categories": categories, "annotations": annotations}))
    return path


def found(truth: Path, *, blur_px: float = 2.0, missing: float = 0.1, seed: int = 1) -> Rows:
    """Detections of all objects but a share, blurred; the same seed and blur give the same ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for a in json.loads(truth.read_text())["annotations"]:
        box = np.array(a["bbox"]) + rng.normal(0, blur_px, 4)
        score, lost = float(rng.uniform(0.05, 1)), rng.uniform() < missing
        if not lost:
            rows.append(
                {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": [float(v) for v in box],
                 "score": score}
            )  # fmt: skip
    return rows


def moved(rows: Rows, px: float) -> Rows:
    return [{**row, "bbox": [row["bbox"][0] + px, *row["bbox"][1:]]} for row in rows]


def wrapped(rows: Rows, images: list[int], **meta: Any) -> dict[str, Any]:
    entries = [
        {"image": f"{i:04}.jpg", "image_id": i,
         "detections": [{k: v for k, v in row.items() if k != "image_id"} for row in rows if row["image_id"] == i]}
        for i in images
    ]  # fmt: skip
    return {"schema_version": 1, "meta": {"bbox_format": "xywh_abs", **meta}, "predictions": entries}


def write(folder: Path, **files: Any) -> list[Path]:
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return [folder / f"{name}.json" for name in files]


def compare(parity: Typed, truth: Path, a: Path, b: Path, *words: Any) -> tuple[int, str, str, dict[str, Any]]:
    code, out, err = parity(
        "score", a, "--against", b, "--annotations", truth, "--json", "out.json", "--bootstrap", 200, *words
    )
    document = json.loads(Path("out.json").read_text()) if code != 2 else {}
    if document:
        validate(document, "score_result", where="out.json")
    return code, out, err, document


# verdicts


def test_a_file_that_loses_nothing_passes_and_everything_is_written(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=moved(rows, 1e-6), b=rows)
    code, out, err, document = compare(parity, truth, a, b)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith(f"a.json ({len(rows)} detections) against b.json ({len(rows)} detections)")
    assert "passed: ΔAP" in out
    assert "pycocotools" in out
    against = document["against"]
    assert list(against["delta"]) == list(document["stats"])
    assert len(against["delta"]) == 12
    ap = against["delta"]["AP"]
    assert ap["verdict"] == against["verdict"] == "passed"
    assert ap["value"] == pytest.approx(document["stats"]["AP"] - against["stats"]["AP"], abs=1e-15)
    assert ap["ci95"][0] <= ap["value"] <= ap["ci95"][1]
    assert ap["margin"] == pytest.approx(max(0.001 * against["stats"]["AP"], 0.0002))
    assert against["delta"]["AP50"]["verdict"] == "not judged"
    assert against["delta"]["AP50"]["ci95"] is not None
    assert [row["name"] for row in against["per_class"]] == NAMES
    assert document["cross_check"]["agrees"] is True
    assert against["cross_check"] is None
    assert (against["resamples"], against["seed"], against["precision"]) == (200, 0, "fp32")


def test_a_loss_beyond_the_margin_fails_and_names_the_classes(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    worse = [row for n, row in enumerate(rows) if not (row["category_id"] == 2 and n % 2)]
    a, b = write(tmp_path, a=worse, b=rows)
    code, out, _, document = compare(parity, truth, a, b)
    assert code == 1
    assert document["against"]["verdict"] == "failed"
    assert re.search(r"^failed: Loses 0\.\d{4} AP", out, re.M)
    assert re.search(r"^dog \* ", out, re.M)
    significant = [row["name"] for row in document["against"]["per_class"] if row["significant"]]
    assert significant == ["dog"]


def test_a_gain_beyond_the_margin_is_suspicious_and_fails(parity: Typed, truth: Path, tmp_path: Path) -> None:
    leaked = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in json.loads(truth.read_text())["annotations"]
    ]
    a, b = write(tmp_path, a=leaked, b=found(truth))
    code, out, _, document = compare(parity, truth, a, b)
    assert code == 1
    assert document["against"]["verdict"] == "suspicious"
    assert "leaked ground truth" in out


def test_what_the_images_cannot_decide_is_exit_3_with_the_images_that_would(
    parity: Typed, truth: Path, tmp_path: Path
) -> None:
    a, b = write(tmp_path, a=found(truth, seed=2), b=found(truth, seed=1))
    code, out, _, document = compare(parity, truth, a, b, "--margin", 0.02)
    assert code == 3
    against = document["against"]
    assert against["verdict"] == "undecided"
    assert against["images_to_decide"] > IMAGES
    assert f"{against['images_to_decide']:,} would" in out
    assert against["delta"]["AP"]["resolvable"] > 0
    assert f"A true loss of {against['delta']['AP']['resolvable']:.4f} AP" in out


def test_margin_and_precision_move_the_verdict(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=[row for n, row in enumerate(rows) if n % 40], b=rows)
    assert compare(parity, truth, a, b)[0] == 1
    code, out, _, document = compare(parity, truth, a, b, "--margin", 0.1)
    assert code == 0
    assert document["against"]["delta"]["AP"]["margin"] == 0.1
    assert document["against"]["precision"] is None
    assert "Margin: given" in out
    int8 = compare(parity, truth, a, b, "--precision", "int8")[3]["against"]["delta"]["AP"]
    assert int8["margin"] == pytest.approx(max(0.01 * document["against"]["stats"]["AP"], 0.003))


def test_the_seed_decides_the_interval(parity: Typed, truth: Path, tmp_path: Path) -> None:
    a, b = write(tmp_path, a=found(truth, seed=2), b=found(truth, seed=1))
    first, again, other = (
        compare(parity, truth, a, b, "--seed", seed)[3]["against"]["delta"]["AP"]["ci95"] for seed in (5, 5, 6)
    )
    assert first == again != other


def test_verbose_shows_every_class(parity: Typed, truth: Path, tmp_path: Path) -> None:
    a, b = write(tmp_path, a=found(truth, seed=2), b=found(truth, seed=1))
    out = compare(parity, truth, a, b, "--verbose")[1]
    assert all(re.search(rf"^{name}( \*)? ", out, re.M) for name in NAMES)


# images


def test_other_images_are_exit_2_and_named_and_intersect_goes_on(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=wrapped(rows, [*range(1, 51)]), b=wrapped(rows, [*range(3, IMAGES + 1)]))
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 2
    assert "2 of 60 images are in a.json and not in b.json (0001.jpg (id 1), 0002.jpg (id 2))" in err
    assert "--intersect" in err
    code, _, err, document = compare(parity, truth, a, b, "--intersect")
    assert code == 0
    assert document["images"] == document["against"]["images"] == 48
    assert "48 of 60 images are in both files" in err


def test_a_results_list_that_stops_early_is_exit_2(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=[row for row in rows if row["image_id"] <= 40], b=rows)
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 2
    assert "20 of 60 images are in b.json and not in a.json (0041.jpg (id 41), 0042.jpg (id 42), 0043" in err
    assert "the wrapped form" in err
    code, _, err, document = compare(parity, truth, a, b, "--intersect")
    assert (code, document["images"]) == (0, 40)
    assert "an image without detections is not in a.json, b.json: a results list lists none" in err


def test_a_few_images_without_detections_in_a_results_list_count_against_it(
    parity: Typed, truth: Path, tmp_path: Path
) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=[row for row in rows if row["image_id"] > 2], b=rows)
    code, _, err, document = compare(parity, truth, a, b)
    assert code in (1, 3)
    assert document["against"]["delta"]["AP"]["value"] < 0
    assert "2 of 60 images are in b.json and not in a.json" in err
    assert "count as images without detections there" in err
    assert document["warnings"]


def test_an_image_that_nothing_was_found_on_is_not_another_image(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = [row for row in found(truth) if row["image_id"] != 7]
    a, b = write(tmp_path, a=rows, b=wrapped(rows, [*range(1, IMAGES + 1)]))
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 0
    assert "are in" not in err


def test_two_files_of_the_same_few_images_are_exit_2_because_the_rest_would_dilute(
    parity: Typed, truth: Path, tmp_path: Path
) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=wrapped(rows, [*range(1, 41)]), b=wrapped(moved(rows, 1e-6), [*range(1, 41)]))
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 2
    assert "list 40 of the 60 images" in err
    assert compare(parity, truth, a, b, "--intersect")[3]["images"] == 40


def test_no_common_image_is_exit_2(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=wrapped(rows, [1, 2]), b=wrapped(rows, [3, 4]))
    code, _, err, _ = compare(parity, truth, a, b, "--intersect")
    assert code == 2
    assert "no image in common" in err


def test_fewer_than_30_images_have_no_interval_and_no_verdict(parity: Typed, tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "few.json", MIN_IMAGES - 1)
    a, b = write(tmp_path, a=moved(found(truth), 30), b=found(truth))
    code, out, _, document = compare(parity, truth, a, b)
    assert code == 3
    assert "29 images are too few for an interval; at least 30 are needed" in out
    assert {delta["ci95"] for delta in document["against"]["delta"].values()} == {None}
    assert document["against"]["resamples"] == 0
    assert document["against"]["delta"]["AP"]["verdict"] == "undecided"


# what makes a pair no comparison


def test_other_fixtures_are_exit_2(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows, every = found(truth), [*range(1, IMAGES + 1)]
    a, b = write(
        tmp_path,
        a=wrapped(rows, every, fixtures_sha256="a" * 64),
        b=wrapped(rows, every, fixtures_sha256="b" * 64),
    )
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 2
    assert "was made on fixtures aaaaaaaaaaaa" in err


@pytest.mark.parametrize(("field", "ours", "theirs"), [("score_floor", 0.001, 0.05), ("max_detections", 100, 300)])
def test_another_protocol_is_undecided_whatever_the_delta(
    parity: Typed, truth: Path, tmp_path: Path, field: str, ours: float, theirs: float
) -> None:
    rows, every = found(truth), [*range(1, IMAGES + 1)]
    a, b = write(
        tmp_path, a=wrapped(moved(rows, 1e-6), every, **{field: ours}), b=wrapped(rows, every, **{field: theirs})
    )
    code, out, _, document = compare(parity, truth, a, b)
    assert code == 3
    assert f"{field} {ours:g} against {theirs:g}" in out
    assert "it would be passed" in out
    assert document["against"]["delta"]["AP"]["verdict"] == "undecided"


def test_another_score_floor_is_suspected_from_the_scores(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=[row for row in rows if row["score"] > 0.4], b=rows)
    err = compare(parity, truth, a, b)[2]
    assert "no score in a.json is below 0.4" in err


def test_the_same_detections_twice_are_pointed_out(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    a, b = write(tmp_path, a=rows, b=rows)
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 0
    assert "hold the same detections, digit for digit" in err


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]', "field 'bbox h' is nan"),
        ('[{"image_id": 999, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "image_id 999 is not in"),
        ('[{"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 1}]', "category_id 9 is not one of"),
        ('[{"image_id": 1,', "not JSON at line 1"),
        ("", "has no JSON"),
    ],
)
def test_a_bad_file_on_either_side_is_exit_2_and_named(
    parity: Typed, truth: Path, tmp_path: Path, side: str, bad: str, message: str
) -> None:
    a, b = write(tmp_path, a=found(truth), b=found(truth))
    (tmp_path / f"{side}.json").write_text(bad)
    code, _, err, _ = compare(parity, truth, a, b)
    assert code == 2
    assert f"{side}.json: " in err
    assert message in err
    assert "Traceback" not in err


def test_an_empty_candidate_fails_and_an_empty_reference_decides_nothing(
    parity: Typed, truth: Path, tmp_path: Path
) -> None:
    full, nothing = write(tmp_path, full=wrapped(found(truth), [*range(1, 61)]), nothing=wrapped([], [*range(1, 61)]))
    code, _, _, document = compare(parity, truth, nothing, full)
    assert code == 1
    assert document["cross_check"] is None
    code, out, _, _ = compare(parity, truth, full, nothing)
    assert code == 3
    assert "a loss could not show" in out


# options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--margin", "x"], "--margin 'x': give the allowed AP loss as a number"),
        (["--margin", "-1"], "must be a finite number of at least 0"),
        (["--margin", "nan"], "must be a finite number of at least 0"),
        (["--bootstrap", "5"], "--bootstrap 5: must be at least 100"),
        (["--precision", "int4"], "--precision int4: unknown. Did you mean 'int8'"),
        (["--cross-check", "two"], "--cross-check two: unknown."),
        (["--task", "poses"], "--task poses: unknown. Did you mean 'pose'"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--task", "pose"], "no keypoints to score against 'truth', whose categories name none"),
        (["--bbox-format", "xywh_abs,xywh_abs,xywh_abs"], "one for both files, or one for each"),
    ],
)
def test_a_wrong_option_is_exit_2(parity: Typed, truth: Path, tmp_path: Path, words: list[str], message: str) -> None:
    a, b = write(tmp_path, a=found(truth), b=found(truth))
    code, _, err = parity("score", a, "--against", b, "--annotations", truth, *words)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    "words", [["--intersect"], ["--margin", "0.1"], ["--precision", "int8"], ["--bootstrap", "200"]]
)
def test_an_option_about_a_difference_needs_the_other_file(
    parity: Typed, truth: Path, tmp_path: Path, words: list[str]
) -> None:
    (a,) = write(tmp_path, a=found(truth))
    code, _, err = parity("score", a, "--annotations", truth, *words)
    assert code == 2
    assert f"{words[0]} is about a difference: give the other file by --against" in err


def test_each_file_may_have_its_own_box_format(parity: Typed, truth: Path, tmp_path: Path) -> None:
    rows = found(truth)
    corners = [{**r, "bbox": [*r["bbox"][:2], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]]} for r in rows]
    a, b = write(tmp_path, a=corners, b=rows)
    assert compare(parity, truth, a, b, "--bbox-format", "xyxy_abs,xywh_abs")[0] == 0


@pytest.mark.parametrize(
    ("which", "checked"), [("all", (True, True)), ("one", (True, False)), ("none", (False, False))]
)
def test_the_cross_check_scores_one_both_or_none_again(
    parity: Typed, truth: Path, tmp_path: Path, which: str, checked: tuple[bool, bool]
) -> None:
    a, b = write(tmp_path, a=moved(found(truth), 1e-6), b=found(truth))
    _, out, _, document = compare(parity, truth, a, b, "--cross-check", which)
    assert (document["cross_check"] is not None, document["against"]["cross_check"] is not None) == checked
    assert out.count("agrees (largest difference") == sum(checked)


def test_a_scorer_that_disagrees_is_an_error(
    parity: Typed, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench.commands.score
    from bench.results import CrossCheck

    disagreement = CrossCheck(scorer="other 1.0", max_abs_difference=0.1, agrees=False)
    monkeypatch.setattr(bench.commands.score, "cross_check", lambda *a, **k: disagreement)
    a, b = write(tmp_path, a=moved(found(truth), 1e-6), b=found(truth))
    code, out, err, _ = compare(parity, truth, a, b)
    assert code == 1
    assert "DISAGREES" in out
    assert "error: other 1.0 finds other numbers (by up to 0.1)" in err
    assert parity("score", a, "--annotations", truth)[0] == 1


# keypoints


def pose_files(tmp_path: Path) -> tuple[Path, Path, Path]:
    truth = write_truth(tmp_path / "pose.json", IMAGES)
    document = json.loads(truth.read_text())
    for category in document["categories"]:
        category |= {"keypoints": ["nose", "tail"], "sigmas": [0.1, 0.1]}
    rows, rng = [], np.random.default_rng(3)
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        a["keypoints"] = [x, y, 2, x + w, y + h, 2]
        noise = rng.normal(0, 3, 4)
        points = [x + noise[0], y + noise[1], 0.9, x + w + noise[2], y + h + noise[3], 0.9]
        rows.append(
            {"image_id": a["image_id"], "category_id": a["category_id"], "score": float(rng.uniform()),
             "keypoints": [float(p) for p in points]}
        )  # fmt: skip
    truth.write_text(json.dumps(document))
    a, b = write(tmp_path, a=rows, b=[{**row, "bbox": [0, 0, 40, 40]} for row in rows])
    return truth, a, b


def test_keypoints_are_scored_by_oks_where_files_and_set_have_them(parity: Typed, tmp_path: Path) -> None:
    truth, a, b = pose_files(tmp_path)
    code, out, _, document = compare(parity, truth, a, b, "--cross-check", "all")
    assert code == 0
    assert document["task"] == "pose"
    assert list(document["stats"]) == ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
    assert document["cross_check"]["agrees"]
    assert "Scored: keypoints by OKS" in out
    code, out, _ = parity("score", a, "--annotations", truth)
    assert (code, "keypoints by OKS" in out) == (0, True)


def test_boxes_of_a_pose_file_are_scored_when_asked(parity: Typed, tmp_path: Path) -> None:
    truth, a, b = pose_files(tmp_path)
    code, _, err = parity("score", a, "--annotations", truth, "--task", "detect")
    assert code == 2
    assert "a.json: result 0: field 'bbox' is missing" in err
    code, out, _ = parity("score", b, "--annotations", truth, "--task", "detect")
    assert (code, "APs" in out) == (0, True)


def test_keypoints_against_boxes_is_exit_2(parity: Typed, tmp_path: Path) -> None:
    truth, a, b = pose_files(tmp_path)
    rows = json.loads(b.read_text())
    (boxes,) = write(tmp_path, boxes=[{k: v for k, v in row.items() if k != "keypoints"} for row in rows])
    code, _, err, _ = compare(parity, truth, a, boxes)
    assert code == 2
    assert "has keypoints and" in err
    assert "boxes.json has none: say --task detect" in err
    code, _, err, _ = compare(parity, truth, a, boxes, "--task", "pose")
    assert code == 2
    assert "boxes.json: no keypoints to score" in err
