"""Weights and images made from a name alone, so that two implementations can be compared without any released weights.

Random numbers are ``sqrt(12) * (u - 0.5)`` with ``u`` from PCG64 seeded with the sha256 of the name: zero mean, unit
variance, no transcendental function, hence the same bits on every host. numpy only.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from bench.types import Array

DEPTHWISE_GAIN = 1.5
CENTRED_SHARE = 0.6
"""Share of a filter's mean that is taken out, so that positions do not look alike."""
GRID_CELLS = (3, 6, 12, 24, 48)


@dataclass(frozen=True, slots=True)
class Rule:
    """How the entries whose key matches ``pattern`` are filled; the first rule that matches counts.

    ``constant``: a. ``signed``: a + b n. ``positive``: a + b |n|. ``scaled``: a n / sqrt(fan in).
    ``counting``: 0, 1, 2 and so on.
    """

    pattern: str
    kind: Literal["constant", "signed", "positive", "scaled", "counting"]
    a: float = 0.0
    b: float = 0.0


RULES = (
    Rule(r"num_batches_tracked$", "constant"),
    Rule(r"dfl\.conv\.weight$", "counting"),
    Rule(r"running_mean$", "signed", 0.0, 0.1),
    Rule(r"running_var$", "positive", 1.0, 0.2),
    Rule(r"cv[23]\.\d\.2\.weight$", "scaled", 2.5),
    Rule(r"\.m\.\d+\.(cv2|cv1\.4)\.conv\.weight$", "scaled", 0.8),
    Rule(r"\.(ffn\.1|attn\.proj)\.conv\.weight$", "scaled", 0.8),
    Rule(r"level_embed$", "signed", 0.0, 0.5),
    Rule(r"query_embed\.weight$", "signed", 0.0, 1.5),
    Rule(r"head\.cls\.weight$", "scaled", 1.5),
    Rule(r"linear2\.weight$", "scaled", 0.6),
    Rule(r"(self_attn|multihead_attn)\.out_proj\.weight$", "scaled", 0.5),
    Rule(r"(cv3\.\d\.2|head\.cls)\.bias$", "signed", -2.5, 0.3),
    Rule(r"bias$", "signed", 0.0, 0.05),
)


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")))


def _default_rule(shape: tuple[int, ...], conv_gain: float) -> Rule:
    if len(shape) < 2:
        return Rule("", "signed", 1.0, 0.1)
    if len(shape) == 4:
        return Rule("", "scaled", conv_gain if shape[1] > 1 else DEPTHWISE_GAIN)
    return Rule("", "scaled", 1.0)


def make_entry(key: str, shape: tuple[int, ...], conv_gain: float) -> Array:
    """Return the float32 value of one state-dict entry.

    Args:
        key: official name of the entry.
        shape: its shape.
        conv_gain: gain of ordinary convolutions, a constant of the golden.
    """
    noise = np.sqrt(12.0) * (_generator(key).random(shape) - 0.5)
    rule = next((r for r in RULES if re.search(r.pattern, key)), None) or _default_rule(shape, conv_gain)
    if rule.kind == "constant":
        value = np.full(shape, rule.a)
    elif rule.kind == "counting":
        value = np.arange(noise.size, dtype=np.float64).reshape(shape)
    elif rule.kind == "scaled":
        value = rule.a * noise / np.sqrt(float(np.prod(shape[1:])))
        if len(shape) == 4 and shape[1] >= 8:
            value = value - CENTRED_SHARE * value.mean(axis=(1, 2, 3), keepdims=True)
    else:
        value = rule.a + rule.b * (noise if rule.kind == "signed" else np.abs(noise))
    return value.astype(np.float32)


def make_image(name: str, shape: tuple[int, int, int, int]) -> Array:
    """Return a smooth (B, 3, H, W) float32 image in 0..1, multiples of 1/255: upsampled noise grids of five sizes."""
    batch, channels, height, width = shape
    generator = _generator(name)
    total = np.zeros(shape)
    for cells in GRID_CELLS:
        grid = generator.random((batch, channels, cells + 1, cells + 1))
        y, x = (np.arange(height) + 0.5) * cells / height, (np.arange(width) + 0.5) * cells / width
        row, column = y.astype(int), x.astype(int)
        down, right = (y - row)[:, None], x - column
        above, below = grid[:, :, row], grid[:, :, row + 1]
        upper = (1 - right) * above[..., column] + right * above[..., column + 1]
        lower = (1 - right) * below[..., column] + right * below[..., column + 1]
        total += ((1 - down) * upper + down * lower) * cells**-0.4
    low, high = total.min((2, 3), keepdims=True), total.max((2, 3), keepdims=True)
    return (np.round((total - low) / (high - low) * 255) / 255).astype(np.float32)
