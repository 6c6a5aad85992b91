"""A model of three convolutions, its images, and the command line typed at it."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from bench import testing
from bench.__main__ import main
from bench.tests.tiny_onnx import save_tiny

ADAPTER = """
from dataclasses import replace

import cv2
import numpy as np

from bench.tests.tiny_onnx import SPEC


class Tiny:
    spec = replace(SPEC, name="tiny", licence="MIT", origin="made for a test", preprocessing={"method": "resize"})

    def preprocess(self, image_rgb_u8):
        small = cv2.resize(image_rgb_u8, (8, 8)).astype(np.float32) / 255
        return {"images": small.transpose(2, 0, 1)[None]}, {}

    def postprocess(self, outputs, meta):
        raise NotImplementedError

    def build(self, weights, seed=0):
        raise NotImplementedError

    def export(self, weights, out, *, opset=17):
        raise NotImplementedError

    def train(self, config, out):
        raise NotImplementedError


adapter = Tiny()
"""


def write_images(folder, count, *, seed=0):
    """``count`` noisy PNG files ``0000.png`` .. in a new folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.random.default_rng((seed, number)).integers(0, 255, (24, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:04d}.png"), image)
    return folder


def make_world(folder):
    """Adapter, weights (an ONNX file), evaluation set and calibration images; returns the words to type."""
    (folder / "tiny.py").write_text(ADAPTER)
    save_tiny(folder / "tiny.onnx")
    testing.fake_folder(folder / "set", 6)
    write_images(folder / "photos", 12)
    return [
        *("prepare", folder / "tiny.py", "--weights", folder / "tiny.onnx", "--fixtures", folder / "set"),
        *("--calibrator", "minmax", "--tune", "no", "--lane-timeout", 60),
    ]


def typed(monkeypatch, *words):
    """Type ``parity WORDS`` in this process; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["parity", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0
