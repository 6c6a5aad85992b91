"""The only clock, latency statistics, and interleaved rounds.

Rounds: in each round every lane runs a few steps in shuffled order, one lane active at a time, in turns of five; the
ratio of two cells is the median over rounds of the log ratio of their round medians, so that slow drift of the host
cancels (reference: experiments, A/A timing; asv's interleaving).
"""

from __future__ import annotations

import gc
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

clock = time.perf_counter
"""Seconds, monotonic. Everything that is timed in the harness reads this."""

STEPS_PER_ROUND = 5
MAX_STEPS_PER_ROUND = 25
LANE_ROUND_MS = 50.0
"""A lane goes on beyond five steps of a round until they have lasted about as long, or are 25."""
STEPS_PER_TURN = 5
"""Then the other lanes have theirs. Two processes of one model each on one core (FastestDet, 15 steps a round, 2 shared
cores): the ratio of a round strayed by 3.5 % (openvino) and 3.4 % (onnxruntime) where each ran all its steps at once,
and by 2.5 and 2.4 % in turns of five; the mean of an opening by 1.4 and 1.4 %, and by 1.1 and 1.1 %."""
MAX_SAMPLES_KEPT = 60 * MAX_STEPS_PER_ROUND
"""Of a cell in ``suite.json``: all of 60 rounds, so that its interval can be computed again from the file."""
# Smallest n with binom.cdf(1, n, 1 - p) <= 0.01: one sample may lie above the bound (MLPerf's rule with one failure).
SAMPLES_FOR_P90 = 64
SAMPLES_FOR_P99 = 662


def time_steps(step: Callable[[], None], count: int) -> list[float]:
    """Run ``step`` ``count`` times with the garbage collector off; milliseconds of each run."""
    return time_each([step] * count)


def time_each(steps: Sequence[Callable[[], None]]) -> list[float]:
    """Run each step once, in order, with the garbage collector off; milliseconds of each run."""
    samples_ms = []
    was_on = gc.isenabled()
    gc.disable()
    try:
        for step in steps:
            start = clock()
            step()
            samples_ms.append((clock() - start) * 1000.0)
    finally:
        if was_on:
            gc.enable()
    return samples_ms


def steps_for(step_ms: float | None) -> int:
    """Steps in a round of a lane whose step takes ``step_ms``; None: not known yet.

    Five steps of a fast model are over before the scheduler has gone round: the median of five moved by 4 and 30 % from
    round to round (FastestDet on onnxruntime and openvino, 2 and 3 ms, both cores busy with other work), that of 25 by
    1.5 and 10 %.
    """
    if step_ms is None or not step_ms > 0:
        return STEPS_PER_ROUND
    return int(min(max(math.ceil(LANE_ROUND_MS / step_ms), STEPS_PER_ROUND), MAX_STEPS_PER_ROUND))


def turns_of(steps: Sequence[int]) -> list[tuple[int, range]]:
    """Who runs which of its steps after whom in one round.

    Turns of a lane with few steps lie in the middle of those of a lane with many, and the order of the lanes is
    reversed from pass to pass, so that a host that becomes slower during the round slows all of them alike.

    Args:
        steps: of each lane in this round, lanes in the order in which they begin; each at least 1.

    Returns:
        (lane, its steps), in time; turns differ by one step at most within a lane and have ``STEPS_PER_TURN`` or fewer.
    """
    counts = [math.ceil(s / STEPS_PER_TURN) for s in steps]
    passes = max(counts, default=0)
    taken = []
    for lane, (all_steps, count) in enumerate(zip(steps, counts, strict=True)):
        edges = [all_steps * k // count for k in range(count + 1)]
        for k in range(count):
            place = (2 * k + 1) * passes // (2 * count)
            taken.append((place, -lane if place % 2 else lane, lane, range(edges[k], edges[k + 1])))
    return [(lane, own) for _, _, lane, own in sorted(taken, key=lambda t: t[:2])]


def latency_stats(samples_ms: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p99 and mean in milliseconds; a percentile without enough samples for its bound is None."""
    values = np.asarray(samples_ms, np.float64)
    return {
        "p50": float(np.percentile(values, 50)),
        "p90": float(np.percentile(values, 90)) if values.size >= SAMPLES_FOR_P90 else None,
        "p99": float(np.percentile(values, 99)) if values.size >= SAMPLES_FOR_P99 else None,
        "mean": float(values.mean()),
    }


def speed_ratio(
    reference_rounds_ms: Sequence[Sequence[float]], candidate_rounds_ms: Sequence[Sequence[float]]
) -> float:
    """The exponential of the median over rounds of log(reference median / candidate median).

    Above 1 the candidate is faster.
    """
    logs = [
        math.log(float(np.median(a)) / float(np.median(b)))
        for a, b in zip(reference_rounds_ms, candidate_rounds_ms, strict=True)
    ]
    return float(math.exp(float(np.median(logs))))


def run_rounds(
    timers: Mapping[str, Callable[[int], list[float]]],
    *,
    rounds: int,
    seed: int,
    go_on: Callable[[int], bool] = lambda done: True,
) -> Iterator[dict[str, Any]]:
    """Yield one ``{order, samples_ms}`` per round; ``timers`` maps a cell id to "run n steps, return milliseconds".

    Args:
        timers: one entry per lane; called one at a time.
        rounds: upper bound.
        seed: of the shuffles.
        go_on: asked before each round with the number of finished rounds.
    """
    generator = np.random.default_rng(seed)
    names = sorted(timers)
    for done in range(rounds):
        if not go_on(done):
            return
        order = [names[i] for i in generator.permutation(len(names))]
        samples = {}
        for name in order:
            timers[name](1)  # the first step after another lane finds cold caches; it is not a sample
            samples[name] = timers[name](STEPS_PER_ROUND)
        yield {"order": order, "samples_ms": samples}
