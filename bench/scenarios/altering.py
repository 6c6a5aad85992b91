"""The altered images of a set and their truth, written as a COCO folder: the same files for a lane and for a user."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets import read_coco
from bench.errors import InputError, UsageError
from bench.images import read_image_rgb
from bench.scenarios.chance import Chance
from bench.scenarios.moves import MOVES, Moved
from bench.scenarios.pixels import PIXEL_STEPS
from bench.schema import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.scenarios.definitions import Scenario
    from bench.types import Array, FixtureSet, Sample

_PNG_LEVEL = 1
"""Of compression. Part of the files' bytes, and so of their hash: never an option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """An altered set and what became of its objects."""

    fixtures: FixtureSet
    moved: Moved


def alter_image(
    image_rgb_u8: Array, annotations: Sequence[Mapping[str, Any]], scenario: Scenario, *, image_id: int, seed: int
) -> tuple[Array, list[dict[str, Any]], Moved]:
    """Apply the steps of a scenario to one image and its annotations.

    Args:
        image_rgb_u8: (H, W, 3) uint8 RGB.
        annotations: of this image, COCO's words.
        scenario: an altering one.
        image_id: of the image; with the seed it decides everything that is left to chance.
        seed: of the whole run.

    Returns:
        The new image, its annotations, and what became of the objects.
    """
    truth: list[dict[str, Any]] = [dict(a) for a in annotations]
    moved = Moved()
    for number, step in enumerate(scenario.steps):
        chance = Chance(seed=seed, image_id=image_id, step=number)
        if step["op"] in PIXEL_STEPS:
            image_rgb_u8 = PIXEL_STEPS[step["op"]](image_rgb_u8, step, chance)
            continue
        move = MOVES[step["op"]].drawn(step, (image_rgb_u8.shape[0], image_rgb_u8.shape[1]), chance)
        image_rgb_u8 = move.pixels(image_rgb_u8)
        truth = move.truth(truth, moved)
    return image_rgb_u8, truth, moved


def alter_set(
    fixtures: FixtureSet,
    scenario: Scenario,
    *,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Altered:
    """Write ``images/*.png`` and ``annotations/instances.json`` into a folder, and read them as anybody would.

    Image ids, categories and annotation ids are those of the set, so detections of either can be told apart by image.

    Raises:
        InputError: an image cannot be read, or the folder cannot be written.
    """
    by_image = defaultdict(list)
    for annotation in fixtures.annotations:
        by_image[annotation["image_id"]].append(annotation)
    names = _file_names(fixtures.samples)
    entries: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    moved = Moved()
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "annotations").mkdir(exist_ok=True)
        for done, sample in enumerate(fixtures.samples):
            image_rgb = read_image_rgb(sample.path, (sample.height, sample.width))
            image_rgb, truth, of_image = alter_image(
                image_rgb, by_image[sample.image_id], scenario, image_id=sample.image_id, seed=seed
            )
            (folder / "images" / names[sample.image_id]).write_bytes(_png(image_rgb))
            entries.append(_entry(sample, names[sample.image_id], image_rgb, scenario))
            truths.extend(truth)
            moved.add(of_image)
            if progress is not None:
                progress(done + 1, len(fixtures.samples))
        document = {
            "info": {
                "description": f"{fixtures.name}, altered: {scenario.description}",
                "scenario": scenario.name,
                "scenario_sha256": scenario.sha256,
                "seed": seed,
                "made_from": fixtures.name,
                "made_from_sha256": fixtures.sha256,
            },
            "images": entries,
            "categories": [dict(c) for c in fixtures.categories],
            "annotations": truths,
        }
        annotations = folder / "annotations" / "instances.json"
        annotations.write_text(json.dumps(to_json(document), ensure_ascii=False, allow_nan=False), "utf-8")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}). Free space, or choose another folder."
        ) from error
    found = read_coco(annotations, folder / "images", name=fixtures.name, split=fixtures.split, origin=fixtures.origin)
    return Altered(fixtures=replace(found, named_categories=fixtures.named_categories), moved=moved)


def write_folder(
    fixtures: FixtureSet,
    scenario: Scenario,
    *,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Altered:
    """Write an altered set for a user; the folder appears when it is whole.

    Raises:
        UsageError: the folder holds something already, or the scenario alters nothing.
        InputError: as ``alter_set``.
    """
    if not scenario.alters:
        raise UsageError(
            f"--write-images {scenario.name}: selects images and changes none. Give an altering scenario; for this one "
            "the data set itself has the images."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--write-images {scenario.name} {out}: is not empty. Give a new folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}). Choose another folder.") from error
    try:
        made = alter_set(fixtures, scenario, seed=seed, folder=scratch, progress=progress)
        scratch.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return made


def _entry(sample: Sample, name: str, image_rgb: Array, scenario: Scenario) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": sample.image_id,
        "file_name": name,
        "width": image_rgb.shape[1],
        "height": image_rgb.shape[0],
    }
    if sample.camera is not None and not scenario.moves:
        entry["camera"] = dict(zip(("fx", "fy", "cx", "cy"), sample.camera, strict=True))
    return entry


def _file_names(samples: Sequence[Sample]) -> dict[int, str]:
    """``STEM.png`` where that is unique, on file systems without case too, else ``STEM-ID.png`` of every image."""
    plain = {sample.image_id: f"{sample.path.stem}.png" for sample in samples}
    if len({name.casefold() for name in plain.values()}) == len(samples):
        return plain
    return {sample.image_id: f"{sample.path.stem}-{sample.image_id}.png" for sample in samples}


def _png(image_rgb: Array) -> bytes:
    import cv2

    done, data = cv2.imencode(
        ".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
    )
    if not done:
        raise InputError(f"OpenCV cannot write a PNG of {image_rgb.shape}.")
    return bytes(data.tobytes())
