"""The matching is the cheapest one, and a broken cost stops it."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from adapters.rtdetr_pose.config import loss_config
from adapters.rtdetr_pose.matcher import generalized_iou, match, pair_costs
from bench.errors import ContractError
from bench.geometry import box_iou

ORIGINAL, DEFAULT = loss_config("original"), loss_config("default")


def scene(seed, batch=2, queries=7, most=4, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, queries, classes + 1, generator=generator)
    bbox = torch.randn(batch, queries, 4, generator=generator)
    labels = torch.randint(-1, classes, (batch, most), generator=generator)
    targets = torch.rand(batch, most, 4, generator=generator) * 0.4 + 0.2
    return logits, bbox, labels, targets


def test_the_cost_is_minus_the_log_of_the_class_plus_five_times_the_box_distance():
    logits = torch.tensor([[math.log(1.0), math.log(3.0), math.log(4.0)]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    targets = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.6, 0.4, 0.1, 0.4]])
    found = pair_costs(logits, boxes, torch.tensor([0, 1]), targets, ORIGINAL)
    expected = [-math.log(1 / 8), -math.log(3 / 8) + 5 * (0.1 + 0.1 + 0.1 + 0.2)]
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_the_default_recipe_adds_the_generalised_overlap():
    logits, boxes = torch.zeros(1, 4), torch.tensor([[0.25, 0.5, 0.5, 1.0]])
    targets = torch.tensor([[0.75, 0.5, 0.5, 1.0]])
    labels = torch.tensor([0])
    extra = pair_costs(logits, boxes, labels, targets, DEFAULT) - pair_costs(logits, boxes, labels, targets, ORIGINAL)
    assert float(extra) == pytest.approx(2.0)  # side by side: IoU 0, empty share of the hull 0


def test_generalised_iou_of_known_pairs():
    box = torch.tensor([0.0, 0, 1, 1])
    others = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [0.5, 0, 1.5, 1]])
    np.testing.assert_allclose(generalized_iou(box, others), [1, -1 / 3, 1 / 3], atol=1e-6)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_generalised_iou_lies_between_minus_one_and_the_iou(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 1, (12, 2))
    boxes = np.concatenate((low, low + rng.uniform(0.05, 1, (12, 2))), 1)
    found = generalized_iou(torch.from_numpy(boxes[:6])[:, None], torch.from_numpy(boxes[6:])[None]).numpy()
    assert (found > -1).all()
    assert (found <= box_iou(boxes[:6], boxes[6:]) + 1e-12).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_every_object_has_one_query_and_no_query_two_objects(seed):
    logits, bbox, labels, targets = scene(seed)
    found = match(logits, bbox, labels, targets, DEFAULT)
    pairs = list(zip(found.image.tolist(), found.query.tolist(), found.object_.tolist(), strict=True))
    assert {(i, m) for i, _, m in pairs} == {tuple(x) for x in (labels >= 0).nonzero().tolist()}
    assert len({(i, q) for i, q, _ in pairs}) == len(pairs)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_no_other_matching_is_cheaper(seed):
    logits, bbox, labels, targets = scene(seed, batch=1, queries=5, most=3)
    found = match(logits, bbox, labels, targets, ORIGINAL)
    real = (labels[0] >= 0).nonzero()[:, 0]
    cost = pair_costs(logits[0], bbox[0].sigmoid(), labels[0][real], targets[0][real], ORIGINAL).numpy()
    columns = {m: k for k, m in enumerate(real.tolist())}
    total = sum(cost[q, columns[m]] for q, m in zip(found.query.tolist(), found.object_.tolist(), strict=True))
    every = [sum(cost[q, k] for k, q in enumerate(p)) for p in itertools.permutations(range(5), len(real))]
    assert total == pytest.approx(min(every), abs=1e-5)
    rows, cols = linear_sum_assignment(cost)
    assert total == pytest.approx(cost[rows, cols].sum(), abs=1e-5)


def test_more_objects_than_queries_leave_the_costliest_without():
    logits, bbox, _, targets = scene(1, batch=1, queries=2, most=4)
    found = match(logits, bbox, torch.zeros(1, 4, dtype=torch.int64), targets, DEFAULT)
    assert len(found) == 2


def test_images_without_objects_have_no_pairs():
    logits, bbox, _, _ = scene(0)
    for most in (0, 3):
        found = match(logits, bbox, torch.full((2, most), -1), torch.zeros(2, most, 4), DEFAULT)
        assert len(found) == 0


@pytest.mark.parametrize("where", ["logits", "bbox", "targets"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_not_finite_is_an_error_not_a_match(where, value):
    tensors = dict(zip(("logits", "bbox", "labels", "targets"), scene(0), strict=True))
    tensors["labels"].fill_(1)
    tensors[where][1, 0] = value
    with pytest.raises(ContractError, match=r"matching image 1: .* not finite"):
        match(*tensors.values(), DEFAULT)
