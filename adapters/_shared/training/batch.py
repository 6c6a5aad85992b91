"""Ground truth of a batch, padded to its fullest image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from adapters._shared.training.examples import Example

PADDED = -1
"""Label of a row that holds no object."""


class Truth(NamedTuple):
    """B images, M rows each."""

    boxes_xyxy: Tensor
    """(B, M, 4) float32, network input pixels."""
    labels: Tensor
    """(B, M) int64, `PADDED` where there is no object."""
    attributes: Mapping[str, Tensor] = {}
    """Name -> (B, M, ...) float32; zeros where padded."""


def collate(examples: Sequence[Example]) -> tuple[Tensor, Truth]:
    """Examples of one size -> (B, 3, S, S) uint8 RGB and their padded truth; the model's device divides by 255."""
    images = torch.from_numpy(np.stack([e.image_rgb_u8 for e in examples])).permute(0, 3, 1, 2)
    most = max(len(e.labels) for e in examples)
    boxes = torch.zeros(len(examples), most, 4)
    labels = torch.full((len(examples), most), PADDED, dtype=torch.int64)
    names = sorted({name for e in examples for name in e.attributes})
    shapes = {name: next(e.attributes[name].shape[1:] for e in examples if name in e.attributes) for name in names}
    attributes = {name: torch.zeros(len(examples), most, *shapes[name]) for name in names}
    for row, example in enumerate(examples):
        count = len(example.labels)
        boxes[row, :count] = torch.from_numpy(example.boxes_xyxy)
        labels[row, :count] = torch.from_numpy(example.labels)
        for name, padded in attributes.items():
            if name in example.attributes:
                padded[row, :count] = torch.from_numpy(np.asarray(example.attributes[name], np.float32))
    return images, Truth(boxes, labels, attributes)
