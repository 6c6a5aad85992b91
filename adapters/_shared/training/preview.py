"""A page of augmented samples beside their originals: what the network will see, before hours are spent on it."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from adapters._shared.training.dataset import SampleKey
from adapters._shared.training.draw import colour_of, draw_boxes
from bench.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from adapters._shared.training.dataset import TrainingSet
    from adapters._shared.training.examples import Example

SHOWN_PX = 360
"""Longer side of each picture: three fit beside each other on a page of 1,200 px."""
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 82, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
"""Full resolution of colours: at half of it, lines of two pixels lose theirs."""
EPOCHS = (0, 1)
"""Each image is shown as these epochs draw it."""


def write_preview(set_: TrainingSet, class_names: Sequence[str], out_html: Path, count: int = 24) -> Path:
    """Write one self-contained page.

    Args:
        set_: what training would read.
        class_names: by label.
        out_html: written atomically.
        count: images shown, spread evenly over the set.

    Returns:
        ``out_html``.

    Raises:
        InputError: an image that cannot be used, or a folder that cannot be written to.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("adapters._shared.training") / "preview.html").read_text("utf-8"))
    indices = np.unique(np.linspace(0, len(set_) - 1, min(count, len(set_))).round().astype(int)).tolist()
    page = template.render(
        name=set_.source.name,
        side_px=set_.side_px,
        seed=set_.seed,
        strengths=_strengths(set_),
        cleaning=str(set_.source.cleaning),
        classes=_classes(set_, class_names),
        rows=[_row(set_, index, class_names) for index in indices],
        images=len(set_),
    )
    return write_atomic(out_html, page)


def _strengths(set_: TrainingSet) -> list[dict[str, Any]]:
    """Name, strength and meaning of every augmentation, those that are off last."""
    meanings = {
        "mosaic": "probability of joining four images",
        "mixup": "probability of blending in a second image",
        "flip": "probability of a left-right flip",
        "scale": "zoom is drawn from 1\u00a0−\u00a0x to 1\u00a0+\u00a0x",
        "translate": "shift of a single image is drawn from −x to x, share of the side",
        "hue": "shift of the hue is drawn from −x to x, share of the colour circle",
        "saturation": "gain of the saturation is drawn from 1\u00a0−\u00a0x to 1\u00a0+\u00a0x",
        "value": "gain of the brightness is drawn from 1\u00a0−\u00a0x to 1\u00a0+\u00a0x",
        "degrees": "rotation is drawn from −x to x",
    }
    found = [
        {"name": name, "strength": f"{getattr(set_.augmentation, name):g}", "meaning": meaning}
        for name, meaning in meanings.items()
    ]
    return sorted(found, key=lambda row: row["strength"] == "0")


def _classes(set_: TrainingSet, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes and images of every class in the whole set; ``share`` is relative to the commonest, percent."""
    boxes, images = np.zeros(len(class_names), int), np.zeros(len(class_names), int)
    for index in range(len(set_)):
        counts = np.bincount(set_.source.labels(index), minlength=len(class_names))
        boxes += counts
        images += counts > 0
    most = max(int(boxes.max(initial=0)), 1)
    return [
        {
            "name": name,
            "boxes": int(boxes[label]),
            "images": int(images[label]),
            "share": 100 * int(boxes[label]) / most,
            "colour": "#{:02x}{:02x}{:02x}".format(*colour_of(label)),
        }
        for label, name in enumerate(class_names)
    ]


def _row(set_: TrainingSet, index: int, class_names: Sequence[str]) -> dict[str, Any]:
    original = set_.source[index]
    drawn = [set_[SampleKey(epoch, index)] for epoch in EPOCHS]
    return {
        "file": set_.source.file_name(index),
        "original": _picture(original, class_names),
        "samples": [{"epoch": epoch, **_picture(e, class_names)} for epoch, e in zip(EPOCHS, drawn, strict=True)],
    }


def _picture(example: Example, class_names: Sequence[str]) -> dict[str, Any]:
    """Scale first, draw then: lines and letters keep their size. ``data`` is a JPEG as base64."""
    height, width = example.image_rgb_u8.shape[:2]
    gain = min(SHOWN_PX / max(height, width), 1.0)
    size = (max(round(width * gain), 1), max(round(height * gain), 1))
    image = cv2.resize(example.image_rgb_u8, size, interpolation=cv2.INTER_AREA)
    boxes = example.boxes_xyxy * ([size[0] / width, size[1] / height] * 2)
    drawn = draw_boxes(image, boxes, example.labels, class_names)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), _JPEG)
    return {
        "data": base64.b64encode(data.tobytes()).decode("ascii"),
        "width": size[0],
        "height": size[1],
        "boxes": len(example.labels),
    }
