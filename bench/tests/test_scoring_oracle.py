"""The cross-check: agreement by two independent scorers, and that it would see a disagreement."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.errors import UsageError
from bench.scoring import Detections, cross_check, match, oracle
from bench.scoring.oracle import LARGEST_DIFFERENCE, estimate_pycocotools_s
from bench.scoring.truth import truth_arrays
from bench.tests.scoring_cases import COCO_NAMES, make_set, random_case, random_poses

needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")
SCORERS = ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)]


@pytest.mark.parametrize("scorer", SCORERS)
def test_an_independent_scorer_agrees_and_is_named(scorer: Any) -> None:
    fixtures, detections = random_case(0, crowd=0.2)
    check = cross_check(fixtures, detections, match(fixtures, detections).stats, scorer=scorer)
    assert check is not None
    assert check.agrees
    assert check.max_abs_difference <= LARGEST_DIFFERENCE
    assert check.scorer.startswith(f"{scorer} ")
    assert check.scorer[-1].isdigit()


@pytest.mark.parametrize("scorer", SCORERS)
def test_keypoints_with_own_sigmas_agree_too(scorer: Any) -> None:
    for of_category in ({"keypoints": COCO_NAMES}, {"sigmas": [0.05] * 17}):
        fixtures, detections = random_poses(0, **of_category)
        stats = match(fixtures, detections, task="pose").stats
        check = cross_check(fixtures, detections, stats, task="pose", scorer=scorer)
        assert check is not None
        assert (check.agrees, check.max_abs_difference <= 1e-15) == (True, True)


@pytest.mark.parametrize("scorer", SCORERS)
def test_ids_that_a_scorer_misreads_are_renamed_for_it(scorer: Any) -> None:
    fixtures, detections = random_case(1)
    renamed = replace(
        fixtures,
        samples=tuple(replace(s, image_id=s.image_id - 20) for s in fixtures.samples),
        categories=tuple({**c, "id": c["id"] - 1} for c in fixtures.categories),
        annotations=tuple(
            {**a, "id": n, "image_id": a["image_id"] - 20, "category_id": a["category_id"] - 1}
            for n, a in enumerate(fixtures.annotations)
        ),
    )
    other = Detections(detections.image_ids - 20, detections.category_ids - 1, detections.boxes_xywh, detections.scores)
    stats = match(renamed, other).stats
    assert stats == match(fixtures, detections).stats
    check = cross_check(renamed, other, stats, scorer=scorer)
    assert check is not None
    assert check.agrees


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_first_detection_takes_its_object_like_any_other(scorer: Any) -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    fixtures = make_set([{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 2500.0, "iscrowd": 0}])
    twice = Detections(np.ones(2, np.int64), np.ones(2, np.int64), np.array([box, box]), np.array([0.9, 0.8]))
    other = {"id": 2, "image_id": 2, "category_id": 1, "bbox": box, "area": 2500.0, "iscrowd": 0}
    more = replace(fixtures, annotations=(*fixtures.annotations, other))
    for truth in (fixtures, more):
        check = cross_check(truth, twice, match(truth, twice).stats, scorer=scorer)
        assert check is not None
        assert check.agrees


def test_a_disagreement_is_seen_in_any_number_by_its_size() -> None:
    fixtures, detections = random_case(0)
    stats = dict(match(fixtures, detections).stats)
    for name in stats:
        check = cross_check(fixtures, detections, {**stats, name: stats[name] + 1e-9})
        assert check is not None
        assert not check.agrees
        assert check.max_abs_difference == pytest.approx(1e-9, rel=1e-3)
    rounding = cross_check(fixtures, detections, {**stats, "AP": np.nextafter(stats["AP"], 1)})
    assert rounding is not None
    assert rounding.agrees
    assert rounding.max_abs_difference > 0


def test_a_number_that_only_one_side_defines_and_a_nan_disagree_infinitely() -> None:
    fixtures, detections = random_case(0)
    stats = match(fixtures, detections).stats
    for value in (None, float("nan")):
        check = cross_check(fixtures, detections, {**stats, "APl": value})
        assert check is not None
        assert (check.agrees, check.max_abs_difference) == (False, math.inf)
    small = replace(fixtures, annotations=tuple(a for a in fixtures.annotations if a["area"] < 9216))
    undefined = match(small, detections).stats
    assert undefined["APl"] is None
    check = cross_check(small, detections, undefined)
    assert check is not None
    assert check.agrees


def test_empty_predictions_are_not_cross_checked() -> None:
    fixtures, detections = random_case(0)
    none = Detections(*(getattr(detections, f)[:0] for f in ("image_ids", "category_ids", "boxes_xywh", "scores")))
    assert cross_check(fixtures, none, match(fixtures, none).stats) is None


@pytest.mark.parametrize(
    ("seconds", "installed", "name"),
    [(9.0, True, "pycocotools"), (11.0, True, "hotcoco"), (11.0, False, "pycocotools")],
)
@needs_hotcoco
def test_the_fast_scorer_takes_over_only_where_the_oracle_is_slow_and_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, seconds: float, installed: bool, name: str
) -> None:
    monkeypatch.setattr(oracle, "estimate_pycocotools_s", lambda truth, detections: seconds)
    if not installed:
        monkeypatch.setattr(oracle.importlib.util, "find_spec", lambda name: None)
    fixtures, detections = random_case(0)
    check = cross_check(fixtures, detections, match(fixtures, detections).stats)
    assert check is not None
    assert check.scorer.startswith(name)


def test_a_scorer_that_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle.importlib.util, "find_spec", lambda name: None)
    fixtures, detections = random_case(0)
    with pytest.raises(UsageError, match="hotcoco is not installed"):
        cross_check(fixtures, detections, match(fixtures, detections).stats, scorer="hotcoco")


def test_the_estimate_grows_with_detections_images_and_classes() -> None:
    sizes = [{}, {"noise": 5000}, {"images": 4000}, {"images": 4000, "categories": 40}]
    cases = [random_case(0, **size) for size in sizes]
    estimates = [estimate_pycocotools_s(truth_arrays(fixtures), found) for fixtures, found in cases]
    assert estimates == sorted(estimates)
    assert estimates[0] < 1 < estimates[-1]


def test_the_cross_check_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    fixtures, detections = random_case(0)
    cross_check(fixtures, detections, match(fixtures, detections).stats)
    assert capfd.readouterr() == ("", "")
