"""Whether two predictions files can be compared: the same images, the same protocol, not the same file twice. Pure.

A file with an entry per image lists its images. A COCO results list does not: there an image that was run and has no
detection looks like one that was never run. So an image that only one of two files has is refused where the other file
lists its images, and from ``TOLERATED_SHARE`` of the images on where it does not; below, it counts as an image without
detections, which is the careful reading: it costs the file that lacks it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError
from bench.protocols import Mismatch

if TYPE_CHECKING:
    from pathlib import Path

    from bench.predictions.read import PredictionsFile
    from bench.protocols import Protocol
    from bench.scoring.table import Detections
    from bench.types import Array, FixtureSet

TOLERATED_SHARE = 0.05
"""Of the images with detections in either results list. Detectors with a low score floor find something on nearly
every image: FastestDet at 0.001 leaves none of the 128 of coco128 without."""
_PROTOCOL_FIELDS = ("score_floor", "max_detections")
_FEW_SCORES = 0.05
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two files."""

    path: Path
    read: PredictionsFile

    @property
    def has(self) -> frozenset[int]:
        """Ids of the images that the file lists, or of those with a detection where it lists none."""
        if self.read.listed is not None:
            return self.read.listed
        return frozenset(np.unique(self.read.detections.image_ids).tolist())

    def keep(self, image_ids: frozenset[int]) -> Side:
        """Only the detections on these images."""
        found = self.read.detections
        kept = np.isin(found.image_ids, np.fromiter(image_ids, np.int64, len(image_ids)))
        listed = None if self.read.listed is None else self.read.listed & image_ids
        return replace(self, read=replace(self.read, detections=found.take(kept), listed=listed))


def refuse_other_fixtures(candidate: Side, reference: Side) -> None:
    """Refuse files that say they were made on different versions of a set; InputError names both."""
    ours, theirs = (side.read.meta.get("fixtures_sha256") for side in (candidate, reference))
    if ours is not None and theirs is not None and ours != theirs:
        raise InputError(
            f"{candidate.path} was made on fixtures {str(ours)[:12]}, {reference.path} on {str(theirs)[:12]}: other "
            "images or another ground truth; predict both on one set"
        )


def check_images(candidate: Side, reference: Side, fixtures: FixtureSet) -> tuple[str, ...]:
    """Refuse files over different image sets.

    Returns:
        Warnings about images that only one file has, where that may be by chance.

    Raises:
        InputError: says which images differ and how to go on.
    """
    warnings = []
    for one, other in ((candidate, reference), (reference, candidate)):
        lacking = one.has - other.has
        held = lacking
        if other.read.listed is None:
            # a results list cannot lack an image on which nothing was found
            held = lacking & frozenset(np.unique(one.read.detections.image_ids).tolist())
        if not held:
            continue
        what = f"{len(held)} of {len(one.has | other.has)} images are in {one.path.name} and not in {other.path.name}"
        shown = f"{what} ({_names(held, fixtures)})"
        if other.read.listed is not None or len(held) > TOLERATED_SHARE * len(one.has | other.has):
            raise InputError(
                f"{candidate.path} and {reference.path} are over different images: {shown}; predict both on the same "
                f"images, or say --intersect to compare those that both have{_hint(other)}"
            )
        warnings.append(f"{shown}: they count as images without detections there")
    both_list = candidate.read.listed is not None and reference.read.listed is not None
    absent = len(fixtures.samples) - len(candidate.has | reference.has)
    if both_list and absent > TOLERATED_SHARE * len(fixtures.samples):
        raise InputError(
            f"{candidate.path} and {reference.path} list {len(candidate.has)} of the {len(fixtures.samples)} images of "
            f"'{fixtures.name}': the others would count as images without detections on both sides and dilute every "
            "difference; predict all of them, or say --intersect to compare those that both have"
        )
    return tuple(warnings)


def _hint(lacking: Side) -> str:
    if lacking.read.listed is not None:
        return ""
    return f" ({lacking.path.name} is a results list: only the wrapped form can say that an image was run for nothing)"


def intersect(candidate: Side, reference: Side, fixtures: FixtureSet) -> tuple[Side, Side, FixtureSet]:
    """Both files and the ground truth on the images that both have.

    Raises:
        InputError: there is no such image.
    """
    both = candidate.has & reference.has
    if not both:
        raise InputError(f"{candidate.path} and {reference.path} have no image in common")
    kept = replace(
        fixtures,
        samples=tuple(s for s in fixtures.samples if s.image_id in both),
        annotations=tuple(a for a in fixtures.annotations if a["image_id"] in both),
    )
    return candidate.keep(both), reference.keep(both), kept


def protocol_differences(candidate: Side, reference: Side) -> tuple[str, ...]:
    """Settings that both files state and that differ: their deltas are not the backend's alone."""
    found = []
    for name in _PROTOCOL_FIELDS:
        ours, theirs = (side.read.meta.get(name) for side in (candidate, reference))
        if ours is not None and theirs is not None and ours != theirs:
            found.append(f"{name} {_short(ours)} against {_short(theirs)}")
    return tuple(found)


def contradictions(protocol: Protocol, detections: Detections) -> list[Mismatch]:
    """What the detections themselves show of a protocol that was not followed, whatever the file states."""
    found, wanted = [], protocol.conditions
    floor, most = wanted.get("score_threshold"), wanted.get("max_detections")
    if floor is not None and len(detections):
        # scores are float32 as a model gives them: one at the floor may be written just below it
        least = float(detections.scores.min())
        if least < floor - 1e-6:
            found.append(Mismatch(field="score_threshold", wanted=f"{floor}", found=f"a detection with {least:.4g}"))
    if most is not None and len(detections):
        counts = np.unique(detections.image_ids, return_counts=True)[1]
        if counts.max() > most:
            found.append(Mismatch(field="max_detections", wanted=f"{most}", found=f"{counts.max()} of one image"))
    return found


def doubts(candidate: Side, reference: Side) -> tuple[str, ...]:
    """What a person should know about a pair before believing its delta."""
    ours, theirs = candidate.read.detections, reference.read.detections
    if len(ours) and _equal(ours, theirs):
        return (f"{candidate.path.name} and {reference.path.name} hold the same detections, digit for digit",)
    found = []
    for one, other in ((candidate, reference), (reference, candidate)):
        mine, yours = one.read.detections.scores, other.read.detections.scores
        if not len(mine) or not len(yours):
            continue
        floor = float(mine.min())
        below = float(np.mean(yours < floor - 0.01))
        if below > _FEW_SCORES:
            found.append(
                f"no score in {one.path.name} is below {floor:.4f}, {100 * below:.0f} % of those in {other.path.name} "
                "are: was one cut at a higher score floor? That alone moves AP"
            )
    return tuple(found)


def _equal(ours: Detections, theirs: Detections) -> bool:
    """The same boxes, classes, scores, keypoints and attributes."""

    def columns(of: Detections) -> dict[str, Array]:
        plain = ("image_ids", "category_ids", "boxes_xywh", "scores")
        points = {} if of.keypoints_xyv is None else {"keypoints_xyv": of.keypoints_xyv}
        return {**{name: getattr(of, name) for name in plain}, **points, **of.attributes}

    one, other = columns(ours), columns(theirs)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


def _names(image_ids: frozenset[int], fixtures: FixtureSet) -> str:
    paths = {sample.image_id: sample.path.name for sample in fixtures.samples}
    first = sorted(image_ids)[:_SHOWN]
    return ", ".join(f"{paths[i]} (id {i})" for i in first) + (", ..." if len(image_ids) > len(first) else "")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else f"{value!r:.40}"
