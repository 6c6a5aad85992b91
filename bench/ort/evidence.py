"""What a session says that it ran: precision, placement and options, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.ort.placement import COPIES
from bench.ort.providers import CUDA, TENSORRT
from bench.ort.quantised import quantised_share

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.backends.onnx_evidence import GraphEvidence
    from bench.ort.placement import Placement
    from bench.ort.providers import Place

_MOST = 0.5


def observed_precision(
    place: Place,
    path: Path,
    *,
    ran: GraphEvidence,
    source: GraphEvidence,
    applied: Mapping[str, Mapping[str, Any]],
) -> tuple[str, bool]:
    """Return the precision of most of the arithmetic, and whether a lower one is stored than is computed in.

    Args:
        place: where the session runs.
        path: the file that was opened.
        ran: the optimised graph; that of the file where a provider compiles it into nodes that cannot be written.
        source: the graph of the file.
        applied: the options that the session reports, by provider.

    Raises:
        ArtifactError: the file cannot be read.
    """
    # A graph without arithmetic nodes is float32 unless its weights say otherwise.
    observed = ran.dominant or source.dominant or "fp32"
    if place.provider == TENSORRT:
        # TensorRT 11 has no other source of precision than the types of the file, and quantises what stands between
        # Q/DQ pairs. Weaker than an engine inspector: the engine belongs to the provider and is not opened here.
        return ("int8" if quantised_share(path) > _MOST else observed), False
    if place.provider == CUDA:
        emulated = observed == "fp32" and (quantised_share(path) > _MOST or _stores_halves(source))
        tf32 = str(applied.get(CUDA, {}).get("use_tf32", "")).lower() in ("1", "true")
        return ("tf32" if observed == "fp32" and tf32 else observed), emulated
    # The CPU provider has few fp16 kernels: it widens the weights and puts Casts around the rest.
    return observed, observed == "fp32" and _stores_halves(source)


def details_of(
    place: Place,
    placement: Placement,
    *,
    ran: GraphEvidence,
    source: GraphEvidence,
    applied: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Plain JSON values: node counts, placement, and on a GPU what is left on the CPU and every option applied."""
    details: dict[str, Any] = {
        "compute_nodes": ran.compute,
        "casts": ran.casts,
        "casts_in_file": source.casts,
        "stored_weights": source.stored,
        "operators": ran.operators,
        "placement": placement.table,
    }
    if place.gpu is None:
        return details
    details["shares"] = {name: round(placement.share(name), 4) for name in placement.table}
    details["shapes_on_cpu"] = dict(placement.shapes)
    details["misplaced"] = placement.misplaced_words()
    details["copies"] = {name: ran.operators.get(name, 0) for name in COPIES}
    details["provider_options"] = {
        name: {k: str(v) for k, v in found.items() if "path" not in k} for name, found in applied.items()
    }  # a path is of this machine only
    if place.provider == TENSORRT:
        details["precision_read_from"] = "types of the file; TensorRT 11 networks are strongly typed"
    return details


def _stores_halves(source: GraphEvidence) -> bool:
    halves = source.stored.get("FLOAT16", 0) + source.stored.get("BFLOAT16", 0)
    return halves > source.stored.get("FLOAT", 0)
