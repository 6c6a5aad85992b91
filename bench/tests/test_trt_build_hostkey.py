"""GPU, compute capability and driver, asked of a compiled stub of the driver: the real ctypes calls, no real GPU."""

import json
import subprocess
import sys

import pytest

from bench.errors import Unavailable
from bench.tests.stub_driver import make_driver
from bench.trt import job

ASK = """
import json, sys
from bench.errors import Unavailable
from bench.trt.hostkey import read_host
try:
    print(json.dumps(read_host("11.4.0.106", device=int(sys.argv[1])).identity()))
except Unavailable as error:
    print(json.dumps(str(error)))
"""


def asked(environment, device=0):
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(device)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_driver_says_gpu_and_version(tmp_path):
    assert asked(make_driver(tmp_path)) == {
        "tensorrt": "11.4.0.106",
        "gpu": "Stub GPU",
        "compute_capability": "9.1",
        "driver": "580.65.06",
    }


def test_without_nvml_the_driver_is_what_cuda_it_supports(tmp_path):
    assert asked(make_driver(tmp_path, nvml=False))["driver"] == "cuda 13000"


@pytest.mark.parametrize(
    ("stub", "device", "words"),
    [
        ({"init": 100}, 0, "cuInit returned 100"),
        ({"count": 0}, 0, "sees no GPU"),
        ({"count": 1}, 3, "no GPU 3"),
        ({"version": 999}, 0, "does not describe GPU 0 (statuses (0, 0, 0, 999))"),
    ],
)
def test_every_refusal_of_the_driver_is_a_sentence(tmp_path, stub, device, words):
    assert words in asked(make_driver(tmp_path, **stub), device)


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [(None, 0, "0"), (None, 2, "2"), ("3,1", 0, "3"), ("3,1", 1, "1"), ("GPU-a, GPU-b", 1, "GPU-b")],
)
def test_the_child_sees_the_chosen_gpu_of_the_visible_ones(monkeypatch, given, device, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert job._environment(device)["CUDA_VISIBLE_DEVICES"] == expected


@pytest.mark.parametrize(("given", "device"), [("", 0), ("1", 1), ("0,1", -1)])
def test_a_hidden_gpu_stays_hidden(monkeypatch, given, device):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    with pytest.raises(Unavailable, match=f"no GPU {device}"):
        job._environment(device)
