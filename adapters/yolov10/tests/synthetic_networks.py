"""Networks with weights that follow from their names alone, spread as those of a trained one."""

import torch

from adapters._shared.synthetic import make_entry
from adapters.yolov10.model import YoloV10

GAINS = {"n": 1.92, "s": 1.745, "m": 1.745, "b": 1.6, "l": 1.5, "x": 1.745}
"""Of convolutions of synthetic weights: scores of a random image are spread and not saturated."""


def filled(variant, classes=80, gain=None):
    """A network in eval mode with synthetic weights: every entry follows from its key."""
    with torch.device("meta"):
        network = YoloV10(variant, classes)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    state = {
        key: torch.from_numpy(make_entry(key, tuple(value.shape), gain or GAINS[variant])).to(value.dtype)
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(state, strict=True)
    return network
