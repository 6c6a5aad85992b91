"""Requested is not observed: judge what a runtime says it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.types import Cell, Evidence, Mode


def mismatch(cell: Cell, mode: Mode, evidence: Evidence) -> str | None:
    """Return why the evidence does not bear out the cell's label, or None when it does.

    A backend may declare a precision ``emulated`` on a device; then a higher computing precision is expected.
    """
    if not all(_is_on(cell.device, provider) for provider in evidence.provider.split(" + ")):
        return f"Requested device {cell.device}, ran on {evidence.provider}."
    if evidence.emulated and mode == "emulated":
        return None
    if evidence.emulated:
        return f"Requested {cell.precision}, but the runtime computes in {evidence.precision} and did not declare it."
    if evidence.precision != cell.precision:
        return f"Requested {cell.precision}, observed {evidence.precision}."
    return None


def _is_on(device: str, provider: str) -> bool:
    """Every provider that took part must be the device: half of a graph on the CPU is not "on CUDA"."""
    kind, name = device.split(":")[0], provider.lower()
    return kind in name or (kind == "cuda" and "gpu" in name)
