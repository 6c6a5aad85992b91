"""What a model's pre-processing really does, read off what it makes of drawn images. Pure numpy and cv2.

A predictions file says how its images were prepared. That is measured here, so that it can contradict what the model
says of itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Adapter, Array

_WIDE_HW = (60, 120)
"""A drawn image that is twice as wide as high: fitted into a square it must be padded, stretched or cropped."""
_NOISE_SCALE = 1.37
"""Source side over input side: at a whole number several interpolations would give the same pixels."""
_INTERPOLATIONS = {"nearest": "INTER_NEAREST", "linear": "INTER_LINEAR", "area": "INTER_AREA", "cubic": "INTER_CUBIC",
                   "lanczos4": "INTER_LANCZOS4"}  # fmt: skip
_STEP = 1.001 / 255
"""One grey value: rounding to uint8 before or after the scaling."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "method": ("letterbox", "resize", "crop"),
    "input_color": ("RGB", "BGR"),
    "normalize": ("0_1", "0_255"),
    "resize_interp": tuple(_INTERPOLATIONS),
}
"""What can be contradicted: a model that states another word is not measured in it."""


def observe_input(adapter: Adapter) -> dict[str, Any]:
    """Measure a model's pre-processing in the words of a protocol.

    Returns:
        ``input_size`` [height, width]; ``normalize`` ``0_1``, ``0_255`` or ``mean_std`` with ``mean`` and ``std`` per
        channel; ``input_color``; ``method`` (``letterbox`` with ``letterbox_fill``, ``resize`` or ``crop``); and
        ``resize_interp`` where one of OpenCV's gives the same pixels. A word that cannot be told is left out; a model
        that does not take one image of three channels gives nothing.
    """
    inputs = adapter.spec.inputs
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        return {}

    def prepared(image_rgb_u8: Array) -> Array:
        tensor: Array = np.asarray(adapter.preprocess(image_rgb_u8)[0][inputs[0].name][0], np.float64)
        return tensor

    height, width = prepared(np.zeros((*_WIDE_HW, 3), np.uint8)).shape[1:]
    middle = (slice(None), height // 2, width // 2)
    white, black = (prepared(np.full((*_WIDE_HW, 3), value, np.uint8)) for value in (255, 0))
    low, high = black[middle], white[middle]
    found: dict[str, Any] = {"input_size": [height, width], **_scaling(low, high)}
    if not (high != low).all():
        return found

    def shares(tensor: Array) -> Array:
        """Back to 0 for black and 1 for white."""
        share: Array = (tensor - low[:, None, None]) / (high - low)[:, None, None]
        return share

    red = shares(prepared(_coloured(255, 0, 0)))[middle]
    found |= {(1, 0, 0): {"input_color": "RGB"}, (0, 0, 1): {"input_color": "BGR"}}.get(
        tuple(np.round(red).astype(int)), {}
    )
    found |= _fitting(shares(white), shares(black), shares(prepared(_edged())), bgr=found.get("input_color") == "BGR")
    noise = np.random.default_rng(0).integers(
        0, 256, (round(_NOISE_SCALE * height), round(_NOISE_SCALE * width), 3), np.uint8
    )
    return {**found, **_interpolation(noise, shares(prepared(noise)), bgr=found.get("input_color") == "BGR")}


def recorded(stated: Mapping[str, Any], measured: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Put together what a file records: what was measured, and of the rest what the model states.

    Raises:
        ContractError: the model states something else than was measured.
    """
    wrong = [
        f"{word} {stated[word]!r}, measured {measured[word]!r}"
        for word in ("letterbox_fill", *WORDS)
        if word in stated and word in measured and _known(word, stated[word]) and stated[word] != measured[word]
    ]
    if wrong:
        raise ContractError(
            f"{model} states a pre-processing that it does not do: {'; '.join(wrong)}. Correct `preprocessing` in its "
            "spec, or its preprocess()."
        )
    return {**stated, **measured, "measured": sorted(measured)}


def _known(word: str, value: Any) -> bool:
    return word == "letterbox_fill" or value in WORDS[word]


def _scaling(low: Array, high: Array) -> dict[str, Any]:
    """The word for what black and white become, per channel."""
    for word, top in (("0_1", 1.0), ("0_255", 255.0)):
        if np.allclose(low, 0, atol=1e-6) and np.allclose(high, top, rtol=1e-6):
            return {"normalize": word}
    span = high - low
    if not (np.isfinite(span).all() and (span > 0).all()):
        return {}
    return {
        "normalize": "mean_std",
        "mean": np.round(-low / span, 6).tolist(),
        "std": np.round(1 / span, 6).tolist(),
    }


def _coloured(*rgb: int) -> Array:
    return np.broadcast_to(np.array(rgb, np.uint8), (*_WIDE_HW, 3)).copy()


def _edged() -> Array:
    """Black with white left and right edges."""
    image = np.zeros((*_WIDE_HW, 3), np.uint8)
    image[:, :12] = image[:, -12:] = 255
    return image


def _fitting(white: Array, black: Array, edged: Array, *, bgr: bool) -> dict[str, Any]:
    """How a wide image came into the input: padding is the same under black and white, content is not."""
    padding = np.abs(white - black).max(axis=0) < 0.5
    if padding.any():
        fill = np.round(255 * white[:, padding].mean(axis=1)).astype(int).tolist()
        return {"method": "letterbox", "letterbox_fill": fill[::-1] if bgr else fill}
    middle = edged.shape[1] // 2
    kept = edged[0, middle, 0] > 0.5 and edged[0, middle, -1] > 0.5
    return {"method": "resize" if kept else "crop"}


def _interpolation(noise: Array, found: Array, *, bgr: bool) -> dict[str, Any]:
    """The interpolation whose pixels these are, or nothing."""
    import cv2

    channels = noise[..., ::-1] if bgr else noise
    for word, flag in _INTERPOLATIONS.items():
        size_wh = (found.shape[2], found.shape[1])
        wanted = cv2.resize(np.ascontiguousarray(channels), size_wh, interpolation=getattr(cv2, flag))
        if np.abs(wanted.transpose(2, 0, 1) / 255 - found).max() <= _STEP:
            return {"resize_interp": word}
    return {}
