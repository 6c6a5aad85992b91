"""Every schema of this project: wrong values are explained by place and fix, whatever keyword refuses them."""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from bench.schema import SCHEMA_NAMES, dumps, validate_file
from bench.tests.sample_suite import sample_suite
from bench.violations import Explanation, explain_file
from bench.violations.schemas import EXPLAINED, load_schema, schema_violations
from bench.violations.wording import resolve

OURS = sorted(set(SCHEMA_NAMES) - {"predictions/1"})
QUIET = {"$schema", "$id", "$ref", "$defs", "title", "description", "properties", "items", "prefixItems", "allOf", "if",
         "then", "else", "format"}  # fmt: skip
"""Keywords that refuse nothing themselves: those within them do."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "document.json"


def explain(path: Path, document: Any) -> Explanation:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return explain_file(path, limit=100)


def keywords(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for name, inner in schema.items():
        found |= set().union(*map(keywords, inner.values())) if name in ("properties", "$defs") else keywords(inner)
    return found


def test_every_keyword_of_every_schema_has_words_of_its_own() -> None:
    files = [f for f in resources.files("schemas").iterdir() if f.name.endswith(".json")]
    assert len(files) >= len(SCHEMA_NAMES)
    used = set().union(*(keywords(json.loads(f.read_text("utf-8"))) for f in files))
    assert used - QUIET <= EXPLAINED, used - QUIET - EXPLAINED


@pytest.mark.parametrize("label", OURS)
def test_a_document_without_its_fields_says_which_are_missing(path: Path, label: str) -> None:
    schema = load_schema(SCHEMA_NAMES[label])
    explained = explain(path, {"schema": label})
    missing = {v.path for v in explained.violations if v.problem.startswith("is missing")}
    assert missing == {f"$.{name}" for name in schema["required"] if name != "schema"}
    assert all(v.fix.startswith("add it") for v in explained.violations)


@pytest.mark.parametrize("label", OURS)
def test_a_value_of_another_kind_is_explained_at_its_place(label: str) -> None:
    schema = load_schema(SCHEMA_NAMES[label])
    for name, inner in schema.get("properties", {}).items():
        for wrong in ({"no such field": None}, [[[]]], True, -7.5, "no such word", None):
            found = list(schema_violations({name: wrong}, SCHEMA_NAMES[label]))
            here = [v for v in found if v.path.startswith(f"$.{name}") and not v.problem.startswith("is missing")]
            import jsonschema

            rule = {**resolve(inner, schema), "$defs": schema.get("$defs", {})}
            assert bool(here) >= (not jsonschema.Draft202012Validator(rule).is_valid(wrong)) or any(
                v.path.startswith(f"$.{name}.") for v in found
            ), (name, wrong)
            assert all(v.fix and v.problem and "{" not in v.fix[:1] for v in here)


SUITE = sample_suite(intervals=True)


def changed(change: Any) -> dict[str, Any]:
    document = json.loads(dumps(copy.deepcopy(SUITE)))
    change(document)
    return document


def setting(*route: Any, value: Any) -> Any:
    def change(document: Any) -> None:
        for part in route[:-1]:
            document = document[part]
        document[route[-1]] = value

    return change


def renaming(*route: Any, to: str) -> Any:
    def change(document: Any) -> None:
        for part in route[:-1]:
            document = document[part]
        document[to] = document.pop(route[-1])

    return change


CORPUS: dict[str, tuple[Any, str, str, str]] = {
    "unknown status": (
        setting("cells", 0, "status", value="pased"), "$.cells[0].status", 'the string "pased"', 'write "passed"',
    ),
    "green": (setting("cells", 1, "status", value="green"), "$.cells[1].status", "must be one of", "write one of them"),
    "number in quotes": (
        setting("cells", 0, "duration_s", value="12.5"), "$.cells[0].duration_s", '"12.5"', "remove the quotes: 12.5",
    ),
    "text without quotes": (setting("run_id", value=7), "$.run_id", "the number 7", 'put it in quotes: "7"'),
    "cells is an object": (setting("cells", value={}), "$.cells", "must be a list", "put it in a list"),
    "misspelt field": (renaming("run_id", to="runid"), "$.run_id", 'the field "runid" instead', "rename it to run_id"),
    "misspelt field deep": (
        renaming("cells", 0, "cell", "precision", to="precison"), "$.cells[0].cell.precision", "is missing",
        "rename it to precision",
    ),
    "exit code": (setting("exit_code", value=7), "$.exit_code", "the number 7", "write one of them"),
    "a bare NaN": (setting("cells", 0, "duration_s", value=float("nan")), "$.cells[0].duration_s", "a bare NaN",
                   'write the string "nan"'),
    "a later version": (
        setting("schema", value="suite_result/9"), "$.schema", 'the string "suite_result/9"',
        'this version knows "suite_result/1"',
    ),
    "a misspelt schema": (
        setting("schema", value="suiteresult/1"), "$.schema", '"suiteresult/1"', 'write "schema": "suite_result/1"',
    ),
    "no schema": (lambda d: d.pop("schema"), "$.schema", "is missing", 'write "schema": "suite_result/1"'),
}  # fmt: skip


def test_the_sound_suite_is_valid(path: Path) -> None:
    assert explain(path, changed(lambda d: None)).violations == ()


@pytest.mark.parametrize("name", CORPUS)
def test_a_broken_suite_is_explained_by_path_and_fix(path: Path, name: str) -> None:
    change, place, problem, fix = CORPUS[name]
    explained = explain(path, changed(change))
    found = {v.path: v for v in explained.violations}
    assert place in found, [str(v) for v in explained.violations]
    assert problem in f"{found[place].problem}; found {found[place].found}"
    assert fix in found[place].fix
    if name != "a later version":
        assert explained.total == 1, [str(v) for v in explained.violations]


def test_a_branch_is_chosen_by_what_stands_there(path: Path) -> None:
    """Of a union of null and an object, a broken object is explained within, not as "must be null"."""
    document = changed(setting("cells", 0, "artifact", "bytes", value="many"))
    (violation,) = explain(path, document).violations
    assert violation.path == "$.cells[0].artifact.bytes"
    assert "null" not in violation.problem


def test_of_null_and_an_object_the_object_is_explained() -> None:
    found = list(schema_violations({"validation": {"passed": True}}, "export_meta"))
    inner = {v.path for v in found if v.path.startswith("$.validation")}
    assert inner == {f"$.validation.{name}" for name in ("file_sha256", "first_failure", "devices", "notes", "checks")}


def test_of_several_objects_the_one_that_lacks_least_is_explained() -> None:
    (violation,) = schema_violations({"cx": 1, "cy": 1, "width": 2, "h": 2}, "predictions", part="bbox")
    assert (violation.path, violation.fix) == ("$.w", "rename it to w")
    (violation,) = schema_violations("1,2,3,4", "predictions", part="bbox")
    assert violation.problem.startswith("must be a list of 4, each a number")


def test_a_field_that_names_the_form_decides_which_is_explained() -> None:
    kinds = [branch["properties"]["kind"]["const"] for branch in load_schema("fixture_manifest")["oneOf"]]
    assert len(kinds) == 2
    for kind in kinds:
        document = {"schema": "fixture_manifest/1", "kind": kind, "splits": 7}
        assert "$.kind" not in {v.path for v in schema_violations(document, "fixture_manifest")}


@pytest.mark.parametrize(
    ("document", "problem", "fix"),
    [
        ({"images": [], "annotations": [], "categories": []}, "is COCO ground truth", "--annotations"),
        ({}, "is missing: it names the schema", "give a file of this project; known: artifact/1"),
        ({"hello": 1}, "is missing: it names the schema", "give a file of this project"),
    ],
)
def test_a_foreign_document_is_named(path: Path, document: Any, problem: str, fix: str) -> None:
    explained = explain(path, document)
    assert explained.label is None
    assert problem in explained.violations[0].problem
    assert fix in explained.violations[0].fix


SYNTAX = {
    "trailing comma": ('{"schema": "suite_result/1",}', "line 1, column", "remove the comma"),
    "trailing comma in a list": ("[1, 2,\n]", "line", "remove the comma"),
    "single quotes": ("{'schema': 1}", "line 1, column 2", "double quotes"),
    "python words": ('{"a": None}', "line 1, column 7", "write null; a Python dict is not JSON"),
    "python nan": ('{"a": nan}', "line 1, column 7", 'write "nan"'),
    "comment": ('{"a": 1, // note\n"b": 2}', "line 1, column 10", "JSON has no comments"),
    "cut off": ('{"schema": "suite_result/1", "run_id": ', "column 40", "it was cut off"),
    "JSON lines": ('{"image": "a"}\n{"image": "b"}\n', "line 2, column 1: Extra data", "JSON Lines: put all lines"),
    "rest": ('{"a": 1} and more', "Extra data", "remove what follows it"),
    "missing comma": ('{"a": 1 "b": 2}', "column 9", "a comma or colon is missing before it"),
    "nested": ("[" * 100_000, "nested too deeply", "the file that the tool wrote"),
    "digits": ('{"a": ' + "1" * 5000 + "}", "a number that cannot be read", "17 digits"),
}


@pytest.mark.parametrize("name", SYNTAX)
def test_text_that_is_not_json_is_explained(path: Path, name: str) -> None:
    text, problem, fix = SYNTAX[name]
    (violation,) = explain(path, text).violations
    assert problem in violation.problem
    assert fix in violation.fix, str(violation)


def test_bytes_that_are_not_utf8_are_placed(path: Path) -> None:
    path.write_bytes(b'{"schema": "caf\xe9"}')
    (violation,) = explain_file(path).violations
    assert violation.problem == "byte 15 (line 1) is not UTF-8"
    assert (violation.found, violation.fix) == ("the byte 0xe9", "save the file as UTF-8")


def test_a_meta_that_is_a_list_is_no_crash_of_the_plain_check(path: Path) -> None:
    from bench.errors import InputError

    path.write_text('{"predictions": [], "meta": []}')
    with pytest.raises(InputError, match="schema predictions"):
        validate_file(path)
