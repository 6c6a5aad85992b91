from __future__ import annotations

import os

import pytest

from bench.noise import UNREADABLE, NoiseMeter, between, read_cpu
from bench.nvml import GpuReading

TICKS = os.sysconf("SC_CLK_TCK")
OWN, OTHER = 11, 12


class Machine:
    """A fake /proc with two cores, and a clock; everything in seconds of processor time."""

    def __init__(self, folder):
        self.folder, self.at_s = folder, 100.0
        self.user, self.idle, self.steal, self.own = 50.0, 50.0, 0.0, 5.0
        self.write()

    def pass_time(self, seconds, *, own=0.0, other=0.0, steal=0.0):
        self.at_s += seconds
        self.user += own + other
        self.own += own
        self.steal += steal
        self.idle += 2 * seconds - own - other - steal
        self.write()

    def write(self):
        ticks = [round(v * TICKS) for v in (self.user, 0, 0, self.idle, 0, 0, 0, self.steal, 0, 0)]
        (self.folder / "stat").write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2\n")
        (self.folder / str(OWN)).mkdir(exist_ok=True)
        fields = ["S", *["0"] * 10, str(round(self.own * TICKS)), "0", *["0"] * 20]
        (self.folder / str(OWN) / "stat").write_text(f"{OWN} (a (strange) name) {' '.join(fields)}\n")

    def meter(self, **kinds):
        return NoiseMeter(lambda: [OWN, OTHER], proc=self.folder, now=lambda: self.at_s, mhz=lambda: None, **kinds)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_our_own_processes_are_no_noise(machine):
    meter = machine.meter()
    meter.begin()
    machine.pass_time(1.0, own=1.0)
    assert meter.end_round() == []
    assert meter.summary()["other_cpu_percent"] == 0.0


def test_steal_and_other_processes_are_tagged_with_their_share_of_all_cores(machine):
    meter = machine.meter()
    meter.begin()
    machine.pass_time(1.0, own=0.5, other=0.8, steal=0.24)
    assert meter.end_round() == ["cpu steal 12 %", "other load 40 %"]
    machine.pass_time(1.0, own=1.0)
    assert meter.end_round() == []
    summary = meter.summary()
    assert (summary["cpu_steal_percent"], summary["other_cpu_percent"]) == (6.0, 20.0)
    assert (summary["rounds"], summary["tagged_rounds"]) == (2, 1)


def test_what_happens_between_openings_belongs_to_no_round(machine):
    meter = machine.meter()
    meter.begin()
    machine.pass_time(1.0, own=1.0)
    meter.end_round()
    machine.pass_time(5.0, other=9.0)
    meter.begin()
    machine.pass_time(1.0, own=1.0)
    assert meter.end_round() == []
    assert meter.summary()["other_cpu_percent"] == 0.0


def test_short_rounds_are_joined_until_the_kernels_ticks_mean_something(machine):
    meter = machine.meter()
    meter.begin()
    rounds = []
    for _ in range(3):
        machine.pass_time(0.06, own=0.06, other=0.06)
        rounds.append(meter.end_round())
    assert rounds == [[], [], []]
    machine.pass_time(0.06, own=0.06, other=0.06)
    rounds.append(meter.end_round())
    machine.pass_time(0.3, own=0.3)
    rounds.append(meter.end_round())
    assert rounds == [["other load 50 %"]] * 4 + [[]], "all of the window, and nothing after it"
    assert meter.summary()["tagged_rounds"] == 4


def test_a_process_that_came_or_went_is_not_counted_as_ours(machine):
    before = read_cpu([OWN], proc=machine.folder)
    machine.pass_time(1.0, own=0.4)
    after = read_cpu([], proc=machine.folder)
    assert between(before, after).other_s == pytest.approx(0.4)


@pytest.mark.parametrize("text", [None, "", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "nonsense 1 2 3 4 5 6 7 8\n"])
def test_a_kernel_that_shows_nothing_is_said_to_be_unreadable(tmp_path, text):
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert read_cpu([1], proc=tmp_path) is None
    meter = NoiseMeter(lambda: [1], proc=tmp_path, mhz=lambda: None)
    meter.begin()
    assert meter.end_round() == []
    summary = meter.summary()
    assert {summary[k] for k in ("cpu_steal_percent", "other_cpu_percent", "cpu_mhz")} == {UNREADABLE}
    assert "gpu" not in summary


def test_a_clock_far_below_the_highest_seen_is_tagged(machine):
    clocks = iter([3000.0, 2900.0, 1500.0, 3000.0])
    meter = NoiseMeter(list, proc=machine.folder, now=lambda: machine.at_s, mhz=lambda: next(clocks))
    meter.begin()
    assert [meter.end_round() for _ in range(4)] == [[], [], ["low clock 1500 MHz"], []]
    assert meter.summary()["cpu_mhz"] == {"min": 1500.0, "max": 3000.0}


def test_this_machine_can_be_read():
    reading = read_cpu([os.getpid()])
    assert reading is not None
    assert 0 < reading.own_s[os.getpid()] < reading.total_s


class FakeGpu:
    name = "Fake H1"

    def __init__(self, *readings):
        self.readings = list(readings)

    def read(self):
        return self.readings.pop(0)


def reading(mhz, *reasons):
    return GpuReading(sm_mhz=mhz, max_sm_mhz=2000, temperature_c=60, power_w=300.0, reasons=reasons)


def test_gpu_throttling_is_tagged_and_an_idle_gpu_or_a_set_clock_is_not(machine):
    gpu = FakeGpu(
        reading(2000), reading(1900, "applications_clocks"), reading(1400, "hw_thermal"), reading(300, "gpu_idle")
    )
    meter = machine.meter(gpu=gpu)
    meter.begin()
    assert [meter.end_round() for _ in range(4)] == [[], [], ["gpu hw_thermal", "low gpu clock 1400 MHz"], []]
    found = meter.summary()["gpu"]
    assert found["sm_mhz"] == {"min": 300, "max": 2000}
    assert found["reasons"] == {"applications_clocks": 1, "hw_thermal": 1, "gpu_idle": 1}


def test_a_gpu_that_refuses_its_values_is_said_to_be_unreadable(machine):
    meter = machine.meter(gpu=FakeGpu(None))
    meter.begin()
    assert meter.end_round() == []
    assert meter.summary()["gpu"] == {"name": "Fake H1", "clocks": UNREADABLE}
