"""The training loss: CIoU, distribution focal loss and soft-label BCE, once per head.

Gains 7.5, 1.5 and 0.5; the one-to-many head assigns 10 anchors per object, the one-to-one head 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adapters._shared.training.batch import Truth
from adapters.yolov10.assign import assign, ciou
from adapters.yolov10.head import REG_MAX, Branch, make_anchors


@dataclass(frozen=True, slots=True, kw_only=True)
class LossGains:
    """Weights of the parts and anchors per object."""

    box: float = 7.5
    classes: float = 0.5
    dfl: float = 1.5
    top_k_one2many: int = 10
    top_k_one2one: int = 1


def _flatten(maps: list[Tensor]) -> Tensor:
    """List of (B, C, h, w) -> (B, A, C) float32."""
    return torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2).float()


def branch_loss(branch: Branch, truth: Truth, top_k: int, gains: LossGains) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one head.

    Args:
        branch: raw maps.
        truth: padded ground truth.
        top_k: anchors per object.
        gains: weights of the parts.

    Returns:
        Scalar sum over the parts (no batch factor: AdamW does not see one), and the three detached parts.
    """
    sizes_hw = [(x.shape[2], x.shape[3]) for x in branch.boxes]
    side_logits, logits = _flatten(branch.boxes), _flatten(branch.classes)
    batch, anchors = logits.shape[:2]
    centres, strides = (x.transpose(0, 1) for x in make_anchors(sizes_hw, logits))
    bins = torch.arange(REG_MAX, dtype=logits.dtype, device=logits.device)
    sides = side_logits.view(batch, anchors, 4, REG_MAX).softmax(-1) @ bins
    boxes = torch.cat((centres - sides[..., :2], centres + sides[..., 2:]), -1) * strides

    found = assign(
        logits.detach().sigmoid(), boxes.detach(), centres * strides, truth.boxes_xyxy, truth.labels, top_k=top_k
    )
    total = found.scores.sum().clamp(min=1.0)
    loss_classes = functional.binary_cross_entropy_with_logits(logits, found.scores, reduction="sum") / total

    positive = found.positive
    weight = found.scores.sum(-1)[positive]
    loss_box = ((1 - ciou(boxes[positive], found.boxes_xyxy[positive])) * weight).sum() / total

    position = positive.nonzero()[:, 1]
    target = found.boxes_xyxy[positive] / strides[position]
    target_sides = torch.cat((centres[position] - target[:, :2], target[:, 2:] - centres[position]), -1)
    target_sides = target_sides.clamp(0, REG_MAX - 1 - 0.01)
    loss_dfl = (distribution_focal(side_logits[positive].view(-1, 4, REG_MAX), target_sides) * weight).sum() / total

    parts = {"box": gains.box * loss_box, "cls": gains.classes * loss_classes, "dfl": gains.dfl * loss_dfl}
    loss = torch.stack(tuple(parts.values())).sum()
    return loss, {name: value.detach() for name, value in parts.items()}


def distribution_focal(logits: Tensor, target: Tensor) -> Tensor:
    """(P, 4, REG_MAX) logits, (P, 4) distances -> (P,): cross entropy to the two bins around each distance."""
    left = target.long()
    share_right = target - left
    log_shares = functional.log_softmax(logits, -1)
    near = log_shares.gather(-1, left[..., None]).squeeze(-1)
    far = log_shares.gather(-1, left[..., None] + 1).squeeze(-1)
    return -(near * (1 - share_right) + far * share_right).mean(-1)


def dual_loss(one2many: Branch, one2one: Branch, truth: Truth, gains: LossGains) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of both heads' losses (scalar), and their parts named ``o2m_box`` ... ``o2o_dfl``."""
    many, many_parts = branch_loss(one2many, truth, gains.top_k_one2many, gains)
    one, one_parts = branch_loss(one2one, truth, gains.top_k_one2one, gains)
    parts = {f"o2m_{k}": v for k, v in many_parts.items()} | {f"o2o_{k}": v for k, v in one_parts.items()}
    return many + one, parts
