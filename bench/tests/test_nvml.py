"""Against a fake module: there is no GPU here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from bench.errors import Unavailable
from bench.nvml import Gpu, reason_names


class FakeNvml(SimpleNamespace):
    """As much of pynvml as is used, with two GPUs."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self, *, bits=0, refuses=False, old=False):
        super().__init__(bits=bits, refuses=refuses, shut=False)
        name = "Throttle" if old else "Event"
        setattr(self, f"nvmlDeviceGetCurrentClocks{name}Reasons", lambda handle: self.bits)

    def nvmlInit(self):
        pass

    def nvmlShutdown(self):
        self.shut = True

    def nvmlDeviceGetHandleByIndex(self, index):
        if index > 1:
            raise self.NVMLError("Invalid Argument")
        return f"gpu {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetName(self, handle):
        return handle.encode()

    def nvmlDeviceGetClockInfo(self, handle, kind):
        if self.refuses:
            raise self.NVMLError("Not Supported")
        return 1200

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1980

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 83

    def nvmlDeviceGetPowerUsage(self, handle):
        return 305_500


@pytest.fixture(autouse=True)
def all_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("old", [False, True])
def test_values_come_in_named_units_and_reasons_by_name(old):
    gpu = Gpu(0, module=FakeNvml(bits=0x44, old=old))
    found = gpu.read()
    assert (found.sm_mhz, found.max_sm_mhz, found.temperature_c, found.power_w) == (1200, 1980, 83, 305.5)
    assert found.reasons == ("sw_power_cap", "hw_thermal")
    assert found.tags() == ["gpu sw_power_cap", "gpu hw_thermal", "low gpu clock 1200 MHz"]


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x0, ()),
        (0x1, ("gpu_idle",)),
        (0x2, ("applications_clocks",)),
        (0x8, ("hw_slowdown",)),
        (0x20, ("sw_thermal",)),
        (0x40, ("hw_thermal",)),
        (0x80, ("hw_power_brake",)),
        (0x4002, ("applications_clocks", "0x4000")),
    ],
)
def test_every_reason_has_its_own_name(bits, names):
    assert reason_names(bits) == names


def test_names_are_those_of_the_installed_module():
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    for ours, theirs in {
        "gpu_idle": "GpuIdle", "applications_clocks": "ApplicationsClocksSetting", "sw_power_cap": "SwPowerCap",
        "hw_slowdown": "HwSlowdown", "sync_boost": "SyncBoost", "sw_thermal": "SwThermalSlowdown",
        "hw_thermal": "HwThermalSlowdown", "hw_power_brake": "HwPowerBrakeSlowdown",
        "display_clock": "DisplayClockSetting",
    }.items():  # fmt: skip
        assert reason_names(getattr(pynvml, f"nvmlClocksThrottleReason{theirs}")) == (ours,)
    for used in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_SM",
                 "NVML_TEMPERATURE_GPU", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetHandleByUUID"):  # fmt: skip
        assert hasattr(pynvml, used)


def test_idle_and_set_clocks_are_not_tagged_as_heat():
    assert Gpu(0, module=FakeNvml(bits=0x1)).read().tags() == []
    assert Gpu(0, module=FakeNvml(bits=0x2)).read().tags() == ["low gpu clock 1200 MHz"]


def test_the_index_is_that_of_cuda_not_that_of_nvml(monkeypatch):
    assert Gpu(1, module=FakeNvml()).name == "gpu 1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    assert Gpu(0, module=FakeNvml()).name == "gpu 1"
    assert Gpu(1, module=FakeNvml()).name == "GPU-abc"


def test_no_gpu_no_module_and_refused_values(monkeypatch):
    with pytest.raises(Unavailable, match="NVML: Invalid Argument"):
        Gpu(5, module=FakeNvml())
    assert Gpu(0, module=FakeNvml(refuses=True)).read() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unavailable, match="nvidia-ml-py"):
        Gpu(0)


def test_closing_lets_go_of_the_library():
    module = FakeNvml()
    Gpu(0, module=module).close()
    assert module.shut
