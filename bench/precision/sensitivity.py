"""Which nodes cannot take 8 bits: each is quantised alone, and the noise that reaches the outputs is its price.

Noise of single nodes adds up (they are independent rounding errors), so the sorted table says what leaving the worst
ones in float would gain; that gain is then measured, not believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.precision.qdq import COMPUTE, insert_qdq, placement
from bench.timing import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from onnx import ModelProto

    from bench.precision.sqnr import Reference

WORK_MACS = 10**12
"""Multiply-accumulates of one scan, at most: a larger graph gets fewer images. yolov10n at 320 px needs half for 8."""
MOST_IMAGES = 8
LIMIT_S = 150.0
"""A scan that takes longer stops and says so: its file then depends on the speed of the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one node costs in int8."""

    node: str
    operator: str
    noise: float
    """Relative noise power at the outputs when only this node is quantised, mean over the outputs."""
    share: float
    """Of the noise of all nodes scanned, in 0..1."""
    macs_share: float
    """Of the multiply-accumulates of the graph, in 0..1."""

    def document(self, *, kept_float: bool) -> dict[str, Any]:
        """One row of the recipe's table."""
        return {
            "node": self.node,
            "operator": self.operator,
            "noise": float(f"{self.noise:.3g}"),
            "share": round(self.share, 4),
            "macs": round(self.macs_share, 4),
            "float": kept_float,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The table of one graph."""

    prices: tuple[Price, ...]
    """Highest noise first."""
    images: int
    unscanned: tuple[str, ...] = ()
    """Nodes that the time limit left out."""


def scan(
    model: ModelProto,
    amax: Mapping[str, float],
    reference: Reference,
    *,
    float_nodes: Collection[str] = (),
    operators: Sequence[str],
    macs: Mapping[str, int],
    limit_s: float = LIMIT_S,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Price every node that would be quantised.

    Args:
        model: float graph.
        amax: activation -> largest magnitude on its grid.
        reference: held-out inputs and float outputs; only the first few are used.
        float_nodes: names of nodes that stay in float anyway.
        operators: allow-list of operators.
        macs: node -> multiply-accumulates.
        limit_s: stop after this many seconds.
        progress: called with (nodes done, nodes).
    """
    placed = placement(model, float_nodes=float_nodes, operators=operators, ranges=_usable(amax))
    operator_of = {node.name: node.op_type for node in model.graph.node}
    nodes = [name for name in placed.nodes if operator_of[name] in COMPUTE]
    all_macs = sum(macs.values())
    affordable = WORK_MACS // max(len(nodes) * all_macs, 1)
    images = max(1, min(MOST_IMAGES, affordable, len(reference.feeds)))
    every = {node.name for node in model.graph.node}
    start = clock()
    noise: dict[str, float] = {}
    for done, name in enumerate(nodes):
        if clock() - start > limit_s:
            break
        alone = insert_qdq(model, amax, float_nodes=every - {name}, operators=operators)
        noise[name] = float(np.mean(list(reference.noise(alone, images=images).values())))
        if progress is not None:
            progress(done + 1, len(nodes))
    total = sum(noise.values())
    prices = [
        Price(
            node=name,
            operator=operator_of[name],
            noise=value,
            share=value / total if 0 < total < np.inf else 0.0,
            macs_share=macs.get(name, 0) / all_macs if all_macs else 0.0,
        )
        for name, value in noise.items()
    ]
    prices.sort(key=lambda price: (-price.noise, price.node))
    return Scan(prices=tuple(prices), images=images, unscanned=tuple(nodes[len(noise) :]))


def _usable(amax: Mapping[str, float]) -> set[str]:
    return {name for name, value in amax.items() if value > 0}
