"""Find ids in a sorted list of ids, a whole column at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.types import Array

_WIDEST_TABLE = 1 << 22
"""COCO's image ids end at 581,929."""


def positions(known: Array, wanted: Array) -> Array:
    """Index in ``known`` of each of ``wanted``, -1 where it is not there.

    Ids that lie in a narrow range are looked up in a table, others by bisection.

    Args:
        known: (I,) int64, ascending, each once.
        wanted: (N,) int64.

    Returns:
        (N,) int32.
    """
    if not len(known):
        return np.full(len(wanted), -1, np.int32)
    first, last = int(known[0]), int(known[-1])
    if last - first >= _WIDEST_TABLE:
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, at, -1).astype(np.int32)
    table = np.full(last - first + 1, -1, np.int32)
    table[known - first] = np.arange(len(known), dtype=np.int32)
    inside = (wanted >= first) & (wanted <= last)
    if inside.all():
        whole: Array = table[wanted - first]
        return whole
    found = np.full(len(wanted), -1, np.int32)
    found[inside] = table[wanted[inside] - first]
    return found
