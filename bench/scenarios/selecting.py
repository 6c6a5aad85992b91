"""The part of a set that a selecting scenario scores: fewer images, or fewer objects that count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.errors import Unsupported
from bench.report.numbers import plural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.scenarios.definitions import Scenario
    from bench.types import FixtureSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A part of a set; without ``area_px2`` every object that is no crowd region counts."""

    fixtures: FixtureSet
    area_px2: tuple[float, float] | None
    objects: int
    """That count."""
    ignored: int
    """Objects outside the area range, and crowd regions."""


def select(fixtures: FixtureSet, scenario: Scenario) -> Selected:
    """Choose images by how many objects of theirs count, and objects by their area.

    Raises:
        Unsupported: no image, or no object that counts, is left; says what the images have.
    """
    area = scenario.object_area_px2
    counting = Counter(a["image_id"] for a in fixtures.annotations if counts(a, area))
    per_image = scenario.objects_per_image
    if per_image is not None:
        fewest, most = per_image
        kept = {s.image_id for s in fixtures.samples
                if counting[s.image_id] >= fewest and (most is None or counting[s.image_id] <= most)}  # fmt: skip
        if not kept:
            raise Unsupported(_no_image(fixtures, counting, fewest, most, area))
        fixtures = replace(
            fixtures,
            samples=tuple(s for s in fixtures.samples if s.image_id in kept),
            annotations=tuple(a for a in fixtures.annotations if a["image_id"] in kept),
        )
    objects = sum(counts(a, area) for a in fixtures.annotations)
    if not objects and scenario.definition.get("select"):
        what = "" if area is None else f" with an area of {area[0]:g} to {area[1]:g} px²"
        raise Unsupported(f"None of the {plural(len(fixtures.samples), 'image')} has an object{what}.")
    return Selected(fixtures=fixtures, area_px2=area, objects=objects, ignored=len(fixtures.annotations) - objects)


def counts(annotation: Mapping[str, Any], area_px2: tuple[float, float] | None) -> bool:
    """Whether an annotation is an object to be found, not a crowd region, within the area range."""
    if annotation.get("iscrowd", 0):
        return False
    return area_px2 is None or area_px2[0] <= annotation["area"] <= area_px2[1]


def _no_image(
    fixtures: FixtureSet, counting: Counter[int], fewest: int, most: int | None, area: tuple[float, float] | None
) -> str:
    found = [counting[s.image_id] for s in fixtures.samples]
    wanted = f"{fewest} objects" if most is None else f"{fewest} to {most} objects"
    if area is not None:
        wanted += f" of {area[0]:g} to {area[1]:g} px²"
    return (
        f"No image has {wanted}: the {plural(len(found), 'image')} have {min(found)} to {max(found)} each. "
        "Use more images, or define the scenario with fewer objects (--scenarios FILE)."
    )
