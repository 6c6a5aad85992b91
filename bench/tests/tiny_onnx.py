"""Small ONNX files with the traits that converters trip over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.types import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ModelSpec(
    name="tiny",
    task="detect",
    inputs=(TensorSpec(name="images", shape=("batch", 3, 8, 8), dtype="float32"),),
    outputs=(TensorSpec(name="cells", shape=("batch", 4, 16, 16), dtype="float32"),),
    image_hw=(8, 8),
    class_names=("thing",),
    default_fixtures="none",
)


def tiny_model(*, opset: int = 17, batch: int | str = "batch", head_scale: float = 1.0) -> onnx.ModelProto:
    """Two convolutions with ReLU, a Resize, and a head of one convolution and a Sigmoid; weights are seeded."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int, scale: float = 1.0) -> onnx.TensorProto:
        values = rng.normal(0, scale / np.sqrt(np.prod(shape[1:])), shape)
        return numpy_helper.from_array(values.astype(np.float32), name)

    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight"], ["a"], name="stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="stem_relu"),
        helper.make_node("Conv", ["b", "body.weight"], ["c"], name="body", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"], name="body_relu"),
        helper.make_node("Resize", ["d", "roi", "scales"], ["e"], name="up", **resize),
        helper.make_node("Conv", ["e", "head.weight"], ["f"], name="last_conv"),
        helper.make_node("Sigmoid", ["f"], ["cells"], name="decode"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("cells", TensorProto.FLOAT, [batch, 4, 16, 16])],
        [
            weight("stem.weight", 8, 3, 3, 3),
            weight("body.weight", 8, 8, 3, 3),
            weight("head.weight", 4, 8, 1, 1, scale=head_scale),
            numpy_helper.from_array(np.zeros(0, np.float32), "roi"),
            numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save_tiny(path: Path, **options: object) -> Path:
    """Write ``tiny_model`` to ``path``."""
    onnx.save(tiny_model(**options), str(path))  # type: ignore[arg-type]
    return path


def tiny_feeds(count: int) -> list[dict[str, np.ndarray]]:
    """``count`` seeded images, B = 1."""
    rng = np.random.default_rng(1)
    return [{"images": rng.random((1, 3, 8, 8), np.float32)} for _ in range(count)]
