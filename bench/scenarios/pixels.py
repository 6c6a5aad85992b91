"""Steps that change pixels and leave every box where it is: cv2 and numpy on (H, W, 3) uint8 RGB."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.scenarios.chance import Chance
    from bench.types import Array


def low_light(image_rgb_u8: Array, step: Mapping[str, Any], chance: Chance) -> Array:
    """``255 * exposure * (value / 255) ** gamma`` and the sensor's noise, rounded, never below 0 or above 255."""
    levels = np.arange(256, dtype=np.float64) / 255.0
    table = (255.0 * step["exposure"] * levels ** step.get("gamma", 1.0)).astype(np.float32)
    return _noisy(table[image_rgb_u8], step.get("noise_std", 0.0), chance)


def noise(image_rgb_u8: Array, step: Mapping[str, Any], chance: Chance) -> Array:
    """Add Gaussian noise of ``std`` steps."""
    return _noisy(image_rgb_u8.astype(np.float32), step["std"], chance)


def gaussian_blur(image_rgb_u8: Array, step: Mapping[str, Any], _chance: Chance) -> Array:
    """Blur with ``sigma_px``; the border is mirrored."""
    import cv2

    blurred: Array = cv2.GaussianBlur(image_rgb_u8, (0, 0), float(step["sigma_px"]))
    return blurred


def motion_blur(image_rgb_u8: Array, step: Mapping[str, Any], _chance: Chance) -> Array:
    """Mean along a line of ``length_px`` in the direction ``degrees``, centred on each pixel."""
    import cv2

    kernel = line_kernel(int(step["length_px"]), float(step.get("degrees", 0.0)))
    blurred: Array = cv2.filter2D(image_rgb_u8, -1, kernel)
    return blurred


def jpeg(image_rgb_u8: Array, step: Mapping[str, Any], _chance: Chance) -> Array:
    """Compress with ``quality`` and read again."""
    import cv2

    bgr = cv2.cvtColor(image_rgb_u8, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(step["quality"])])
    if not done:
        raise ContractError(f"OpenCV cannot write a JPEG of {image_rgb_u8.shape}.")
    read_bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if read_bgr is None:
        raise ContractError("OpenCV cannot read the JPEG that it wrote.")
    read: Array = cv2.cvtColor(read_bgr, cv2.COLOR_BGR2RGB)
    return read


def line_kernel(length_px: int, degrees: float) -> Array:
    """(S, S) float32 that sums to one: a line through the middle, clockwise from the x axis."""
    half = (length_px - 1) / 2.0
    middle = math.ceil(half)
    kernel = np.zeros((2 * middle + 1, 2 * middle + 1))
    across, down = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for at in np.linspace(-half, half, 4 * length_px + 1):
        x, y = middle + at * across, middle + at * down
        left, top = math.floor(x), math.floor(y)
        for row, column, share in (
            (top, left, (top + 1 - y) * (left + 1 - x)),
            (top, left + 1, (top + 1 - y) * (x - left)),
            (top + 1, left, (y - top) * (left + 1 - x)),
            (top + 1, left + 1, (y - top) * (x - left)),
        ):
            if share > 0:
                kernel[min(row, 2 * middle), min(column, 2 * middle)] += share
    scaled: Array = (kernel / kernel.sum()).astype(np.float32)
    return scaled


def _noisy(values: Array, std: float, chance: Chance) -> Array:
    """(H, W, 3) float32 of 0 to 255 -> uint8, with noise where there is any."""
    if std:
        values = values + np.float32(std) * chance.normal(values.shape)
    rounded: Array = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


PIXEL_STEPS: dict[str, Callable[[Array, Mapping[str, Any], Chance], Array]] = {
    "low_light": low_light,
    "noise": noise,
    "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur,
    "jpeg": jpeg,
}
