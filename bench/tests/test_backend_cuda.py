"""What the CUDA driver says, from a driver that is scripted."""

import ctypes
import re

import pytest

from bench.backends import cuda


class Driver:
    """The two functions of libcuda that are called, with their C signatures."""

    def __init__(self, *, init=0, count_status=0, count=2):
        self._init, self._count_status, self._count = init, count_status, count

    def cuInit(self, flags):
        assert flags == 0
        return self._init

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self._count
        return self._count_status


@pytest.mark.parametrize(("driver", "number", "reason"), [
    ({"init": 999}, 0, "does not initialise .cuInit returned 999."),
    ({"count": 0}, 0, "sees no GPU"),
    ({"count_status": 100}, 0, "cuDeviceGetCount returned 100"),
    ({}, 2, "this host has no GPU 2: the CUDA driver sees 2, counted from 0"),
])  # fmt: skip
def test_each_reason_is_said(monkeypatch, driver, number, reason):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(**driver))
    assert re.search(reason, cuda.problem(number))


def test_a_gpu_that_is_there_is_no_problem(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert (cuda.problem(), cuda.problem(1)) == (None, None)


def test_a_host_without_a_driver_says_so(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert cuda.problem() == "this host has no CUDA driver (libcuda.so.1)"


@pytest.mark.parametrize(("device", "index"), [
    ("cuda", 0), ("cuda:0", 0), ("cuda:11", 11), ("cpu", None), ("cuda:", None), ("cuda:-1", None),
    ("cuda:\u00b2", None), ("tensorrt:0", None),
])  # fmt: skip
def test_a_device_is_read_strictly(device, index):
    assert cuda.index(device) == index
    assert cuda.index(device.replace("cuda", "tensorrt"), kind="tensorrt") == (0 if device == "tensorrt:0" else index)
