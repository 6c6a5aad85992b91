"""What a schema asks for, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOUNS = {
    "object": "an object",
    "array": "a list",
    "string": "text in quotes",
    "boolean": "true or false",
    "null": "null",
    "number": "a number",
    "integer": "a whole number",
}
_PATTERNS = {
    "^[0-9a-f]{64}$": "a sha256: 64 digits of 0-9 and a-f",
    "^[0-9a-f]{40}$": "a commit: 40 digits of 0-9 and a-f",
}
_DEPTH = 3


def wanted_by(schema: Mapping[str, Any] | bool, root: Mapping[str, Any], depth: int = 0) -> str:
    """What a value must be, such as ``a list of 4 items, each a number``; empty where a schema asks for nothing.

    Args:
        schema: of the value.
        root: the file that its references point into.
        depth: how deep within the words this schema stands.
    """
    if isinstance(schema, bool) or depth > _DEPTH:
        return ""
    schema = resolve(schema, root)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        words = ", ".join(json.dumps(word) for word in schema["enum"])
        return f"one of {words}" if len(schema["enum"]) > 1 else words
    for joined in ("anyOf", "oneOf"):
        if joined in schema and "type" not in schema:
            each = [wanted_by(branch, root, depth) for branch in schema[joined]]
            return " or ".join(dict.fromkeys(text for text in each if text))
    types = schema.get("type", ())
    return " or ".join(_of_type(t, schema, root, depth) for t in ([types] if isinstance(types, str) else types))


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if kind in ("number", "integer"):
        return f"{_NOUNS[kind]}{_bounds(schema)}"
    if kind == "string" and "pattern" in schema:
        return _PATTERNS.get(schema["pattern"], f"text of the pattern {schema['pattern']}")
    if kind == "array":
        return f"a list{_items(schema, root, depth)}"
    if kind == "object" and schema.get("required"):
        return f"an object with {', '.join(schema['required'])}"
    return _NOUNS[kind]


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[name]}" for name, sign in signs.items() if name in schema]
    return f" {' and '.join(found)}" if found else ""


def _items(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    least, most = schema.get("minItems"), schema.get("maxItems")
    count = f" of {least}" if least is not None and least == most else f" of at least {least}" if least else ""
    each = wanted_by(schema.get("items", {}), root, depth + 1)
    return count + (f", each {each}" if each else "")


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow references within the same file."""
    while "$ref" in schema:
        target: Any = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema
