"""fp32 ONNX to a static int8 Q/DQ graph, calibrated on example inputs. The choices are measured in README.md."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError
from bench.precision.graph import float_region, int8_share, matching, name_nodes
from bench.precision.halves import save
from bench.precision.onnxfile import read
from bench.precision.options import Conversion
from bench.precision.qdq import COMPUTE, MIN_OPSET, OPERATORS, insert_qdq, opset_of, refuse_quantised, scales_of
from bench.precision.session import first_line, load_session
from bench.precision.tune import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onnx import ModelProto

    from bench.precision.calibration import TensorRange
    from bench.precision.tune import Tuned
    from bench.types import Feeds

OLDEST_OPSET = 7
"""onnxruntime promises to load nothing older."""


def quantize_int8(
    source: Path,
    out: Path,
    *,
    feeds: Callable[[], Iterable[Feeds]],
    float_nodes: Sequence[str] = (),
    options: Conversion | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write ``source`` with 8-bit weights and activations to ``out`` and return the recipe.

    Symmetric: weights int8 with one scale per output channel, activations int8 with zero point 0 and one scale per
    tensor. Inputs, outputs and biases stay float32.

    Args:
        source: fp32 ONNX file; an opset below 13 is raised first.
        out: file to write.
        feeds: opens the calibration inputs (B = 1) anew at every call, always the same ones in the same order.
        float_nodes: patterns of nodes that stay in float with all that follows them, see ``graph.float_region``.
        options: what a person chose; the defaults when None.
        progress: called with (step, done, total).

    Raises:
        InputError: ``source`` is not a complete ONNX file, or the disk does not take ``out``.
        UsageError: an excluded pattern that matches nothing.
        ContractError: ``float_nodes`` that match nothing, or inputs that change between two passes.
        ArtifactError: a graph that is quantised already, has an opset that nobody loads, or cannot be quantised; no
            calibration inputs; non-finite activations.
    """
    import onnx
    import onnxruntime

    options = options or Conversion()
    with tempfile.TemporaryDirectory(prefix="parity-int8-") as scratch:
        model, source_opset = prepared(source, Path(scratch))
    head = float_region(model.graph, float_nodes)
    excluded = matching(model.graph, options.exclude)
    tuned = tune(model, feeds, options=options, float_nodes={*head, *excluded}, operators=OPERATORS, progress=progress)
    quantised = insert_qdq(
        tuned.model, tuned.amax, float_nodes=tuned.float_nodes, activations=options.activations, operators=OPERATORS
    )
    save(quantised, out)
    share = int8_share(quantised)
    scales = scales_of(quantised)
    return {
        "tool": "backend-parity, static Q/DQ",
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "options": {**options.identity(), "exclude": list(options.exclude)},
        "weights": "int8, symmetric, per output channel",
        "activations": f"{options.activations}, symmetric, per tensor",
        "operators": list(OPERATORS),
        "opset_of_source": source_opset,
        "opset": opset_of(quantised),
        "calibration": tuned.report["calibrator"],
        "calibration_images": tuned.images,
        "calibration_sha256": tuned.images_sha256,
        "int8_compute": share,
        "float_patterns": list(float_nodes),
        "float_nodes": list(head),
        "excluded": _excluded(quantised, head, excluded, tuned),
        "ranges": _ranges(tuned.ranges, scales),
        "tuning": dict(tuned.report),
        "warnings": _warnings(tuned, share),
    }


def prepared(source: Path, scratch: Path) -> tuple[ModelProto, int]:
    """Float graph ready for Q/DQ: opset 13 or later, batch norms and constants folded, shapes inferred, nodes named.

    Returns:
        The graph, and the opset of ``source``.

    Raises:
        InputError: ``source`` is not a complete ONNX file.
        ArtifactError: it is quantised already, has an opset out of range, or cannot be prepared.
    """
    import onnx

    read(source)
    model = onnx.load(str(source))
    try:
        refuse_quantised(model)
        opset = opset_of(model)
    except ArtifactError as error:
        raise ArtifactError(f"{source}: {error}") from error
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ArtifactError(
            f"{source}: opset {opset} is not supported, {OLDEST_OPSET} to {newest} are. Export the model again, "
            "with --opset 17"
        )
    if opset < MIN_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, MIN_OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            raise ArtifactError(
                f"{source}: opset {opset} cannot be raised to {MIN_OPSET}: {first_line(error)}"
            ) from error
    name_nodes(model.graph)
    raised, folded = scratch / "raised.onnx", scratch / "folded.onnx"
    onnx.save(model, str(raised))
    try:
        load_session(raised, optimised=folded)
    except ArtifactError as error:
        raise ArtifactError(f"{source}: cannot be prepared for int8: {error}") from error
    model = onnx.shape_inference.infer_shapes(onnx.load(str(folded)), strict_mode=True, data_prop=True)
    name_nodes(model.graph)
    _keep_used_domains(model)
    return model, opset


def _excluded(
    quantised: ModelProto, head: Sequence[str], patterns: Mapping[str, str], tuned: Tuned
) -> list[dict[str, str]]:
    """Every multiplying node that stayed in float, with the reason."""
    dequantised = {node.output[0] for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    inside = set(head)
    found = []
    for node in quantised.graph.node:
        if node.op_type not in COMPUTE or dequantised.issuperset(node.input[:2]):
            continue
        if node.name in inside:
            reason = "head or decode (float_nodes of the model, and what follows them)"
        elif node.name in patterns:
            reason = f"--exclude {patterns[node.name]}"
        else:
            reason = tuned.reasons.get(node.name, "an input without a usable range, or not a constant weight")
        found.append({"node": node.name, "operator": node.op_type, "reason": reason})
    return found


def _ranges(ranges: Mapping[str, TensorRange], scales: Mapping[str, float]) -> dict[str, list[float]]:
    """Quantised tensor -> smallest value, largest value, magnitude covered; six digits."""
    return {
        name: [float(f"{value:.6g}") for value in (found.low, found.high, found.amax)]
        for name, found in ranges.items()
        if name in scales
    }


def _warnings(tuned: Tuned, share: Mapping[str, float]) -> list[str]:
    notes = []
    if tuned.report["held_out_are_calibration_images"]:
        notes.append(f"only {tuned.images} calibration images: none could be held out")
    if share["macs"] < 0.5:
        notes.append(f"only {share['macs']:.0%} of the multiply-accumulates are int8")
    dead = [name for name, found in tuned.ranges.items() if found.amax == 0]
    if dead:
        notes.append(f"zero on every calibration image, left in float: {', '.join(dead[:5])}")
    unscanned = tuned.report.get("sensitivity", {}).get("unscanned", ())
    if unscanned:
        notes.append(f"the sensitivity scan ran out of time: {len(unscanned)} nodes were not scanned")
    return notes


def _keep_used_domains(model: ModelProto) -> None:
    """Drop the operator sets that the optimiser declares and no node uses."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
