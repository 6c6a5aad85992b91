"""Averaged weights, and weights on disk under the official keys."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from adapters.yolov10.model import YoloV10
from adapters.yolov10.variants import ONE2MANY_PREFIXES


class Averaged:
    """Exponential moving average of a network, its buffers included (arXiv 1803.05407 gives the idea)."""

    def __init__(self, network: YoloV10, decay: float, steps: int) -> None:
        self.network = YoloV10(network.variant, network.classes).eval().requires_grad_(False)
        self.network.load_state_dict(network.state_dict())
        self._decay, self._warmup_steps = decay, steps
        self.steps = 0

    def update(self, network: YoloV10) -> None:
        """Move towards ``network`` after one step."""
        self.steps += 1
        decay = self._decay * (1 - math.exp(-self.steps / self._warmup_steps))
        with torch.no_grad():
            for own, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
                if own.is_floating_point():
                    own.lerp_(new, 1 - decay)
                else:
                    own.copy_(new)


def save_weights(network: YoloV10, path: Path, *, shipped: bool = False) -> None:
    """Write a safetensors file under the official keys.

    Args:
        network: source.
        path: file to write.
        shipped: store float16, and leave the one-to-many head out; only inference can use such a file.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().contiguous().clone() for k, v in network.state_dict().items()}
    if shipped:
        state = {k: v for k, v in state.items() if not k.startswith(ONE2MANY_PREFIXES)}
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(state, path, metadata={"format": "pt"})
