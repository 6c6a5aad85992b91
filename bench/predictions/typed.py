"""JSON bytes to typed detections, and the proof that no name stood twice in one of their objects."""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from bench.predictions.fields import BOX_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.types import Array

_OPTIONS: dict[str, Any] = {"gc": False, "forbid_unknown_fields": True}
_CHUNK_BYTES = 1 << 24
PIECE_BYTES = 1 << 18
"""Of a list that is decoded in pieces."""
_SPACE = b" \t\r\n"
"""What JSON takes for space."""
_FOUR_FLOATS = np.dtype([("mark", "u1"), ("values", [("mark", "u1"), ("value", ">f8")], 4)])
"""Of MessagePack: each number of fixed size behind a byte that tells its kind."""


class Unusual(Exception):  # noqa: N818 - a state: this file is for the exact reader
    """The file is not for this reader."""


class Wrapped(msgspec.Struct, forbid_unknown_fields=True):
    """The wrapped form, its two parts as bytes."""

    predictions: msgspec.Raw
    meta: msgspec.Raw | UnsetType = UNSET
    schema_version: int | UnsetType = UNSET


def refuse_repeats(data: bytes | msgspec.Raw, quotes: int) -> None:
    """Decoding keeps the last of two members of one name; their quotation marks give them away.

    Each name and each text that was kept accounts for two. Escaped marks make the count too high: those files are for
    the exact reader too.
    """
    if count_quotes(data) != quotes:
        raise Unusual


def count_quotes(data: bytes | msgspec.Raw) -> int:
    """How many quotation marks there are, escaped ones included."""
    array = np.frombuffer(data, np.uint8)
    parts = (array[at : at + _CHUNK_BYTES] for at in range(0, len(array), _CHUNK_BYTES))
    return sum(int(np.count_nonzero(part == ord('"'))) for part in parts)


def count_texts(value: Any) -> int:
    """How many names and texts a JSON value holds."""
    if isinstance(value, dict):
        return sum(1 + count_texts(member) for member in value.values())
    return sum(map(count_texts, value)) if isinstance(value, list) else int(isinstance(value, str))


@lru_cache(maxsize=16)
def _decoder(form: str, box_keys: tuple[str, ...] | None) -> tuple[msgspec.json.Decoder[Any], tuple[str, ...]]:
    """Return a decoder of a whole list or map, and the fields that a detection may leave out.

    Args:
        form: ``coco``, ``entries`` or ``map``.
        box_keys: of boxes given as objects; None for lists of four numbers.
    """
    place: Any = tuple[float, float, float, float]
    if box_keys is not None:
        place = msgspec.defstruct("_Box", [(key, float) for key in box_keys], **_OPTIONS)
    required: list[tuple[str, Any]] = [("score", float)]
    spare: list[tuple[str, Any, Any]] = [
        ("bbox", place | UnsetType, UNSET),
        ("keypoints", list[float] | UnsetType, UNSET),
    ]
    if form == "coco":
        required += [("image_id", int), ("category_id", int)]
        spare += [
            ("id", int | UnsetType, UNSET),
            ("area", float | UnsetType, UNSET),
            ("iscrowd", int | UnsetType, UNSET),
        ]
    else:
        spare += [("class_id", int | UnsetType, UNSET), ("category_id", int | UnsetType | None, UNSET)]
    item: Any = msgspec.defstruct("_Item", [*required, *spare], **_OPTIONS)
    entry: Any = msgspec.defstruct(
        "_Entry",
        [
            ("detections", list[item]),
            ("image", str | int | UnsetType, UNSET),
            ("image_id", int | UnsetType | None, UNSET),
        ],
        **_OPTIONS,
    )
    whole: Any = {"coco": list[item], "entries": list[entry], "map": dict[str, list[item]]}[form]
    return msgspec.json.Decoder(whole), tuple(name for name, _, _ in spare)


def decode(data: bytes | msgspec.Raw, form: str, bbox_format: str) -> tuple[Any, tuple[str, ...], bool]:
    """Return what was decoded, the spare fields of a detection, and whether boxes are objects."""
    decoder, spare = _decoder(form, None)
    try:
        return decoder.decode(data), spare, False
    except msgspec.ValidationError:
        decoder, spare = _decoder(form, BOX_KEYS[bbox_format])
        return decoder.decode(data), spare, True


def check_fields(
    data: bytes | msgspec.Raw, rows: list[Any], quotes: int, required: int, spare: tuple[str, ...], objects: bool
) -> None:
    """Refuse a name given twice in one object.

    Args:
        data: what the rows were decoded from.
        rows: the detections.
        quotes: quotation marks outside the detections.
        required: fields that each detection has.
        spare: fields that it may have.
        objects: boxes are objects of four names.
    """
    total = count_quotes(data) - quotes
    # every detection has a box or keypoints, and one of a list of entries has a class: with no more names than that
    # none can be there twice
    least = required + (1 if required == 3 else 2)
    if not objects and total == 2 * least * len(rows):
        return
    present = required * len(rows)
    for name in spare:
        given = len(rows) - column(rows, name).count(UNSET)
        present += given * (5 if objects and name == "bbox" else 1)
    if total != 2 * present:
        raise Unusual


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut a list between two of its objects into lists of about ``PIECE_BYTES``.

    A piece fits the processor's cache: 500,000 results take 0.17 s to columns in pieces and 0.25 s whole. Where every
    piece is a list of whole values, joined by the commas that were cut they are the whole list; a cut in another place
    leaves pieces that are not JSON.
    """
    first, last = data.find(b"[") + 1, data.rfind(b"]")
    if last - first <= PIECE_BYTES:
        yield data
        return
    if data[last + 1 :].strip(_SPACE):
        raise Unusual
    while first <= last:
        cut = data.find(b"},", first + PIECE_BYTES, last) + 1 or last
        piece = data[first:cut]
        if not piece.strip(_SPACE):  # what follows the last comma would pass as an empty list
            raise Unusual
        yield b"[" + piece + b"]"
        first = cut + 1


def column(rows: list[Any], name: str) -> list[Any]:
    """One field of all rows."""
    return list(map(attrgetter(name), rows))


def fours(rows: list[tuple[float, float, float, float]]) -> Array:
    """(N, 4) float64 of N tuples of floats, and of nothing else: a Python int would take fewer bytes.

    By way of MessagePack, which writes all of them in one call: 500,000 boxes in 8 ms, where ``numpy.fromiter`` over
    their numbers takes 33 and ``numpy.array`` 59.
    """
    packed = msgspec.msgpack.encode(rows)
    numbers = np.frombuffer(packed, _FOUR_FLOATS, offset=len(packed) - _FOUR_FLOATS.itemsize * len(rows))
    values: Array = numbers["values"]["value"].astype(np.float64)
    return values
