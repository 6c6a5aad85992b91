"""TensorRT's calibration caches: every malformed line is named, and what is written is what was read."""

from __future__ import annotations

import hashlib
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError, UsageError
from bench.paths import data_dir
from bench.precision.trtcache import read_cache, write_cache

HEADER = b"TRT-8601-EntropyCalibration2\n"
ONE = b"images: 3c010a14\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calibration.cache"


def read(path, content):
    path.write_bytes(content)
    return read_cache(path)


def test_the_example_of_the_facts_is_read_and_written_back_byte_for_byte(path):
    original = data_dir() / "calibration-cache" / "qat2ptq.cache"
    if not original.is_file():
        pytest.skip(f"{original} is not here (PARITY_DATA)")
    cache = read_cache(original)
    assert (cache.header, cache.version, cache.algorithm) == (
        "TRT-8600-EntropyCalibration2", "8600", "EntropyCalibration2",
    )  # fmt: skip
    assert len(cache.scales) == 197
    assert len(set(cache.scales.values())) == 48
    assert min(cache.scales.values()) == pytest.approx(0.0078720935, rel=1e-8)
    assert max(cache.scales.values()) == pytest.approx(0.26375437, rel=1e-7)
    assert cache.amax["images"] == pytest.approx(0.9997559, rel=1e-7)
    assert cache.amax["/model.0/act/Mul_output_0"] == pytest.approx(29.340786, rel=1e-7)
    assert cache.notes == ()
    write_cache(path, cache.scales, version=cache.version, algorithm=cache.algorithm)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(original.read_bytes()).digest()


def test_known_words_are_decoded(path):
    # of caches of networks with inputs 0..1 and 0..255; decoded by hand: (1 + 0x010a14 / 2**23) / 128
    cache = read(path, HEADER + ONE + b"pixels: 4000890a\n")
    assert cache.scales["images"] == (1 + 0x010A14 / 2**23) / 128
    assert cache.amax["images"] == pytest.approx(1.0, abs=0.001)
    assert cache.amax["pixels"] == pytest.approx(255.06, abs=0.01)


@pytest.mark.parametrize(
    "header",
    ["TRT-7103-EntropyCalibration2", "TRT-101401-MinMaxCalibration", "TRT-8XXX-LegacyCalibration", "TRT-XXXX-E"],
)
def test_headers_that_were_seen_in_the_wild_are_read(path, header):
    assert read(path, header.encode() + b"\n" + ONE).header == header


@pytest.mark.parametrize(
    ("content", "scales"),
    [
        (HEADER.replace(b"\n", b"\r\n") + ONE.replace(b"\n", b"\r\n"), {"images": "3c010a14"}),
        (HEADER + b"\n\n" + ONE + b"  \n\n", {"images": "3c010a14"}),
        (HEADER + b"images: 3c010a14", {"images": "3c010a14"}),
        (HEADER + b"images: 3C010A14 \n", {"images": "3c010a14"}),
        (HEADER + b"a: b:c: d: 3c010a14\n", {"a: b:c: d": "3c010a14"}),
        (HEADER + b"(Unnamed Layer* 3) [Conv]_output: 3c010a14\n", {"(Unnamed Layer* 3) [Conv]_output": "3c010a14"}),
        (HEADER + b"tiny: 1\nsmall: 7fffff\n", {"tiny": "00000001", "small": "007fffff"}),
        (HEADER + "schräg ✓: 3c010a14\n".encode(), {"schräg ✓": "3c010a14"}),
        (HEADER + "a\u2028b: 3c010a14\n".encode(), {"a\u2028b": "3c010a14"}),
    ],
    ids=["crlf", "blank lines", "no last newline", "upper case", "colons", "unnamed", "short", "unicode", "separator"],
)
def test_every_harmless_form_is_read(path, content, scales):
    found = read(path, content).scales
    assert {name: struct.pack(">f", scale).hex() for name, scale in found.items()} == scales


def test_every_malformed_line_is_named_in_one_error(path):
    bad = {
        1: (b"TRT-86.1-Entropy", "is not TRT-<version>-<calibrator>"),
        2: (b"images 3c010a14", "is not <tensor>: <hex>"),
        4: (b"nan: 7fc00000", "scale nan"),
        5: (b"inf: 7f800000", "scale inf"),
        6: (b"minus inf: ff800000", "scale -inf"),
        7: (b"zero: 0", "above zero"),
        8: (b"minus zero: 80000000", "above zero"),
        9: (b"negative: bc010a14", "above zero"),
        10: (b"long: 3c010a141", "not 1 to 8 hexadecimal digits"),
        11: (b"word: scale", "not 1 to 8 hexadecimal digits"),
        12: (b"empty: ", "not 1 to 8 hexadecimal digits"),
        13: (b": 3c010a14", "is not <tensor>: <hex>"),
        14: (b"\xff\xfe: 3c010a14", "not UTF-8"),
        15: (b"prefixed: 0x3c0", "not 1 to 8 hexadecimal digits"),
        16: (b"ok: 3c010a15", "line 3 says 0.00787593797"),
    }
    lines = [bad.get(number, (b"ok: 3c010a14",))[0] for number in range(1, 17)]
    with pytest.raises(InputError) as raised:
        read(path, b"\n".join(lines))
    message = str(raised.value)
    assert message.startswith(f"{path}: {len(bad)} malformed line(s): line 1: ")
    parts = re.split(r"(?:: |; )line (\d+): ", message)
    described = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    assert set(described) == set(bad)
    for number, (_, reason) in bad.items():
        assert reason in described[number], number


def test_of_very_many_malformed_lines_all_numbers_are_given(path):
    with pytest.raises(InputError) as raised:
        read(path, HEADER + b"x\n" * 200)
    assert str(raised.value).startswith(f"{path}: 200 malformed line(s): line 2: 'x' is not")
    assert ", 200, 201" in str(raised.value)


def test_the_same_line_twice_is_noted(path):
    cache = read(path, HEADER + ONE + b"b: 3c010a15\n" + ONE)
    assert list(cache.scales) == ["images", "b"]
    assert cache.notes == ("line 4: 'images' again, with the scale of line 2",)


def test_a_byte_order_mark_is_noted_and_dropped(path):
    cache = read(path, b"\xef\xbb\xbf" + HEADER + ONE)
    assert list(cache.scales) == ["images"]
    assert "byte order mark" in cache.notes[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n \r\n", "empty"),
        (HEADER, "a header and no tensor"),
        (b"\x00\x01\x02" * 50, "malformed line"),
        (ONE, "header 'images: 3c010a14' is not TRT-"),
        (b"TRT--EntropyCalibration2\n" + ONE, "is not TRT-"),
        (b"TRT-8601-\n" + ONE, "is not TRT-"),
        (b'{"schema": "calibration/1"}', "this is JSON"),
        (b"images 1.0\n/model.0/Conv_output_0 2.0000002\na: b 1e-05\n", "onnxruntime's own calibration table"),
    ],
)
def test_files_that_are_no_cache_are_refused_with_the_reason(path, content, reason):
    with pytest.raises(InputError, match=reason) as raised:
        read(path, content)
    assert str(path) in str(raised.value)


def test_the_table_that_onnxruntime_writes_is_recognised(tmp_path):
    flatbuffers = pytest.importorskip("flatbuffers", reason="onnxruntime needs it to write its table")
    assert flatbuffers
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    ends = (np.array(-6, np.float32), np.array(2, np.float32))
    write_calibration_table(TensorsData(CalibrationMethod.MinMax, {"a": ends, "b: c": ends}).data, str(tmp_path))
    with pytest.raises(InputError, match="from -6 to 2 would be cut at 2"):
        read_cache(tmp_path / "calibration.cache")


def test_a_cache_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.cache: cannot be read"):
        read_cache(tmp_path / "none.cache")
    with pytest.raises(InputError, match="cannot be read"):
        read_cache(tmp_path)


positive = st.floats(min_value=2.0**-149, max_value=float(np.finfo(np.float32).max), width=32, allow_subnormal=True)
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\n"), min_size=1, max_size=30).filter(
    lambda name: bool(name.strip())
)


@settings(max_examples=150, deadline=None)
@given(scales=st.dictionaries(names, positive, min_size=1, max_size=8))
def test_what_is_written_is_what_was_read(tmp_path_factory, scales):
    path = tmp_path_factory.mktemp("caches") / "c.cache"
    assert write_cache(path, scales, version=8601, algorithm="MinMaxCalibration") == "TRT-8601-MinMaxCalibration"
    cache = read_cache(path)
    assert dict(cache.scales) == scales
    assert list(cache.scales) == list(scales)
    first = path.read_bytes()
    write_cache(path, cache.scales, version=cache.version, algorithm=cache.algorithm)
    assert path.read_bytes() == first
    path.write_bytes(first.replace(b"\n", b"\r\n"))
    assert dict(read_cache(path).scales) == scales


def test_scales_and_names_that_the_format_cannot_hold_are_all_named(path):
    wrong = {
        "fine": 1.0, "zero": 0.0, "nan": float("nan"), "inf": float("inf"), "minus": -1.0, "vanishes": 1e-46,
        "too large": 1e39, "two\nlines": 1.0, " ": 1.0, "\ud800": 1.0,
    }  # fmt: skip
    with pytest.raises(InputError, match="cannot hold 9 of 10 tensors") as raised:
        write_cache(path, wrong, version="8601", algorithm="EntropyCalibration2")
    for name in set(wrong) - {"fine"}:
        assert repr(name) in str(raised.value)
    assert not path.exists()


@pytest.mark.parametrize(
    ("version", "algorithm"), [("8.6.1", "E"), ("", "E"), ("8601", ""), ("8601", "En tropy"), ("8\n", "E")]
)
def test_a_header_that_nobody_could_read_is_not_written(path, version, algorithm):
    with pytest.raises(UsageError, match="no header of a cache"):
        write_cache(path, {"a": 1.0}, version=version, algorithm=algorithm)
    assert not path.exists()


def test_an_empty_cache_is_not_written(path):
    with pytest.raises(InputError, match="no scale to write"):
        write_cache(path, {}, version="8601", algorithm="EntropyCalibration2")


def test_a_disk_without_room_loses_nothing(path, monkeypatch):
    path.write_bytes(HEADER + ONE)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.files.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_cache(path, {"a": 1.0}, version="8601", algorithm="EntropyCalibration2")
    assert path.read_bytes() == HEADER + ONE
    assert [p.name for p in path.parent.iterdir()] == [path.name]
