"""The assignment and the loss of anchors do what their papers say."""

import math

import numpy as np
import pytest
import torch

from adapters._shared.training.anchors import Anchors, anchor_loss, distribution_focal
from adapters._shared.training.assign import assign, ciou
from adapters._shared.training.batch import Truth
from adapters.yolov10.loss import LossGains
from bench.geometry import box_iou

SIDE, BINS = 64, 16
STRIDES = (8, 16, 32)
ANCHORS = sum((SIDE // s) ** 2 for s in STRIDES)


def cells(side_px):
    """(A, 2) centres of the cells of a square image, in cells, row by row."""
    middle = torch.arange(SIDE // side_px) + 0.5
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


@pytest.fixture
def centres_px():
    return torch.cat([cells(s) * s for s in STRIDES])


def boxes_around(centres_px, half):
    return torch.cat((centres_px - half, centres_px + half), 1)[None]


def truth(boxes, labels):
    return torch.tensor([boxes], dtype=torch.float32), torch.tensor([labels])


def test_complete_iou_is_one_for_equal_boxes_and_at_most_the_iou():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (40, 2))
    boxes = np.concatenate((low, low + rng.uniform(2, 40, (40, 2))), 1).astype(np.float32)
    a, b = torch.from_numpy(boxes[:20]), torch.from_numpy(boxes[20:])
    np.testing.assert_allclose(ciou(a, a), 1, atol=1e-5)
    assert (ciou(a, b).numpy() <= np.diag(box_iou(boxes[:20], boxes[20:])) + 1e-6).all()


def test_complete_iou_of_a_shifted_box_is_the_hand_computed_one():
    a, b = torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 0, 15, 10])
    assert float(ciou(a, b)) == pytest.approx(1 / 3 - 25 / (225 + 100), abs=1e-5)


def test_complete_iou_charges_another_aspect_ratio_as_its_paper_says():
    a, b = torch.tensor([0.0, 0, 10, 10]), torch.tensor([-5.0, 2.5, 15, 7.5])
    aspect = 4 / math.pi**2 * (math.atan(4) - math.atan(1)) ** 2
    assert float(ciou(a, b)) == pytest.approx(1 / 3 - aspect**2 / (aspect + 2 / 3), abs=1e-5)


def test_the_distribution_loss_is_the_cross_entropy_to_the_two_nearest_bins():
    logits = torch.randn(1, 4, BINS, generator=torch.Generator().manual_seed(0))
    found = distribution_focal(logits, torch.full((1, 4), 2.25))
    log_shares = logits.log_softmax(-1)
    expected = -(0.75 * log_shares[..., 2] + 0.25 * log_shares[..., 3]).mean(-1)
    torch.testing.assert_close(found, expected)


def test_overlap_outweighs_score_and_score_decides_between_equal_overlaps(centres_px):
    boxes, labels = truth([[0, 0, 40, 40]], [0])
    predicted = torch.zeros(1, ANCHORS, 4)
    predicted[0, 0], predicted[0, 1], predicted[0, 2] = (
        torch.tensor(b) for b in ([0.0, 0, 28, 28], [0.0, 0, 38, 38], [0.0, 0, 38, 38])
    )
    scores = torch.zeros(1, ANCHORS, 1)
    scores[0, :3, 0] = torch.tensor([0.9, 0.3, 0.5])
    found = assign(scores, predicted, centres_px, boxes, labels, top_k=1)
    assert found.positive[0].nonzero().tolist() == [[2]]


def test_a_small_object_gets_only_the_anchors_inside_it(centres_px):
    boxes, labels = truth([[1, 1, 10, 10]], [0])
    found = assign(torch.full((1, ANCHORS, 1), 0.1), boxes_around(centres_px, 5), centres_px, boxes, labels, top_k=10)
    assert found.positive[0].nonzero().tolist() == [[0], [64]]


def test_one_anchor_per_object_when_the_head_is_one_to_one(centres_px):
    boxes, labels = truth([[4, 4, 30, 30], [34, 34, 60, 62]], [1, 0])
    found = assign(torch.full((1, ANCHORS, 3), 0.1), boxes_around(centres_px, 12), centres_px, boxes, labels, top_k=1)
    assert found.positive.sum() == 2
    owners = found.boxes_xyxy[found.positive].tolist()
    assert sorted(owners) == sorted(boxes[0].tolist())
    assert (found.scores[found.positive].argmax(-1) == torch.tensor([1, 0])).all()


def test_positives_lie_inside_their_box_and_are_at_most_top_k(centres_px):
    boxes, labels = truth([[0, 0, 40, 40]], [2])
    found = assign(torch.full((1, ANCHORS, 3), 0.1), boxes_around(centres_px, 18), centres_px, boxes, labels, top_k=10)
    inside = ((centres_px > 0) & (centres_px < 40)).all(1)
    assert found.positive.sum() == 10
    assert inside[found.positive[0]].all()
    assert found.scores[~found.positive].sum() == 0


def test_the_best_target_of_an_object_is_the_highest_overlap_among_its_anchors(centres_px):
    boxes, labels = truth([[0, 0, 40, 40]], [2])
    predicted = boxes_around(centres_px, 18)
    scores = torch.rand(1, ANCHORS, 3, generator=torch.Generator().manual_seed(0))
    found = assign(scores, predicted, centres_px, boxes, labels, top_k=10)
    overlaps = ciou(boxes[0], predicted[0][found.positive[0]])
    assert float(found.scores.max()) == pytest.approx(float(overlaps.max()), abs=1e-4)


def test_a_contested_anchor_goes_to_the_object_it_overlaps_most(centres_px):
    boxes, labels = truth([[0, 0, 64, 64], [20, 20, 44, 44]], [0, 1])
    found = assign(torch.full((1, ANCHORS, 2), 0.1), boxes_around(centres_px, 12), centres_px, boxes, labels, top_k=200)
    nearest = ((centres_px - 32).square().sum(1)).argmin()
    assert found.boxes_xyxy[0, nearest].tolist() == [20, 20, 44, 44]
    assert found.scores[0, nearest, 0] == 0


def test_padding_and_empty_images_have_no_positive(centres_px):
    scores, predicted = torch.full((1, ANCHORS, 3), 0.1), boxes_around(centres_px, 12)
    padded = assign(scores, predicted, centres_px, torch.zeros(1, 3, 4), torch.full((1, 3), -1), top_k=10)
    none = assign(scores, predicted, centres_px, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), top_k=10)
    assert not padded.positive.any()
    assert not none.positive.any()
    assert padded.scores.sum() == none.scores.sum() == 0


def test_an_object_far_smaller_than_every_predicted_box_still_gets_a_target():
    centres = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    huge = torch.tensor([[[-236.0, -236.0, 244.0, 244.0], [-228.0, -236.0, 252.0, 244.0]]])
    found = assign(
        torch.full((1, 2, 3), 1e-4),
        huge,
        centres,
        torch.tensor([[[1.0, 1.0, 7.0, 7.0]]]),
        torch.tensor([[2]]),
        top_k=10,
    )
    overlap = 36 / 480**2
    assert found.positive.tolist() == [[True, False]]
    assert found.scores[0, 0].tolist() == pytest.approx([0, 0, overlap], rel=1e-3)


def said(cell_px, sides_in_cells, centres):
    """Anchors that are nearly sure of whole distances."""
    logits = torch.full((1, len(centres), 4, BINS), -40.0)
    logits[..., torch.arange(4), torch.tensor(sides_in_cells)] = 0
    return Anchors(logits.flatten(2), torch.zeros(1, len(centres), 2), centres, cell_px.expand(len(centres), -1))


def test_cells_may_be_wider_than_high():
    wide = said(torch.tensor([[16.0, 8.0]]), (1, 2, 3, 4), torch.tensor([[4.5, 4.5]]))
    assert wide.boxes_xyxy()[0, 0].tolist() == pytest.approx([3.5 * 16, 2.5 * 8, 7.5 * 16, 8.5 * 8])
    square = said(torch.tensor([[16.0]]), (1, 2, 3, 4), torch.tensor([[4.5, 4.5]]))
    assert square.boxes_xyxy()[0, 0].tolist() == pytest.approx([3.5 * 16, 2.5 * 16, 7.5 * 16, 8.5 * 16])


def test_a_perfect_box_in_wide_cells_costs_nothing_and_a_shifted_one_does():
    anchors = said(torch.tensor([[16.0, 8.0]]), (1, 2, 3, 4), torch.tensor([[4.5, 4.5]]))
    box = anchors.boxes_xyxy()
    labels = torch.tensor([[1]])
    parts = anchor_loss(anchors, Truth(boxes_xyxy=box, labels=labels), 1, LossGains())
    assert float(parts["box"]) == pytest.approx(0, abs=1e-4)
    assert float(parts["dfl"]) == pytest.approx(0, abs=1e-4)
    moved = anchor_loss(anchors, Truth(boxes_xyxy=box + torch.tensor([8.0, 0, 8, 0]), labels=labels), 1, LossGains())
    assert float(moved["box"]) > 0.5
    assert float(moved["dfl"]) > 1
