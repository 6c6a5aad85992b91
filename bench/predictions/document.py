"""Read JSON that somebody else wrote: refuse garbage before it is loaded, and say where the rest is broken.

A bare ``NaN`` is let through: the reader of the fields meets it and can name the field, which no parser can.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.collector import collector_paused
from bench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 1 << 30
"""Largest file that is read; parsed, it takes about seven times its size in memory."""
_HEAD_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


class _RepeatedKeyError(ValueError):
    """Two members of one JSON object share a name; the message is that name."""


def read_document(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a JSON file without its byte order mark; what cannot be predictions is refused unread.

    Args:
        path: a regular file in UTF-8.
        max_bytes: a larger file is refused before it is read.

    Raises:
        InputError: names the file, the byte and what to do.
    """
    _refuse_early(path, max_bytes)
    try:
        return path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def parse_document(path: Path, data: bytes) -> Any:
    """Parse JSON to plain Python values, a bare ``NaN`` included.

    Args:
        path: for messages.
        data: of ``read_document``.

    Raises:
        InputError: names the file, the byte or the line and column, and what to do.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: byte {error.start} (line {line}) is not UTF-8; save the file as UTF-8") from error
    return _parse(path, text)


def _refuse_early(path: Path, max_bytes: int) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the JSON file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file; save the predictions to a file first")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    text = head.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not text:
        raise InputError(f"{path}: has no JSON in its first {len(head)} bytes; an empty result is written as []")
    if text[:1] not in (b"[", b"{"):
        at = head.index(text)
        raise InputError(
            f"{path}: byte {at} is {text[:1]!r}, JSON predictions begin with '[' or '{{'; "
            "give a JSON file in UTF-8, not a binary or compressed one"
        )
    if size > max_bytes:
        raise InputError(
            f"{path}: has {size / 2**30:.2f} GiB, files over {max_bytes / 2**30:.2f} GiB are refused; "
            "raise the score floor or keep fewer detections per image when writing it"
        )


def _parse(path: Path, text: str) -> Any:
    try:
        with collector_paused():
            return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        cut = " (the file ends too early: it was cut off)" if error.pos >= len(text.rstrip()) else ""
        raise InputError(f"{path}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}{cut}") from error
    except _RepeatedKeyError as error:
        raise InputError(f"{path}: {error} is given twice in one object; merge the two") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply to be predictions") from error
    except ValueError as error:  # an integer of more than 4300 digits
        raise InputError(f"{path}: holds a number that cannot be read: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _RepeatedKeyError(f"the name {name!r}")
            seen.add(name)
    return members
