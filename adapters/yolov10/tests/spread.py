"""Weights whose scores are spread, so that a selection has something to select."""

import re

import torch
from safetensors.torch import save_file

from adapters._shared.synthetic import make_entry
from adapters.yolov10 import YoloV10Adapter, make_spec
from adapters.yolov10.model import YoloV10
from adapters.yolov10.names import COCO_NAMES, SHAPES_NAMES

CONV_GAIN = 1.6
CLASS_GAIN = 6.0
"""Factor on the last class convolutions: scores reach from .001 to .9 instead of staying below .2."""


def spread_adapter(image_hw=(64, 64), classes=80):
    """YOLOv10n at a size that is tested in a second."""
    return YoloV10Adapter(make_spec("n", image_hw, COCO_NAMES if classes == 80 else SHAPES_NAMES, "shapes"), "n")


def save_spread(path, classes=80, one2many=True):
    """Write training weights (both heads), or those of inference only."""
    state = {}
    for key, value in YoloV10("n", classes).state_dict().items():
        if not one2many and re.search(r"\.23\.cv[23]\.", key):
            continue
        entry = torch.as_tensor(make_entry(key, tuple(value.shape), CONV_GAIN)).to(value.dtype)
        state[key] = entry * CLASS_GAIN if re.search(r"cv3\.\d\.2\.weight$", key) else entry
    save_file(state, path)
    return path
