"""The loss of anchors that predict classes and boxes: CIoU, distribution focal loss and soft-label BCE.

B images, A anchors, C classes, R bins of one side's distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from adapters._shared.training.assign import assign, ciou
from adapters._shared.training.batch import Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """Weights of the parts."""

    box: float = 7.5
    """Of 1 - CIoU."""
    classes: float = 0.5
    """Of the cross entropy."""
    dfl: float = 1.5
    """Of the distances' distributions."""


class Anchors(NamedTuple):
    """What every anchor says, and where it lies."""

    side_logits: Tensor
    """(B, A, 4 R) float: distributions of left, top, right, bottom in cells."""
    logits: Tensor
    """(B, A, C) float, before the sigmoid."""
    centres: Tensor
    """(A, 2) x y in cells."""
    cell_px: Tensor
    """(A, 1) side of a cell, or (A, 2) its width and height, input pixels."""

    def boxes_xyxy(self) -> Tensor:
        """(B, A, 4) input pixels, at the expected distances."""
        batch, anchors, wide = self.side_logits.shape
        bins = torch.arange(wide // 4, dtype=self.side_logits.dtype, device=self.side_logits.device)
        sides = self.side_logits.view(batch, anchors, 4, wide // 4).softmax(-1) @ bins
        low, high = self.centres - sides[..., :2], self.centres + sides[..., 2:]
        return torch.cat((low * self.cell_px, high * self.cell_px), -1)


def anchor_loss(said: Anchors, truth: Truth, top_k: int, gains: Gains) -> dict[str, Tensor]:
    """Weighted parts ``box``, ``cls``, ``dfl``, each a scalar with a gradient.

    The sum is over all anchors, divided by the sum of the class targets (no batch factor: AdamW does not see one).

    Args:
        said: by the anchors.
        truth: padded ground truth, input pixels.
        top_k: anchors per object.
        gains: weights of the parts.
    """
    boxes, bins = said.boxes_xyxy(), said.side_logits.shape[-1] // 4
    found = assign(
        said.logits.detach().sigmoid(),
        boxes.detach(),
        said.centres * said.cell_px,
        truth.boxes_xyxy,
        truth.labels,
        top_k=top_k,
    )
    total = found.scores.sum().clamp(min=1.0)
    loss_classes = functional.binary_cross_entropy_with_logits(said.logits, found.scores, reduction="sum") / total

    positive = found.positive
    weight = found.scores.sum(-1)[positive]
    loss_box = ((1 - ciou(boxes[positive], found.boxes_xyxy[positive])) * weight).sum() / total

    position = positive.nonzero()[:, 1]
    wanted, cell, centre = found.boxes_xyxy[positive], said.cell_px[position], said.centres[position]
    sides = torch.cat((centre - wanted[:, :2] / cell, wanted[:, 2:] / cell - centre), -1).clamp(0, bins - 1 - 0.01)
    loss_dfl = (distribution_focal(said.side_logits[positive].view(-1, 4, bins), sides) * weight).sum() / total
    return {"box": gains.box * loss_box, "cls": gains.classes * loss_classes, "dfl": gains.dfl * loss_dfl}


def distribution_focal(logits: Tensor, target: Tensor) -> Tensor:
    """(P, 4, R) logits, (P, 4) distances -> (P,): cross entropy to the two bins around each distance."""
    left = target.long()
    share_right = target - left
    log_shares = functional.log_softmax(logits, -1)
    near = log_shares.gather(-1, left[..., None]).squeeze(-1)
    far = log_shares.gather(-1, left[..., None] + 1).squeeze(-1)
    return -(near * (1 - share_right) + far * share_right).mean(-1)
