"""fp32 ONNX to an fp16 graph with fp32 inputs and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.onnxfile import read

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = 5.96e-8
"""Smallest positive fp16 value; the converter lifts smaller weights to it."""


def convert_fp16(source: Path, out: Path) -> dict[str, Any]:
    """Write ``source`` with fp16 weights and arithmetic to ``out`` and return the recipe.

    onnxruntime's converter leaves two defects that the ONNX checker refuses, repaired here: its nodes are unsorted, and
    it notes every described tensor as fp16, the float32 scales of a Resize too (the notes are dropped; runtimes infer
    them). The recipe counts the weights that fp16 cannot hold and the converter has clamped.

    Raises:
        InputError: ``source`` is not a complete ONNX file.
        ArtifactError: the graph is not one that can be converted.
    """
    import onnx
    import onnxruntime
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    read(source)
    model = onnx.load(str(source))
    clamped = _out_of_range(model)
    try:
        converted: ModelProto = convert_float_to_float16(model, keep_io_types=True)
    except (ValueError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"{source}: cannot be converted to fp16: {error}") from error
    OnnxModel(converted).topological_sort(is_deterministic=True)
    del converted.graph.value_info[:]
    onnx.save(converted, str(out))
    kept = sorted({node.op_type for node in converted.graph.node} & set(DEFAULT_OP_BLOCK_LIST))
    return {
        "tool": "onnxruntime.transformers.float16.convert_float_to_float16",
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "keep_io_types": True,
        "operators_left_in_float": kept,
        "clamped_weights": clamped,
    }


def _out_of_range(model: ModelProto) -> dict[str, int]:
    """Weight name -> number of its values that fp16 cannot hold (zero is fine)."""
    import onnx

    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            size = np.abs(onnx.numpy_helper.to_array(tensor))
            bad = int(np.count_nonzero((size > LARGEST) | ((size > 0) & (size < SMALLEST))))
            if bad:
                found[tensor.name] = bad
    return found
