"""Graphs of lower precision, and a module that makes the fake TensorRT importable in another process."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

FAKE = """
import sys
from bench.testing.trt_fake import fake_tensorrt
world = fake_tensorrt("11.4.0.106", gpu="Stub GPU")
sys.modules[__name__] = world.module
"""


def quantised(model, *, activations=True):
    """Put Q/DQ before the first two convolutions, on weights and (or not) on activations."""
    graph, nodes = model.graph, []
    graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "scale"))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    for node in graph.node:
        if node.op_type == "Conv" and node.name != "last_conv":
            for position in (0, 1) if activations else (1,):
                source, made = node.input[position], f"{node.name}.{position}"
                nodes.append(helper.make_node("QuantizeLinear", [source, "scale", "zero"], [made + "q"]))
                nodes.append(helper.make_node("DequantizeLinear", [made + "q", "scale", "zero"], [made]))
                node.input[position] = made
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def half(model):
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model
