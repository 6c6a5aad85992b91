"""Which TensorRT, GPU and driver an engine belongs to: an engine is good for exactly that combination.

Asked of the CUDA driver and of NVML themselves through ctypes, so that no runtime library is imported.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.backends.cuda import problem as cuda_problem
from bench.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.trt.options import BuildOptions

BUILD_RECIPE = 1
"""Raised when the same options lead to another engine: one of an older recipe is then not taken for a new one."""
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h; a C interface keeps its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """What an engine or a timing cache is bound to."""

    tensorrt: str
    """Full version, for example ``11.4.0.106``."""
    gpu: str
    """Name that the driver gives."""
    compute_capability: str
    """For example ``9.0``."""
    driver: str
    """Version of the display driver (``580.65.06``); where NVML is absent ``cuda 13000``, what the driver supports."""

    def identity(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)


def read_host(trt_version: str, *, device: int = 0) -> HostKey:
    """Ask the CUDA driver for GPU ``device`` and NVML for the driver's version.

    Raises:
        Unavailable: no driver, no GPU, or no GPU of that number.
    """
    if found := cuda_problem():
        raise Unavailable(found)
    driver = ctypes.CDLL("libcuda.so.1")
    handle, major, minor, version = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
    status = driver.cuDeviceGet(ctypes.byref(handle), ctypes.c_int(device))
    if status != 0:
        raise Unavailable(f"the CUDA driver of this host has no GPU {device} (cuDeviceGet returned {status})")
    text = ctypes.create_string_buffer(256)
    statuses = (
        driver.cuDeviceGetName(text, ctypes.c_int(len(text)), handle),
        driver.cuDeviceGetAttribute(ctypes.byref(major), ctypes.c_int(_CAPABILITY_MAJOR), handle),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), ctypes.c_int(_CAPABILITY_MINOR), handle),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(statuses):
        raise Unavailable(f"the CUDA driver of this host does not describe GPU {device} (statuses {statuses})")
    return HostKey(
        tensorrt=trt_version,
        gpu=text.value.decode("utf-8", "replace"),
        compute_capability=f"{major.value}.{minor.value}",
        driver=_driver_version() or f"cuda {version.value}",
    )


def engine_identity(onnx_sha256: str, host: HostKey, options: BuildOptions) -> dict[str, Any]:
    """Everything that decides whether a stored engine may be used: the key of the store.

    Args:
        onnx_sha256: hash of the ONNX file, external data included.
        host: TensorRT version, GPU, compute capability and driver.
        options: builder options, TF32 among them.

    Raises:
        InputError: the calibration cache cannot be read.
    """
    return {
        "onnx_sha256": onnx_sha256,
        "host": host.identity(),
        "options": options.identity(),
        "build_recipe": BUILD_RECIPE,
    }


def short_key(identity: Mapping[str, Any]) -> str:
    """First 16 digits of the sha256 of an identity's JSON: part of a file name."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _driver_version() -> str | None:
    """NVML's word for the driver; None on hosts without NVML (Jetson)."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(80)
    status = nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
    nvml.nvmlShutdown()
    return text.value.decode("ascii", "replace") if status == 0 and text.value else None
