"""The paired bootstrap: its fast form, its draws, and that it would notice the published mistake."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.errors import InputError
from bench.scoring import KEYPOINT_STAT_NAMES, Detections, Matched, match, paired_bootstrap
from bench.scoring.accumulate import precision_recall
from bench.scoring.bootstrap import MIN_CLASS_IMAGES, _AreaPair, draw_deltas
from bench.scoring.significance import holm, percentile_interval, two_sided_p
from bench.tests.scoring_cases import COCO_NAMES, drawn_weights, duplicated, random_case, random_poses

FIELDS = ("image_ids", "category_ids", "boxes_xywh", "scores", "keypoints_xyv")


def chosen(detections: Detections, rows: np.ndarray) -> Detections:
    return Detections(*(None if getattr(detections, f) is None else getattr(detections, f)[rows] for f in FIELDS))


def moved(detections: Detections, seed: int = 0, box_px: float = 2.0, score: float = 0.05) -> Detections:
    r = np.random.default_rng(seed)
    boxes = detections.boxes_xywh.copy()
    boxes[:, :2] += r.normal(0, box_px, (len(boxes), 2))
    points = detections.keypoints_xyv
    if points is not None:
        points = points.copy()
        points[:, :, :2] += r.normal(0, box_px, points[:, :, :2].shape)
    scores = (detections.scores + r.normal(0, score, len(boxes))).round(6)
    return Detections(detections.image_ids, detections.category_ids, boxes, scores, points)


def pair(seed: int = 0, **options: Any) -> tuple[Matched, Matched]:
    fixtures, detections = random_case(seed, **{"images": 80, "objects": 500, **options})
    return match(fixtures, detections), match(fixtures, moved(detections))


def pose_pair() -> tuple[Matched, Matched]:
    fixtures, detections = random_poses(1, images=100, objects=500, keypoints=COCO_NAMES)
    return match(fixtures, detections, task="pose"), match(fixtures, moved(detections), task="pose")


def over_100() -> tuple[Matched, Matched]:
    return pair(5, objects=260, noise=900, crowded_image=True, categories=2)


@pytest.mark.parametrize("make", [pair, lambda: pair(3, crowd=0.4), lambda: pair(4, objects=20), over_100, pose_pair])
def test_the_fast_form_equals_the_exact_weighted_form(make: Any) -> None:
    sides = make()
    images, most = len(sides[0].images), sides[0].protocol.max_detections[-1]
    for seed in (None, 0, 1):
        weights = np.ones(images, np.int64) if seed is None else drawn_weights(images, seed)
        for area in sides[0].protocol.areas:
            fast = _AreaPair(*sides, area)
            fast.weigh(weights.astype(np.int32))
            for side, matched in zip(fast._sides, sides, strict=True):
                precision, recall = precision_recall(matched.tables[area], weights, most)
                np.testing.assert_allclose(side.ap, precision.mean(axis=1).T, rtol=0, atol=5e-15)
                np.testing.assert_array_equal(side.ap[:, 0] < 0, recall[0] < 0)
                numbers = fast._numbers(side) if (recall > -1).any() else {}
                for stat in (s for s in fast.stats if s.name in numbers):
                    if stat.recall:
                        recall = precision_recall(matched.tables[area], weights, stat.max_detections)[1]
                    values = recall if stat.recall else precision
                    values = values if stat.threshold is None else values[stat.threshold]
                    assert numbers[stat.name] == pytest.approx(values[values > -1].mean(), rel=0, abs=5e-15)
                    if seed is None:
                        assert numbers[stat.name] == pytest.approx(matched.stats[stat.name], rel=0, abs=5e-15)


def test_a_resample_equals_scoring_the_duplicated_images() -> None:
    fixtures, detections = random_case(2, images=60, objects=240)
    other = moved(detections)
    draws = draw_deltas(match(fixtures, detections), match(fixtures, other), resamples=3, seed=7)
    generator = np.random.default_rng(7)
    for b in range(3):
        weights = np.bincount(generator.integers(0, 60, 60), minlength=60)
        first, second = (match(*duplicated(fixtures, d, weights)) for d in (detections, other))
        for name, values in draws.stats.items():
            assert values[b] == pytest.approx(second.stats[name] - first.stats[name], abs=5e-15)
        for k, category_id in enumerate(first.class_ap):
            assert draws.classes[b, k] == pytest.approx(
                second.class_ap[category_id] - first.class_ap[category_id], abs=5e-15
            )


def test_values_are_differences_of_the_numbers_and_intervals_hold_them() -> None:
    reference, candidate = pair()
    paired = paired_bootstrap(reference, candidate, resamples=300)
    assert tuple(paired.deltas) == tuple(reference.stats)
    assert (paired.images, paired.resamples, paired.seed) == (80, 300, 0)
    for name, delta in paired.deltas.items():
        assert delta.value == candidate.stats[name] - reference.stats[name]
        assert delta.ci95 is not None
        assert delta.ci95[0] < delta.ci95[1]
        # of these normal-looking draws the interval is about four standard errors wide
        assert (delta.ci95[1] - delta.ci95[0]) / paired.standard_errors[name] == pytest.approx(3.92, rel=0.2)
    draws = draw_deltas(reference, candidate, resamples=300, seed=0).stats
    for name, delta in paired.deltas.items():
        assert delta.ci95 == tuple(np.percentile(draws[name], [2.5, 97.5]))
        assert paired.standard_errors[name] == draws[name].std(ddof=1)
    low, high = paired.deltas["AP"].ci95
    assert low < paired.deltas["AP"].value < high


def test_a_seed_gives_the_same_draws_and_another_seed_others() -> None:
    reference, candidate = pair()
    first, again, other = (paired_bootstrap(reference, candidate, resamples=40, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.deltas["AP"].ci95 != other.deltas["AP"].ci95


def test_without_area_ranges_the_other_intervals_are_the_same_and_theirs_are_none() -> None:
    reference, candidate = pair()
    whole = paired_bootstrap(reference, candidate, resamples=40)
    part = paired_bootstrap(reference, candidate, resamples=40, area_ranges=False)
    assert part.per_class == whole.per_class
    for name in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100"):
        assert part.deltas[name] == whole.deltas[name]
    for name in ("APs", "APm", "APl", "ARs", "ARm", "ARl"):
        assert part.deltas[name] == replace(whole.deltas[name], ci95=None)
        assert name not in part.standard_errors


def test_a_system_differs_from_itself_by_exactly_nothing() -> None:
    reference, _ = pair()
    paired = paired_bootstrap(reference, reference, resamples=50)
    assert all((d.value, d.ci95) == (0.0, (0.0, 0.0)) for d in paired.deltas.values())
    assert set(paired.standard_errors.values()) == {0.0}
    assert not any(c.significant for c in paired.per_class)
    assert {c.p_value for c in paired.per_class} == {1.0}


def test_exchanging_the_systems_turns_the_interval_round() -> None:
    reference, candidate = pair()
    there = paired_bootstrap(reference, candidate, resamples=50).deltas["AP"]
    back = paired_bootstrap(candidate, reference, resamples=50).deltas["AP"]
    assert (-back.value, -back.ci95[1], -back.ci95[0]) == pytest.approx((there.value, *there.ci95), abs=1e-15)


def test_progress_ends_at_the_number_of_resamples() -> None:
    seen: list[tuple[int, int]] = []
    paired_bootstrap(*pair(), resamples=30, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_29_images_give_values_and_no_interval_and_30_give_one() -> None:
    for images, given in ((29, False), (30, True)):
        paired = paired_bootstrap(*pair(images=images, objects=1500, empty_images=0), resamples=20)
        assert all((d.ci95 is not None) == given for d in paired.deltas.values())
        assert bool(paired.standard_errors) == given
        assert all(d.value is not None for d in paired.deltas.values())
        assert any(c.ci95 is not None for c in paired.per_class) == given


def test_an_area_range_on_few_images_has_no_interval_and_ap_keeps_its_own() -> None:
    fixtures, detections = random_case(0, images=60, objects=240)
    small = [a for a in fixtures.annotations if a["area"] < 1024 and not a["iscrowd"]]
    few = {a["image_id"] for a in small[: MIN_CLASS_IMAGES - 1]}
    kept = tuple(a for a in fixtures.annotations if a["area"] >= 1024 or a["image_id"] in few)
    fewer = replace(fixtures, annotations=kept)
    paired = paired_bootstrap(match(fewer, detections), match(fewer, moved(detections)), resamples=20)
    assert 0 < len(few) < MIN_CLASS_IMAGES
    assert paired.deltas["APs"].value is not None
    assert (paired.deltas["APs"].ci95, paired.deltas["ARs"].ci95) == (None, None)
    assert paired.deltas["AP"].ci95 is not None


def test_an_undefined_number_has_no_value_and_no_interval() -> None:
    fixtures, detections = random_case(0, images=60, objects=240)
    small = replace(fixtures, annotations=tuple(a for a in fixtures.annotations if a["area"] < 9216))
    paired = paired_bootstrap(match(small, detections), match(small, moved(detections)), resamples=20)
    assert (paired.deltas["APl"].value, paired.deltas["APl"].ci95) == (None, None)
    assert "APl" not in paired.standard_errors
    none = replace(fixtures, annotations=())
    empty = paired_bootstrap(match(none, detections), match(none, detections), resamples=20)
    assert {(d.value, d.ci95) for d in empty.deltas.values()} == {(None, None)}


def test_empty_predictions_on_one_side_lose_all() -> None:
    fixtures, detections = random_case(0, images=60, objects=240)
    reference, nothing = match(fixtures, detections), match(fixtures, chosen(detections, np.zeros(0, np.int64)))
    delta = paired_bootstrap(reference, nothing, resamples=20).deltas["AP"]
    assert delta.value == -reference.stats["AP"]
    assert delta.ci95[1] < 0


def test_images_without_ground_truth_take_part_in_the_draw() -> None:
    fixtures, detections = random_case(5, images=80, objects=240, empty_images=40)
    other = moved(detections, score=0.2)
    kept = {a["image_id"] for a in fixtures.annotations}
    fewer = replace(fixtures, samples=tuple(s for s in fixtures.samples if s.image_id in kept))
    rows = [np.flatnonzero(np.isin(d.image_ids, list(kept))) for d in (detections, other)]
    whole = paired_bootstrap(match(fixtures, detections), match(fixtures, other), resamples=100)
    part = paired_bootstrap(
        match(fewer, chosen(detections, rows[0])), match(fewer, chosen(other, rows[1])), resamples=100
    )
    assert len(kept) < 60
    assert (whole.images, part.images) == (80, len(kept))
    # the number of drawn images with objects varies too: false detections on the empty ones enter precision
    assert whole.deltas["AP"].value != part.deltas["AP"].value
    assert whole.standard_errors["AP"] != part.standard_errors["AP"]


def test_the_standard_error_is_the_true_one_and_not_that_of_draws_reduced_to_a_set() -> None:
    """A published tool resamples ids into a set and is a quarter too narrow (reference: scoring 5)."""
    fixtures, detections = random_case(6, images=100, objects=300, noise=300)
    reference, candidate = match(fixtures, detections), match(fixtures, moved(detections))
    draws = draw_deltas(reference, candidate, resamples=1500, seed=0, area_ranges=False).stats["AP"]
    generator = np.random.default_rng(1)
    area, reduced, literal = _AreaPair(reference, candidate, "all"), [], []
    for _ in range(1500):
        weights = np.bincount(generator.integers(0, 100, 100), minlength=100).astype(np.int32)
        for store, w in ((literal, weights), (reduced, np.minimum(weights, 1))):
            area.weigh(w)
            store.append(area.differences()["AP"])
    # the standard deviation of 1500 draws is known to 1/sqrt(3000) = 1.8 %; of a ratio of two to 2.6 %
    assert draws.std() / np.std(literal) == pytest.approx(1.0, abs=0.08)
    assert np.std(reduced) / draws.std() == pytest.approx(math.sqrt(math.exp(-1) / (1 - math.exp(-1))), abs=0.08)


def test_the_standard_error_is_the_spread_over_fresh_sets_of_images() -> None:
    """From 40 independent sets of one population: the spread of their deltas against the bootstrap's own mean."""
    values, errors = [], []
    for seed in range(40):
        fixtures, detections = random_case(100 + seed, images=120, objects=400, noise=300, categories=2)
        matched = match(fixtures, detections), match(fixtures, moved(detections, seed))
        paired = paired_bootstrap(*matched, resamples=60, area_ranges=False)
        values.append(paired.deltas["AP"].value)
        errors.append(paired.standard_errors["AP"])
    # 40 values give their standard deviation to 11 %: de-duplicated draws (0.76) lie two of these away
    assert float(np.mean(errors)) / float(np.std(values, ddof=1)) == pytest.approx(1.0, abs=0.22)


def test_a_pair_of_poses_gets_intervals_of_the_ten_keypoint_numbers() -> None:
    reference, candidate = pose_pair()
    paired = paired_bootstrap(reference, candidate, resamples=50)
    assert tuple(paired.deltas) == KEYPOINT_STAT_NAMES
    for name, delta in paired.deltas.items():
        assert delta.value == candidate.stats[name] - reference.stats[name]
        assert delta.ci95 is not None
    with pytest.raises(InputError, match="one is scored as pose, the other as detect"):
        paired_bootstrap(reference, pair()[0])


def test_systems_of_different_sets_are_not_paired() -> None:
    fixtures, detections = random_case(0)
    reference = match(fixtures, detections)
    fewer = fixtures.take(30)
    rows = np.flatnonzero(detections.image_ids <= 30)
    with pytest.raises(InputError, match=r"10 images are in one of the two sets only: 31, 32, 33, 34, 35, \.\.\."):
        paired_bootstrap(reference, match(fewer, chosen(detections, rows)))
    grown = tuple({**a, "area": a["area"] * 2} for a in fixtures.annotations)
    with pytest.raises(InputError, match=r"their ground truth differs \(column area_px2\)"):
        paired_bootstrap(reference, match(replace(fixtures, annotations=grown), detections))


def test_one_broken_class_is_the_significant_one() -> None:
    fixtures, detections = random_case(8, images=120, objects=500, noise=100)
    broken = np.where(detections.category_ids == 3, 0.0, detections.boxes_xywh[:, 0])
    boxes = np.concatenate((broken[:, None], detections.boxes_xywh[:, 1:]), axis=1)
    other = Detections(detections.image_ids, detections.category_ids, boxes, detections.scores)
    paired = paired_bootstrap(match(fixtures, detections), match(fixtures, other), resamples=200)
    assert [c.name for c in paired.per_class if c.significant] == ["c3"]
    (changed,) = (c for c in paired.per_class if c.name == "c3")
    assert changed.objects == sum(a["category_id"] == 3 and not a["iscrowd"] for a in fixtures.annotations)
    assert changed.delta == changed.ap - changed.reference_ap
    assert changed.ci95[1] < 0
    assert changed.p_value < 0.01


def test_a_class_on_few_images_has_no_interval_and_is_not_called_significant() -> None:
    fixtures, detections = random_case(9, images=60, objects=240)
    common = [a for a in fixtures.annotations if a["category_id"] != 3]
    rare = [a for a in fixtures.annotations if a["category_id"] == 3 and not a["iscrowd"]]
    held: list[int] = []
    for annotation in rare:
        if annotation["image_id"] in held or len(held) < MIN_CLASS_IMAGES - 1:
            common.append(annotation)
            held = sorted({*held, annotation["image_id"]})
    rarer = replace(fixtures, annotations=tuple(common))
    without = chosen(detections, np.flatnonzero(detections.category_ids != 3))
    paired = paired_bootstrap(match(rarer, detections), match(rarer, without), resamples=50)
    (lost,) = (c for c in paired.per_class if c.name == "c3")
    assert lost.delta < 0
    assert (lost.ci95, lost.p_value, lost.significant) == (None, None, False)


def test_a_class_without_objects_is_listed_without_numbers() -> None:
    fixtures, detections = random_case(9, images=60, objects=240)
    none = replace(fixtures, annotations=tuple(a for a in fixtures.annotations if a["category_id"] != 3))
    paired = paired_bootstrap(match(none, detections), match(none, detections), resamples=10)
    (absent,) = (c for c in paired.per_class if c.name == "c3")
    assert (absent.objects, absent.ap, absent.delta, absent.ci95, absent.p_value) == (0, None, None, None, None)


def test_the_interval_leaves_out_draws_without_a_value() -> None:
    draws = np.array([np.nan, *np.arange(101.0)])
    interval = percentile_interval(draws)
    assert interval is not None
    assert interval.ci95 == (2.5, 97.5)
    assert interval.standard_error == pytest.approx(np.arange(101.0).std(ddof=1))
    assert percentile_interval(np.array([np.nan, 1.0])) is None


def test_the_p_value_is_the_larger_of_counted_and_student_and_only_the_latter_beyond_the_last_draw() -> None:
    assert two_sided_p(np.array([-1.0, 1.0] * 50), 0.0, 100) == 1.0
    draws = np.random.default_rng(0).normal(2, 1, 999)
    counted = 2 * (np.count_nonzero(draws <= 0) + 1) / 1000
    assert two_sided_p(draws, 9.0, 1000) == counted
    assert two_sided_p(draws, 1.0, 1000) == pytest.approx(2 * stats.t.sf(1 / draws.std(ddof=1), 999))
    far = draws + 3
    assert far.min() > 0
    assert two_sided_p(far, 5.0, 1000) == pytest.approx(2 * stats.t.sf(5 / far.std(ddof=1), 999))
    assert two_sided_p(far, 5.0, 1000) < 2 / 1000
    assert two_sided_p(far, 50.0, 11) == 2.0**-10
    assert two_sided_p(np.ones(999), 1.0, 3) == 0.25
    assert two_sided_p(np.zeros(999), 0.0, 100) == 1.0
    assert two_sided_p(np.append(draws, np.nan), 9.0, 1000) == counted


def test_holm_multiplies_the_smallest_most_and_never_reorders() -> None:
    adjusted = holm([0.01, None, 0.04, 0.03])
    assert adjusted[1] is None
    assert [adjusted[i] for i in (0, 2, 3)] == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
