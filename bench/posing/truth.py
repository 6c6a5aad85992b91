"""True poses of a fixture set as arrays, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.posing.rotations import is_rotation
from bench.scoring.sigmas import keypoint_sigmas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array, FixtureSet

_FIELDS: dict[str, tuple[int, ...]] = {"rotation": (3, 3), "depth_m": (), "center_px": (2,)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoseTruth:
    """I images and their G objects that are no crowd, in the order of the file; NaN where an object has no such truth.

    Objects without any pose are there too: they take part in the matching.
    """

    name: str
    """Of the fixture set."""
    image_ids: Array
    """(I,) int64, ascending; those without objects included."""
    cameras: Array
    """(I, 4) float64: fx, fy, cx, cy in pixels; NaN where the set does not say."""
    image: Array
    """(G,) int64, index into ``image_ids``."""
    category_ids: Array
    """(G,) int64."""
    boxes_xywh: Array
    """(G, 4) float64, pixels."""
    area_px2: Array
    """(G,) float64."""
    symmetry: Array
    """(G,) int64: turns about the object's z axis that leave it unchanged; 0 when every one does."""
    rotation: Array
    """(G, 3, 3) float64, camera from object."""
    depth_m: Array
    """(G,) float64, of the centre."""
    center_px: Array
    """(G, 2) float64, projection of the centre."""
    keypoints_xyv: Array | None
    """(G, K, 3) float64, v = 0 for the others'; None for a set without keypoints."""
    sigmas: Array | None
    """(K,) float64, or None."""

    def __len__(self) -> int:
        """G."""
        return len(self.image)

    @property
    def posed(self) -> Array:
        """(G,) bool: has a rotation or a depth."""
        return ~np.isnan(self.depth_m) | ~np.isnan(self.rotation[:, 0, 0])

    @property
    def translation_m(self) -> Array:
        """(G, 3) float64, of the centre in camera coordinates; NaN where depth, centre or camera is not given."""
        return back_project(self.center_px, self.depth_m, self.cameras[self.image])


def back_project(center_px: Array, depth_m: Array, cameras: Array) -> Array:
    """(N, 2) pixels, (N,) depths, (N, 4) fx fy cx cy -> (N, 3) x right, y down, z forward, in the depth's unit."""
    with np.errstate(invalid="ignore", over="ignore"):
        sideways = (center_px - cameras[:, 2:]) / cameras[:, :2] * depth_m[:, None]
        return np.concatenate((sideways, depth_m[:, None]), axis=1)


def pose_truth(fixtures: FixtureSet) -> PoseTruth | None:
    """Collect what a set says of its objects' poses; None when no object has a rotation or a depth.

    Raises:
        InputError: a pose that cannot be, with annotation and field; keypoints without known sigmas.
    """
    rows = [a for a in fixtures.annotations if not a.get("iscrowd", 0)]
    if not any("rotation" in a or "depth_m" in a for a in rows):
        return None
    samples = sorted(fixtures.samples, key=lambda s: s.image_id)
    image_ids = np.array([s.image_id for s in samples], np.int64)
    columns = {name: _column(fixtures.name, rows, name, shape) for name, shape in _FIELDS.items()}
    _refuse_impossible(fixtures.name, rows, columns)
    orders = {int(c["id"]): _symmetry(fixtures.name, c) for c in fixtures.categories}
    keypoints, sigmas = _keypoints(fixtures, rows)
    return PoseTruth(
        name=fixtures.name,
        image_ids=image_ids,
        cameras=np.array([s.camera or (np.nan,) * 4 for s in samples], np.float64).reshape(-1, 4),
        image=np.searchsorted(image_ids, np.array([a["image_id"] for a in rows], np.int64)),
        category_ids=np.array([a["category_id"] for a in rows], np.int64),
        boxes_xywh=np.array([a["bbox"] for a in rows], np.float64).reshape(-1, 4),
        area_px2=np.array([a["area"] for a in rows], np.float64),
        symmetry=np.array([orders[a["category_id"]] for a in rows], np.int64),
        keypoints_xyv=keypoints,
        sigmas=sigmas,
        **columns,
    )


def _column(name: str, rows: Sequence[Mapping[str, Any]], field: str, shape: tuple[int, ...]) -> Array:
    """(G, *shape) float64, NaN where the field is absent."""
    column = np.full((len(rows), *shape), np.nan)
    for number, row in enumerate(rows):
        if row.get(field) is None:
            continue
        try:
            value = np.array(row[field], np.float64)
        except (TypeError, ValueError):
            value = np.zeros(0)
        if value.shape != shape or not np.isfinite(value).all():
            what = "a finite number" if not shape else f"{' x '.join(map(str, shape))} finite numbers"
            raise InputError(f"{_where(name, row, number)}: field '{field}' must be {what}")
        column[number] = value
    return column


def _refuse_impossible(name: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Array]) -> None:
    rotation, depth_m = columns["rotation"], columns["depth_m"]
    for field, wrong, what in (
        ("rotation", ~is_rotation(rotation) & ~np.isnan(rotation[:, 0, 0]), "is no rotation matrix"),
        ("depth_m", ~(depth_m > 0) & ~np.isnan(depth_m), "must be above 0"),
    ):
        if wrong.any():
            number = int(np.argmax(wrong))
            raise InputError(f"{_where(name, rows[number], number)}: field '{field}' {what}: {rows[number][field]}")


def _symmetry(name: str, category: Mapping[str, Any]) -> int:
    value = category.get("symmetry", 1)
    if type(value) is not int or value < 0:
        raise InputError(
            f"fixture set '{name}': category {category['id']}: field 'symmetry' must be a whole number: how many turns "
            f"about its z axis leave the object unchanged, 0 for all; got {value!r}"
        )
    return value


def _keypoints(fixtures: FixtureSet, rows: Sequence[Mapping[str, Any]]) -> tuple[Array | None, Array | None]:
    if not any(c.get("keypoints") or c.get("sigmas") for c in fixtures.categories):
        return None, None
    chosen, sigmas = keypoint_sigmas(fixtures)
    pointed = {int(c["id"]) for c in chosen}
    keypoints = np.zeros((len(rows), len(sigmas), 3))
    for number, row in enumerate(rows):
        if row["category_id"] in pointed and row.get("keypoints"):
            flat = np.array(row["keypoints"], np.float64)
            if flat.size != 3 * len(sigmas) or not np.isfinite(flat).all():
                raise InputError(
                    f"{_where(fixtures.name, row, number)}: field 'keypoints' must be {3 * len(sigmas)} finite numbers"
                )
            keypoints[number] = flat.reshape(-1, 3)
    return keypoints, sigmas


def _where(name: str, row: Mapping[str, Any], number: int) -> str:
    return f"fixture set '{name}': annotation {row.get('id', f'number {number}')}"
