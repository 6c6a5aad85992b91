"""Classes and boxes told by every cell of the pyramid: training only. B batch, T cells, D width, C classes.

Queries of which five have an object teach a network without pretraining slowly; here every object teaches several cells
directly, as in a one-stage detector, and attention starts from features that know the objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapters.rtdetr_pose.config import NetworkConfig
    from bench.types import Array

CELLS_PER_BOX = 2.5
"""Side of a cell's box before training, in cells of its level."""


class DenseHead(nn.Module):
    """Two layers over the cells of all levels; under one of ``config.TRAINING_PREFIXES`` in a state dict."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.hidden, config.hidden)
        self.cls = nn.Linear(config.hidden, config.classes + 1)
        self.box = nn.Linear(config.hidden, 4)
        nn.init.normal_(self.box.weight, std=0.01)
        nn.init.zeros_(self.box.bias)

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Three (B, D, h, w) -> logits (B, T, C + 1), background last, and raw boxes (B, T, 4), as those of queries."""
        cells = torch.cat([level.flatten(2) for level in pyramid], 2).transpose(1, 2)
        anchors = cell_boxes([(int(level.shape[2]), int(level.shape[3])) for level in pyramid])
        hidden = functional.silu(self.hidden(cells))
        return self.cls(hidden), self.box(hidden).float() + torch.as_tensor(
            anchors, dtype=torch.float32, device=hidden.device
        )


def cell_boxes(sizes_hw: Sequence[tuple[int, int]]) -> Array:
    """(1, T, 4) raw (before the sigmoid) centre x, y, width, height of the cells of each level, row by row."""
    parts = []
    for height, width in sizes_hw:
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        w, h = (np.full(x.size, min(CELLS_PER_BOX / cells, 0.9)) for cells in (width, height))
        parts.append(np.stack((x.ravel(), y.ravel(), w, h), 1))
    shares = np.concatenate(parts)[None]
    raw: Array = np.log(shares / (1 - shares))
    return raw
