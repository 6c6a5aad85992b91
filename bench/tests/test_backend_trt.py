from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from bench.backends import cuda, trt
from bench.errors import Unavailable, Unsupported
from bench.testing.artifacts import contract_cell

NO_DRIVER = "this host has no CUDA driver (libcuda.so.1)"


def refusal(monkeypatch, *, installed, problem):
    monkeypatch.setattr(trt, "_installed", lambda: installed)
    monkeypatch.setattr(cuda, "problem", lambda: problem)
    with pytest.raises(Unavailable) as caught:
        trt.backend.require("cuda:0", "fp16")
    return str(caught.value)


def test_without_the_package_it_gives_the_install_command_and_what_else_is_missing(monkeypatch):
    text = refusal(monkeypatch, installed=False, problem=NO_DRIVER)
    assert "tensorrt, which is not installed. Type: pip install tensorrt" in text
    assert NO_DRIVER in text


def test_with_the_package_and_no_gpu_it_says_what_the_driver_answered(monkeypatch):
    assert refusal(monkeypatch, installed=True, problem=NO_DRIVER).endswith(f"is installed, but {NO_DRIVER}")


def test_with_both_it_says_that_this_version_does_not_execute_engines(monkeypatch):
    assert "this version does not execute TensorRT" in refusal(monkeypatch, installed=True, problem=None)


def test_opening_and_preparing_are_refused_in_the_same_words(monkeypatch):
    expected = refusal(monkeypatch, installed=False, problem=NO_DRIVER)
    for refused in (lambda: trt.backend.open(None, contract_cell("trt"), threads=1),
                    lambda: trt.backend.prepare(None, contract_cell("trt"), None)):  # fmt: skip
        with pytest.raises(Unavailable) as caught:
            refused()
        assert str(caught.value) == expected


def test_fp64_cannot_exist():
    with pytest.raises(Unsupported, match="trt:fp64 cannot exist"):
        trt.backend.require("cuda:0", "fp64")


def test_the_version_comes_from_the_metadata(monkeypatch):
    def version(name):
        if name == "tensorrt":
            return "11.4.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert trt.backend.version() == "tensorrt 11.4.0"


def test_the_library_is_never_imported_even_when_it_is_there(tmp_path):
    """Importing it and touching a runtime without a driver ends the process; this one would end it at once."""
    (tmp_path / "tensorrt.py").write_text("import os; os._exit(99)")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from bench.backends.trt import backend\n"
        "from bench.errors import Unavailable\n"
        "try: backend.require('cuda:0', 'fp16')\n"
        "except Unavailable as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("trt: the package tensorrt")


class Driver:
    """Stands in for libcuda.so.1."""

    def __init__(self, init, count):
        self.init, self.count = init, count

    def cuInit(self, flags):
        return self.init

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self.count
        return 0


@pytest.mark.parametrize(("driver", "expected"), [
    (Driver(100, 0), "cuInit returned 100"), (Driver(0, 0), "sees no GPU"), (Driver(0, 1), None)])  # fmt: skip
def test_the_driver_is_asked_itself(monkeypatch, driver, expected):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: driver)
    answer = cuda.problem()
    assert answer is None if expected is None else expected in answer


def test_a_host_without_a_driver_says_so(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    assert cuda.problem() == NO_DRIVER


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3), ("cpu", None), ("cuda:", None), ("cuda:x", None), ("cuda:-1", None)],
)
def test_device_words_are_read(device, expected):
    assert cuda.index(device) == expected
