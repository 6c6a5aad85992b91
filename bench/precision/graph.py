"""Which nodes of a graph stay in float: those that a pattern names, and all that is computed from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto


def float_region(graph: GraphProto, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the nodes that match and of all nodes downstream of them, in the order of the graph.

    A pattern is searched in a node's name, in the names of its outputs and in the names of its weights: exporters that
    number their nodes still name the weights after modules, so that ``detect_head`` finds a head in both.

    Args:
        graph: topologically sorted; every node has a name.
        patterns: regular expressions.

    Raises:
        ContractError: a pattern that is no regular expression, or patterns of which none matches anything.
    """
    try:
        searches = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ContractError(
            f"float_nodes of the model: {error.pattern!r} is no regular expression ({error})"
        ) from error
    weights = {tensor.name for tensor in graph.initializer}
    touched: set[str] = set()
    names: list[str] = []
    for node in graph.node:
        own = (node.name, *node.output, *(name for name in node.input if name in weights))
        named = any(search.search(name) for search in searches for name in own)
        if named or not touched.isdisjoint(node.input):
            touched.update(node.output)
            names.append(node.name)
    if patterns and not names:
        raise ContractError(
            f"float_nodes of the model: none of {', '.join(map(repr, patterns))} matches a node, an output or a weight "
            f"of this graph (its last node is {graph.node[-1].name!r})"
        )
    return tuple(names)


def name_nodes(graph: GraphProto) -> None:
    """Give every unnamed node the name ``<operator>_<index>``, because exclusion lists work by name."""
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
