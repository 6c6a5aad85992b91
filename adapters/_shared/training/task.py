"""What a model brings to the training engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from adapters._shared.training.batch import Truth
    from bench.types import Adapter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """One network to train, with its loss and the way it is judged."""

    adapter: Adapter
    """Its spec has the classes and the input size of this run; pre- and post-processing are those of ``parity run``."""
    network: nn.Module
    """float32, on the CPU; learns under its official state-dict keys."""
    forward: Callable[[nn.Module, Tensor, Truth], Any]
    """(network in training mode, images (B, 3, S, S) float32 in 0..1, truth) -> raw outputs; runs under autocast."""
    loss: Callable[[Any, Truth], tuple[Tensor, dict[str, Tensor]]]
    """Raw outputs and truth -> scalar, and its detached parts by name; runs in float32."""
    inference: Callable[[Mapping[str, Tensor]], nn.Module]
    """State dict of ``network`` -> what the adapter's ``build`` would make of it: eval mode, outputs as in the spec."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Part -> prefixes of its parameter names; ``backbone`` has a learning rate of its own."""
    attributes: tuple[str, ...] = ()
    """Columns that the loss can read besides boxes and labels; those that a set lacks are left out."""
