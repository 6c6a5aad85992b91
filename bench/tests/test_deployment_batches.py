"""Values that say nothing have to be finite; all others are within the tolerance."""

from types import SimpleNamespace

import numpy as np
import pytest

from bench.deployment.batches import TOLERANCE, Batch

TORCH = {"pose": np.zeros((1, 4, 2))}


class Reference:
    def __init__(self, meant):
        self._meant = meant

    def scaled(self, outputs):
        return {name: ("share", value) for name, value in outputs.items()}

    def meant(self, outputs):
        return self._meant


def judged(found, meant):
    case = SimpleNamespace(images="some", torch=TORCH, own=None, golden=TORCH)
    options = SimpleNamespace(precision="fp16")
    batch = Batch(case, 1, "cpu", options, Reference(meant), selects=False)
    return batch._dense("pose", {"pose": found})


ROW_1_ALONE = {"pose": np.repeat([[[False], [True], [False], [False]]], 2, axis=2)}


def moved(row, by):
    found = TORCH["pose"].copy()
    found[0, row, 1] = by
    return found


@pytest.mark.parametrize(("row", "by", "passed"), [(1, 0.02, False), (1, 0.009, True), (2, 0.02, True), (2, 9.0, True)])
def test_the_tolerance_holds_for_what_says_something(row, by, passed):
    check = judged(moved(row, by), ROW_1_ALONE)
    assert check.passed is passed
    assert check.max_abs == pytest.approx(by if row == 1 else 0)
    if not passed:
        assert "pose[0, 1, 1]" in check.detail
        assert "1 of 2 differ by more than 0.01" in check.detail


@pytest.mark.parametrize("row", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_seen_everywhere(row, value):
    check = judged(moved(row, value), ROW_1_ALONE)
    assert not check.passed
    assert f"pose[0, {row}, 1]" in check.detail


def test_an_output_that_is_not_named_says_something_everywhere():
    assert not judged(moved(3, 2 * TOLERANCE["fp16"]), {}).passed
    assert judged(moved(3, 0.5 * TOLERANCE["fp16"]), {}).passed
