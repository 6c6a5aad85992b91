"""Options of a build: refused contradictions, identity without paths or numbers of enums, the round trip to a child."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import InputError, UsageError
from bench.trt.hostkey import HostKey, engine_identity, short_key
from bench.trt.options import BuildOptions, from_job, tf32_from

HOST = HostKey(tensorrt="11.4.0.106", gpu="NVIDIA H200", compute_capability="9.0", driver="580.65.06")
PLAIN = BuildOptions(tf32=False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batches": (2, 1, 4)}, "MIN,OPT,MAX"),
        ({"batches": (0, 1, 1)}, "MIN,OPT,MAX"),
        ({"input_batches": (("images", (1, 9, 8)),)}, "images: 1,9,8"),
        ({"workspace_mb": 0}, "at least 1"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"legacy_precision": "fp8"}, "fp16, bf16, int8"),
        ({"legacy_precision": "int8"}, "belong together"),
        ({"calibration_cache": Path("c")}, "belong together"),
        ({"error_on_timing_cache_miss": True}, "needs a timing cache"),
    ],
)
def test_contradictions_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        BuildOptions(tf32=False, **values)


def test_tf32_has_no_default():
    with pytest.raises(TypeError):
        BuildOptions()


def test_every_option_but_a_path_changes_the_identity(tmp_path):
    cache = tmp_path / "c"
    cache.write_bytes(b"TRT-101601-EntropyCalibration2\nimages: 3c010a14\n")
    variants = [
        replace(PLAIN, tf32=True),
        replace(PLAIN, batches=(1, 2, 4)),
        replace(PLAIN, input_batches=(("images", (1, 2, 4)),)),
        replace(PLAIN, workspace_mb=64),
        replace(PLAIN, optimization_level=5),
        replace(PLAIN, strict_nans=True),
        replace(PLAIN, hardware_compatibility="AMPERE_PLUS"),
        replace(PLAIN, version_compatible=True),
        replace(PLAIN, timing_cache=Path("t")),
        replace(PLAIN, timing_cache=Path("t"), editable_timing_cache=True),
        replace(PLAIN, timing_cache=Path("t"), error_on_timing_cache_miss=True),
        replace(PLAIN, legacy_precision="fp16"),
        replace(PLAIN, legacy_precision="int8", calibration_cache=cache),
        replace(PLAIN, legacy_precision="int8", calibration_cache=cache, any_cache_version=True),
    ]
    keys = {short_key(engine_identity("0" * 64, HOST, options)) for options in (PLAIN, *variants)}
    assert len(keys) == len(variants) + 1
    assert set(PLAIN.identity()) == set(BuildOptions.__dataclass_fields__), "a new field is not in the identity"


def test_the_place_of_a_file_does_not_change_the_identity(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"TRT-101601-EntropyCalibration2\nimages: 3c010a14\n")
    found = [replace(PLAIN, legacy_precision="int8", calibration_cache=tmp_path / n).identity() for n in ("a", "b")]
    assert found[0] == found[1]
    assert replace(PLAIN, timing_cache=Path("a")).identity() == replace(PLAIN, timing_cache=Path("b")).identity()
    (tmp_path / "b").write_bytes(b"TRT-101601-EntropyCalibration2\nimages: 3c010a15\n")
    assert replace(PLAIN, legacy_precision="int8", calibration_cache=tmp_path / "b").identity() != found[0]


def test_an_unreadable_cache_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        replace(PLAIN, legacy_precision="int8", calibration_cache=tmp_path / "none").identity()


@pytest.mark.parametrize("field", ["tensorrt", "gpu", "compute_capability", "driver"])
def test_another_host_is_another_engine(field):
    other = replace(HOST, **{field: "other"})
    assert engine_identity("0" * 64, HOST, PLAIN) != engine_identity("0" * 64, other, PLAIN)


def test_the_identity_is_plain_json_without_numbers_of_enums():
    document = engine_identity("0" * 64, HOST, replace(PLAIN, hardware_compatibility="AMPERE_PLUS"))
    assert json.loads(json.dumps(document)) == document
    assert document["options"]["hardware_compatibility"] == "AMPERE_PLUS"


def test_a_job_survives_the_way_to_the_child(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = BuildOptions(
        tf32=True, batches=(1, 4, 8), input_batches=(("images", (1, 2, 3)),), workspace_mb=64, timing_cache=Path("t"),
        legacy_precision="int8", calibration_cache=Path("c"), any_cache_version=True,
    )  # fmt: skip
    back = from_job(json.loads(json.dumps(options.to_job())))
    assert back == replace(options, timing_cache=tmp_path / "t", calibration_cache=tmp_path / "c")


def test_an_unknown_field_of_a_job_is_refused():
    with pytest.raises(UsageError, match="fp16"):
        from_job({"tf32": True, "fp16": True})


@pytest.mark.parametrize(
    ("label", "flag", "expected"),
    [(None, None, False), ("tf32", None, True), ("fp32", None, False), ("int8", None, False), ("fp16", True, True),
     (None, True, True), ("tf32", True, True), ("fp32", False, False)],
)  # fmt: skip
def test_tf32_follows_the_label_unless_it_is_said(label, flag, expected):
    assert tf32_from(label, flag) is expected


@pytest.mark.parametrize(("label", "flag"), [("fp32", True), ("tf32", False)])
def test_a_label_that_contradicts_the_flag_is_refused(label, flag):
    with pytest.raises(UsageError, match="contradict"):
        tf32_from(label, flag)
