"""The calibration document: what is written is what is read, and a file that lies is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bench.errors import InputError
from bench.precision.calibration import (
    Calibration,
    CalibrationImage,
    TensorRange,
    read_calibration,
    write_calibration,
)
from bench.schema import validate_file

FULL = Calibration(
    method="percentile 99.999",
    ranges={"images": TensorRange(low=0.0, high=1.0, amax=0.9999), "a: b": TensorRange(low=-2.5, high=0.1, amax=2.5)},
    onnx_sha256="a" * 64,
    images=2,
    images_sha256="b" * 64,
    set_name="pets",
    seed=7,
    evaluation_images=1,
    evaluation_sets=("pets",),
    model="tiny",
    set_split="calibration",
    set_sha256="c" * 64,
    files=(CalibrationImage(name="2.png", sha256="d" * 64), CalibrationImage(name="1.png", sha256="e" * 64)),
    versions={"onnxruntime": "1.31.1"},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calibration.json"


def test_a_document_is_read_back_as_it_was(path):
    write_calibration(path, FULL)
    assert read_calibration(path) == FULL
    assert list(read_calibration(path).ranges) == list(FULL.ranges)
    assert validate_file(path) == "calibration/1"


def test_the_scale_is_the_range_over_127():
    assert TensorRange(low=-254.0, high=3.0, amax=254.0).scale == 2.0


def test_fields_that_are_not_known_may_be_left_out(path):
    sparse = Calibration(
        method="migrated TRT-8600-EntropyCalibration2", ranges=FULL.ranges, onnx_sha256="a" * 64, images=0,
        images_sha256="", set_name="",
    )  # fmt: skip
    write_calibration(path, sparse)
    assert read_calibration(path) == sparse


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda d: d["ranges"]["images"].update(amax=-1), "ranges/images/amax"),
        (lambda d: d["ranges"]["images"].update(amax="nan"), "ranges/images/amax"),
        (lambda d: d["ranges"]["images"].update(amax=float("nan")), "ranges/images"),
        (lambda d: d["ranges"]["images"].update(high=float("inf")), "ranges/images"),
        (lambda d: d["ranges"]["images"].update(low=2.0), "low 2.0 is above high"),
        (lambda d: d.update(ranges={}), "ranges"),
        (lambda d: d.pop("seed"), "seed"),
        (lambda d: d.update(method="guess"), "method"),
        (lambda d: d["files"].pop(), "1 names for 2 images"),
        (lambda d: d.update(schema="history/1"), "schema"),
    ],
)
def test_a_document_that_cannot_be_true_is_refused_with_the_place(path, edit, place):
    write_calibration(path, FULL)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=place):
        read_calibration(path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"schema": "calib', b"\xff\xfe", b"TRT-8601-X\na: 3c00f9f4\n"]
)
def test_other_files_are_refused_by_name(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"calibration\.json"):
        read_calibration(path)


def test_a_calibration_that_makes_no_sense_is_not_written(path):
    wrong = dataclasses.replace(FULL, ranges={"x": TensorRange(low=0.0, high=float("nan"), amax=1.0)})
    with pytest.raises(InputError, match="ranges/x"):
        write_calibration(path, wrong)
    assert not path.exists()


def test_a_disk_without_room_loses_nothing(path, monkeypatch):
    write_calibration(path, FULL)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_calibration(path, dataclasses.replace(FULL, seed=8))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"]
