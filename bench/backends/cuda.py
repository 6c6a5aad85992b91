"""Is there a CUDA driver that works, and a GPU? Asked of the driver itself: no runtime library is imported."""

from __future__ import annotations

import ctypes


def problem(number: int = 0) -> str | None:
    """Return why GPU ``number`` cannot be used on this host, or None when a driver initialises and sees it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this host has no CUDA driver (libcuda.so.1)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the CUDA driver of this host does not initialise (cuInit returned {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return f"the CUDA driver of this host sees no GPU (cuDeviceGetCount returned {status}, {count.value} devices)"
    if number >= count.value:
        return f"this host has no GPU {number}: the CUDA driver sees {count.value}, counted from 0"
    return None


def index(device: str, *, kind: str = "cuda") -> int | None:
    """``cuda`` -> 0, ``cuda:1`` -> 1, anything else None; ``kind`` is the word before the colon."""
    word, _, number = device.partition(":")
    if word != kind or not ((number.isdecimal() and number.isascii()) or device == kind):
        return None
    return int(number or 0)
