"""Keypoints of a predictions file: which detections need them, and the table that OKS reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.errors import InputError

if TYPE_CHECKING:
    from bench.predictions.columns import Columns
    from bench.types import Array, FixtureSet

_FIELDS = ("x", "y", "score")


def keypoint_categories(fixtures: FixtureSet) -> dict[int, int]:
    """Category id -> number of keypoints, for the categories that name theirs or give their sigmas."""
    found = {int(c["id"]): c.get("keypoints") or c.get("sigmas") for c in fixtures.categories}
    return {category: len(listed) for category, listed in found.items() if isinstance(listed, list)}


def keypoint_table(columns: Columns, fixtures: FixtureSet) -> Array | None:
    """Check all keypoints and put them into one array.

    Returns:
        (N, K, 3) float64: x px, y px, score; zeros for a detection of a category without keypoints. None when no
        detection has keypoints.

    Raises:
        InputError: a detection lacks its keypoints while others have theirs, has another number of them than its
            category, or one of their numbers is not finite.
    """
    if columns.keypoints is None:
        return None
    counts = keypoint_categories(fixtures)
    most = max(counts.values())
    expected = [counts.get(category, 0) for category in columns.category_ids.tolist()]
    flat: list[list[float] | tuple[float, ...]] = []
    for row, (points, count) in enumerate(zip(columns.keypoints, expected, strict=True)):
        if count and (points is None or len(points) != 3 * count):
            found = "no keypoints" if points is None else f"{len(points)} keypoint numbers"
            raise InputError(
                f"{columns.place(row)}: has {found}, its category has {count} keypoints, 3 numbers each; "
                "to score the boxes alone say --task detect"
            )
        if not count and not columns.has_box[row]:
            raise InputError(f"{columns.place(row)}: field 'bbox' is missing; its category has no keypoints")
        flat.append(points if count and points is not None else ())
    table = np.zeros((len(flat), 3 * most))
    lengths = np.fromiter(map(len, flat), np.int64, len(flat))
    table[np.arange(3 * most) < lengths[:, None]] = np.fromiter(
        (number for points in flat for number in points), np.float64, int(lengths.sum())
    )
    finite = np.isfinite(table)
    if not finite.all():
        row, at = (int(i) for i in np.argwhere(~finite)[0])
        raise InputError(
            f"{columns.place(row)}: field 'keypoint {at // 3} {_FIELDS[at % 3]}' is {table[row, at]:g}, not finite; "
            "repair the model or the export that made it"
        )
    return table.reshape(len(flat), most, 3)
