"""Requested is not observed: judge what a runtime says it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.types import Cell, Evidence, Mode


def mismatch(cell: Cell, mode: Mode, evidence: Evidence) -> str | None:
    """Return why the evidence does not bear out the cell's label, or None when it does.

    A backend may declare a precision ``emulated`` on a device; then a higher computing precision is expected. Nodes
    that ran elsewhere and should not have are named where the backend names them (``details["misplaced"]``).
    """
    if not _is_on(cell.device, evidence.provider):
        where = evidence.details.get("misplaced")
        nodes = f" Not on the device: {where}." if where else ""
        return f"Requested device {cell.device}, ran on {evidence.provider}.{nodes}"
    if evidence.emulated and mode == "emulated":
        return None
    if evidence.emulated:
        return f"Requested {cell.precision}, but the runtime computes in {evidence.precision} and did not declare it."
    if evidence.precision != cell.precision:
        return f"Requested {cell.precision}, observed {evidence.precision}."
    return None


def _is_on(device: str, providers: str) -> bool:
    """Every provider that took part must be the device: half of a graph on the CPU is not "on CUDA".

    One exception: TensorRT takes the parts of a graph that it can, and its neighbour on the same GPU is CUDA. A label
    of TensorRT needs TensorRT first, and nothing but CUDA beside it.
    """
    kind, names = device.split(":")[0], providers.lower().split(" + ")
    if kind == "tensorrt":
        return _is_tensorrt(names[0]) and all(_is_tensorrt(n) or "cuda" in n for n in names)
    return all(kind in name or (kind == "cuda" and "gpu" in name) for name in names)


def _is_tensorrt(provider: str) -> bool:
    """NvTensorRTRTX is another product."""
    return provider.startswith("tensorrt")
