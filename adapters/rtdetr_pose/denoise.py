"""Noised truths as further queries (arXiv 2203.01305): training only. B batch, M padded objects, G groups, D width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters.rtdetr_pose.matcher import Matching

if TYPE_CHECKING:
    from adapters._shared.training.batch import Truth
    from adapters.rtdetr_pose.config import LossConfig, NetworkConfig

EDGE = 1e-3
"""Shares of the image are kept this far from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """Further queries, and what they must become."""

    queries: Tensor
    """(B, G M, D)."""
    anchors: Tensor
    """(B, G M, 4) raw noised boxes."""
    blocked: Tensor
    """(Q + G M, Q + G M) bool: the network's queries see none of these, and a group sees no other group."""
    matching: Matching
    """Which query restores which object; query numbers start at 0."""


class Denoising(nn.Module):
    """Embeds labels and boxes of noised truths; under one of ``config.TRAINING_PREFIXES`` in a state dict."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.queries = config.queries
        self.classes = config.classes
        self.label = nn.Embedding(config.classes + 1, config.hidden)
        self.box = nn.Sequential(nn.Linear(4, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.hidden))

    def forward(self, truth: Truth, image_hw: tuple[int, int], config: LossConfig) -> Noised:
        """Make ``denoising_groups`` noised copies of the truth, with torch's global generator.

        Args:
            truth: padded; padding becomes queries that no loss sees.
            image_hw: of the network input, pixels.
            config: number of groups, noise.
        """
        from adapters.rtdetr_pose.loss import cxcywh_shares

        groups = config.denoising_groups
        labels = truth.labels.repeat(1, groups)
        size = truth.boxes_xyxy.new_tensor([image_hw[1], image_hw[0]])
        boxes = cxcywh_shares(truth.boxes_xyxy, size).repeat(1, groups, 1)
        shift = (torch.rand_like(boxes) * 2 - 1) * config.denoising_box
        half = boxes[..., 2:] / 2
        boxes = torch.cat((boxes[..., :2] + shift[..., :2] * half, boxes[..., 2:] * (1 + shift[..., 2:])), -1)
        anchors = boxes.clamp(EDGE, 1 - EDGE).logit()
        flipped = torch.rand(labels.shape, device=labels.device) < config.denoising_label
        shown = torch.where(flipped, torch.randint_like(labels, self.classes), labels)
        shown = torch.where(labels < 0, self.classes, shown)

        image, query = (labels >= 0).nonzero(as_tuple=True)
        members = truth.labels.shape[1]
        own = torch.arange(groups, device=labels.device).repeat_interleave(members)
        total = self.queries + len(own)
        blocked = torch.zeros(total, total, dtype=torch.bool, device=labels.device)
        blocked[: self.queries, self.queries :] = True
        blocked[self.queries :, self.queries :] = own[:, None] != own[None]
        embedded = self.label(shown) + self.box(anchors)
        return Noised(
            queries=embedded,
            anchors=anchors,
            blocked=blocked,
            matching=Matching(image=image, query=query, object_=query % max(members, 1)),
        )
