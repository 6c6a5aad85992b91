"""What the build side does with live objects of the real bindings: subclassing, enums, flags. Nothing is built.

The bindings are imported over stub libraries (see trt_contract), in a process of their own.
"""

import json

import pytest

from bench.tests.trt_contract import stubs

SCRIPT = """
import json
import tensorrt_bindings as trt
from pathlib import Path
from bench.trt import names
from bench.trt.legacy import CALIBRATORS, LEGACY_FLAGS, CacheFile, make_calibrator
from bench.trt.log import make_logger

logger = make_logger(trt)
for word in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
    logger.log(getattr(trt.ILogger.Severity, word), word.lower())
calibrators = {}
for algorithm, name in CALIBRATORS.items():
    if hasattr(trt, name):
        made = make_calibrator(trt, CacheFile(algorithm=algorithm, content=b"TRT-1-X", note=None))
        calibrators[algorithm] = [isinstance(made, getattr(trt, name)), made.get_batch(["images"]),
                                  made.get_batch_size(), bytes(made.read_calibration_cache()).decode(),
                                  names.name_of(made.get_algorithm()), made.asked_for_images]
try:
    trt.Builder(logger)
    builder = "made"
except TypeError as error:
    builder = "TypeError"
print(json.dumps({
    "version": trt.__version__,
    "major": names.buildable_major(trt),
    "errors": logger.errors(),
    "warnings": logger.warnings(),
    "calibrators": calibrators,
    "legacy": {word: names.has(trt, "BuilderFlag", flag) for word, flag in LEGACY_FLAGS.items()},
    "typed": names.bits([names.member(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED")]),
    "flags": sorted(trt.BuilderFlag.__members__),
    "dtypes": {name: names.dtype_of(value) for name, value in trt.DataType.__members__.items()},
    "builder": builder,
    "plugins": trt.init_libnvinfer_plugins(logger, ""),
    "dims": [int(size) for size in trt.Dims((1, 3, -1))],
    "members": [names.name_of(names.member(trt, *pair)) for pair in (
        ("ProfilingVerbosity", "DETAILED"), ("HardwareCompatibilityLevel", "NONE"), ("MemoryPoolType", "WORKSPACE"),
        ("LayerInformationFormat", "JSON"), ("BuilderFlag", "TF32"), ("BuilderFlag", "STRICT_NANS"),
        ("BuilderFlag", "VERSION_COMPATIBLE"), ("BuilderFlag", "EDITABLE_TIMING_CACHE"),
        ("BuilderFlag", "ERROR_ON_TIMING_CACHE_MISS"), ("TensorIOMode", "INPUT"))],
}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    if reason := stubs.why_not():
        pytest.skip(reason)
    found = {}
    for version, wheel in stubs.wheels().items():
        done = stubs.unpack(wheel, tmp_path_factory.mktemp("bindings")).run(SCRIPT)
        assert done.returncode == 0, done.stderr
        found[version] = json.loads(done.stdout)
    return found


@pytest.fixture(params=[10, 11])
def answer(request, answers):
    return next(found for version, found in answers.items() if version.startswith(f"{request.param}."))


def test_the_logger_is_one_of_theirs_and_keeps_failures(answer):
    assert answer["errors"] == ["error", "internal_error"]
    assert answer["warnings"] == ["warning"]


def test_a_constructor_without_a_library_is_the_error_that_is_caught(answer):
    assert answer["builder"] == "TypeError"


def test_every_name_that_a_build_needs_is_there(answer):
    assert len(answer["members"]) == 10
    assert answer["plugins"] is False, "the logger is accepted where a capsule is documented; the stub answers false"
    assert answer["dims"] == [1, 3, -1]
    assert "TF32" in answer["flags"]
    assert answer["version"].startswith(f"{answer['major']}.")


def test_calibrators_and_precision_flags_are_there_in_10_and_gone_in_11(answer):
    if answer["major"] == 10:
        assert answer["legacy"] == {"fp16": True, "bf16": True, "int8": True}
        assert list(answer["calibrators"]) == ["EntropyCalibration2", "MinMaxCalibration", "EntropyCalibration"]
        for row in answer["calibrators"].values():
            assert row[:4] + row[5:] == [True, None, 1, "TRT-1-X", True]
        assert [row[4] for row in answer["calibrators"].values()] == [
            "ENTROPY_CALIBRATION_2", "MINMAX_CALIBRATION", "ENTROPY_CALIBRATION"
        ]  # fmt: skip
    else:
        assert answer["legacy"] == {"fp16": False, "bf16": False, "int8": False}
        assert answer["calibrators"] == {}


def test_the_same_name_is_another_number(answers):
    """The reason why no number is written down: 2 in 10.16, 1 in 11.4."""
    assert {found["major"]: found["typed"] for found in answers.values()} == {10: 2, 11: 1}


def test_data_types_have_numpys_names(answer):
    expected = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32",
                "INT64": "int64", "BOOL": "bool", "UINT8": "uint8", "FP8": "float8_e4m3fn"}  # fmt: skip
    assert {name: answer["dtypes"][name] for name in expected} == expected
