"""Poses in a predictions file: their fields, and the columns that are measured.

Fields of a detection: ``R`` (3 x 3, camera from object) or ``rot6d`` (its first two rows as six numbers), ``depth`` and
``t_xyz`` in metres, ``center_px``. Unlike a box, a pose may be lacking or not finite: such a value becomes NaN, which
counts as the worst possible where it is measured and never makes a number better. What has another shape is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ContractError, InputError
from bench.posing.rotations import rotation_from_rows6
from bench.predictions.fields import describe
from bench.schema import from_number
from bench.types import POSE_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, FixtureSet, Prediction

FIELDS = {"rotation": "R", "depth_m": "depth", "translation_m": "t_xyz", "center_px": "center_px"}
"""Attribute -> field of a detection."""
ROT6D = "rot6d"
_TAKEN = ("image", "image_id", "detections", "class_id", "category_id", "score", "bbox", "keypoints", ROT6D)


def has_poses(fixtures: FixtureSet) -> bool:
    """Whether any object of a set has a true pose; otherwise those of a file are not read."""
    return any("rotation" in a or "depth_m" in a for a in fixtures.annotations)


def pose_columns(prediction: Prediction, where: str) -> dict[str, list[Any]]:
    """Field -> a JSON value per detection, of all attributes; those without a field of their own keep their name.

    Raises:
        ContractError: rows that do not fit, or the name of another field.
    """
    columns: dict[str, list[Any]] = {}
    for name, values in (prediction.attributes or {}).items():
        rows = np.asarray(values, np.float64)
        field, shape = FIELDS.get(name, name), POSE_ATTRIBUTES.get(name)
        if len(rows) != len(prediction.scores) or (shape is not None and rows.shape[1:] != shape):
            expected = f"({len(prediction.scores)}, {', '.join(map(str, shape)) if shape is not None else '...'})"
            raise ContractError(f"{where}: attribute '{name}' must be {expected}, got {rows.shape}")
        if field in _TAKEN or (field in FIELDS.values() and name not in FIELDS):
            raise ContractError(f"{where}: attribute '{name}' has the name of another field; call it something else")
        columns[field] = rows.tolist()
    return columns


def read_pose(item: Mapping[str, Any]) -> dict[str, Any]:
    """Attribute -> nested list of floats, of the pose fields that a detection has; ``rot6d`` as it stands.

    Raises:
        InputError: a field of another shape, or something else than a number in it; without a place.
    """
    shapes = {FIELDS[name]: shape for name, shape in POSE_ATTRIBUTES.items()} | {ROT6D: (6,)}
    names = {field: name for name, field in FIELDS.items()} | {ROT6D: ROT6D}
    return {
        names[field]: _numbers(item[field], shape, field)
        for field, shape in shapes.items()
        if item.get(field) is not None
    }


def pose_table(poses: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Attribute -> (N, ...) float64 of those that any detection has; NaN where one lacks it."""
    table: dict[str, Array] = {}
    for name, shape in {**POSE_ATTRIBUTES, ROT6D: (6,)}.items():
        if any(name in pose for pose in poses):
            lacking = np.full(shape, np.nan)
            table[name] = np.array([pose.get(name, lacking) for pose in poses], np.float64)
    six = table.pop(ROT6D, None)
    if six is not None:
        rotations = rotation_from_rows6(six)
        given = np.array(["rotation" in pose for pose in poses])
        if "rotation" in table:  # R says more than its first two rows
            rotations[given] = table["rotation"][given]
        table["rotation"] = rotations
    return table


def _numbers(value: Any, shape: tuple[int, ...], field: str) -> Any:
    """Nested lists of the asked shape, numbers in words (``nan``) included."""
    if not shape:
        number = from_number(value)
        if type(number) not in (int, float):
            raise InputError(f"field '{field}' must be a number, got {describe(value)}")
        try:
            return float(number)
        except OverflowError:
            return float("inf")
    if not isinstance(value, list) or len(value) != shape[0]:
        got = f"{len(value)} of them" if isinstance(value, list) else describe(value)
        what = "numbers" if len(shape) == 1 else f"lists of {shape[1]} numbers"
        raise InputError(f"field '{field}' must be a list of {shape[0]} {what}, got {got}")
    return [_numbers(inner, shape[1:], field) for inner in value]
