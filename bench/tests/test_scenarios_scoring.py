"""Scenarios in numbers: objects that do not count, intervals of a part and the whole, and what is never paired."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest

from bench.errors import InputError, Unsupported
from bench.scenarios.definitions import Scenario
from bench.scenarios.deltas import uncertainties
from bench.scenarios.selecting import select
from bench.scoring import Detections, match, paired_bootstrap
from bench.scoring.bootstrap import resample_weights
from bench.tests.scoring_cases import duplicated, make_set, random_case


def selecting(**what):
    return Scenario(name="part", description="part", definition={"description": "part", "select": what})


def within_by_pycocotools(fixtures, detections, limits):
    """AP, AP50, AP75 and AR100 of objects within an area range, straight from pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    listing = {
        "images": [{"id": s.image_id} for s in fixtures.samples],
        "categories": [dict(c) for c in fixtures.categories],
    }
    rows = [
        {
            "id": n + 1,
            "image_id": int(detections.image_ids[n]),
            "category_id": int(detections.category_ids[n]),
            "bbox": detections.boxes_xywh[n].tolist(),
            "area": float(detections.boxes_xywh[n, 2] * detections.boxes_xywh[n, 3]),
            "score": float(detections.scores[n]),
        }
        for n in range(len(detections))
    ]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in ([{**a, "id": n + 1} for n, a in enumerate(fixtures.annotations)], rows):
            side = COCO()
            side.dataset = {**listing, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        engine = COCOeval(*sides, iouType="bbox")
        engine.params.areaRng, engine.params.areaRngLbl = [list(limits)], ["all"]
        engine.evaluate()
        engine.accumulate()
    precision, recall = engine.eval["precision"][..., 0, -1], engine.eval["recall"][..., 0, -1]

    def mean(values):
        return float(np.mean(values[values > -1]))

    return {"AP": mean(precision), "AP50": mean(precision[0]), "AP75": mean(precision[5]), "AR100": mean(recall)}


@pytest.mark.parametrize("limits", [(0.0, 1024.0), (500.0, 4000.0), (9216.0, 1e10), (0.0, 1e10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_objects_outside_a_range_are_ignored_as_an_area_range_of_pycocotools_ignores_them(limits, seed):
    fixtures, detections = random_case(seed)
    ours = match(fixtures, detections, area_px2=limits).stats
    theirs = within_by_pycocotools(fixtures, detections, limits)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-12)


def test_small_objects_alone_have_the_ap_that_clean_calls_small():
    fixtures, detections = random_case(3)
    clean = match(fixtures, detections)
    part = select(fixtures, selecting(object_area_px2=[0, 1024]))
    small = match(part.fixtures, detections, area_px2=part.area_px2)
    assert small.stats["AP"] == clean.stats["APs"]
    assert small.stats["AR100"] == clean.stats["ARs"]
    assert small.stats["APm"] is None or part.area_px2[1] == 1024  # an area of exactly 1024 is both


def one_each(large_found, small_found, *, stray=()):
    """A large and a small object on every one of 40 images."""
    annotations, rows = [], []
    for image in range(1, 41):
        for found, bbox in ((large_found, [10, 10, 200, 200]), (small_found, [300, 300, 20, 20])):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
            if found:
                rows.append((image, bbox, 0.9))
        rows += [(image, bbox, 0.95) for bbox in stray]
    fixtures = make_set(annotations, images=40, categories=(1,))
    return fixtures, Detections(
        np.array([r[0] for r in rows], np.int64),
        np.ones(len(rows), np.int64),
        np.array([r[1] for r in rows], np.float64).reshape(-1, 4),
        np.array([r[2] for r in rows], np.float64),
    )


def test_a_large_object_is_neither_a_miss_nor_is_finding_it_wrong():
    for large_found in (False, True):
        fixtures, detections = one_each(large_found, True)
        assert match(fixtures, detections, area_px2=(0, 1024)).stats["AP"] == pytest.approx(1.0)


def test_a_stray_small_box_is_wrong_and_a_stray_large_one_is_ignored():
    fixtures, detections = one_each(False, True, stray=([400, 400, 20, 20],))
    assert match(fixtures, detections, area_px2=(0, 1024)).stats["AP"] == pytest.approx(0.5, abs=0.01)
    fixtures, detections = one_each(False, True, stray=([400, 400, 150, 150],))
    assert match(fixtures, detections, area_px2=(0, 1024)).stats["AP"] == pytest.approx(1.0)


def test_a_part_of_the_objects_cannot_be_paired_with_all_of_them():
    fixtures, detections = random_case(0)
    with pytest.raises(InputError, match="cannot be paired"):
        paired_bootstrap(match(fixtures, detections), match(fixtures, detections, area_px2=(0, 1024)))


def test_crowded_takes_images_by_objects_that_count_and_crowd_regions_do_not():
    rows = [(1, 0), (1, 0), (1, 1), (2, 0), (2, 0), (2, 0)]
    annotations = [
        {"id": n + 1, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": crowd}
        for n, (i, crowd) in enumerate(rows)
    ]
    fixtures = make_set(annotations, images=3, categories=(1,))
    part = select(fixtures, selecting(min_objects=3))
    assert [s.image_id for s in part.fixtures.samples] == [2]
    assert {a["image_id"] for a in part.fixtures.annotations} == {2}
    assert part.objects == 3
    few = select(fixtures, selecting(min_objects=1, max_objects=2))
    assert [s.image_id for s in few.fixtures.samples] == [1]
    assert few.ignored == 1


def test_an_empty_selection_is_unsupported_with_what_the_images_have():
    fixtures, _ = random_case(0)
    with pytest.raises(Unsupported, match="No image has 99 objects: the 40 images have 0 to"):
        select(fixtures, selecting(min_objects=99))
    with pytest.raises(Unsupported, match="None of the 40 images has an object with an area of 0 to 1 px²"):
        select(fixtures, selecting(object_area_px2=[0, 1]))


def worse(detections, seed=0):
    moved = detections.boxes_xywh.copy()
    moved[:, :2] += np.random.default_rng(seed).normal(0, 6, (len(detections), 2))
    return replace(detections, boxes_xywh=moved)


@pytest.mark.parametrize(
    "of_case", [{}, {"images": 70, "categories": 25, "objects": 90}], ids=["common", "rare classes"]
)
def test_where_the_truth_is_the_same_the_intervals_are_those_of_the_paired_bootstrap(of_case):
    fixtures, detections = random_case(0, **of_case)
    clean, blurred = match(fixtures, detections), match(fixtures, worse(detections))
    found = uncertainties(clean, {"blur": blurred}, resamples=120, seed=5)["blur"]
    paired = paired_bootstrap(clean, blurred, resamples=120, seed=5, area_ranges=False).deltas
    for name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"):
        assert found.deltas[name].value == paired[name].value
        assert found.deltas[name].ci95 == pytest.approx(paired[name].ci95, abs=1e-15)
    assert found.deltas["APs"].ci95 is None


def test_a_part_is_resampled_together_with_the_whole_that_it_is_in():
    fixtures, detections = random_case(1, objects=400)
    part = select(fixtures, selecting(min_objects=8))
    ids = {s.image_id for s in part.fixtures.samples}
    assert 30 <= len(ids) < len(fixtures.samples)
    inside = detections.take(np.isin(detections.image_ids, list(ids)))
    clean, crowded = match(fixtures, detections), match(part.fixtures, inside)
    found = uncertainties(clean, {"crowded": crowded}, resamples=12, seed=2)["crowded"]
    at = np.array([s.image_id in ids for s in fixtures.samples])
    differences, own = [], []
    for weights in resample_weights(len(fixtures.samples), 12, 2):
        all_ap = match(*duplicated(fixtures, detections, weights)).stats["AP"]
        part_ap = match(*duplicated(part.fixtures, inside, weights[at])).stats["AP"]
        differences.append(part_ap - all_ap)
        own.append(part_ap)
    assert found.deltas["AP"].ci95 == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=1e-12)
    assert found.ap_ci95 == pytest.approx(np.percentile(own, [2.5, 97.5]), abs=1e-12)
    assert found.deltas["AP"].value == crowded.stats["AP"] - clean.stats["AP"]


def test_moved_truth_is_paired_by_image_and_each_side_has_its_own():
    fixtures, detections = random_case(2)
    away = tuple({**a, "bbox": [a["bbox"][0] + 50, *a["bbox"][1:]]} for a in fixtures.annotations)
    boxes = detections.boxes_xywh + np.array([50.0, 0, 0, 0])
    same = match(replace(fixtures, annotations=away), replace(detections, boxes_xywh=boxes))
    found = uncertainties(match(fixtures, detections), {"moved": same}, resamples=100, seed=0)["moved"]
    assert found.deltas["AP"].value == pytest.approx(0, abs=1e-9)
    assert found.deltas["AP"].ci95 == pytest.approx((0, 0), abs=1e-9)


def test_too_few_images_give_no_interval_and_the_reason():
    fixtures, detections = random_case(0, images=29, objects=90)
    clean = match(fixtures, detections)
    found = uncertainties(clean, {"blur": match(fixtures, worse(detections))}, resamples=100, seed=0)
    assert found["blur"].deltas["AP"].ci95 is None
    assert "29 images are too few" in found["blur"].reason
    assert found["clean"].ap_ci95 is None


def test_a_scenario_on_other_images_is_refused():
    fixtures, detections = random_case(0)
    others = replace(
        fixtures,
        samples=tuple(replace(s, image_id=s.image_id + 100) for s in fixtures.samples),
        annotations=tuple({**a, "image_id": a["image_id"] + 100} for a in fixtures.annotations),
    )
    strange = match(others, replace(detections, image_ids=detections.image_ids + 100))
    with pytest.raises(InputError, match="is not in the clean set"):
        uncertainties(match(fixtures, detections), {"blur": strange}, resamples=100, seed=0)
