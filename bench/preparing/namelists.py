"""Lists of COCO's file names: read, checked, and chosen from by seed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from bench.errors import InputError
from bench.images import IMAGE_SUFFIXES
from bench.preparing.download import safe_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SPLITS = ("train2017", "val2017")


def choose(names: Sequence[str], count: int, seed: int, *, where: str) -> tuple[str, ...]:
    """Choose ``count`` names by seed, sorted: those whose ``sha256("SEED:NAME")`` is smallest.

    The choice depends on nothing but seed and names: neither on their order nor on the version of a random generator.

    Raises:
        InputError: fewer names than asked for, or none.
    """
    if not names or len(names) < count:
        raise InputError(f"{where}: holds {len(names)} images, {count} are asked for. Type: --calibration-images N")
    ranked = sorted(set(names), key=lambda n: hashlib.sha256(f"{seed}:{n}".encode()).digest())
    return tuple(sorted(ranked[:count]))


class _Image(msgspec.Struct):
    file_name: str
    coco_url: str = ""


class _Listing(msgspec.Struct):
    images: list[_Image]


def read_names(path: Path, split: str) -> tuple[str, ...]:
    """Read file names from COCO json (``images[].file_name``) or from text (a name per line, ``#`` comments).

    Raises:
        InputError: not such a file, empty, a name that is no plain image name, or images of another split.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a readable list of file names.") from error
    return names_in(content, str(path), split, is_json=path.suffix.lower() == ".json")


def names_in(content: bytes, where: str, split: str, *, is_json: bool) -> tuple[str, ...]:
    """As ``read_names``, of the content of a file that is called ``where`` in messages."""
    if is_json:
        try:
            images = msgspec.json.decode(content, type=_Listing).images
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: not COCO json with a list 'images': {error}.") from error
        others = [s for s in SPLITS if s != split and any(f"/{s}/" in i.coco_url for i in images)]
        if others:
            raise InputError(
                f"{where}: lists images of {others[0]}, not of {split}. Give instances_{split}.json or another list."
            )
        lines = [(f"images[{n}]", image.file_name) for n, image in enumerate(images)]
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: not UTF-8 text (byte {error.start}).") from error
        lines = [(f"line {n}", line.strip()) for n, line in enumerate(text.splitlines(), start=1)]
        lines = [(place, name) for place, name in lines if name and not name.startswith("#")]
    names = dict.fromkeys(safe_name(name, where=f"{where}: {place}") for place, name in lines)
    wrong = next((n for n in names if not n.lower().endswith(IMAGE_SUFFIXES)), None)
    if wrong is not None:
        raise InputError(f"{where}: {wrong!r} is no image ({', '.join(IMAGE_SUFFIXES)}). Correct the list.")
    if not names:
        raise InputError(f"{where}: names no image.")
    return tuple(names)
