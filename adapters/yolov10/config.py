"""What a training run can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.errors import UsageError, did_you_mean

STRIDE_PX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of one training run; every key of ``parity train --config`` is a field."""

    fixtures: str = "shapes"
    """Set to train on: its ``train`` split, judged on its ``val`` split."""
    image_size: int = 320
    """Side of the square input, pixels, a multiple of 32."""
    epochs: int = 100
    """Passes over the training split."""
    batch: int = 16
    """Images per step."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    final_lr: float = 0.02
    """Learning rate at the end, share of ``lr`` (cosine in between)."""
    weight_decay: float = 0.02
    """Of weights with two or more axes; biases and norms have none."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    clip_norm: float = 10.0
    """Largest gradient norm."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, reached along ``1 - exp(-step / ema_steps)``."""
    ema_steps: int = 300
    """Time constant of that approach."""
    mosaic: float = 0.5
    """Probability of joining four images."""
    close_mosaic: float = 0.15
    """Last share of the run that sees single images only."""
    scale: float = 0.4
    """Zoom range, 1 - scale to 1 + scale."""
    translate: float = 0.1
    """Shift range, share of the side."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    hue: float = 0.015
    """Hue gain range."""
    saturation: float = 0.5
    """Saturation gain range."""
    value: float = 0.4
    """Brightness gain range."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    threads: int = 2
    """Intra-op threads of torch."""
    precision: str = "32"
    """``32``, or ``bf16``: autocast of the network (not of the loss); faster on CPUs with AVX512-BF16 or AMX."""
    evaluate_every: int = 5
    """Epochs between evaluations of the averaged weights."""
    max_images: int | None = None
    """Use only the first images of each split."""
    max_minutes: float | None = None
    """The schedule is compressed to end within this time; the result then depends on the host's speed."""
    initial_weights: Path | None = None
    """Weights to start from, both heads, official keys; None: random values."""
    resume: Path | None = None
    """``last.ckpt`` of an interrupted run."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "threads", "evaluate_every", "ema_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"training option {name} must be at least 1, got {getattr(self, name)}")
        if self.image_size < STRIDE_PX or self.image_size % STRIDE_PX:
            raise UsageError(f"training option image_size must be a multiple of {STRIDE_PX}, got {self.image_size}")
        if not self.lr > 0:
            raise UsageError(f"training option lr must be above 0, got {self.lr}")
        if self.precision not in ("32", "bf16"):
            raise UsageError(f"training option precision must be 32 or bf16, got {self.precision!r}")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise UsageError(f"training option max_minutes must be above 0, got {self.max_minutes}")

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> TrainConfig:
        """Build from plain values; text is converted to the field's type.

        Raises:
            UsageError: an unknown key, or a value that does not fit.
        """
        known = {f.name: str(f.type) for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in options.items():
            if key not in known:
                raise UsageError(f"training has no option {key!r}.{did_you_mean(key, known)}")
            values[key] = _convert(key, value, known[key])
        return cls(**values)


def _convert(key: str, value: Any, annotation: str) -> Any:
    kind, _, optional = annotation.partition(" | ")
    if value is None and optional:
        return None
    try:
        number = {"int": int, "float": float, "str": str, "Path": Path}[kind](value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"training option {key} must be {annotation}, got {value!r}") from error
    if kind == "int" and (isinstance(value, bool) or (isinstance(value, float) and value != number)):
        raise UsageError(f"training option {key} must be {annotation}, got {value!r}")
    return number
