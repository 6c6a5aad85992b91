"""What a validation of a file for deployment finds, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison."""

    device: str
    images: str
    """``synthetic`` or the name of a fixture set."""
    batch: int
    tensor: str
    passed: bool
    unit: str = ""
    """Of ``max_abs`` and ``tolerance``."""
    max_abs: float | None = None
    tolerance: float | None = None
    rms: float | None = None
    """Of the file minus the fp64 golden, in the tensor's own unit."""
    budget: float | None = None
    flips: tuple[str, ...] = ()
    """Explained differences of selected detections."""
    detail: str = ""
    """What was found: of a failure index, expected and found value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All checks of one file, in the order in which they ran."""

    checks: tuple[Check, ...]
    devices: Mapping[str, Mapping[str, Any]]
    """Device -> ``provider``, ``precision``, ``emulated``, ``left_to_cpu``; or ``not_run`` with the reason."""
    notes: tuple[str, ...] = ()

    @property
    def first_failure(self) -> Check | None:
        """The first check that failed, None when all passed."""
        return next((check for check in self.checks if not check.passed), None)


def failed(device: str, images: str, batch: int, tensor: str, detail: str) -> Check:
    """A check that failed before there was a number."""
    return Check(device=device, images=images, batch=batch, tensor=tensor, passed=False, detail=detail)
