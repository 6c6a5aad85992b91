import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy import HOPELESS_IMAGES, judge_accuracy, judge_delta

AP = st.floats(-1, 1)
MARGINS = st.floats(0.0001, 0.05)


def judged(delta, low, high, margin=0.005, images=600):
    return judge_delta(delta, (low, high), margin, (high - low) / 3.92, images)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.004, 0.001), "passed"),
        ((-0.005, 0.001), "passed"),
        ((-0.0051, 0.001), "undecided"),
        ((-0.02, -0.0049), "undecided"),
        ((-0.02, -0.0051), "failed"),
        ((0.0051, 0.02), "suspicious"),
        ((0.001, 0.02), "passed"),
        ((-0.02, 0.02), "undecided"),
        ((0.0, 0.0), "passed"),
    ],
)
def test_the_interval_against_the_margin_decides(interval, verdict):
    low, high = interval
    assert judged((low + high) / 2, low, high).verdict == verdict


@given(delta=AP, below=st.floats(0, 0.2), above=st.floats(0, 0.2), margin=MARGINS)
def test_a_verdict_other_than_undecided_has_its_whole_interval_on_one_side(delta, below, above, margin):
    low, high = delta - below, delta + above
    found = judge_delta(delta, (low, high), margin, 0.01, 600)
    sides = {"passed": -margin <= low <= margin, "failed": high < -margin, "suspicious": low > margin}
    assert [word for word, holds in sides.items() if holds] in ([found.verdict], [])
    assert (found.verdict == "undecided") == (not any(sides.values()))


@given(delta=AP, half=st.floats(0.0001, 0.2), margin=MARGINS, images=st.integers(30, 5000))
def test_images_to_decide_is_more_than_there_are_and_would_decide(delta, half, margin, images):
    found = judge_delta(delta, (delta - half, delta + half), margin, half / 1.96, images)
    if found.verdict != "undecided":
        assert found.images_to_decide is None
    elif found.images_to_decide is None:
        assert "more images are unlikely" in found.reason
    else:
        assert images < found.images_to_decide <= 1.1 * HOPELESS_IMAGES
        shrunk = half * math.sqrt(images / found.images_to_decide)
        again = judge_delta(delta, (delta - shrunk, delta + shrunk), margin, shrunk / 1.96, found.images_to_decide)
        assert again.verdict != "undecided" or math.isclose(shrunk, abs(delta + margin), rel_tol=1e-9)
        assert f"{found.images_to_decide:,}" in found.reason


@pytest.mark.parametrize("delta", [math.nan, math.inf, -math.inf])
def test_a_delta_that_is_not_finite_fails(delta):
    assert judge_delta(delta, (-0.001, 0.001), 0.005, 0.001, 600).verdict == "failed"


@pytest.mark.parametrize("interval", [(math.nan, 0.001), (-0.001, math.nan), (math.nan, math.nan)])
def test_an_interval_with_nan_never_passes_at_its_lower_end(interval):
    found = judge_delta(0.0, interval, 0.005, 0.001, 600)
    assert (found.verdict == "passed") == (interval[0] == interval[0])


def test_no_interval_decides_nothing_and_says_what_is_missing():
    few = judge_delta(0.0, None, 0.005, None, 29)
    assert few.verdict == "undecided"
    assert "29 images" in few.reason
    assert "30" in few.reason
    assert judge_delta(0.0, None, 0.005, None, 600).verdict == "undecided"


def test_resolvable_is_the_loss_seen_with_80_percent_power():
    assert judge_delta(0.0, (-0.001, 0.001), 0.005, 0.0005, 600).resolvable == pytest.approx(0.0014)


class TestWithDetections:
    """Whole path: matched systems to an ``AccuracyResult``."""

    def test_the_reference_is_not_judged_against_itself(self, systems):
        result = judge_accuracy("fp32", systems["good"], None, margins={}, resamples=100, seed=0)
        assert (result.verdict, result.delta, result.ci95) == ("reference", None, None)

    def test_an_equal_system_passes_with_a_zero_interval(self, systems):
        result = judge_accuracy("fp32", systems["good"], systems["good"], margins={}, resamples=100, seed=0)
        assert (result.verdict, result.delta, result.ci95) == ("passed", 0.0, (0.0, 0.0))
        assert set(result.deltas) == set(result.stats)
        assert {c.name for c in result.per_class} == {"red", "green", "blue"}

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_a_worse_system_fails_and_the_reverse_is_suspicious(self, systems, precision):
        worse = judge_accuracy(precision, systems["bad"], systems["good"], margins={}, resamples=200, seed=0)
        assert worse.verdict == "failed"
        assert worse.delta < 0
        better = judge_accuracy(precision, systems["good"], systems["bad"], margins={}, resamples=200, seed=0)
        assert better.verdict == "suspicious"

    def test_a_reference_that_has_nothing_to_lose_decides_nothing(self, systems):
        result = judge_accuracy("fp32", systems["nothing"], systems["nothing"], margins={}, resamples=100, seed=0)
        assert result.verdict == "undecided"
        assert "could not show" in result.reason

    def test_a_given_margin_replaces_the_rule(self, systems):
        result = judge_accuracy("fp32", systems["bad"], systems["good"], margins={"fp32": 0.99}, resamples=100, seed=0)
        assert (result.verdict, result.margin) == ("passed", 0.99)

    def test_few_images_have_no_interval(self, few_systems):
        result = judge_accuracy("fp32", few_systems["bad"], few_systems["good"], margins={}, resamples=100, seed=0)
        assert (result.verdict, result.ci95) == ("undecided", None)


def _systems(folder, count):
    import numpy as np

    from bench.scoring import Detections, match
    from bench.testing import fake_fixtures

    fixtures = fake_fixtures(folder, count)
    boxes = np.array([a["bbox"] for a in fixtures.annotations], np.float64)
    images = np.array([a["image_id"] for a in fixtures.annotations], np.int64)
    labels = np.array([a["category_id"] for a in fixtures.annotations], np.int64)
    scores = np.linspace(0.9, 0.5, len(boxes))
    kept = np.arange(len(boxes)) % 3 != 0
    tables = {
        "good": Detections(images, labels, boxes, scores),
        "bad": Detections(images[kept], labels[kept], boxes[kept], scores[kept]),
        "nothing": Detections(images[:0], labels[:0], boxes[:0], scores[:0]),
    }
    return {name: match(fixtures, table) for name, table in tables.items()}


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    return _systems(tmp_path_factory.mktemp("accuracy"), 40)


@pytest.fixture(scope="module")
def few_systems(tmp_path_factory):
    return _systems(tmp_path_factory.mktemp("few"), 29)
