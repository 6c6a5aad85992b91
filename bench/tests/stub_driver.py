"""A CUDA driver and an NVML of a few lines of C, so that what asks them runs for real on a machine without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

CUDA = """
#include <string.h>
int cuInit(unsigned flags) { return %(init)d; }
int cuDeviceGetCount(int *count) { *count = %(count)d; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number < %(count)d ? 0 : 101; }
int cuDeviceGetName(char *text, int size, int device) { strncpy(text, "Stub GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int which, int d) { *value = which == 75 ? 9 : which == 76 ? 1 : -1; return 0; }
int cuDriverGetVersion(int *value) { *value = 13000; return %(version)d; }
"""
NVML = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.65.06", size); return 0; }
"""


def make_driver(folder, *, init=0, count=1, version=0, nvml=True):
    """Compile the libraries into ``folder`` and return an environment in which a new process finds them."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler for the stub of the CUDA driver")
    sources = {"libcuda.so.1": CUDA % {"init": init, "count": count, "version": version}}
    if nvml:
        sources["libnvidia-ml.so.1"] = NVML
    for name, text in sources.items():
        (folder / f"{name}.c").write_text(text)
        words = [
            compiler,
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{name}",
            "-o",
            str(folder / name),
            str(folder / f"{name}.c"),
        ]
        subprocess.run(words, check=True, capture_output=True)
    kept = {key: value for key, value in os.environ.items() if key not in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")}
    return {**kept, "LD_LIBRARY_PATH": str(folder)}
