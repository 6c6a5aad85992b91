"""Torch to ONNX: fp32, dynamic batch, static size, node names that carry the module scope."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapters._shared.tracing import MAX_OPSET, name_axes, trace
from adapters.yolov10 import deployed
from adapters.yolov10.fuse import fused
from bench.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from adapters.yolov10 import YoloV10Adapter
    from adapters.yolov10.model import YoloV10
    from bench.deployment.options import ExportOptions
    from bench.types import Array, ModelSpec

MIN_OPSET = 13
FLOAT_NODES = (r"^/select/", r"^/model\.23/dfl/", r"^/model\.23/[^/]+$")
"""Of a file that selects: from the expectation over bins on, an fp16 file stays in float32. A box edge at 600 px has
steps of .5 px in fp16, and NMS would decide by them."""
BOX_TOLERANCE_PX = 1e-2
SCORE_TOLERANCE = 1e-4
NOISE_FACTOR = 10.0
"""A runtime may round this much more than torch does, as tensor parity allows."""
CHECKED_BATCHES = (1, 4)


def export_onnx(network: YoloV10, spec: ModelSpec, out: Path, *, opset: int) -> Mapping[str, Any]:
    """Trace ``network`` and write ``out``.

    Args:
        network: in eval mode, float32, on the CPU; batch norms are folded into convolutions.
        spec: names and size of input and output.
        out: file to write.
        opset: ONNX opset.

    Returns:
        Tool, versions, opset, axes and the largest difference to torch that the check found.

    Raises:
        ArtifactError: an opset that the exporter cannot write, or a graph that does not reproduce the network.
    """
    import onnx

    if opset < MIN_OPSET:
        raise ArtifactError(f"{spec.name}: opset {opset} is too old, type --opset {MIN_OPSET} or newer (17 is tested)")
    outputs = tuple(t.name for t in spec.outputs)
    trace(fused(network), out, images=spec.inputs[0].name, outputs=outputs, image_hw=spec.image_hw, opset=opset)
    model = onnx.load(str(out))
    onnx.checker.check_model(model, full_check=True)
    return {
        "tool": "torch.onnx.export(dynamo=False)",
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "opset": opset,
        "dynamic_axes": {name: {"0": "batch"} for name in (spec.inputs[0].name, *outputs)},
        "batch_norm": "folded",
        "nodes": len(model.graph.node),
        "check": check_export(network, spec, out),
    }


def deployed_network(adapter: YoloV10Adapter, weights: Path, head: str) -> YoloV10:
    """The trained network with the dense outputs behind ``head``: eval mode, float32, on the CPU.

    Raises:
        InputError: weights that cannot be used, or that lack the branch of the head.
    """
    from adapters.yolov10.heads import load_with_one2many, with_outputs_of

    network: YoloV10 = adapter.build(weights)  # all that it refuses is refused for every head
    if head == "nms":
        network = load_with_one2many(adapter.variant, len(adapter.spec.class_names), weights)
    return with_outputs_of(network, head)


def export_deployment(adapter: YoloV10Adapter, weights: Path, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Write the fp32 file of one head; see ``bench.deployment.options.Deployable``.

    Raises:
        UsageError: an opset that the exporter does not write.
        InputError: as `deployed_network`.
    """
    import onnx

    from adapters.yolov10.tails import add_tail, readers

    if not MIN_OPSET <= options.opset <= MAX_OPSET:
        raise UsageError(f"--opset {options.opset}: this exporter writes {MIN_OPSET} to {MAX_OPSET}.")
    network, classes = deployed_network(adapter, weights, options.head), len(adapter.spec.class_names)
    selects = options.head in deployed.SELECTING
    entries = deployed.describe_outputs(options.head, options.image_hw, classes, options.max_detections)
    dense = deployed.DENSE if selects else tuple(entry["name"] for entry in entries)
    images = adapter.spec.inputs[0].name
    trace(fused(network), out, images=images, outputs=dense, image_hw=options.image_hw, opset=options.opset)
    model = onnx.load(str(out))
    if selects:
        model = add_tail(model, options, deployed.anchors_in(options.image_hw), classes)
    name_axes(model, [{"name": images, "shape": ["batch", 3, *options.image_hw]}, *entries])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out))
    return {
        "outputs": entries,
        "float_nodes": list(FLOAT_NODES) if selects else [],
        "selects_from": readers(model) if selects else {},
        "recipe": {
            "tool": "torch.onnx.export(dynamo=False)",
            "branch": "one-to-many" if options.head == "nms" else "one-to-one",
            "batch_norm": "folded",
            "nodes": len(model.graph.node),
        },
    }


def check_export(network: YoloV10, spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Compare the file in onnxruntime with ``network`` on smooth random images.

    Returns:
        Largest absolute differences of boxes (pixels) and scores, and the batch sizes tried.

    Raises:
        ArtifactError: a non-finite number, or a difference above ``BOX_TOLERANCE_PX`` or ``SCORE_TOLERANCE`` that is
            also above ``NOISE_FACTOR`` times the rounding noise of torch itself.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst_box_px = worst_score = 0.0
    for batch in CHECKED_BATCHES:
        coarse = torch.rand(batch, 3, 10, 10, generator=generator)
        images = torch.nn.functional.interpolate(coarse, size=spec.image_hw, mode="bilinear")
        with torch.inference_mode():
            expected = [t.numpy() for t in network(images)]
        found = session.run([t.name for t in spec.outputs], {spec.inputs[0].name: images.numpy()})
        if [f.shape for f in found] != [e.shape for e in expected]:
            raise ArtifactError(f"{path}: batch {batch} gives other shapes than torch: {[f.shape for f in found]}")
        box_px, score = _largest(found, expected)
        allowed = (BOX_TOLERANCE_PX, SCORE_TOLERANCE)
        if not (box_px <= allowed[0] and score <= allowed[1]):  # deep variants at large sizes round more: ask float64
            with torch.inference_mode():
                exact = [t.numpy() for t in copy.deepcopy(network).double()(images.double())]
            noise = _largest(expected, exact)
            allowed = (max(allowed[0], NOISE_FACTOR * noise[0]), max(allowed[1], NOISE_FACTOR * noise[1]))
        if not (np.isfinite(box_px + score) and box_px <= allowed[0] and score <= allowed[1]):
            raise ArtifactError(
                f"{path}: batch {batch} differs from torch by {box_px:.3g} px (allowed {allowed[0]:.3g}) and "
                f"{score:.3g} in a score (allowed {allowed[1]:.3g})"
            )
        worst_box_px, worst_score = max(worst_box_px, box_px), max(worst_score, score)
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "batches": list(CHECKED_BATCHES),
        "max_abs_box_px": worst_box_px,
        "max_abs_score": worst_score,
    }


def _largest(found: Sequence[Array], expected: Sequence[Array]) -> tuple[float, float]:
    """Largest absolute difference of boxes and of scores; NaN where either has one."""
    box_px, score = (float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
    return box_px, score
