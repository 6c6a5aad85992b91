import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import InputError
from bench.files import write_atomic
from bench.results import CellResult, SuiteResult
from bench.schema import dumps, from_number, read_json, read_suite, to_json, validate_file, write_suite
from bench.types import Cell


def suite(**changes):
    cell = CellResult(
        cell=Cell(model="m", backend="b", device="cpu", precision="fp32", fixtures="f"),
        role="reference",
        status="passed",
    )
    host = {
        "name": "h",
        "cpu": "c",
        "cores": 2,
        "memory_gb": 1.0,
        "gpu": None,
        "os": "o",
        "python": "3",
        "versions": {},
    }
    values = {
        "run_id": "r-1",
        "started_at": "t",
        "finished_at": "t",
        "command": "c",
        "host": host,
        "git": None,
        "protocol": {},
        "reference": {"asked": "torch:fp32:cpu", "cells": {}},
        "cells": (cell,),
        "exit_code": 0,
    }
    return SuiteResult(**{**values, **changes})


def test_a_suite_is_written_valid_and_read_back(tmp_path):
    written = write_suite(suite(), tmp_path / "suite.json")
    assert read_suite(tmp_path / "suite.json") == written
    assert validate_file(tmp_path / "suite.json") == "suite_result/1"


def test_an_invalid_suite_is_not_written(tmp_path):
    with pytest.raises(InputError, match="exit_code"):
        write_suite(suite(exit_code=7), tmp_path / "suite.json")
    assert not (tmp_path / "suite.json").exists()


def test_an_invalid_file_names_the_place(tmp_path):
    document = write_suite(suite(), tmp_path / "suite.json")
    document["cells"][0]["status"] = "green"
    (tmp_path / "suite.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"suite\.json: at cells/0/status: 'green'"):
        read_suite(tmp_path / "suite.json")


@given(st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(), st.text(), st.none(), st.booleans()))
def test_every_number_survives_the_wire(value):
    back = from_number(json.loads(dumps(value))) if isinstance(value, float) else json.loads(dumps(value))
    assert back == value or (isinstance(value, float) and math.isnan(value) and math.isnan(back))


def test_non_finite_numbers_become_words_never_null():
    assert to_json([np.float32("nan"), float("inf"), np.array([-np.inf])]) == ["nan", "inf", ["-inf"]]


def test_a_value_without_json_form_is_refused():
    with pytest.raises(TypeError, match="object"):
        to_json(object())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": ', "not JSON at line 1 column"), (b"\xff\xfe", "not UTF-8"), (b"[" * 100_000, "nested too deeply")],
)
def test_unreadable_json_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema": "suite_result/9"}', "3"])
def test_another_document_is_no_suite(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match="suite_result/1"):
        read_suite(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a.txt", "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*--out DIR"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a.txt"]
