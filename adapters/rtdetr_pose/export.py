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
    from adapters.rtdetr_pose.model import RtDetrPose
    from bench.types import ModelSpec

MIN_OPSET = 17
"""The first with LayerNormalization as one node; TensorRT computes the decomposed form badly in fp16."""
MAX_OPSET = 20
"""The newest that torch's TorchScript exporter writes."""
RELATIVE_TOLERANCE = 1e-4
"""Allowed difference to torch, share of the largest magnitude of the output (at least 1)."""
CHECKED_BATCHES = (1, 4)


def export_onnx(network: RtDetrPose, spec: ModelSpec, out: Path, *, opset: int) -> Mapping[str, Any]:
    """Trace ``network`` and write ``out``.

    The TorchScript exporter is used on purpose: it names nodes after modules
    (``/decoder/decoder/layers.0/linear1/MatMul``), which the int8 recipe and the localisation of differences need.

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
    axes = {name: {0: "batch"} for name in (images, *outputs)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.inference_mode():
        # ints taken from shapes are meant: the size is static
        warnings.filterwarnings("ignore", message="(?s).*might cause the trace to be incorrect")
        warnings.filterwarnings("ignore", message="(?s).*registers? as constants? in the trace")
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, *spec.image_hw),),
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
        "attention_mb_per_image": round(network.config.attention_mb(spec.image_hw), 1),
        "check": check_export(network, spec, out),
    }


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
