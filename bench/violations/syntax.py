"""JSON text to plain values; what is not JSON is explained, and what JSON readers disagree on is remembered."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.collector import collector_paused
from bench.violations.violation import Violation, json_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.violations.violation import Parts

NOTHING = object()
"""Stands for a document that could not be read."""


class Repeated(dict[str, Any]):
    """An object in which a name stands more than once; the last value counts here."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A document, or the reason why there is none."""

    document: Any
    """``NOTHING`` where the text is not JSON."""
    violation: Violation | None = None


def parse(data: bytes) -> Parsed:
    """Parse JSON in UTF-8 with bare ``NaN`` let through, and repeated names kept for ``oddities``."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte {error.start} (line {line}) is not UTF-8"
        return _broken(problem, f"the byte 0x{data[error.start]:02x}", "save the file as UTF-8")
    try:
        with collector_paused():
            return Parsed(document=json.loads(text, object_pairs_hook=_members))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        return _broken(f"is not JSON at {where}: {error.msg}", _around(text, error.pos), _syntax_fix(text, error))
    except RecursionError:
        return _broken("is nested too deeply to be one of ours", "", "give the file that the tool wrote")
    except ValueError as error:  # an integer of more than 4300 digits
        return _broken(f"holds a number that cannot be read: {error}", "", "write numbers with 17 digits at most")


def oddities(document: Any, parts: Parts = ()) -> Iterator[Violation]:
    """Numbers that are not JSON (a bare ``NaN``, ``1e999``) and names given twice, anywhere in a document."""
    todo: list[tuple[Parts, Any]] = [(parts, document)]
    while todo:
        at, value = todo.pop()
        if isinstance(value, dict):
            if isinstance(value, Repeated):
                yield from (repeated_name(at, name) for name in value.names)
            todo += [((*at, name), inner) for name, inner in reversed(value.items())]
        elif isinstance(value, list):
            todo += [((*at, number), value[number]) for number in reversed(range(len(value)))]
        elif type(value) is float and not math.isfinite(value):
            word = {"nan": "nan", "inf": "inf"}.get(str(value), "-inf")
            yield Violation(
                path=json_path(at), problem="is no number of JSON", found=_bare(value),
                fix=f'write the string "{word}" if it was measured so; otherwise repair what wrote it',
            )  # fmt: skip


def repeated_name(parts: Parts, name: str) -> Violation:
    """A name that stands twice in one object."""
    return Violation(
        path=json_path((*parts, name)), problem="is given twice in one object", found="two values",
        fix="keep one of the two, or merge them",
    )  # fmt: skip


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    twice = [name for name, _ in pairs if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    found = Repeated(members)
    found.names = tuple(dict.fromkeys(twice))
    return found


def _broken(problem: str, found: str, fix: str) -> Parsed:
    return Parsed(document=NOTHING, violation=Violation(path="$", problem=problem, found=found, fix=fix))


def _around(text: str, at: int) -> str:
    """What stands at a position, as a person sees it."""
    if at >= len(text.rstrip()):
        return "the end of the file"
    rest = text[at : at + 20].splitlines()
    return f"`{rest[0]}`" if rest else "the end of the line"


def _syntax_fix(text: str, error: json.JSONDecodeError) -> str:
    """The likely cause of what a parser complains about."""
    rest, before = text[error.pos : error.pos + 40], text[: error.pos].rstrip()
    if error.pos >= len(text.rstrip()):
        return "the file ends too early, it was cut off: write it again"
    if error.msg == "Extra data":
        if text[: error.pos].strip().count("\n") == 0 and rest.lstrip()[:1] in "{[":
            return "this looks like JSON Lines: put all lines into one list, [line, line, ...]"
        return "a file holds one JSON value: remove what follows it"
    if rest.startswith(("]", "}")) and before.endswith(","):
        return "remove the comma before it"
    if error.msg.startswith("Illegal trailing comma"):
        return "remove the comma"
    if rest.startswith("'"):
        return "strings and names take double quotes"
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments: remove it"
    for word, plain in (("None", "null"), ("True", "true"), ("False", "false"), ("nan", '"nan"'), ("inf", '"inf"')):
        if rest.startswith(word):
            return f"write {plain}; a Python dict is not JSON: write it with json.dump"
    if "delimiter" in error.msg:
        return "a comma or colon is missing before it"
    return "write the file with a JSON library instead of by hand"


def _bare(value: float) -> str:
    return f"a bare {'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'}"
