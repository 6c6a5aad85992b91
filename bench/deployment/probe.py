"""Parts of a file that selects detections: what its selection reads, and the selection alone.

A photograph may show no object, or fill the list, and then says nothing of the thresholds. So the selection is also
cut out of the file and given boxes that try it: crowded, with scores and overlaps around the thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.types import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from bench.deployment.options import ExportOptions
    from bench.types import Array

_CANDIDATES = (20, 200, 800)
"""Boxes with a score per image, in turn: fewer and more than a list takes."""


def write_probe(
    path: Path, out: Path, selects_from: Mapping[str, Sequence[Any]], shapes: Mapping[str, Sequence[int]]
) -> tuple[TensorSpec, ...]:
    """Write the file with the tensors that its selection reads as further outputs, under the reference's names.

    Args:
        path: file that selects.
        out: file to write.
        selects_from: dense output of the reference -> node and number of its input that reads it.
        shapes: dense output -> shape without the batch.

    Returns:
        The further outputs.

    Raises:
        ArtifactError: the graph has no such node.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(path))
    for name, inner in _inner(model, selects_from, path).items():
        if inner != name:
            model.graph.node.append(helper.make_node("Identity", [inner], [name], name=f"/probe/{name}"))
        shape: list[str | int | None] = ["batch", *shapes[name]]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, str(out))
    return _specs(shapes)


def write_selection(
    path: Path, out: Path, selects_from: Mapping[str, Sequence[Any]], shapes: Mapping[str, Sequence[int]]
) -> tuple[TensorSpec, ...]:
    """Write the selection alone: its inputs are the dense tensors, its outputs those of the file.

    Args:
        path: file that selects.
        out: file to write.
        selects_from: as for `write_probe`.
        shapes: as for `write_probe`.

    Returns:
        The inputs.

    Raises:
        ArtifactError: the graph has no such node, or the selection reads more of the network than these tensors.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(path))
    graph = model.graph
    inner = _inner(model, selects_from, path)
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    wanted, needed = {value.name for value in graph.output}, set[str]()
    reached = set(inner.values())
    while wanted:
        name = wanted.pop()
        if name in needed or name in reached or name in weights or not name:
            continue
        if name not in producers:
            raise ArtifactError(f"{path.name}: its selection also reads {name!r}, past {', '.join(selects_from)}.")
        needed.add(name)
        wanted.update(producers[name].input)
    nodes = [node for node in graph.node if needed.intersection(node.output)]
    read = {name for node in nodes for name in node.input}
    entries = [helper.make_node("Identity", [f"{n}_given"], [i], name=f"/given/{n}") for n, i in inner.items()]
    inputs = [
        helper.make_tensor_value_info(f"{n}_given", TensorProto.FLOAT, ["batch", *shape]) for n, shape in shapes.items()
    ]
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    cut = helper.make_graph([*entries, *nodes], "selection", inputs, list(graph.output), initializer=kept)
    onnx.save(helper.make_model(cut, opset_imports=model.opset_import, ir_version=model.ir_version), str(out))
    return tuple(TensorSpec(name=f"{s.name}_given", shape=s.shape, dtype=s.dtype) for s in _specs(shapes))


def crowd(
    shapes: Mapping[str, Sequence[int]], options: ExportOptions, *, batch: int, seed: int = 0
) -> dict[str, Array]:
    """Boxes that try a selection: in clusters over the whole input, half of the scores around the score threshold.

    Args:
        shapes: of ``boxes_cxcywh`` (4, A) and ``scores`` (nc, A).
        options: of the file.
        batch: images.
        seed: of the random numbers.

    Returns:
        ``boxes_cxcywh`` (B, 4, A) in pixels and ``scores`` (B, nc, A); at most 800 scores of an image are not 0.
    """
    classes, anchors = shapes["scores"]
    rng = np.random.default_rng(seed)
    height, width = options.image_hw
    clusters = rng.uniform(0, 1, (batch, 2, max(anchors // 8, 1))) * [[width], [height]]
    near = np.repeat(rng.integers(0, clusters.shape[2], (batch, 1, anchors)), 2, axis=1)
    sizes = rng.uniform(16, 48, (batch, 2, anchors))
    centres = np.take_along_axis(clusters, near, 2) + rng.uniform(-8, 8, (batch, 2, anchors))
    scores = np.zeros((batch, classes * anchors))
    for image in range(batch):
        count = min(_CANDIDATES[image % len(_CANDIDATES)], classes * anchors)
        # few classes at a time, so that boxes of one class do overlap
        pool = np.arange(classes * anchors).reshape(classes, anchors)[rng.permutation(classes)[: max(count // 40, 1)]]
        chosen = rng.permutation(pool.ravel())[:count]
        around = np.clip(options.conf + 0.05 * rng.uniform(-1, 1, len(chosen)) ** 3, 0.001, 0.999)
        scores[image, chosen] = np.where(rng.random(len(chosen)) < 0.5, around, rng.uniform(0, 1, len(chosen)))
        scores[image, chosen[0]] = options.conf  # not above it
    return {
        "boxes_cxcywh": np.concatenate((centres, sizes), 1).astype(np.float32),
        "scores": scores.reshape(batch, classes, anchors).astype(np.float32),
    }


def _specs(shapes: Mapping[str, Sequence[int]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, shape=("batch", *shape), dtype="float32") for name, shape in shapes.items())


def _inner(model: ModelProto, selects_from: Mapping[str, Sequence[Any]], path: Path) -> dict[str, str]:
    """Dense output of the reference -> tensor of the graph."""
    nodes = {node.name: node for node in model.graph.node}
    found = {}
    for name, (node, index) in selects_from.items():
        if node not in nodes or index >= len(nodes[node].input):
            raise ArtifactError(f"{path.name}: has no node {node!r}, which reads {name!r}. Export it again.")
        found[name] = str(nodes[node].input[index])
    return found
