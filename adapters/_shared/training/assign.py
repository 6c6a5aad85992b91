"""Task-aligned assignment of ground truth to anchors (TOOD, arXiv 2108.07755, section 3.2).

B images, M padded ground-truth boxes, A anchors, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ALPHA = 0.5
BETA = 6.0
EPS = 1e-9
TINY = 1e-30
"""Below every alignment: of a box a hundred times too large it is 1e-15, and with 1e-9 in its place that object would
have no target at all and never be learnt (tests/test_training_anchors.py)."""


class Assignment(NamedTuple):
    """What each anchor has to predict."""

    boxes_xyxy: Tensor
    """(B, A, 4) float, pixels; meaningless where not ``positive``."""
    scores: Tensor
    """(B, A, C) float: the soft class target."""
    positive: Tensor
    """(B, A) bool."""


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union of broadcast (..., 4) corners -> (...), 0 to 1."""
    size_a = (a_xyxy[..., 2:] - a_xyxy[..., :2]).clamp(min=1e-4)
    size_b = (b_xyxy[..., 2:] - b_xyxy[..., :2]).clamp(min=1e-4)
    low, high = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    return inter / (size_a.prod(-1) + size_b.prod(-1) - inter + 1e-7)


def ciou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Complete IoU (arXiv 1911.08287) of broadcast (..., 4) corners -> (...); the aspect weight carries no gradient."""
    size_a = (a_xyxy[..., 2:] - a_xyxy[..., :2]).clamp(min=1e-4)
    size_b = (b_xyxy[..., 2:] - b_xyxy[..., :2]).clamp(min=1e-4)
    overlap = (torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])).clamp(
        min=0
    )
    inter = overlap.prod(-1)
    iou = inter / (size_a.prod(-1) + size_b.prod(-1) - inter + 1e-7)
    hull = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    centre_shift = (a_xyxy[..., :2] + a_xyxy[..., 2:] - b_xyxy[..., :2] - b_xyxy[..., 2:]) / 2
    distance = centre_shift.square().sum(-1) / (hull.square().sum(-1) + 1e-7)
    angle = torch.atan(size_b[..., 0] / size_b[..., 1]) - torch.atan(size_a[..., 0] / size_a[..., 1])
    aspect = angle.square() * (4 / torch.pi**2)
    with torch.no_grad():
        weight = aspect / (aspect - iou + 1 + 1e-7)
    return iou - distance - weight * aspect


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes_xyxy: Tensor,
    centres_px: Tensor,
    truth_boxes_xyxy: Tensor,
    truth_labels: Tensor,
    *,
    top_k: int,
) -> Assignment:
    """Give each ground-truth box its ``top_k`` best aligned anchors, alignment = score^alpha * IoU^beta.

    Candidates are anchors whose centre lies inside the box. An anchor wanted by several boxes goes to the one it
    overlaps most. The class target of a positive anchor is its alignment, scaled so that the best anchor of a box
    gets the highest IoU among that box's anchors.

    Args:
        scores: (B, A, C) predicted, after the sigmoid.
        boxes_xyxy: (B, A, 4) predicted, pixels.
        centres_px: (A, 2) anchor centres x y.
        truth_boxes_xyxy: (B, M, 4) pixels, padded with zeros.
        truth_labels: (B, M) int64; -1 marks padding.
        top_k: anchors per box (10 one-to-many, 1 one-to-one).
    """
    batch, anchors, classes = scores.shape
    boxes = truth_boxes_xyxy.shape[1]
    if boxes == 0:
        return Assignment(
            boxes_xyxy, torch.zeros_like(scores), torch.zeros(batch, anchors, dtype=torch.bool, device=scores.device)
        )
    real = truth_labels >= 0
    labels = truth_labels.clamp(min=0)
    low = centres_px[None, None] - truth_boxes_xyxy[:, :, None, :2]
    high = truth_boxes_xyxy[:, :, None, 2:] - centres_px[None, None]
    inside = (torch.minimum(low.amin(-1), high.amin(-1)) > EPS) & real[..., None]

    overlap = torch.zeros(batch, boxes, anchors, device=scores.device)
    image, box, anchor = inside.nonzero(as_tuple=True)
    # not CIoU cut off at 0: a box many times too large has a negative one, would get no target, and could never shrink
    overlap[image, box, anchor] = iou(truth_boxes_xyxy[image, box], boxes_xyxy[image, anchor]).float()
    alignment = torch.zeros_like(overlap)
    wanted = scores[image, anchor, labels[image, box]].float()
    alignment[image, box, anchor] = wanted.pow(ALPHA) * overlap[image, box, anchor].pow(BETA)

    best = alignment.topk(min(top_k, anchors), dim=-1).indices
    chosen = torch.zeros_like(inside).scatter_(-1, best, True) & inside
    contested = (chosen.sum(1) > 1)[:, None]
    closest = torch.zeros_like(inside).scatter_(1, overlap.argmax(1, keepdim=True), True)
    chosen = torch.where(contested, closest & inside, chosen)

    positive = chosen.any(1)
    owner = chosen.int().argmax(1)
    rows = torch.arange(batch, device=scores.device)[:, None]
    alignment = alignment * chosen
    peak_alignment = alignment.amax(-1, keepdim=True)
    peak_overlap = (overlap * chosen).amax(-1, keepdim=True)
    soft = (alignment * peak_overlap / peak_alignment.clamp(min=TINY)).amax(1)
    target = torch.zeros(batch, anchors, classes, device=scores.device)
    target.scatter_(-1, labels[rows, owner][..., None], (soft * positive)[..., None])
    return Assignment(truth_boxes_xyxy[rows, owner], target, positive)
