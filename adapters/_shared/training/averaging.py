"""Averaged weights: lightning's callback with a decay that grows at the beginning of a run."""

from __future__ import annotations

import math

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class Averaging(WeightAveraging):
    """Exponential moving average of parameters and buffers (arXiv 1803.05407 gives the idea).

    Args:
        decay: of the average after many steps.
        steps: time constant of ``decay * (1 - exp(-n / steps))``: early weights are forgotten quickly.
    """

    def __init__(self, decay: float, steps: int) -> None:
        def move(average: list[Tensor], current: list[Tensor], averaged: Tensor | int) -> None:
            if not average[0].is_floating_point():  # counters of batch norms
                for own, new in zip(average, current, strict=True):
                    own.copy_(new)
                return
            share = 1 - decay * (1 - math.exp(-(int(averaged) + 1) / steps))
            torch._foreach_lerp_(average, current, share)

        super().__init__(multi_avg_fn=torch.no_grad()(move))

    @property
    def average(self) -> torch.nn.Module | None:
        """The averaged lightning module; None before training starts."""
        return None if self._average_model is None else self._average_model.module
