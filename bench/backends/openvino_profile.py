"""Where a request's time goes: OpenVINO's performance counters as times of nodes."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.runner_base import PROFILE_RUNS, PROFILE_WARMUP
from bench.types import CONVERSION, NodeTime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONVERSIONS = frozenset(["Reorder", "Convert", "FakeQuantize"])
BLOCKS = 3
"""Models compiled anew to be profiled: their counters cannot be reset."""
RUNS = PROFILE_RUNS // BLOCKS


def profile(model: Any, request: Any, names: Mapping[str, str]) -> tuple[NodeTime, ...]:
    """Run a request whose inputs are set, and return the mean time of every node that is executed.

    Args:
        model: compiled with ``PERF_COUNT``, never run.
        request: of that model.
        names: the plug-in's word of a precision -> ours.
    """
    kinds = {op.get_friendly_name(): op.get_rt_info() for op in model.get_runtime_model().get_ops()}
    warm: Sequence[Any] = ()
    for number in range(PROFILE_WARMUP + RUNS):
        if number == PROFILE_WARMUP:
            warm = request.get_profiling_info()
        request.infer()
    return node_times(warm, request.get_profiling_info(), {name: _word(info) for name, info in kinds.items()}, names)


def medians(blocks: Sequence[Sequence[NodeTime]]) -> tuple[NodeTime, ...]:
    """The median over blocks of each node's mean: one interruption of a run would otherwise make a node slow."""
    times_ms: dict[str, list[float]] = {}
    for node in (node for block in blocks for node in block):
        times_ms.setdefault(node.name, []).append(node.ms)
    return tuple(replace(node, ms=median(times_ms[node.name])) for node in blocks[0])


def node_times(
    warm: Sequence[Any], last: Sequence[Any], words: Mapping[str, str], names: Mapping[str, str]
) -> tuple[NodeTime, ...]:
    """Times of the runs after the warm-up.

    A counter holds the mean of all runs of the model so far, in whole microseconds (2026.4.1: 534, 377, 325 us after
    one, two and three runs; a fresh request goes on from there). So the share of the warm-up is taken out again.

    Args:
        warm: counters after ``PROFILE_WARMUP`` runs.
        last: counters after ``RUNS`` more.
        words: node -> the plug-in's word for its precision.
        names: that word -> ours.
    """
    before_ms = {info.node_name: _ms(info) for info in warm}
    times = []
    for info in last:
        if info.status != info.Status.EXECUTED:
            continue
        mean_ms = _ms(info)
        total_ms = mean_ms * (PROFILE_WARMUP + RUNS) - before_ms.get(info.node_name, mean_ms) * PROFILE_WARMUP
        kind = names.get(words.get(info.node_name, ""), "")
        precision = CONVERSION if info.node_type in _CONVERSIONS else kind
        # Rounded means of a node of less than a microsecond can cross.
        ms = max(total_ms / RUNS, 0.0)
        times.append(NodeTime(name=info.node_name, operator=info.node_type, ms=ms, precision=precision))
    return tuple(times)


def _ms(info: Any) -> float:
    return float(info.real_time.total_seconds() * 1e3)


def _word(info: Any) -> str:
    return str(info["runtimePrecision"].value) if "runtimePrecision" in info else ""
