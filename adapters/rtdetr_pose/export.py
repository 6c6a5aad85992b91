"""Torch to ONNX: fp32, dynamic batch, static size, node names that carry the module scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapters._shared.tracing import MAX_OPSET, name_axes, trace
from adapters.rtdetr_pose import deployed
from bench.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from adapters.rtdetr_pose import RtDetrPoseAdapter
    from adapters.rtdetr_pose.model import RtDetrPose
    from bench.deployment.options import ExportOptions
    from bench.types import ModelSpec

MIN_OPSET = 17
"""The first with LayerNormalization as one node; TensorRT computes the decomposed form badly in fp16."""
RELATIVE_TOLERANCE = 1e-4
"""Allowed difference to torch, share of the largest magnitude of the output (at least 1)."""
CHECKED_BATCHES = (1, 4)


def export_onnx(network: RtDetrPose, spec: ModelSpec, out: Path, *, opset: int) -> Mapping[str, Any]:
    """Trace ``network`` and write ``out``.

    Args:
        network: in eval mode, float32, on the CPU.
        spec: names and size of input and outputs.
        out: file to write.
        opset: ONNX opset, 17 to 20.

    Returns:
        Tool, versions, opset, axes and the largest difference to torch per output.

    Raises:
        ArtifactError: an opset that does not fit, or a graph that does not reproduce the network.
        InputError: attention above the limit of the config.
    """
    import onnx

    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ArtifactError(f"{spec.name}: opset {opset} does not fit, type --opset {MIN_OPSET} to {MAX_OPSET}")
    network.config.check_image_hw(spec.image_hw)
    images, outputs = spec.inputs[0].name, [t.name for t in spec.outputs]
    trace(network, out, images=images, outputs=outputs, image_hw=spec.image_hw, opset=opset)
    model = onnx.load(str(out))
    onnx.checker.check_model(model, full_check=True)
    return {
        "tool": "torch.onnx.export(dynamo=False)",
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "opset": opset,
        "dynamic_axes": {name: {"0": "batch"} for name in (images, *outputs)},
        "batch_norm": "folded",
        "nodes": len(model.graph.node),
        "attention_mb_per_image": round(network.config.attention_mb(spec.image_hw), 1),
        "check": check_export(network, spec, out),
    }


def export_deployment(adapter: RtDetrPoseAdapter, weights: Path, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Write the fp32 file of the raw outputs; see ``bench.deployment.options.Deployable``.

    The graph has no GridSample, whose newer forms some runtimes get wrong, so every opset of the exporter will do.

    Raises:
        UsageError: an opset that does not fit.
        InputError: weights that cannot be used, or attention above the limit of the config.
        ArtifactError: a graph that does not reproduce the network.
    """
    import onnx

    if not MIN_OPSET <= options.opset <= MAX_OPSET:
        raise UsageError(
            f"--opset {options.opset}: {adapter.spec.name} is written with {MIN_OPSET} to {MAX_OPSET} "
            "(17 and 18 are compared with torch by the tests)."
        )
    spec = replace(adapter.spec, image_hw=options.image_hw)
    recipe = export_onnx(adapter.build(weights), spec, out, opset=options.opset)
    entries = deployed.describe_outputs(spec)
    model = onnx.load(str(out))
    name_axes(model, [{"name": spec.inputs[0].name, "shape": ["batch", 3, *options.image_hw]}, *entries])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out))
    return {"outputs": entries, "float_nodes": list(spec.float_nodes), "selects_from": {}, "recipe": recipe}


def check_export(network: RtDetrPose, spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Compare the file in onnxruntime with ``network`` on smooth random images.

    Returns:
        Largest absolute difference of every output, and the batch sizes tried.

    Raises:
        ArtifactError: a difference above ``RELATIVE_TOLERANCE``, another shape, or a non-finite number.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    names = [t.name for t in spec.outputs]
    worst = dict.fromkeys(names, 0.0)
    for batch in CHECKED_BATCHES:
        coarse = torch.rand(batch, 3, 10, 10, generator=generator)
        images = torch.nn.functional.interpolate(coarse, size=spec.image_hw, mode="bilinear")
        with torch.inference_mode():
            expected = [t.numpy() for t in network(images)]
        found = session.run(names, {spec.inputs[0].name: images.numpy()})
        for name, ours, theirs in zip(names, expected, found, strict=True):
            if ours.shape != theirs.shape:
                raise ArtifactError(f"{path}: batch {batch}: {name} is {theirs.shape} instead of {ours.shape}")
            difference = float(np.abs(ours - theirs).max())
            allowed = RELATIVE_TOLERANCE * max(1.0, float(np.abs(ours).max()))
            if not difference <= allowed:
                raise ArtifactError(
                    f"{path}: batch {batch}: {name} differs from torch by {difference:.3g} (allowed {allowed:.3g})"
                )
            worst[name] = max(worst[name], difference)
    return {"runtime": f"onnxruntime {onnxruntime.__version__}", "batches": list(CHECKED_BATCHES), "max_abs": worst}
