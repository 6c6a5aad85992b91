"""What a person may choose about a conversion; part of the artefact's identity and of its recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Calibrator = Literal["auto", "entropy", "percentile", "minmax"]
Activations = Literal["int8", "uint8"]
CALIBRATORS: tuple[Calibrator, ...] = ("auto", "entropy", "percentile", "minmax")
ACTIVATIONS: tuple[Activations, ...] = ("int8", "uint8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Options of a conversion; the defaults are the recipe that the README states."""

    exclude: tuple[str, ...] = ()
    """Regular expressions; a node that matches by its name, an output or a weight stays in float (its own, not what
    follows it)."""
    calibrator: Calibrator = "auto"
    """How an activation's range is chosen; ``auto`` compares the three on calibration images by output SQNR."""
    activations: Activations = "int8"
    """Storage of quantised activations: int8 with zero point 0 (what TensorRT takes), or the same grid as uint8 with
    zero point 128."""
    tune: bool = True
    """Search for activations that cannot take 8 bits and leave them in float; False quantises all that is allowed."""

    def identity(self) -> dict[str, Any]:
        """Plain JSON values, for a store key or a recipe."""
        return asdict(self)
