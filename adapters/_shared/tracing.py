"""A network in torch as an ONNX graph: one way for every model, so that their node names and axes read alike."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

MAX_OPSET = 20
"""The newest that torch's TorchScript exporter writes."""


def trace(
    network: nn.Module, out: Path, *, images: str, outputs: Sequence[str], image_hw: tuple[int, int], opset: int
) -> None:
    """Write ``out``: static size, open batch.

    The TorchScript exporter is used on purpose: it names nodes after modules (``/model.23/dfl/MatMul``), which the
    int8 recipe and the localisation of differences need.

    Args:
        network: in eval mode, float32, on the CPU; takes (B, 3, H, W).
        out: file to write.
        images: name of the input.
        outputs: names of what the network returns, in its order.
        image_hw: size of the input, pixels.
        opset: ONNX opset.
    """
    axes = {name: {0: "batch"} for name in (images, *outputs)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.inference_mode():
        # ints taken from shapes are meant: the size is static
        warnings.filterwarnings("ignore", message="(?s).*might cause the trace to be incorrect")
        warnings.filterwarnings("ignore", message="(?s).*registers? as constants? in the trace")
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *image_hw),),
            str(out),
            input_names=[images],
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )


def name_axes(model: Any, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the described shapes over those that the exporter left open: static, but for the batch.

    Args:
        model: onnx ``ModelProto``, changed in place.
        entries: ``name`` and ``shape`` of every input and output.
    """
    shapes = {entry["name"]: entry["shape"] for entry in entries}
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        del axes[:]
        for length in shapes[value.name]:
            axis = axes.add()
            setattr(axis, "dim_param" if isinstance(length, str) else "dim_value", length)
