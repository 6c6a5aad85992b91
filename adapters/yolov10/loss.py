"""The training loss: CIoU, distribution focal loss and soft-label BCE, once per head.

Gains 7.5, 1.5 and 0.5; the one-to-many head assigns 10 anchors per object, the one-to-one head 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters._shared.training.anchors import Anchors, Gains, anchor_loss
from adapters._shared.training.batch import Truth
from adapters.yolov10.head import Branch, make_anchors


@dataclass(frozen=True, slots=True, kw_only=True)
class LossGains(Gains):
    """Weights of the parts and anchors per object."""

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
        Scalar sum over the parts, and the three detached parts.
    """
    sizes_hw = [(x.shape[2], x.shape[3]) for x in branch.boxes]
    side_logits, logits = _flatten(branch.boxes), _flatten(branch.classes)
    centres, strides = (x.transpose(0, 1) for x in make_anchors(sizes_hw, logits))
    parts = anchor_loss(Anchors(side_logits, logits, centres, strides), truth, top_k, gains)
    loss = torch.stack(tuple(parts.values())).sum()
    return loss, {name: value.detach() for name, value in parts.items()}


def dual_loss(one2many: Branch, one2one: Branch, truth: Truth, gains: LossGains) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of both heads' losses (scalar), and their parts named ``o2m_box`` ... ``o2o_dfl``."""
    many, many_parts = branch_loss(one2many, truth, gains.top_k_one2many, gains)
    one, one_parts = branch_loss(one2one, truth, gains.top_k_one2one, gains)
    parts = {f"o2m_{k}": v for k, v in many_parts.items()} | {f"o2o_{k}": v for k, v in one_parts.items()}
    return many + one, parts
