"""Torch to ONNX: fp32, dynamic batch, static size, node names that carry the module scope."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.errors import ArtifactError

if TYPE_CHECKING:
    from adapters.yolov10.model import YoloV10
    from bench.types import ModelSpec

MIN_OPSET = 13
BOX_TOLERANCE_PX = 1e-2
SCORE_TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 4)


def export_onnx(network: YoloV10, spec: ModelSpec, out: Path, *, opset: int) -> Mapping[str, Any]:
    """Trace ``network`` and write ``out``.

    The TorchScript exporter is used on purpose: it names nodes after modules (``/model.23/dfl/conv/Conv``), which the
    int8 recipe and the localisation of differences need.

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
    images, outputs = spec.inputs[0].name, [t.name for t in spec.outputs]
    axes = {name: {0: "batch"} for name in (images, *outputs)}
    example = torch.zeros(2, 3, *spec.image_hw)
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.inference_mode():
        # ints taken from shapes are meant: the size is static
        warnings.filterwarnings("ignore", message="(?s).*might cause the trace to be incorrect")
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (example,),
            str(out),
            input_names=[images],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    model = onnx.load(str(out))
    onnx.checker.check_model(model, full_check=True)
    return {
        "tool": "torch.onnx.export(dynamo=False)",
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "opset": opset,
        "dynamic_axes": {name: {"0": "batch"} for name in axes},
        "batch_norm": "folded",
        "nodes": len(model.graph.node),
        "check": check_export(network, spec, out),
    }


def check_export(network: YoloV10, spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Compare the file in onnxruntime with ``network`` on smooth random images.

    Returns:
        Largest absolute differences of boxes (pixels) and scores, and the batch sizes tried.

    Raises:
        ArtifactError: a difference above ``BOX_TOLERANCE_PX`` or ``SCORE_TOLERANCE``, or a non-finite number.
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
        box_px, score = (float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
        if not (box_px <= BOX_TOLERANCE_PX and score <= SCORE_TOLERANCE):
            raise ArtifactError(
                f"{path}: batch {batch} differs from torch by {box_px:.3g} px (allowed {BOX_TOLERANCE_PX:g}) and "
                f"{score:.3g} in a score (allowed {SCORE_TOLERANCE:g})"
            )
        worst_box_px, worst_score = max(worst_box_px, box_px), max(worst_score, score)
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "batches": list(CHECKED_BATCHES),
        "max_abs_box_px": worst_box_px,
        "max_abs_score": worst_score,
    }
