"""A predictions file against the set that it is about: its images and its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import InputError
from bench.predictions.fields import Categories
from bench.predictions.join import ImageIndex
from bench.violations.violation import Violation, describe, json_path

if TYPE_CHECKING:
    from bench.types import FixtureSet
    from bench.violations.predictions import Walked
    from bench.violations.violation import Collected


def check_against(fixtures: FixtureSet, walked: Walked, found: Collected) -> None:
    """Report every entry whose image the set does not have, and every class that it does not have.

    Args:
        fixtures: the set.
        walked: the document; notes about images are added.
        found: violations are added.
    """
    _check_images(fixtures, walked, found)
    categories = Categories(fixtures)
    refused: dict[tuple[str, int], str] = {}
    for name, value in dict.fromkeys(walked.classes):
        try:
            categories.by_id(value) if name == "category_id" else categories.by_label(value)
        except InputError as error:
            refused[name, value] = str(error)
    for row, given in enumerate(walked.classes if refused else ()):
        if given in refused:
            problem, _, remedy = refused[given].partition("; ")
            found.add(
                Violation(
                    path=json_path((*walked.place(row), given[0])),
                    problem=problem.removeprefix(f"{given[0]} {given[1]} "),
                    found=describe(given[1]),
                    fix=remedy or f"give a class of '{fixtures.name}'",
                )
            )


def _check_images(fixtures: FixtureSet, walked: Walked, found: Collected) -> None:
    index, first = ImageIndex(fixtures), dict[int, str]()
    results = walked.form == "coco"
    known: dict[int, InputError | None] = {}
    for parts, image, image_id in walked.entries:
        place = json_path(parts if walked.form == "map" else (*parts, "image_id" if results else "image"))
        given = image_id if results else image
        if given is None:
            continue
        if isinstance(given, int) and given in known and results:
            error = known[given]
        else:
            error = None
            try:
                sample_id = index.find(given).image_id
            except InputError as caught:
                error = caught
            if results and isinstance(given, int):
                known[given] = error
        if error is not None:
            found.add(_unknown_image(place, given, error, fixtures))
        elif not results:
            if sample_id in first:
                walked.notes.append(
                    f"{place} means an image that has an entry already at {first[sample_id]}: both count"
                )
            first.setdefault(sample_id, place)
    if not results and len(first) < len(fixtures.samples):
        missing = len(fixtures.samples) - len(first)
        walked.notes.append(f"{missing} images of '{fixtures.name}' have no entry: they count as without detections")


def _unknown_image(place: str, given: str | int, error: InputError, fixtures: FixtureSet) -> Violation:
    said = str(error)
    problem, fix = f"is not an image of '{fixtures.name}'", "score the file against the set that it was made for"
    if " Did you mean " in said:
        fix = f"did you mean {said.rsplit(' Did you mean ', 1)[1]}".rstrip("?") + "?"
    elif "may be any of" in said:
        problem, fix = said.partition(" ")[2].partition("; ")[0], "give more of the path, or the image id"
    return Violation(path=place, problem=problem, found=describe(given), fix=fix)
