"""Ground truth of a fixture set as arrays, checked, sorted as the matcher reads it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.scoring.sigmas import keypoint_sigmas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.scoring.protocol import Task
    from bench.types import Array, FixtureSet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """I images, C categories, G annotations sorted by category, then image, then their order in the file."""

    name: str
    """Of the fixture set."""
    task: Task
    image_ids: Array
    """(I,) int64, ascending; images without annotations included."""
    category_ids: Array
    """(C,) int64, ascending; for pose those that have keypoints."""
    category_names: tuple[str, ...]
    all_category_ids: Array
    """int64; for pose also those without keypoints."""
    named_categories: bool
    image: Array
    """(G,) int32, index into ``image_ids``."""
    category: Array
    """(G,) int32, index into ``category_ids``."""
    boxes_xywh: Array
    """(G, 4) float64, pixels."""
    area_px2: Array
    """(G,) float64, the annotation's own (of its mask, in COCO)."""
    crowd: Array
    """(G,) bool: may match many detections, overlap counts against the detection's area."""
    ignored: Array
    """(G,) bool: crowd, or without a labelled keypoint when those are scored."""
    keypoints_xyv: Array | None
    """(G, K, 3) float64, or None for boxes."""
    sigmas: Array | None
    """(K,) float64, or None for boxes."""

    def __len__(self) -> int:
        """G."""
        return len(self.area_px2)

    def differs_from(self, other: Truth) -> str | None:
        """Say in what another truth differs, or None when detections scored against either can be compared."""
        if self.task != other.task:
            return f"one is scored as {self.task}, the other as {other.task}"
        for what, name in (("images", "image_ids"), ("categories", "category_ids")):
            mine, theirs = getattr(self, name), getattr(other, name)
            only = np.setxor1d(mine, theirs)
            if len(only):
                listed = ", ".join(str(i) for i in only[:5]) + (", ..." if len(only) > 5 else "")
                return f"{len(only)} {what} are in one of the two sets only: {listed}"
        columns = ("image", "category", "boxes_xywh", "area_px2", "crowd", "ignored", "keypoints_xyv", "sigmas")
        for name in columns:
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine is None) != (theirs is None) or (mine is not None and not np.array_equal(mine, theirs)):
                return f"their ground truth differs (column {name})"
        return None


def truth_arrays(fixtures: FixtureSet, *, task: Task = "detect") -> Truth:
    """Check the annotations of a set and put them into columns.

    Args:
        fixtures: images, categories, annotations.
        task: ``pose`` keeps only the categories that have keypoints.

    Raises:
        InputError: an id used twice, an unknown image or category, a missing or non-finite value, keypoints that do not
            agree with their names or sigmas.
    """
    image_ids = np.unique(np.array([s.image_id for s in fixtures.samples], np.int64))
    known_ids = np.unique(np.array([c["id"] for c in fixtures.categories], np.int64))
    boxes_xywh, area_px2 = _checked_columns(fixtures, set(image_ids.tolist()), set(known_ids.tolist()))
    sigmas = None
    chosen: Sequence[Mapping[str, Any]] = fixtures.categories
    if task == "pose":
        chosen, sigmas = keypoint_sigmas(fixtures)
    names = {int(c["id"]): str(c.get("name", c["id"])) for c in chosen}
    category_ids = np.array(sorted(names), np.int64)
    kept = [a["category_id"] in names for a in fixtures.annotations]
    rows: Sequence[Mapping[str, Any]] = fixtures.annotations
    if not all(kept):
        rows = list(compress(fixtures.annotations, kept))
        boxes_xywh, area_px2 = boxes_xywh[kept], area_px2[kept]
    image = np.searchsorted(image_ids, np.array([a["image_id"] for a in rows], np.int64)).astype(np.int32)
    category = np.searchsorted(category_ids, np.array([a["category_id"] for a in rows], np.int64)).astype(np.int32)
    order = np.lexsort((image, category))
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in rows], bool)
    ignored = crowd
    keypoints = None
    if sigmas is not None:
        keypoints = _keypoints(fixtures.name, rows, len(sigmas))
        visible = np.count_nonzero(keypoints[:, :, 2] > 0, axis=1)
        declared = [a.get("num_keypoints", count) for a, count in zip(rows, visible.tolist(), strict=True)]
        ignored = crowd | (np.array(declared, np.int64) == 0)
        keypoints = keypoints[order]
    return Truth(
        name=fixtures.name,
        task=task,
        image_ids=image_ids,
        category_ids=category_ids,
        category_names=tuple(names[i] for i in category_ids.tolist()),
        all_category_ids=known_ids,
        named_categories=fixtures.named_categories,
        image=image[order],
        category=category[order],
        boxes_xywh=boxes_xywh[order],
        area_px2=area_px2[order],
        crowd=crowd[order],
        ignored=ignored[order],
        keypoints_xyv=keypoints,
        sigmas=sigmas,
    )


def _checked_columns(fixtures: FixtureSet, images: set[int], categories: set[int]) -> tuple[Array, Array]:
    """Check all annotations; return their boxes (G, 4) and areas (G,), float64, in their order."""
    if not _all_listed(fixtures.annotations, images, categories):
        _check_each(fixtures, images, categories)
    # no tuple per annotation: with 500,000 detections in memory their making starts a collection of 0.06 s
    flat = list(chain.from_iterable([a["bbox"] for a in fixtures.annotations]))
    boxes: Array = np.array(flat, np.float64).reshape(-1, 4)
    areas: Array = np.array([a["area"] for a in fixtures.annotations], np.float64)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(areas)
    if not finite.all():
        number = int(np.argmin(finite))
        raise InputError(
            f"{_where(fixtures.name, fixtures.annotations[number], number)}: bbox or area is not finite: "
            f"{(*fixtures.annotations[number]['bbox'], fixtures.annotations[number]['area'])}"
        )
    return boxes, areas


def _all_listed(annotations: Sequence[Mapping[str, Any]], images: set[int], categories: set[int]) -> bool:
    """Whether ids, images, categories and areas are beyond doubt, asked of whole columns."""
    try:
        ids, image_ids, category_ids, _ = (
            [a[f] for a in annotations] for f in ("id", "image_id", "category_id", "area")
        )
    except KeyError:
        return False
    unique = len(set(ids)) == len(ids) and None not in ids
    listed = images.issuperset(image_ids) and categories.issuperset(category_ids)
    return unique and listed


def _check_each(fixtures: FixtureSet, images: set[int], categories: set[int]) -> None:
    seen: set[Any] = set()
    for number, annotation in enumerate(fixtures.annotations):
        found = annotation.get("id")
        if found is not None:
            if found in seen:
                where = _where(fixtures.name, annotation, number)
                raise InputError(f"{where}: the id is used twice; ground-truth ids must be unique")
            seen.add(found)
        for field, known in (("image_id", images), ("category_id", categories)):
            if annotation[field] not in known:
                raise InputError(
                    f"{_where(fixtures.name, annotation, number)}: {field} {annotation[field]} is not listed in the set"
                )
        if "area" not in annotation:
            raise InputError(
                f"{_where(fixtures.name, annotation, number)}: field 'area' is missing; small, medium and large are "
                "told apart by it"
            )


def _where(name: str, annotation: Mapping[str, Any], number: int) -> str:
    return f"fixture set '{name}': annotation {annotation.get('id', f'number {number}')}"


def _keypoints(name: str, rows: Sequence[Mapping[str, Any]], count: int) -> Array:
    flat = []
    for number, annotation in enumerate(rows):
        values = annotation.get("keypoints")
        if values is None or len(values) != 3 * count:
            found = "has no keypoints" if values is None else f"has {len(values)} keypoint numbers"
            raise InputError(f"{_where(name, annotation, number)}: {found}, {count} sigmas need {3 * count}")
        flat.append(values)
    keypoints = np.array(flat, np.float64).reshape(-1, count, 3)
    finite = np.isfinite(keypoints).all(axis=(1, 2))
    if not finite.all():
        number = int(np.argmin(finite))
        raise InputError(f"{_where(name, rows[number], number)}: a keypoint is not finite")
    return keypoints
