"""Pre-processing that is measured: every word can be told from the others, and a wrong statement is found."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from bench.errors import ContractError
from bench.inputprobe import observe_input, recorded
from bench.testing import FakeAdapter
from bench.types import TensorSpec


class Fitted(FakeAdapter):
    """Fits an image into 64 x 64 as told."""

    spec = replace(FakeAdapter.spec, inputs=(TensorSpec(name="images", shape=("batch", 3, 64, 64), dtype="float32"),))

    def __init__(self, method="resize", *, fill=114, color="RGB", interp=cv2.INTER_LINEAR, low=0.0, high=1.0):
        self.method, self.fill, self.color, self.interp = method, fill, color, interp
        self.low, self.high = np.broadcast_to(low, 3), np.broadcast_to(high, 3)

    def preprocess(self, image_rgb_u8):
        height, width = image_rgb_u8.shape[:2]
        if self.method == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            image = cv2.resize(image_rgb_u8[top : top + side, left : left + side], (64, 64), interpolation=self.interp)
        elif self.method == "letterbox":
            scale = 64 / max(height, width)
            h, w = round(height * scale), round(width * scale)
            image = np.full((64, 64, 3), self.fill, np.uint8)
            top, left = (64 - h) // 2, (64 - w) // 2
            image[top : top + h, left : left + w] = cv2.resize(image_rgb_u8, (w, h), interpolation=self.interp)
        else:
            image = cv2.resize(image_rgb_u8, (64, 64), interpolation=self.interp)
        if self.color == "BGR":
            image = image[..., ::-1]
        tensor = self.low + image / 255 * (self.high - self.low)
        return {"images": np.ascontiguousarray(tensor.transpose(2, 0, 1)[None], np.float32)}, {}


@pytest.mark.parametrize("method", ["resize", "letterbox", "crop"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize(("word", "flag"), [("nearest", 0), ("linear", 1), ("cubic", 2), ("area", 3), ("lanczos4", 4)])
def test_fitting_colour_and_interpolation_are_told_apart(method, color, word, flag):
    found = observe_input(Fitted(method, color=color, interp=flag))
    assert found["input_size"] == [64, 64]
    assert (found["method"], found["input_color"], found["resize_interp"]) == (method, color, word)
    assert found["normalize"] == "0_1"


@pytest.mark.parametrize("fill", [[0, 0, 0], [114, 114, 114], [255, 255, 255], [104, 117, 123]])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_the_fill_is_told_as_red_green_blue(fill, color):
    assert observe_input(Fitted("letterbox", fill=fill, color=color))["letterbox_fill"] == fill


def test_scalings_are_told_apart():
    assert observe_input(Fitted(high=255.0))["normalize"] == "0_255"
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = observe_input(Fitted("letterbox", low=-mean / std, high=(1 - mean) / std))
    assert found["normalize"] == "mean_std"
    assert found["mean"] == pytest.approx(mean, abs=1e-5)
    assert found["std"] == pytest.approx(std, abs=1e-5)
    assert (found["method"], found["letterbox_fill"], found["resize_interp"]) == ("letterbox", [114] * 3, "linear")


def test_what_cannot_be_told_is_left_out():
    constant = observe_input(Fitted(high=0.0))
    assert constant == {"input_size": [64, 64]}
    unknown = Fitted()
    unknown.spec = replace(Fitted.spec, inputs=(TensorSpec(name="x", shape=("batch", 5), dtype="float32"),))
    assert observe_input(unknown) == {}


@pytest.mark.parametrize(
    ("word", "value"),
    [("method", "resize"), ("input_color", "BGR"), ("normalize", "0_255"), ("resize_interp", "area"),
     ("letterbox_fill", [0, 0, 0])],
)  # fmt: skip
def test_a_statement_that_is_not_true_is_refused(word, value):
    measured = observe_input(Fitted("letterbox"))
    with pytest.raises(ContractError, match=f"m states .*{word}"):
        recorded({word: value}, measured, "m")


def test_statements_in_other_words_are_kept_beside_what_was_measured():
    kept = recorded({"method": "multi_scale_tiles", "resize_interp": "linear"}, {"resize_interp": "linear"}, "m")
    assert kept == {"method": "multi_scale_tiles", "resize_interp": "linear", "measured": ["resize_interp"]}
