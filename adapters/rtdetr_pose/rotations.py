"""Rotations: from six numbers, and angles between them whose gradient is finite everywhere. N objects."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bench.errors import UsageError

LEAST_LENGTH = 1e-6
"""Below this a vector has no direction; keeps the gradient finite."""


def matrix_from_rot6d(rot6d: Tensor) -> Tensor:
    """(..., 6) -> (..., 3, 3): Gram-Schmidt of two vectors and their cross product, as rows.

    The representation is that of Zhou et al. (arXiv 1812.07035), who stack columns; upstream stacks rows, and so do its
    weights.
    """
    first = functional.normalize(rot6d[..., :3], dim=-1, eps=LEAST_LENGTH)
    second = rot6d[..., 3:]
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1, eps=LEAST_LENGTH)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -2)


def geodesic_angle(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3, 3) rotations -> (...) angle between them in radians, 0 to pi.

    ``atan2`` of sine and cosine: the slope is at most 1 everywhere, while that of ``acos`` is infinite at 0 and pi. At
    exactly 0 and pi, where the angle has a kink, the gradient is 0.
    """
    relative = a.transpose(-1, -2) @ b
    skew = torch.stack(
        (
            relative[..., 2, 1] - relative[..., 1, 2],
            relative[..., 0, 2] - relative[..., 2, 0],
            relative[..., 1, 0] - relative[..., 0, 1],
        ),
        -1,
    )
    sine = torch.linalg.vector_norm(skew, dim=-1) / 2
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(sine, cosine)


def axis_angle(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3, 3) rotations -> (...) angle in radians between their third columns (an object's own normal)."""
    first, second = a[..., 2], b[..., 2]
    sine = torch.linalg.vector_norm(torch.linalg.cross(first, second), dim=-1)
    return torch.atan2(sine, (first * second).sum(-1))


def about_normal(angles: Tensor) -> Tensor:
    """(...) radians -> (..., 3, 3) rotation about the z axis of the object."""
    c, s, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    return torch.stack((c, -s, zero, s, c, zero, zero, zero, one), -1).unflatten(-1, (3, 3))


def symmetric_angle(predicted: Tensor, true: Tensor, orders: Tensor) -> Tensor:
    """Angle to the nearest of the rotations that look the same.

    Args:
        predicted: (N, 3, 3), camera from object.
        true: (N, 3, 3).
        orders: (N,) int64: how many turns about the object's own z axis change nothing; 1 none but the full one, 0 all
            of them.

    Returns:
        (N,) radians. The nearest is chosen without a gradient, which then flows through the angle to it.
    """
    if len(orders) == 0:
        return predicted.sum((-1, -2))
    most = max(int(orders.max()), 1)
    steps = torch.arange(most, device=true.device)[None]
    counts = orders.clamp(min=1)[:, None]
    turns = about_normal((steps % counts).to(true.dtype) * (2 * math.pi) / counts)
    candidates = true[:, None] @ turns
    # the largest trace of the relative rotation is the smallest angle
    nearness = (predicted.detach()[:, None] * candidates).sum((-1, -2))
    nearest = candidates[torch.arange(len(true), device=true.device), nearness.argmax(1)]
    return torch.where(orders == 0, axis_angle(predicted, true), geodesic_angle(predicted, nearest))


def check_symmetries(orders: Sequence[int], classes: int) -> tuple[int, ...]:
    """Return one order of symmetry per class.

    Raises:
        UsageError: another count than classes, or a negative order.
    """
    if len(orders) != classes:
        raise UsageError(f"symmetries must name {classes} classes, got {len(orders)}")
    if min(orders) < 0:
        raise UsageError(f"a symmetry is a count of turns, 0 for all: got {min(orders)}")
    return tuple(orders)
