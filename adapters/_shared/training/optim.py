"""Parameter groups, optimizers, and the learning rate over a run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from adapters._shared.training.config import TrainConfig

BETAS = (0.9, 0.99)
"""Of AdamW; the second is below torch's 0.999 because the runs here are a few thousand steps long."""


def parameter_groups(
    network: torch.nn.Module, config: TrainConfig, backbone: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Split the trainable parameters by weight decay and by learning rate.

    Args:
        network: parameters with ``requires_grad`` count.
        config: ``lr``, ``backbone_lr``, ``weight_decay``.
        backbone: prefixes of parameter names that learn at ``backbone_lr`` times the rate.

    Returns:
        At most four groups, named ``backbone``/``rest`` and ``decay``/``plain``; empty ones are left out. Biases and
        norms (parameters with one axis) have no decay.
    """
    groups: dict[tuple[str, str], list[torch.nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            part = "backbone" if backbone and name.startswith(backbone) else "rest"
            groups.setdefault((part, "decay" if parameter.ndim > 1 else "plain"), []).append(parameter)
    return [
        {
            "name": f"{part}-{kind}",
            "params": parameters,
            "lr": config.lr * (config.backbone_lr if part == "backbone" else 1.0),
            "weight_decay": config.weight_decay if kind == "decay" else 0.0,
        }
        for (part, kind), parameters in sorted(groups.items())
    ]


def make_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=BETAS)


def rate_at(config: TrainConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate after ``step`` steps as a share of its peak: warm-up times schedule.

    Args:
        config: ``schedule`` and its numbers, ``warmup_steps``.
        total_steps: at which the schedule ends; it stays at its last value beyond.
    """

    def share(step: int) -> float:
        done = min(step / max(total_steps, 1), 1.0)
        warm = min((step + 1) / max(config.warmup_steps, 1), 1.0)
        if config.schedule == "multistep":
            return float(warm * config.gamma ** bisect_right(config.milestones, done))
        left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
        return warm * (config.final_lr + (1 - config.final_lr) * left)

    return share
