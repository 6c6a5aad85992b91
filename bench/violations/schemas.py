"""The errors of a JSON Schema validator, as places, words and fixes."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from bench.violations.violation import (
    Violation,
    describe,
    json_path,
    kind,
    missing_field,
    nearest,
    number_fix,
)
from bench.violations.wording import resolve, wanted_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jsonschema import ValidationError

    from bench.violations.violation import Parts

BRANCHES = ("anyOf", "oneOf")
_BOUNDS = {
    "minimum": ">= {}",
    "maximum": "<= {}",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
}
_LENGTHS = {
    "minItems": "at least {} item(s)",
    "maxItems": "at most {} item(s)",
    "minLength": "at least {} character(s)",
    "maxLength": "at most {} characters",
    "minProperties": "at least {} field(s)",
    "maxProperties": "at most {} fields",
}
EXPLAINED = {*BRANCHES, *_BOUNDS, *_LENGTHS, "required", "additionalProperties", "type", "enum", "const", "pattern",
             "not", "propertyNames"}  # fmt: skip
"""Keywords of a schema whose errors have words of their own here."""


def schema_violations(document: Any, name: str, *, part: str | None = None, parts: Parts = ()) -> Iterator[Violation]:
    """Everything that a schema finds wrong, in the order of the document.

    Args:
        document: JSON values.
        name: ``schemas/<name>.json``.
        part: one of its ``$defs`` instead of the whole.
        parts: where the document stands, when it is part of another one.

    Yields:
        One violation per place and reason.
    """
    root = load_schema(name)
    errors = list(_validator(name, part).iter_errors(document))
    told = set()
    for error in sorted(errors, key=lambda e: [(isinstance(p, str), p) for p in map(_sortable, e.absolute_path)]):
        for violation in _explain(error, root, parts):
            if violation not in told:
                told.add(violation)
                yield violation


@lru_cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema of this project with that name."""
    schema: dict[str, Any] = json.loads(resources.files("schemas").joinpath(f"{name}.json").read_text("utf-8"))
    return schema


@lru_cache
def _validator(name: str, part: str | None) -> Any:
    from jsonschema import Draft202012Validator

    root = load_schema(name)
    if part is None:
        return Draft202012Validator(root)
    return Draft202012Validator({**root["$defs"][part], "$defs": root["$defs"]})


def _sortable(part: str | int) -> str | int:
    return part if isinstance(part, int) else str(part)


def _explain(error: ValidationError, root: Mapping[str, Any], parts: Parts) -> Iterator[Violation]:
    at: Parts = (*parts, *error.absolute_path)
    value: Any = error.instance
    rule: Any = error.validator_value
    schema: Any = error.schema
    keyword = str(error.validator)
    if keyword in BRANCHES:
        yield from _explain_branches(error, root, parts)
    elif keyword == "required":
        spare = _unclaimed(value, schema)
        for name in (n for n in rule if n not in value):
            yield missing_field(at, name, wanted_by(schema.get("properties", {}).get(name, {}), root), spare)
    elif keyword == "additionalProperties":
        yield from _explain_unknown(at, value, schema)
    elif keyword == "type":
        yield _wrong_kind(at, value, schema, root)
    elif keyword in ("enum", "const"):
        yield _wrong_word(at, value, [rule] if keyword == "const" else rule)
    elif keyword in _BOUNDS:
        bound = _BOUNDS[keyword].format(rule)
        yield Violation(
            path=json_path(at), problem=f"must be {bound}", found=describe(value), fix=f"give a number {bound}"
        )
    elif keyword in _LENGTHS:
        length = _LENGTHS[keyword].format(rule)
        yield Violation(path=json_path(at), problem=f"must have {length}", found=describe(value),
                        fix=f"give {wanted_by(schema, root)}" if "Items" in keyword else f"give {length}")  # fmt: skip
    elif keyword == "pattern":
        wanted = wanted_by(schema, root)
        yield Violation(path=json_path(at), problem=f"must be {wanted}", found=describe(value), fix=f"give {wanted}")
    elif keyword == "not":
        fields = [f"'{n}'" for branch in rule.get("anyOf", [rule]) for n in branch.get("required", []) if n in value]
        yield Violation(path=json_path(at), problem=f"may not hold {' or '.join(fields) or 'this'}",
                        found=describe(value), fix="remove it, or give the form that has it")  # fmt: skip
    else:
        yield Violation(path=json_path(at), problem=error.message[:200], found=describe(value),
                        fix=f"give {wanted_by(schema, root)}")  # fmt: skip


def _explain_branches(error: ValidationError, root: Mapping[str, Any], parts: Parts) -> Iterator[Violation]:
    """Explain the branch that was most likely meant; all of them where none is more likely."""
    at: Parts = (*parts, *error.absolute_path)
    value: Any = error.instance
    schema: Any = error.schema
    rule: Any = error.validator_value
    branches = [resolve(branch, root) for branch in rule]
    if not error.context:  # more than one branch of a oneOf holds
        yield Violation(path=json_path(at), problem="fits more than one of the allowed forms",
                        found=describe(value), fix="keep the fields of one form alone")  # fmt: skip
        return
    if all(set(branch) == {"required"} for branch in branches):
        names = [name for branch in branches for name in branch["required"]]
        wanted = " or ".join(f"'{name}'" for name in names)
        found = [(n, other) for n in names if (other := nearest(n, _unclaimed(value, schema)))]
        fix = f"rename '{found[0][1]}' to {found[0][0]}" if found else f"add {wanted}"
        yield Violation(path=json_path(at), problem=f"needs {wanted}", found=describe(value), fix=fix)
        return
    of_branch: dict[int, list[ValidationError]] = {}
    for inner in error.context:
        of_branch.setdefault(int(inner.relative_schema_path[0]), []).append(inner)
    fitting = [n for n, found in of_branch.items() if not any(_is_of_another_kind(e) for e in found)]
    if not fitting:
        yield _wrong_kind(at, value, schema, root)
        return
    meant = min(fitting, key=lambda n: (_discriminates(of_branch[n]), len(of_branch[n])))
    for inner in of_branch[meant]:
        yield from _explain(inner, root, parts)


def _is_of_another_kind(error: ValidationError) -> bool:
    """The value itself, not something within it, has the wrong type or is none of the words."""
    return not error.relative_path and error.validator in ("type", "enum", "const")


def _discriminates(errors: Iterable[ValidationError]) -> bool:
    """A field that names the form, such as ``kind``, says that it is another one."""
    return any(error.validator == "const" and len(error.relative_path) == 1 for error in errors)


def _explain_unknown(at: Parts, value: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Violation]:
    known, rule = schema.get("properties", {}), schema["additionalProperties"]
    lacking = [name for name in schema.get("required", ()) if name not in value]
    spare = _unclaimed(value, schema)
    renamed = {nearest(name, spare) for name in lacking}
    for name in spare:
        if name in renamed or rule is not False:  # told where the field it stands for is missing
            continue
        near = nearest(name, [k for k in known if k not in value])
        yield Violation(
            path=json_path((*at, name)),
            problem="is not a field of this object",
            found=describe(value[name]),
            fix=f"rename it to {near}" if near else f"remove it; known: {', '.join(sorted(known)) or 'none'}",
        )


def _unclaimed(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Fields of an object that the schema does not name."""
    return [name for name in value if name not in schema.get("properties", {})] if isinstance(value, dict) else []


def _wrong_kind(at: Parts, value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Violation:
    wanted = wanted_by(schema, root)
    return Violation(path=json_path(at), problem=f"must be {wanted}", found=describe(value),
                     fix=_fix_of_kind(value, kinds_of(schema, root), wanted))  # fmt: skip


def _fix_of_kind(value: Any, kinds: set[str], wanted: str) -> str:
    numeric = kinds & {"integer", "number"}
    if numeric and kind(value) in ("string", "number", "integer"):
        return number_fix(value, whole="number" not in kinds)
    if "string" in kinds and kind(value) in ("number", "integer", "boolean"):
        return f'put it in quotes: "{json.dumps(value)}"'
    if "array" in kinds and len(kinds) == 1:
        return f"put it in a list: [...]; wanted is {wanted}"
    if "boolean" in kinds and value in (0, 1, "true", "false", "True", "False"):
        return f"write {'true' if value in (1, 'true', 'True') else 'false'}, without quotes"
    return f"give {wanted}"


def _wrong_word(at: Parts, value: Any, words: list[Any]) -> Violation:
    texts = [word for word in words if isinstance(word, str)]
    near = nearest(value, texts) if isinstance(value, str) else None
    begun = [word for word in texts if isinstance(value, str) and value and word.lower().startswith(value.lower())]
    meant = " or ".join(json.dumps(word) for word in begun or ([near] if near else []))
    shown = ", ".join(json.dumps(word) for word in words)
    return Violation(
        path=json_path(at),
        problem=f"must be {'one of ' if len(words) > 1 else ''}{shown}",
        found=describe(value),
        fix=f"write {meant or ('one of them' if len(words) > 1 else shown)}",
    )


def kinds_of(schema: Mapping[str, Any], root: Mapping[str, Any]) -> set[str]:
    """JSON types that a schema allows at its top."""
    schema = resolve(schema, root)
    if "type" in schema:
        return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
    if "enum" in schema or "const" in schema:
        return {kind(word) for word in schema.get("enum", [schema.get("const")])}
    branches = [branch for word in BRANCHES for branch in schema.get(word, ())]
    return set().union(*(kinds_of(branch, root) for branch in branches))
