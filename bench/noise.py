"""What else the machine did while lanes were timed: CPU steal, other processes, load, clocks.

Rounds are tagged with it and none is dropped: choosing samples by their latency would remove the tail.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.nvml import Gpu, GpuReading

STEAL_PERCENT = 5.0
OTHER_PERCENT = 10.0
LOW_CLOCK = 0.75
MIN_WINDOW_S = 0.2
"""The kernel counts in hundredths of a second: shorter windows are joined until their shares mean something."""
UNREADABLE = "not readable here"
_TICKS = os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq; guest time is part of user
_STEAL = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuReading:
    """Processor time of the whole machine and of our own processes, in seconds since start."""

    at_s: float
    busy_s: float
    steal_s: float
    total_s: float
    own_s: dict[int, float]
    """Process id -> user + system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuWindow:
    """What happened between two readings, in seconds of processor time."""

    total_s: float
    steal_s: float
    other_s: float
    """Busy and not ours."""

    def percent(self, part_s: float) -> float:
        """Share of all cores' time."""
        return 100.0 * part_s / self.total_s if self.total_s > 0 else 0.0


def read_cpu(
    pids: Sequence[int], *, proc: Path = Path("/proc"), now: Callable[[], float] = time.monotonic
) -> CpuReading | None:
    """Read /proc/stat and the statistics of our own processes; None where the kernel shows neither."""
    try:
        words = (proc / "stat").read_text("utf-8").splitlines()[0].split()
        fields = [int(w) / _TICKS for w in words[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    if words[0] != "cpu" or len(fields) <= _STEAL:
        return None
    own = {}
    for pid in pids:
        try:
            # The name in parentheses may hold anything; utime and stime are the 14th and 15th field of the line.
            rest = (proc / str(pid) / "stat").read_text("utf-8").rpartition(")")[2].split()
            own[pid] = (int(rest[11]) + int(rest[12])) / _TICKS
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return CpuReading(
        at_s=now(), busy_s=sum(fields[i] for i in _BUSY), steal_s=fields[_STEAL], total_s=sum(fields), own_s=own
    )


def between(before: CpuReading, after: CpuReading) -> CpuWindow:
    """Difference of two readings; processes seen in one of them only are not counted as ours."""
    own_s = sum(after.own_s[pid] - before.own_s[pid] for pid in after.own_s.keys() & before.own_s.keys())
    return CpuWindow(
        total_s=max(after.total_s - before.total_s, 0.0),
        steal_s=max(after.steal_s - before.steal_s, 0.0),
        other_s=max(after.busy_s - before.busy_s - own_s, 0.0),
    )


def cpu_mhz() -> float | None:
    """Mean frequency of the cores now; None where it cannot be read (many virtual machines)."""
    try:
        found = psutil.cpu_freq()
    except (OSError, RuntimeError, NotImplementedError):
        return None
    return float(found.current) if found is not None and found.current else None


class NoiseMeter:
    """Watches rounds: ``begin`` before the first of an opening, ``end_round`` after each, ``summary`` at the end.

    Args:
        pids: our own processes now, this one included.
        gpu: looked at after every round, or None.
        proc: the kernel's files.
        mhz: reads the processor's frequency.
        now: seconds, monotonic.
    """

    def __init__(
        self,
        pids: Callable[[], Sequence[int]],
        *,
        gpu: Gpu | None = None,
        proc: Path = Path("/proc"),
        mhz: Callable[[], float | None] = cpu_mhz,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pids, self._gpu, self._proc, self._mhz, self._now = pids, gpu, proc, mhz, now
        self._last: CpuReading | None = None
        self._windows: list[CpuWindow] = []
        self._clocks: list[float] = []
        self._gpu_readings: list[GpuReading] = []
        self._rounds: list[list[str]] = []
        self._open: list[list[str]] = []
        """Tags of the rounds in the window that is not long enough yet."""
        self._load_before = os.getloadavg()[0]

    def begin(self) -> None:
        """Look now: what happened before (opening lanes) belongs to no round."""
        self._last = self._read()
        self._open = []

    def end_round(self) -> list[str]:
        """Tags of the round that just ended; short rounds get those of their common window when that is long enough."""
        tags = [*self._clock_tags(), *self._gpu_tags()]
        self._rounds.append(tags)
        self._open.append(tags)
        found = self._end_window()
        if found is not None:
            for pending in self._open:
                pending.extend(found)
            self._open = []
        return tags

    def summary(self) -> dict[str, Any]:
        """``SpeedResult.noise``.

        ``load_average_before``, ``load_average_after``: of the last minute.
        ``cpu_steal_percent``, ``other_cpu_percent``: shares of all cores' time in the rounds, or "not readable here".
        ``cpu_mhz``: {min, max}, or "not readable here".
        ``gpu``: absent without a GPU; {name, sm_mhz {min, max}, temperature_c {min, max}, power_w {min, max},
        reasons {name: rounds}}, or {name, clocks: "not readable here"}.
        ``rounds``, ``tagged_rounds``: of all lanes together.
        """
        total_s = sum(w.total_s for w in self._windows)
        whole = CpuWindow(
            total_s=total_s,
            steal_s=sum(w.steal_s for w in self._windows),
            other_s=sum(w.other_s for w in self._windows),
        )
        found: dict[str, Any] = {
            "load_average_before": round(self._load_before, 2),
            "load_average_after": round(os.getloadavg()[0], 2),
            "cpu_steal_percent": round(whole.percent(whole.steal_s), 1) if total_s else UNREADABLE,
            "other_cpu_percent": round(whole.percent(whole.other_s), 1) if total_s else UNREADABLE,
            "cpu_mhz": _range(self._clocks) if self._clocks else UNREADABLE,
            "rounds": len(self._rounds),
            "tagged_rounds": sum(map(bool, self._rounds)),
        }
        if self._gpu is not None:
            found["gpu"] = self._gpu_summary(self._gpu)
        return found

    def _read(self) -> CpuReading | None:
        return read_cpu(self._pids(), proc=self._proc, now=self._now)

    def _end_window(self) -> list[str] | None:
        """Tags of every round since the last window; None while this one is too short to mean something."""
        before, after = self._last, self._read()
        if before is None or after is None:
            self._last = after
            return []
        if after.at_s - before.at_s < MIN_WINDOW_S:
            return None
        self._last = after
        window = between(before, after)
        self._windows.append(window)
        steal, other = window.percent(window.steal_s), window.percent(window.other_s)
        tags = [f"cpu steal {steal:.0f} %"] if steal >= STEAL_PERCENT else []
        return [*tags, f"other load {other:.0f} %"] if other >= OTHER_PERCENT else tags

    def _clock_tags(self) -> list[str]:
        now = self._mhz()
        if now is None:
            return []
        self._clocks.append(now)
        return [f"low clock {now:.0f} MHz"] if now < LOW_CLOCK * max(self._clocks) else []

    def _gpu_tags(self) -> list[str]:
        reading = self._gpu.read() if self._gpu is not None else None
        if reading is None:
            return []
        self._gpu_readings.append(reading)
        return reading.tags()

    def _gpu_summary(self, gpu: Gpu) -> dict[str, Any]:
        readings = self._gpu_readings
        if not readings:
            return {"name": gpu.name, "clocks": UNREADABLE}
        reasons: dict[str, int] = {}
        for reading in readings:
            for reason in reading.reasons:
                reasons[reason] = reasons.get(reason, 0) + 1
        return {
            "name": gpu.name,
            "sm_mhz": _range([r.sm_mhz for r in readings]),
            "temperature_c": _range([r.temperature_c for r in readings]),
            "power_w": _range([r.power_w for r in readings]),
            "reasons": reasons,
        }


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"min": round(min(values), 1), "max": round(max(values), 1)}
