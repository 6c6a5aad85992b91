"""fp32 ONNX to a static int8 Q/DQ graph, calibrated on example inputs. The choices are measured in README.md."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ArtifactError
from bench.precision.gate import first_line, load_session, runtime_errors
from bench.precision.graph import float_region, name_nodes
from bench.precision.onnxfile import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from onnx import ModelProto

    from bench.types import Array, Feeds

OPERATORS = (
    "Add", "AveragePool", "Concat", "Conv", "ConvTranspose", "Gather", "Gemm", "MatMul", "MaxPool", "Pad", "Relu",
    "Reshape", "Resize", "Slice", "Split", "Transpose",
)  # fmt: skip
"""Quantised: what multiplies, and what passes 8-bit values on so that runtimes need not convert in between."""
PERCENTILE = 99.999
"""Share of absolute activation values inside the range; the rest saturates."""
MIN_OPSET = 13
"""The first opset with per-channel Q/DQ: below it the quantiser writes a file that no runtime loads."""
CHUNK = 8
"""Images whose activations are held in memory at once while histograms are collected."""


def quantize_int8(source: Path, out: Path, *, feeds: Iterable[Feeds], float_nodes: Sequence[str]) -> dict[str, Any]:
    """Write ``source`` with 8-bit weights and activations to ``out`` and return the recipe.

    Weights are int8, symmetric, one scale per output channel; activations uint8 with zero point 128, one scale per
    tensor from the percentile of their absolute values. Inputs and outputs stay float32.

    Args:
        source: fp32 ONNX file; an opset below 13 is raised first.
        out: file to write.
        feeds: calibration inputs, read once, one after the other.
        float_nodes: patterns of nodes that stay in float with all that follows them, see ``graph.float_region``.

    Raises:
        InputError: ``source`` is not a complete ONNX file.
        ContractError: ``float_nodes`` that match nothing.
        ArtifactError: no calibration inputs, non-finite activations, or a graph that cannot be quantised.
    """
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    with tempfile.TemporaryDirectory(prefix="parity-int8-") as scratch, _captured_warnings() as notes:
        prepared = Path(scratch) / "prepared.onnx"
        opset = _prepare(source, prepared)
        model = onnx.load(str(prepared))
        excluded = float_region(model.graph, float_nodes)
        counted = _CountedFeeds(feeds)
        ranges = _calibrate(prepared, counted)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=list(excluded),
            op_types_to_quantize=list(OPERATORS),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        _keep_used_domains(quantizer.model.model)
        onnx.save(quantizer.model.model, str(out))
    return {
        "tool": "onnxruntime.quantization, static Q/DQ",
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "weights": "int8, symmetric, per channel",
        "activations": "uint8, symmetric, per tensor",
        "calibration": f"percentile {PERCENTILE}",
        "calibration_images": counted.count,
        "calibration_sha256": counted.sha256,
        "operators": list(OPERATORS),
        "opset_of_source": opset,
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "float_patterns": list(float_nodes),
        "float_nodes": list(excluded),
        "warnings": notes,
    }


def _prepare(source: Path, out: Path) -> int:
    """Raise the opset, fold batch norms and constants with onnxruntime's portable optimiser, infer shapes.

    Returns:
        The opset of ``source``.
    """
    import onnx

    read(source)
    model = onnx.load(str(source))
    opset: int = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, MIN_OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            raise ArtifactError(
                f"{source}: opset {opset} cannot be raised to {MIN_OPSET}: {first_line(error)}"
            ) from error
    name_nodes(model.graph)
    raised = out.with_name("raised.onnx")
    onnx.save(model, str(raised))
    try:
        load_session(raised, optimised=out)
    except ArtifactError as error:
        raise ArtifactError(f"{source}: cannot be prepared for int8: {error}") from error
    model = onnx.shape_inference.infer_shapes(onnx.load(str(out)), strict_mode=True, data_prop=True)
    name_nodes(model.graph)
    onnx.save(model, str(out))
    return opset


def _calibrate(model: Path, feeds: _CountedFeeds) -> Any:
    """Collect the range of every activation around ``OPERATORS``."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    calibrator = create_calibrator(
        model,
        list(OPERATORS),
        augmented_model_path=str(model.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"symmetric": True, "percentile": PERCENTILE},
    )
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the calibrator prints
            while chunk := list(islice(feeds, CHUNK)):
                calibrator.collect_data(_Reader(chunk))
            if not feeds.count:
                raise ArtifactError(
                    "int8 needs calibration images, and there are none. Type: --calibration NAME or DIR"
                )
            return calibrator.compute_data()
    except refusals as error:
        raise ArtifactError(f"calibration failed at image {feeds.count}: {first_line(error)}") from error


class _CountedFeeds:
    """Iterates over feeds while counting and hashing them."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = iter(feeds)
        self._digest = hashlib.sha256()
        self.count = 0

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self

    def __next__(self) -> dict[str, Array]:
        feed = dict(next(self._feeds))
        self.count += 1
        for name, value in sorted(feed.items()):
            self._digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
            self._digest.update(np.ascontiguousarray(value).data)
        return feed

    @property
    def sha256(self) -> str:
        """Hash over names, types, shapes and bytes of all feeds so far."""
        return self._digest.hexdigest()


class _Reader:
    """The reader that onnxruntime's calibrators ask for, over one chunk."""

    def __init__(self, feeds: Iterable[Mapping[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._feeds, None)


def _keep_used_domains(model: ModelProto) -> None:
    """Drop the operator sets that the optimiser declares and no node uses."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@contextlib.contextmanager
def _captured_warnings() -> Iterator[list[str]]:
    """Collect what the quantiser logs: a saturated bias belongs into the recipe."""
    notes: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield notes
    finally:
        root.removeHandler(handler)
