"""One core for all lanes of a round, another one in another round.

A lane that the kernel places stays where it is as long as it can: of two lanes on two cores one is then beside a busy
neighbour for a whole opening. Measured with two processes of one model each (FastestDet fp32, 15 steps a round, 2
shared cores, 48 and 39 openings): the mean ratio of an opening strayed by 1.9 % where the kernel placed them and each
ran its steps in one go, and by 1.1 % on one core in turns of five, with openvino and with onnxruntime. Turns of five
without a common core did worse than either: 2.6 and 2.4 %.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection

SLOW_CORE = 0.9
"""Cores whose top frequency is below this share of the highest are left out: efficient ones of hybrid processors."""


def shareable_cores(threads: int, *, system: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...]:
    """Cores that lanes of ``threads`` threads may take turns on, ascending; none where the kernel shall place them.

    It shall where they have more than one thread (two cores may be halves of one, which the kernel knows and avoids),
    where it does not let itself be told (macOS), and where one core is all there is.
    """
    if threads != 1 or not hasattr(os, "sched_getaffinity"):
        return ()
    top_khz = {core: _top_khz(system / f"cpu{core}" / "cpufreq" / "cpuinfo_max_freq") for core in usable_cores()}
    fast = tuple(core for core, khz in top_khz.items() if khz >= SLOW_CORE * max(top_khz.values()))
    return fast if len(top_khz) > 1 else ()


def usable_cores() -> tuple[int, ...]:
    """Cores on which this process may run, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def stay_on(cores: Collection[int], *, proc: Path = Path("/proc")) -> None:
    """Keep every thread of this process, and those that they start later, on some cores.

    Raises:
        Unavailable: the kernel does not let us.
    """
    # the kernel moves threads, not processes
    for thread in [int(path.name) for path in (proc / "self" / "task").iterdir()]:
        try:
            os.sched_setaffinity(thread, cores)
        except ProcessLookupError:
            continue  # it has ended
        except OSError as error:
            raise Unavailable(f"cores {sorted(cores)}: {error.strerror}") from error


def _top_khz(path: Path) -> int:
    """0 where the kernel does not tell, as in most virtual machines."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return 0
