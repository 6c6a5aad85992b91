"""Angles between rotations, up to the symmetry of the object that turns. Pure numpy, float64.

Rotations are (..., 3, 3) matrices, camera from object, in which an object's symmetry axis is its own z axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bench.types import Array

WORST_DEG = 180.0
"""No two rotations are further apart: what a rotation that is none counts as."""
_ORTHOGONAL = 1e-2
"""Largest entry of R'R - I of a rotation: one stored in half precision is off by 2e-3."""


def geodesic_deg(found: Array, wanted: Array) -> Array:
    """Angle of the one turn that leads from one rotation to the other.

    By atan2 of its sine and cosine: acos of the trace loses half of the digits near 0, asin near 180 degrees.

    Args:
        found: (..., 3, 3).
        wanted: (..., 3, 3).

    Returns:
        (...) degrees in 0..180; NaN where a value is not finite.
    """
    relative = np.swapaxes(np.asarray(wanted, np.float64), -1, -2) @ np.asarray(found, np.float64)
    skew = relative - np.swapaxes(relative, -1, -2)
    sine = np.sqrt(np.square(skew).sum(axis=(-1, -2)) / 8.0)  # |R - R'| is 2 sqrt(2) sin
    cosine = (np.trace(relative, axis1=-2, axis2=-1) - 1.0) / 2.0
    angle: Array = np.degrees(np.arctan2(sine, cosine))
    return angle


def symmetric_deg(found: Array, wanted: Array, symmetry: Array) -> Array:
    """Smallest angle over the turns about the object's z axis that leave it unchanged.

    Args:
        found: (N, 3, 3).
        wanted: (N, 3, 3).
        symmetry: (N,) int, how many such turns the object has, 1 for none but the whole one; 0: every turn is one.

    Returns:
        (N,) degrees in 0..180; NaN where a value is not finite.
    """
    found, wanted = np.array(found, np.float64), np.asarray(wanted, np.float64)
    found[~np.isfinite(found).all(axis=(1, 2))] = np.nan  # an infinity has no product
    angles = np.full(len(found), np.nan)
    for order in np.unique(symmetry).tolist():
        rows = symmetry == order
        if order == 0:
            angles[rows] = _between_deg(found[rows, :, 2], wanted[rows, :, 2])
            continue
        turned = found[rows][:, None] @ about_z(2 * np.pi * np.arange(order) / order)
        angles[rows] = geodesic_deg(turned, wanted[rows][:, None]).min(axis=1)  # min keeps NaN
    return angles


def reversed_in_depth(rotations: Array) -> Array:
    """(..., 3, 3) rotations of flat objects (Z = 0) that look the same under weak perspective: tilted the other way.

    A weakly perspective picture holds the upper left 2x2 block alone, and two rotations have the same one.
    """
    flips = np.array([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    turned: Array = np.asarray(rotations, np.float64) * flips
    return turned


def about_z(radians: Array) -> Array:
    """(...) angles -> (..., 3, 3) rotations about z."""
    cosine, sine = np.cos(radians), np.sin(radians)
    turned = np.zeros((*np.shape(radians), 3, 3))
    turned[..., 0, 0], turned[..., 0, 1] = cosine, -sine
    turned[..., 1, 0], turned[..., 1, 1] = sine, cosine
    turned[..., 2, 2] = 1.0
    return turned


def is_rotation(matrices: Array) -> Array:
    """(N, 3, 3) -> (N,) bool: finite, orthogonal, not a reflection."""
    matrices = np.asarray(matrices, np.float64)
    finite = np.isfinite(matrices).all(axis=(1, 2))
    safe = np.where(finite[:, None, None] & (np.abs(matrices) < 2.0), matrices, 0.0)
    off = np.abs(np.swapaxes(safe, -1, -2) @ safe - np.eye(3)).max(axis=(1, 2), initial=0.0)
    proper: Array = (off <= _ORTHOGONAL) & (np.linalg.det(safe) > 0)
    return proper


def rotation_from_rows6(values: Array) -> Array:
    """(N, 6), two rows that need be neither orthogonal nor of unit length -> (N, 3, 3), the third row their product.

    NaN where a value is not finite or the two rows are parallel.
    """
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        first = values[:, :3] / np.linalg.norm(values[:, :3], axis=1, keepdims=True)
        rest = values[:, 3:] - (first * values[:, 3:]).sum(axis=1, keepdims=True) * first
        second = rest / np.linalg.norm(rest, axis=1, keepdims=True)
        rotations = np.stack((first, second, np.cross(first, second)), axis=1)
    rotations[~is_rotation(rotations)] = np.nan
    return rotations


def _between_deg(found: Array, wanted: Array) -> Array:
    """(N, 3), (N, 3) directions -> (N,) degrees."""
    sine = np.linalg.norm(np.cross(found, wanted), axis=-1)
    angle: Array = np.degrees(np.arctan2(sine, (found * wanted).sum(axis=-1)))
    return angle
