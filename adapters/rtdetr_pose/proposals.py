"""Class and box told by every cell of a grid: where queries start from. B batch, D width, C classes, Q cells.

Queries that must find their object through attention learn slowly without pretraining: of several hundred, five have
one. Here every object teaches several cells directly, as in a one-stage detector, and a query starts from what its
own cell says. There is no selection: query k belongs to cell k in every runtime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters.rtdetr_pose.blocks import ConvBnAct
from adapters.rtdetr_pose.config import BINS, BOX_WIDTH

if TYPE_CHECKING:
    from adapters.rtdetr_pose.config import NetworkConfig

OBJECTS_PER_IMAGE = 5
"""That a fresh network expects: its class scores start at this share of the cells."""
EDGE = 5e-3
"""Centres and sizes are kept this far from 0 and 1 (shares of the image), so that float16 holds their logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """What the cells say, row by row of the grid."""

    side_logits: Tensor
    """(B, Q, 4 BINS): distributions of left, top, right, bottom in cells."""
    logits: Tensor
    """(B, Q, C), before a sigmoid."""
    bbox: Tensor
    """(B, Q, 4) before the sigmoid: centre x, y, width, height as shares of the image."""


class ProposalHead(nn.Module):
    """Two branches over the cells, and the embedding of a box."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, self.grid = config.hidden, config.query_grid
        self.box = nn.Sequential(ConvBnAct(width, BOX_WIDTH, 3), nn.Conv2d(BOX_WIDTH, 4 * BINS, 1))
        self.cls = nn.Sequential(ConvBnAct(width, width, 3), nn.Conv2d(width, config.classes, 1))
        self.place = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
        fresh = OBJECTS_PER_IMAGE / config.classes / self.grid**2
        nn.init.constant_(_last_bias(self.box), 1.0)
        nn.init.constant_(_last_bias(self.cls), math.log(fresh))

    def forward(self, level: Tensor) -> Proposals:
        """(B, D, h, w) of any size, brought to the grid by bilinear interpolation."""
        level = self._on_grid(level)
        side_logits, logits = (x.flatten(2).transpose(1, 2) for x in (self.box(level), self.cls(level)))
        return Proposals(side_logits=side_logits, logits=logits, bbox=self._bbox(side_logits))

    def at_cells(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> features (B, Q, D) of the cells."""
        return self._on_grid(level).flatten(2).transpose(1, 2)

    def _on_grid(self, level: Tensor) -> Tensor:
        size = (self.grid, self.grid)
        if (int(level.shape[2]), int(level.shape[3])) == size:
            return level
        return functional.interpolate(level, size=size, mode="bilinear", align_corners=False)

    def centres(self, like: Tensor) -> Tensor:
        """(Q, 2) x y in cells, row by row, in the dtype and on the device of ``like``."""
        middle = torch.arange(self.grid, dtype=like.dtype, device=like.device) + 0.5
        x, y = middle.expand(self.grid, self.grid), middle[:, None].expand(self.grid, self.grid)
        return torch.stack((x.reshape(-1), y.reshape(-1)), 1)

    def _bbox(self, side_logits: Tensor) -> Tensor:
        bins = torch.arange(BINS, dtype=side_logits.dtype, device=side_logits.device)
        sides = (side_logits.reshape(-1, self.grid**2, 4, BINS).softmax(-1) * bins).sum(-1)
        low, high = sides[..., :2], sides[..., 2:]
        shares = torch.cat((self.centres(side_logits) + (high - low) / 2, low + high), -1) / self.grid
        shares = shares.clamp(EDGE, 1 - EDGE)
        return torch.log(shares / (1 - shares))  # torch.logit has no ONNX form


def _last_bias(branch: nn.Sequential) -> Tensor:
    bias = branch[-1].bias
    assert isinstance(bias, Tensor)
    return bias


def taught_less(x: Tensor, share: float) -> Tensor:
    """The same tensor; of the gradient that comes back, ``share`` goes on."""
    if not x.requires_grad:
        return x
    same = x.view_as(x)
    same.register_hook(lambda gradient: gradient * share)
    return same
