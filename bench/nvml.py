"""Clock, temperature, power and throttle reasons of a GPU by NVML, without root.

Tested against a fake module; not run on a GPU yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import Unavailable

if TYPE_CHECKING:
    from types import ModuleType

REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clock",
}
"""Bit -> name, of NVML's clocks event reasons."""
SLOWING = frozenset({"sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"})
"""Reasons that mean heat or power. An idle GPU and clocks that somebody set are neither."""
LOW_CLOCK = 0.75
"""Of the highest SM clock: below, a sample is tagged (nvbench's limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One look at a GPU."""

    sm_mhz: int
    max_sm_mhz: int
    temperature_c: int
    power_w: float
    reasons: tuple[str, ...]

    def tags(self) -> list[str]:
        """What a round measured now must be tagged with."""
        found = [f"gpu {reason}" for reason in self.reasons if reason in SLOWING]
        if self.sm_mhz < LOW_CLOCK * self.max_sm_mhz and "gpu_idle" not in self.reasons:
            found.append(f"low gpu clock {self.sm_mhz} MHz")
        return found


class Gpu:
    """One GPU, by the index that the runtimes count with.

    Raises:
        Unavailable: no NVML module, driver or such GPU, in words.
    """

    def __init__(self, index: int, *, module: ModuleType | Any = None) -> None:
        self._nvml = module if module is not None else _import()
        try:
            self._nvml.nvmlInit()
            self._handle = self._find(index)
            self.name = _text(self._nvml.nvmlDeviceGetName(self._handle))
        except self._nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from error

    def read(self) -> GpuReading | None:
        """Look now; None when the driver refuses a value (a vGPU, a MIG slice)."""
        nvml, handle = self._nvml, self._handle
        # Drivers before 12.2 know the reasons under their old name only.
        read_reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or (
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        )
        try:
            return GpuReading(
                sm_mhz=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
                max_sm_mhz=int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
                temperature_c=int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
                power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0,
                reasons=reason_names(int(read_reasons(handle))),
            )
        except nvml.NVMLError:
            return None

    def close(self) -> None:
        """Let go of the library."""
        self._nvml.nvmlShutdown()

    def _find(self, index: int) -> Any:
        """NVML counts all GPUs; CUDA only those in CUDA_VISIBLE_DEVICES, in that order, by number or UUID."""
        visible = [v.strip() for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v.strip()]
        if index < len(visible):
            if visible[index].isdigit():
                return self._nvml.nvmlDeviceGetHandleByIndex(int(visible[index]))
            return self._nvml.nvmlDeviceGetHandleByUUID(visible[index])
        return self._nvml.nvmlDeviceGetHandleByIndex(index)


def reason_names(bits: int) -> tuple[str, ...]:
    """Names of the set bits; one that this version does not know is shown as its number."""
    known = [name for bit, name in REASONS.items() if bits & bit]
    rest = bits & ~sum(REASONS)
    return (*known, *([hex(rest)] if rest else []))


def _import() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable("NVML needs nvidia-ml-py. Type: pip install 'backend-parity[gpu]'") from error
    return pynvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
