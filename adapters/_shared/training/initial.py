"""Initial weights where torch's own make a run depend on its seed."""

from __future__ import annotations

import torch
from torch import nn

BLIND_SHARE = 0.75
"""Share of the filters that start blind to brightness; the others see colours from the first step on."""


@torch.no_grad()
def start_from_contrast(stem: nn.Module) -> None:
    """Take the mean out of most filters of the layer that sees the image, and keep the size of their weights.

    Filters drawn at random mostly answer to brightness, which differs far more between images than edges do within
    one, and batch norm scales their output by it. How many filters show edges then depends on the seed.

    Args:
        stem: its first convolution is over an image in 0..1.
    """
    first = next(layer for layer in stem.modules() if isinstance(layer, nn.Conv2d))
    blind = first.weight[: round(BLIND_SHARE * first.out_channels)]
    size = blind.square().mean()
    blind -= blind.mean((2, 3), keepdim=True)
    blind *= (size / blind.square().mean()).sqrt()
