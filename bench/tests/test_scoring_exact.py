"""Our engine against pycocotools, bit for bit: precision and recall arrays, and the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.results import STAT_NAMES
from bench.scoring import KEYPOINT_STAT_NAMES, Detections, match, precision_recall_arrays
from bench.scoring.protocol import AREAS_PX2, PROTOCOLS, RECALL_POINTS, THRESHOLDS
from bench.tests.scoring_cases import (
    AP10K_NAMES,
    COCO_NAMES,
    drawn_weights,
    duplicated,
    make_set,
    pycocotools_arrays,
    random_case,
    random_poses,
)
from bench.types import FixtureSet

AP10K = np.array([25, 25, 26, 35, 35, 79, 72, 62, 79, 72, 62, 107, 87, 89, 107, 87, 89]) / 1000


def assert_same(fixtures: FixtureSet, detections: Detections, **options: Any) -> None:
    """Arrays bit for bit at any numbers of detections, and the numbers at the standard ones."""
    limits, sigmas = options.get("max_detections"), options.get("sigmas")
    task = "detect" if detections.keypoints_xyv is None else "pose"
    theirs = pycocotools_arrays(fixtures, detections, max_detections=limits, sigmas=sigmas)
    ours = precision_recall_arrays(fixtures, detections, task=task, max_detections=limits)
    for mine, expected in zip(ours, theirs[:2], strict=True):
        assert mine.shape == expected.shape
        np.testing.assert_array_equal(mine, expected)
    if limits is None:
        stats = match(fixtures, detections, task=task).stats
        assert [-1.0 if v is None else v for v in stats.values()] == theirs[2]


def with_scores(detections: Detections, scores: np.ndarray) -> Detections:
    return Detections(detections.image_ids, detections.category_ids, detections.boxes_xywh, scores)


def test_the_constants_are_those_of_pycocotools() -> None:
    from pycocotools.cocoeval import Params

    for task, kind in (("detect", "bbox"), ("pose", "keypoints")):
        params, protocol = Params(iouType=kind), PROTOCOLS[task]
        np.testing.assert_array_equal(THRESHOLDS, params.iouThrs)
        np.testing.assert_array_equal(RECALL_POINTS, params.recThrs)
        assert list(protocol.areas) == params.areaRngLbl
        assert [list(AREAS_PX2[name]) for name in protocol.areas] == params.areaRng
        assert list(protocol.max_detections) == params.maxDets
    assert tuple(stat.name for stat in PROTOCOLS["detect"].stats) == STAT_NAMES
    assert tuple(stat.name for stat in PROTOCOLS["pose"].stats) == KEYPOINT_STAT_NAMES


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 1, "crowd": 0.3},
        {"seed": 2, "decimals": 1},
        {"seed": 3, "decimals": 0},
        {"seed": 4, "empty_images": 20},
        {"seed": 5, "objects": 260, "noise": 900, "crowded_image": True, "categories": 2},
        {"seed": 6, "hit": 0.0},
        {"seed": 7, "noise": 0, "shift": 0.0},
        {"seed": 8, "objects": 3, "categories": 6},
    ],
    ids=["plain", "crowd", "ties", "two-scores", "empty-images", "over-100", "all-wrong", "all-right", "rare-classes"],
)
def test_arrays_and_numbers_equal_pycocotools(options: dict[str, Any]) -> None:
    fixtures, detections = random_case(**options)
    assert_same(fixtures, detections)


@pytest.mark.parametrize("limits", [[100], [5], [1, 10, 300], [3, 7, 20, 100]])
def test_arrays_equal_pycocotools_at_any_number_of_detections(limits: list[int]) -> None:
    fixtures, detections = random_case(9, objects=260, noise=900, crowded_image=True, categories=2)
    assert np.bincount(detections.image_ids).max() > 300
    assert_same(fixtures, detections, max_detections=limits)


@pytest.mark.parametrize("base", [1024.0, 9216.0, 0.0, 1e10])
def test_areas_at_a_boundary_and_one_ulp_beside_it_fall_as_in_pycocotools(base: float) -> None:
    areas = [base, np.nextafter(base, -np.inf), np.nextafter(base, np.inf)]
    annotations, rows = [], []
    for n, area in enumerate(max(a, 0.0) for a in areas):
        box = [10.0, 10.0, float(np.sqrt(area)), float(np.sqrt(area))]
        annotations.append({"id": n + 1, "image_id": n + 1, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0})
        for width in (np.nextafter(box[2], 0), box[2], np.nextafter(box[2], np.inf)):
            rows.append((n + 1, [10.0, 10.0, width, box[3]]))
            rows.append((n + 1, [500.0, 10.0, width, box[3]]))
    detections = Detections(
        np.array([r[0] for r in rows], np.int64),
        np.ones(len(rows), np.int64),
        np.array([r[1] for r in rows]),
        np.linspace(0.9, 0.1, len(rows)),
    )
    assert_same(make_set(annotations, images=3, categories=(1,)), detections)


def test_objects_and_detections_of_no_extent_score_as_in_pycocotools() -> None:
    fixtures, detections = random_case(10)
    boxes = detections.boxes_xywh.copy()
    boxes[::5, 2] = 0
    boxes[::7, 3] = 0
    flat = tuple(
        {**a, "bbox": [*a["bbox"][:2], 0.0, a["bbox"][3]]} if n % 6 == 0 else a
        for n, a in enumerate(fixtures.annotations)
    )
    fixtures = replace(fixtures, annotations=flat)
    assert_same(fixtures, Detections(detections.image_ids, detections.category_ids, boxes, detections.scores))


def test_boxes_whose_overlap_is_not_a_number_are_matched_as_in_pycocotools() -> None:
    """Areas beyond float64: inf / inf. NaN compares with no threshold, and pycocotools then takes it for a match."""
    huge, usual = [0.0, 0.0, 1e200, 1e200], [10.0, 10.0, 50.0, 50.0]
    truths = [
        {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
        for n, (box, area) in enumerate(((huge, 1e10), (usual, 2500.0), (huge, 2500.0)))
    ]
    fixtures = make_set(truths, images=1, categories=(1,))
    boxes = np.array([usual, huge, huge, [200.0, 200.0, 5.0, 5.0], huge])
    ones = np.ones(len(boxes), np.int64)
    detections = Detections(ones, ones, boxes, np.linspace(0.9, 0.1, len(ones)))
    assert_same(fixtures, detections)
    assert match(fixtures, detections).tables["all"].hits.tolist() == [1023, 1023, 1023, 0]


@pytest.mark.parametrize(("width", "right"), [(50.0, 1), (np.nextafter(50.0, 0), 0), (75.0, 6), (95.0, 10)])
def test_an_overlap_of_just_a_threshold_matches_as_in_pycocotools(width: float, right: int) -> None:
    truth = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 100.0, 10.0], "area": 1000.0, "iscrowd": 0}
    fixtures = make_set([truth], images=1, categories=(1,))
    one = np.ones(1, np.int64)
    detections = Detections(one, one, np.array([[0.0, 0.0, width, 10.0]]), np.array([0.5]))
    assert_same(fixtures, detections)
    assert int(match(fixtures, detections).tables["all"].hits[0]).bit_count() == right


def test_identical_boxes_and_one_box_for_two_objects_are_matched_as_in_pycocotools() -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    truths = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": area, "iscrowd": crowd}
        for n, (area, crowd) in enumerate([(2500.0, 0), (2500.0, 1), (100.0, 0), (2500.0, 0)])
    ]
    count = 6
    detections = Detections(
        np.ones(count, np.int64), np.ones(count, np.int64), np.tile(box, (count, 1)), np.linspace(0.9, 0.4, count)
    )
    assert_same(make_set(truths, categories=(1,)), detections)


def test_of_two_objects_that_overlap_equally_the_later_in_the_file_is_taken() -> None:
    """Which one decides whether the second detection, near the first object only, is right."""
    left, right = [0.0, 0.0, 100.0, 100.0], [20.0, 0.0, 100.0, 100.0]
    near_left, between = [-10.0, 0.0, 100.0, 100.0], [10.0, 0.0, 100.0, 100.0]
    detections = Detections(
        np.ones(2, np.int64), np.ones(2, np.int64), np.array([between, near_left]), np.array([0.9, 0.8])
    )
    recalls = []
    for boxes in ((left, right), (right, left)):
        truths = [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 10_000.0, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ]
        fixtures = make_set(truths, categories=(1,))
        assert_same(fixtures, detections)
        recalls.append(match(fixtures, detections).stats["AR100"])
    assert recalls[0] > recalls[1]


def test_the_order_of_rows_decides_between_equal_scores_as_in_pycocotools() -> None:
    fixtures, detections = random_case(11)
    assert_same(fixtures, with_scores(detections, np.full(len(detections), 0.5)))


def test_a_detection_of_an_unlisted_class_of_an_unnamed_set_enters_nothing() -> None:
    fixtures, detections = random_case(12)
    unnamed = replace(fixtures, named_categories=False)
    extra = Detections(
        np.append(detections.image_ids, 1),
        np.append(detections.category_ids, 999),
        np.concatenate((detections.boxes_xywh, [[1.0, 1.0, 9.0, 9.0]])),
        np.append(detections.scores, 0.99),
    )
    assert match(unnamed, extra).stats == match(fixtures, detections).stats
    with pytest.raises(InputError, match="category_id 999 is not in"):
        match(fixtures, extra)


def test_each_class_has_the_mean_of_its_own_precision() -> None:
    fixtures, detections = random_case(13, objects=3, categories=6)
    precision = pycocotools_arrays(fixtures, detections)[0]
    for k, value in enumerate(match(fixtures, detections).class_ap.values()):
        own = precision[:, :, k, 0, 2]
        assert value == (float(own[own > -1].mean()) if (own > -1).any() else None)
    assert None in match(fixtures, detections).class_ap.values()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images=st.integers(5, 12),
    categories=st.integers(1, 4),
    objects=st.integers(1, 60),
    noise=st.integers(0, 80),
    crowd=st.sampled_from([0.0, 0.2, 1.0]),
    decimals=st.sampled_from([1, 6]),
)
def test_arrays_equal_pycocotools_on_any_small_set(seed: int, **options: Any) -> None:
    fixtures, detections = random_case(seed, **options)
    if len(detections):
        assert_same(fixtures, detections)


@pytest.mark.parametrize(
    ("count", "of_category", "sigmas"),
    [
        (17, {"keypoints": COCO_NAMES}, None),
        (17, {"keypoints": AP10K_NAMES}, AP10K),
        (17, {"keypoints": COCO_NAMES, "sigmas": AP10K.tolist()}, AP10K),
        (20, {"sigmas": np.linspace(0.02, 0.11, 20).tolist()}, np.linspace(0.02, 0.11, 20)),
        (5, {"sigmas": [0.05] * 5}, [0.05] * 5),
        (40, {"sigmas": [0.05] * 40}, [0.05] * 40),
    ],
    ids=["coco", "ap10k", "own-before-known", "20-own", "5-own", "40-own"],
)
@pytest.mark.parametrize(("seed", "limits"), [(3, None), (4, [1, 3])])
def test_keypoints_equal_pycocotools(
    seed: int, count: int, of_category: dict[str, Any], sigmas: Any, limits: list[int] | None
) -> None:
    fixtures, detections = random_poses(seed, count=count, **of_category)
    assert any(a["num_keypoints"] == 0 for a in fixtures.annotations)
    assert_same(fixtures, detections, sigmas=sigmas, max_detections=limits)


@pytest.mark.parametrize("count", [1, 5, 7, 8, 17, 23, 40, 128])
def test_every_similarity_of_keypoints_has_the_last_bit_of_pycocotools(count: int) -> None:
    from pycocotools.cocoeval import COCOeval, Params

    from bench.scoring.pairing import _keypoint_similarities
    from bench.scoring.truth import truth_arrays

    sigmas = np.linspace(0.02, 0.11, count)
    fixtures, detections = random_poses(5, count=count, sigmas=sigmas.tolist())
    truth = truth_arrays(fixtures, task="pose")
    engine = COCOeval(iouType="keypoints")
    engine.params = Params(iouType="keypoints")
    engine.params.kpt_oks_sigmas = sigmas
    compared = 0
    for index, sample in enumerate(fixtures.samples):
        rows = np.flatnonzero(detections.image_ids == sample.image_id)
        objects = np.flatnonzero(truth.image == index)
        if not len(rows) or not len(objects):
            continue
        engine._gts[sample.image_id, 1] = [
            {
                "keypoints": truth.keypoints_xyv[g].ravel().tolist(),
                "bbox": truth.boxes_xywh[g].tolist(),
                "area": float(truth.area_px2[g]),
            }
            for g in objects
        ]
        engine._dts[sample.image_id, 1] = [
            {"score": 1.0, "keypoints": detections.keypoints_xyv[d].ravel().tolist()} for d in rows
        ]
        group = np.array([[0, len(rows), objects[0], objects[-1] + 1]])
        pairs = len(rows) * len(objects)
        ours = _keypoint_similarities(truth, detections, rows, group, pairs)
        theirs = engine.computeOks(sample.image_id, 1)[: len(rows)]
        np.testing.assert_array_equal(ours.reshape(len(rows), -1)[: len(theirs)], theirs)
        compared += pairs
    assert compared > 100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weights_equal_literally_duplicated_images_in_pycocotools(seed: int) -> None:
    fixtures, detections = random_case(seed, images=60, objects=200)
    weights = drawn_weights(60, seed)
    assert weights.max() > 1
    assert weights.min() == 0
    theirs = pycocotools_arrays(*duplicated(fixtures, detections, weights))
    ours = precision_recall_arrays(fixtures, detections, weights=weights)
    for mine, expected in zip(ours, theirs[:2], strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_weights_equal_literally_duplicated_images_for_keypoints_too() -> None:
    fixtures, detections = random_poses(4, keypoints=COCO_NAMES)
    weights = drawn_weights(len(fixtures.samples), 1)
    theirs = pycocotools_arrays(*duplicated(fixtures, detections, weights))
    ours = precision_recall_arrays(fixtures, detections, task="pose", weights=weights)
    for mine, expected in zip(ours, theirs[:2], strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_the_known_sigmas_are_those_of_coco_and_ap10k() -> None:
    from pycocotools.cocoeval import Params

    from bench.scoring.sigmas import keypoint_sigmas

    for names, expected in ((COCO_NAMES, Params(iouType="keypoints").kpt_oks_sigmas), (AP10K_NAMES, AP10K)):
        np.testing.assert_array_equal(keypoint_sigmas(make_set([], categories=(1,), keypoints=names))[1], expected)


@pytest.mark.parametrize(
    ("of_category", "count", "message"),
    [
        ({}, 17, "no category has keypoints; score it as detect, or add"),
        ({"keypoints": ["a", "b"]}, 2, 'category 1: no OKS sigmas are known for its 2 keypoints; add "sigmas"'),
        ({"keypoints": COCO_NAMES, "sigmas": [0.1] * 16}, 17, "16 sigmas for 17 keypoints; they must agree"),
        ({"sigmas": [0.1, -0.1]}, 2, "sigmas must be a list of positive numbers"),
        ({"sigmas": [0.1, float("nan")]}, 2, "sigmas must be a list of positive numbers"),
        ({"sigmas": [0.1] * 18}, 17, "annotation 0: has 51 keypoint numbers, 18 sigmas need 54"),
    ],
)
def test_keypoints_and_sigmas_that_do_not_agree_are_refused(
    of_category: dict[str, Any], count: int, message: str
) -> None:
    fixtures, detections = random_poses(0, count=count, **of_category)
    with pytest.raises(InputError, match=message):
        match(fixtures, detections, task="pose")


def test_detections_with_another_number_of_keypoints_are_refused() -> None:
    fixtures, detections = random_poses(0, keypoints=COCO_NAMES)
    assert detections.keypoints_xyv is not None
    columns = (detections.image_ids, detections.category_ids, detections.boxes_xywh, detections.scores)
    with pytest.raises(InputError, match="the detections have 5 keypoints each, fixture set 'tiny' has 17"):
        match(fixtures, Detections(*columns, detections.keypoints_xyv[:, :5]), task="pose")
    with pytest.raises(InputError, match="the detections have no keypoints"):
        match(fixtures, Detections(*columns), task="pose")


def test_two_classes_with_different_sigmas_are_refused() -> None:
    fixtures, detections = random_poses(0, keypoints=COCO_NAMES)
    two = (*fixtures.categories, {"id": 2, "name": "other", "sigmas": [0.1] * 17})
    with pytest.raises(InputError, match="categories 1 and 2 have different sigmas"):
        match(replace(fixtures, categories=two), detections, task="pose")


def test_a_class_without_keypoints_takes_no_part_in_pose() -> None:
    fixtures, detections = random_poses(0, keypoints=COCO_NAMES)
    box = {"id": 999, "image_id": 1, "category_id": 2, "bbox": [0.0, 0.0, 9.0, 9.0], "area": 81.0, "iscrowd": 0}
    more = replace(
        fixtures,
        categories=(*fixtures.categories, {"id": 2, "name": "box only"}),
        annotations=(*fixtures.annotations, box),
    )
    assert match(more, detections, task="pose").stats == match(fixtures, detections, task="pose").stats
    assert len(match(more, detections).class_ap) == 2
