"""fp32 ONNX export, with the tensor names of the spec and a dynamic batch axis."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

    from bench.types import ModelSpec


def export_onnx(network: nn.Module, spec: ModelSpec, out: Path, *, opset: int) -> dict[str, Any]:
    """Write ``network`` to ``out`` and return the recipe: tool, versions and the opset of the file.

    The exporter folds batch norm into the convolutions and names a node's weights after the state dict keys.
    """
    (image,), (cells,) = spec.inputs, spec.outputs
    example = torch.zeros(2, 3, *spec.image_hw)  # at 1 the exporter would take the batch for a constant
    with _quiet_exporter():
        program = torch.onnx.export(
            network, (example,), input_names=[image.name], output_names=[cells.name], opset_version=opset,
            dynamic_shapes=({0: str(image.shape[0])},), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None  # only without dynamo
    program.save(str(out), external_data=False)
    written = program.model.opset_imports[""]
    return {"tool": "torch.onnx.export", "torch": torch.__version__, "onnx": onnx.__version__, "opset": written}


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what torch 2.13 says on every export: that opset 17 is converted from 18, and its own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
