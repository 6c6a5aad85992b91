"""``parity validate``: lines for a person, JSON for a machine, 2 when something is wrong."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import testing
from bench.cli import app
from bench.errors import BenchError, InputError, UsageError
from bench.tests.sample_predictions import detection, entry, result


def validate(*words: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["validate", *map(str, words)], catch_exceptions=True)
    if done.exception is not None and isinstance(done.exception, BenchError):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p.json"


def test_a_valid_file_says_form_and_boxes_and_exits_0(path: Path) -> None:
    path.write_text(json.dumps([entry()]))
    code, said = validate(path)
    assert code == 0
    assert said.splitlines()[0] == f"{path}: valid predictions/1 (entries, boxes cxcywh_norm)"


def test_every_violation_has_place_reason_and_fix_on_three_lines(path: Path) -> None:
    path.write_text(json.dumps([entry(detections=[detection(score="0.5"), detection(class_id=1.0)])]))
    code, said = validate(path)
    assert code == 2
    assert said.splitlines()[:7] == [
        f"{path}: predictions/1 (entries, boxes cxcywh_norm), 2 violations",
        "  $[0].detections[0].score",
        '      must be a finite number; found the string "0.5"',
        "      fix: remove the quotes: 0.5",
        "  $[0].detections[1].class_id",
        "      must be a whole number >= 0; found the number 1.0",
        "      fix: write 1",
    ]


def test_the_limit_counts_the_rest_and_says_how_to_see_it(path: Path) -> None:
    path.write_text(json.dumps([result(score=None)] * 30))
    code, said = validate(path, "--limit", 5)
    assert code == 2
    assert said.count("fix:") == 5
    assert "  and 25 more; --limit 30 explains them all" in said.splitlines()
    assert validate(path, "--limit", 30)[1].count("fix:") == 30


def test_json_holds_the_violations(path: Path) -> None:
    path.write_text(json.dumps({"predictions": [entry(image=7.5)]}))
    code, said = validate(path, "--json", "--limit", 1)
    found = json.loads(said)
    assert code == 2
    assert (found["valid"], found["total"], found["more"], found["form"]) == (False, 1, 0, "wrapped")
    assert found["violations"] == [
        {
            "path": "$.predictions[0].image",
            "problem": "must be a file name in quotes or a whole number (the image id)",
            "found": "the number 7.5",
            "fix": "give a file name in quotes or a whole number (the image id)",
        }
    ]
    path.write_text("[]")
    code, said = validate(path, "--json")
    assert (code, json.loads(said)["valid"]) == (0, True)


def test_the_set_is_looked_up_when_it_is_given(tmp_path: Path, path: Path) -> None:
    images = testing.fake_folder(tmp_path / "fakes", 3)
    name = sorted((images / "images").iterdir())[0].name
    path.write_text(json.dumps([entry(image=name, detections=[detection(class_id=99)])]))
    assert validate(path)[0] == 0
    code, said = validate(path, "--fixtures", images)
    assert code == 2
    assert "$[0].detections[0].class_id" in said
    assert "2 images of" in said


def test_the_format_can_be_given(path: Path) -> None:
    path.write_text(json.dumps([entry(detections=[detection(bbox=[30, 45, 20, 30])])]))
    assert validate(path)[0] == 2
    assert validate(path, "--bbox-format", "cxcywh_abs")[0] == 0


@pytest.mark.parametrize(
    ("words", "text", "failure", "message"),
    [
        (["--bbox-format", "xywh"], "[]", UsageError, "--bbox-format 'xywh' does not exist. Did you mean 'xywh_abs'"),
        (["--bbox-format", "xywh_abs"], '{"schema": "suite_result/1"}', UsageError, "are for predictions"),
        ([], "", InputError, "has no JSON"),
        ([], "\x89PNG", InputError, "JSON predictions begin with"),
    ],
)
def test_what_is_no_question_of_a_schema_is_one_line(
    path: Path, words: list[str], text: str, failure: type[BenchError], message: str
) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(failure, match=message):
        validate(path, *words)


def test_names_with_markup_and_other_scripts_are_shown_as_they_are(path: Path) -> None:
    path.write_text(json.dumps({"[red]画像.jpg": [detection(score=None)]}), encoding="utf-8")
    assert '  $["[red]画像.jpg"][0].score' in validate(path)[1].splitlines()


def test_twenty_megabytes_are_checked_in_seconds(path: Path) -> None:
    text = json.dumps([detection(bbox=[0.123456789, 0.23456789, 0.3456789, 0.123456789])] * 1000)
    path.write_text("{" + ",".join(f'"{number}.jpg": {text}' for number in range(200)) + "}")
    assert path.stat().st_size > 18_000_000
    began = time.perf_counter()
    code, said = validate(path)
    assert code == 0, said
    assert time.perf_counter() - began < 20
