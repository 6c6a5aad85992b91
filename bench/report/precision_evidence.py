"""What a runtime was seen to do with a lower precision, in short words and as a share. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.report.precision_nodes import FULL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.report.cells import CellView

MOSTLY = 0.9
"""A lower precision that computes less than this share of its nodes is said to compute a part only."""
NODE_COUNTS = ("compute_nodes", "compute_layers", "conv_linear_outputs")
"""Where a runtime's evidence counts what computes in which precision."""
_NAMES = {
    "f32": "fp32", "float32": "fp32", "float": "fp32", "f16": "fp16", "float16": "fp16", "half": "fp16",
    "bfloat16": "bf16", "float64": "fp64", "f64": "fp64", "u8": "int8", "i8": "int8", "uint8": "int8",
}  # fmt: skip


def share_of(cell: CellView) -> tuple[float | None, str]:
    """Share of the arithmetic in the lower precision, and what it is a share of; None for fp32 and where unknown.

    By multiply-accumulates where the artefact's recipe says so, else by the nodes that the runtime was seen to compute.
    """
    if cell.precision in FULL:
        return None, ""
    stated = _stated(cell, "macs")
    if stated is not None and not cell.emulated:
        return stated, "of multiply-adds"
    counts = node_counts((cell.raw["observed"] or {}).get("evidence") or {})
    total = sum(counts.values())
    if not total:
        return None, ""
    return counts.get(cell.precision, 0) / total, "of compute nodes"


def _stated(cell: CellView, kind: str) -> float | None:
    """What the recipe says of the file: the share of ``macs`` or of ``nodes`` in the lower precision, 0 to 1."""
    recipe = (cell.raw["artifact"] or {}).get("recipe") or {}
    stated = recipe.get(f"{cell.precision}_compute", recipe.get(f"{cell.precision}_share"))
    value = stated.get(kind) if isinstance(stated, dict) else stated if kind == "macs" else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= 1 else None


def node_counts(evidence: Mapping[str, Any]) -> dict[str, int]:
    """Precision -> nodes that compute in it, as far as the evidence counts them."""
    for key in NODE_COUNTS:
        counts = evidence.get(key)
        if isinstance(counts, dict) and counts and all(_is_count(value) for value in counts.values()):
            found: dict[str, int] = {}
            for name, value in counts.items():
                word = _NAMES.get(str(name).lower(), str(name))
                found[word] = found.get(word, 0) + int(value)
            return found
    return {}


def evidence_words(observed: Mapping[str, Any] | None, precision: str) -> str:
    """``79 of 86 nodes int8, placement CPU 92``: short words for what a runtime was seen to do."""
    if observed is None:
        return "\N{EN DASH}"
    evidence = observed["evidence"] or {}
    counts = node_counts(evidence)
    parts = []
    if counts:
        total = sum(counts.values())
        parts.append(f"{counts.get(precision, 0)} of {numbers.plural(total, 'node')} {precision}")
    placement = evidence.get("placement")
    if isinstance(placement, dict) and placement and all(isinstance(ops, dict) for ops in placement.values()):
        placed = [
            f"{_provider(name)} {sum(v for v in ops.values() if _is_count(v)):,}" for name, ops in placement.items()
        ]
        parts.append(f"placement {', '.join(placed)}")
    return ", ".join(parts) or f"on {_provider(str(observed['provider']))}"


def _provider(name: str) -> str:
    return str(name).removesuffix("ExecutionProvider") or str(name)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def part_of(cell: CellView) -> str | None:
    """``only 59 of 86 compute nodes in int8, of 77 in the file``: less than the file has, or than most of it."""
    counts = node_counts((cell.raw["observed"] or {}).get("evidence") or {})
    total, own = sum(counts.values()), counts.get(cell.precision, 0)
    in_file, macs = _stated(cell, "nodes"), _stated(cell, "macs")
    words = []
    if total and own < (round(in_file * total) if in_file is not None else MOSTLY * total):
        of_file = f", of {round(in_file * total)} in the file" if in_file is not None else ""
        words.append(f"only {own} of {numbers.plural(total, 'compute node')} in {cell.precision}{of_file}")
    if macs is not None and macs < MOSTLY:
        words.append(f"{numbers.percent(macs)} of the file’s multiply-adds in {cell.precision}")
    return " and ".join(words) or None
