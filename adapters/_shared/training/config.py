"""What a training run can be told: options that every model shares. A model's own options subclass `TrainConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from bench.errors import UsageError, did_you_mean

CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear", "multistep"),
    "amp": ("no", "bf16", "fp16"),
    "cache": ("auto", "on", "off"),
}
AT_LEAST_ONE = [
    "epochs",
    "batch",
    "grad_accum",
    "threads",
    "eval_every",
    "eval_batch",
    "eval_max_dets",
    "ema_steps",
    "devices",
    "max_images",
    "max_steps",
    "patience",
    "checkpoint_every",
]
NOT_NEGATIVE = ["seed", "workers", "warmup_steps", "overfit_batches", "weight_decay", "clip_norm", "momentum"]
SHARES = ["final_lr", "backbone_lr", "close_mosaic", "val_fraction", "mosaic", "mixup", "flip"]
ABOVE_ZERO = ("lr", "max_minutes", "gamma")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Options of one training run; every key of ``parity train --config`` and ``--set`` is a field."""

    fixtures: str = "shapes"
    """Set to train on: a registered name (its ``train`` split, judged on ``val``) or a folder."""
    val: str | None = None
    """Another set to judge on, or ``train``: the training images themselves (overfit runs)."""
    val_fraction: float = 0.1
    """Share of a folder without a val split that is held out."""
    image_size: int = 320
    """Side of the square input, pixels."""
    epochs: int = 100
    """Passes over the training images, in all: a resumed run goes on to this number."""
    max_steps: int | None = None
    """Optimizer steps after which the run ends; the schedule ends with it."""
    max_minutes: float | None = None
    """The run is stopped after this time; the schedule does not know of it."""
    batch: int = 16
    """Images per step and device."""
    grad_accum: int = 1
    """Batches whose gradients are summed up before the optimizer steps."""
    optimizer: str = "adamw"
    """``adamw`` or ``sgd`` (Nesterov)."""
    lr: float = 2e-3
    """Peak learning rate."""
    backbone_lr: float = 1.0
    """Learning rate of the backbone, share of ``lr``."""
    momentum: float = 0.937
    """Of SGD."""
    weight_decay: float = 0.02
    """Of weights with two or more axes; biases and norms have none."""
    schedule: str = "cosine"
    """``cosine``, ``linear`` or ``multistep``, after the warm-up."""
    final_lr: float = 0.02
    """Learning rate at the end of ``cosine`` and ``linear``, share of ``lr``."""
    milestones: tuple[float, ...] = (0.7, 0.9)
    """Shares of the run at which ``multistep`` multiplies the rate with ``gamma``."""
    gamma: float = 0.1
    """Factor of ``multistep``."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    clip_norm: float = 10.0
    """Largest gradient norm; 0 switches clipping off."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, reached along ``1 - exp(-step / ema_steps)``; 0: no average."""
    ema_steps: int = 300
    """Time constant of that approach."""
    bn_momentum: float | None = None
    """Of batch norms; None: the network's own. Short runs need more (0.1), or the running statistics lag behind."""
    mosaic: float = 0.5
    """Probability of joining four images."""
    mixup: float = 0.0
    """Probability of blending two."""
    close_mosaic: float = 0.15
    """Last share of the run that sees neither mosaic nor mixup."""
    scale: float = 0.4
    """Zoom range, 1 - scale to 1 + scale."""
    translate: float = 0.1
    """Shift range, share of the side."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    hue: float = 0.015
    """Hue shift range, share of the colour circle."""
    saturation: float = 0.5
    """Saturation gain range."""
    value: float = 0.4
    """Brightness gain range."""
    degrees: float = 0.0
    """Rotation range, degrees; a box becomes the box around its rotated corners."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    deterministic: bool = False
    """Refuse operations whose result depends on timing (CUDA); on the CPU runs repeat anyway."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    devices: int = 1
    """GPUs; more than one trains with lightning's ddp strategy."""
    threads: int | None = None
    """Intra-op threads of torch on the CPU; None: torch's own choice."""
    workers: int = 0
    """Processes that load images; 0: the training process itself."""
    cache: Literal["auto", "on", "off"] = "auto"
    """Decoded images in memory: ``auto`` (when they fit), ``on`` or ``off``."""
    amp: str = "no"
    """Autocast of the network, not of the loss: ``bf16``, or ``fp16`` with a scaled loss (CUDA)."""
    eval_every: int = 5
    """Epochs between evaluations of the averaged weights; the last epoch is always evaluated."""
    eval_batch: int = 1
    """Images per evaluation step; 1 is what ``parity run`` does, so that the AP is the same to the last digit."""
    eval_max_dets: int | None = None
    """Detections per image at evaluation; None: the model's own limit."""
    score_threshold: float | None = None
    """Detections below are left out at evaluation; None: the model's own floor."""
    patience: int | None = None
    """Evaluations without a better AP after which the run ends."""
    overfit_batches: int = 0
    """Learn from the first N batches alone, without augmentation, and judge on them: can the model learn at all?"""
    checkpoint_every: int | None = None
    """Steps between writing ``last.pt`` within an epoch; None: only after each epoch."""
    export: bool = False
    """Also write ``model.onnx`` of the best weights, and what it is, into the run folder."""
    max_images: int | None = None
    """Use only the first images of each split."""
    freeze: str | None = None
    """Part that keeps its weights: a group of the model (``backbone``) or a regular expression on parameter names."""
    weights: Path | None = None
    """Weights to start from; None: random values."""
    resume: Path | None = None
    """``last.pt`` of an interrupted run."""

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise UsageError(f"training option {name} {given!r}:{did_you_mean(str(given), allowed)}")
        for names, holds, words in (
            (AT_LEAST_ONE, lambda x: x >= 1, "must be at least 1"),
            (NOT_NEGATIVE, lambda x: x >= 0, "must not be negative"),
            (SHARES, lambda x: 0 <= x <= 1, "must lie between 0 and 1"),
            (ABOVE_ZERO, lambda x: x > 0, "must be above 0"),
        ):
            for name in names:
                given = getattr(self, name)
                if given is not None and not holds(given):  # NaN fails every one of them
                    raise UsageError(f"training option {name} {words}, got {given}")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"training option ema_decay must be 0 or more and below 1, got {self.ema_decay}")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise UsageError(f"training option milestones must be ascending shares of the run, got {self.milestones}")
        if self.devices > 1 and self.device == "cpu":
            raise UsageError(f"training option devices {self.devices}: only GPUs come in several. Type: --device cuda")
        if self.amp == "fp16" and self.device == "cpu":
            raise UsageError("training option amp fp16 needs a GPU (--device cuda); on a CPU type: --amp bf16")

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Build from plain values; text is converted to the field's type.

        Raises:
            UsageError: an unknown key, or a value that does not fit.
        """
        known = {f.name: str(f.type) for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in options.items():
            name = key.replace("-", "_")
            if name not in known:
                raise UsageError(f"training has no option {key!r}.{did_you_mean(name, known)}")
            values[name] = _convert(name, value, known[name])
        return cls(**values)


def _convert(key: str, value: Any, annotation: str) -> Any:
    kind, _, optional = annotation.partition(" | ")
    kind = "str" if kind.startswith("Literal") else kind
    if value is None and optional:
        return None
    try:
        if kind == "bool":
            return _truth(value)
        if kind.startswith("tuple"):
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(float(part) for part in parts)
        number = {"int": int, "float": float, "str": str, "Path": Path}[kind](value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"training option {key} must be {annotation}, got {value!r}") from error
    if kind == "int" and (isinstance(value, bool) or (isinstance(value, float) and value != number)):
        raise UsageError(f"training option {key} must be {annotation}, got {value!r}")
    return number


def _truth(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]
