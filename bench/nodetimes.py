"""Which nodes take the time: a runtime's profile, summed by operator and set beside that of its own fp32. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.errors import ContractError
from bench.results import NodeProfile, NodeRow, OperatorTime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.types import NodeTime

MAX_ROWS = 40
"""Nodes, and operators, of one cell in ``suite.json``."""


def checked(times: Iterable[NodeTime]) -> tuple[NodeTime, ...]:
    """What a runtime's profiler reported, refused where it cannot be right.

    Raises:
        ContractError: a time that is negative or not finite; the node is named.
    """
    found = tuple(times)
    for node in found:
        if not (math.isfinite(node.ms) and node.ms >= 0):
            raise ContractError(f"the profile gives {node.name!r} ({node.operator}) {node.ms} ms")
    return found


def summarise(times: Sequence[NodeTime], fp32: Sequence[NodeTime] = (), *, most: int = MAX_ROWS) -> NodeProfile | None:
    """Totals per operator, and the nodes that take most.

    Args:
        times: of one cell; nodes of equal name are one (a runtime may split a node).
        fp32: of the fp32 cell of the same runtime; what its node of the same name takes stands beside each node.
        most: rows kept of either table.

    Returns:
        None when the runtime said nothing.
    """
    if not times:
        return None
    operators: dict[tuple[str, str], list[float]] = {}
    for node in times:
        operators.setdefault((node.operator, node.precision), []).append(node.ms)
    totals = [
        OperatorTime(operator=operator, precision=precision, nodes=len(found), ms=_round(sum(found)))
        for (operator, precision), found in operators.items()
    ]
    theirs = _by_name(fp32)
    rows = []
    for name, nodes in _by_name(times).items():
        first = max(nodes, key=lambda node: node.ms)
        same = theirs.get(name)
        rows.append(
            NodeRow(
                name=name,
                operator=first.operator,
                precision=first.precision,
                ms=_round(sum(node.ms for node in nodes)),
                fp32_ms=None if same is None else _round(sum(node.ms for node in same)),
            )
        )
    return NodeProfile(
        total_ms=_round(sum(node.ms for node in times)),
        nodes=len(times),
        operators=tuple(sorted(totals, key=lambda row: (-row.ms, row.operator))[:most]),
        slowest=tuple(sorted(rows, key=lambda row: (-row.ms, row.name))[:most]),
    )


def _by_name(times: Sequence[NodeTime]) -> dict[str, list[NodeTime]]:
    found: dict[str, list[NodeTime]] = {}
    for node in times:
        found.setdefault(node.name, []).append(node)
    return found


def _round(ms: float) -> float:
    return round(ms, 5)
