"""Weights on disk under the official keys."""

from __future__ import annotations

from pathlib import Path

from adapters.yolov10.model import YoloV10
from adapters.yolov10.variants import ONE2MANY_PREFIXES


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
