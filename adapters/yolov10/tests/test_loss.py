"""The anchors lie where they should, and the loss of a head does what its papers say."""

import math

import pytest
import torch

from adapters.yolov10.head import REG_MAX, STRIDES, Branch, make_anchors
from adapters.yolov10.loss import LossGains, Truth, branch_loss

SIDE = 64
SIZES_HW = [(SIDE // s, SIDE // s) for s in STRIDES]
ANCHORS = sum(h * w for h, w in SIZES_HW)


def truth(boxes, labels):
    return torch.tensor([boxes], dtype=torch.float32), torch.tensor([labels])


def test_anchors_are_cell_centres_row_by_row_stride_by_stride():
    centres, strides = make_anchors([(2, 3), (1, 1), (1, 1)], torch.zeros(1))
    assert centres.T.tolist()[:4] == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5]]
    assert strides[0].tolist() == [8] * 6 + [16, 32]


def perfect_branch(box, label, sharpness=30.0):
    """Maps whose every anchor inside predicts exactly ``box`` (sides in whole strides of the first level)."""
    sides, classes = [], []
    for (height, width), stride in zip(SIZES_HW, STRIDES, strict=True):
        logits = torch.zeros(1, 4, REG_MAX, height, width)
        scores = torch.full((1, 3, height, width), -sharpness)
        for y in range(height):
            for x in range(width):
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                distances = torch.tensor([cx - box[0], cy - box[1], box[2] - cx, box[3] - cy]) / stride
                if (distances > 0).all():
                    left = distances.long()
                    share = distances - left
                    rows = torch.arange(4)
                    logits[0, rows, :, y, x] = -sharpness
                    logits[0, rows, left, y, x] = (1 - share).clamp(min=1e-12).log()
                    logits[0, rows, left + 1, y, x] = share.clamp(min=1e-12).log()
                    scores[0, label, y, x] = sharpness
        sides.append(logits.view(1, 4 * REG_MAX, height, width))
        classes.append(scores)
    return Branch(sides, classes)


def test_a_perfect_prediction_has_only_the_entropy_of_the_bins_as_loss():
    box = [8.0, 8.0, 40.0, 40.0]
    boxes, labels = truth([box], [1])
    _, parts = branch_loss(perfect_branch(box, 1), Truth(boxes_xyxy=boxes, labels=labels), ANCHORS, LossGains())
    assert float(parts["box"]) == pytest.approx(0, abs=1e-3)
    assert float(parts["cls"]) == pytest.approx(0, abs=1e-3)
    assert float(parts["dfl"]) <= 1.5 * math.log(2) + 1e-3


def test_a_wrong_box_and_a_wrong_class_each_raise_their_own_part():
    box = [8.0, 8.0, 40.0, 40.0]
    boxes, labels = truth([box], [1])
    target = Truth(boxes_xyxy=boxes, labels=labels)
    _, good = branch_loss(perfect_branch(box, 1), target, ANCHORS, LossGains())
    _, moved = branch_loss(perfect_branch([8.0, 8.0, 48.0, 40.0], 1), target, ANCHORS, LossGains())
    _, other = branch_loss(perfect_branch(box, 2, sharpness=4.0), target, ANCHORS, LossGains())
    assert moved["box"] > good["box"] + 0.5
    assert moved["dfl"] > good["dfl"] + 0.1
    assert other["cls"] > good["cls"] + 1


def test_an_image_without_objects_has_only_the_class_loss_and_a_finite_gradient():
    branch = Branch(
        [torch.zeros(1, 64, h, w, requires_grad=True) for h, w in SIZES_HW],
        [torch.zeros(1, 3, h, w, requires_grad=True) for h, w in SIZES_HW],
    )
    empty = Truth(boxes_xyxy=torch.zeros(1, 0, 4), labels=torch.zeros(1, 0, dtype=torch.int64))
    loss, parts = branch_loss(branch, empty, 10, LossGains())
    loss.backward()
    assert float(parts["box"]) == float(parts["dfl"]) == 0
    assert float(parts["cls"]) > 0
    assert all(torch.isfinite(x.grad).all() for x in branch.classes)
