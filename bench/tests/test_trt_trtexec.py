"""The trtexec lines: the flags that 10 and 11 have, in the dialect of each, quoted for a shell."""

import shlex
from pathlib import Path

import pytest

from bench.trt.options import BuildOptions
from bench.trt.profiles import InputRange
from bench.trt.trtexec import build_line, timing_line

RANGES = (InputRange(name="images", low=(1, 3, 320, 320), best=(4, 3, 320, 320), high=(8, 3, 320, 320)),)
GONE_IN_11 = (
    "--fp16",
    "--bf16",
    "--int8",
    "--calib",
    "--best",
    "--stronglyTyped",
    "--useCudaGraph",
    "--noDataTransfers",
)
NEW_IN_11 = ("--noCudaGraph", "--includeDataTransfers", "--noSpinWait")


def build(major=10, ranges=(), onnx="m.onnx", **options):
    return build_line(onnx, "m.engine", BuildOptions(**{"tf32": False, **options}), ranges, major=major)


def test_a_plain_line_of_each_version():
    rest = "--noTF32 --builderOptimizationLevel=3 --profilingVerbosity=detailed --skipInference"
    assert build(10) == f"trtexec --onnx=m.onnx --saveEngine=m.engine --stronglyTyped {rest}"
    assert build(11) == f"trtexec --onnx=m.onnx --saveEngine=m.engine {rest}"


def test_tf32_is_the_only_difference_that_the_option_makes():
    assert set(shlex.split(build(11))) - set(shlex.split(build(11, tf32=True))) == {"--noTF32"}


def test_shapes_and_memory_and_caches():
    words = shlex.split(
        build_line(
            "m.onnx", "m.engine",
            BuildOptions(
                tf32=True, workspace_mb=1024, optimization_level=5, timing_cache=Path("t"),
                error_on_timing_cache_miss=True, hardware_compatibility="AMPERE_PLUS", version_compatible=True,
            ),
            RANGES, major=11, timing_cache="t/timing-1.cache",
        )
    )  # fmt: skip
    assert "--minShapes=images:1x3x320x320" in words
    assert "--optShapes=images:4x3x320x320" in words
    assert "--maxShapes=images:8x3x320x320" in words
    assert "--memPoolSize=workspace:1024M" in words
    assert "--builderOptimizationLevel=5" in words
    assert "--timingCacheFile=t/timing-1.cache" in words
    assert "--errorOnTimingCacheMiss" in words
    assert "--hardwareCompatibilityLevel=ampere+" in words
    assert "--versionCompatible" in words


def test_legacy_int8_names_its_cache_and_no_typed_network():
    words = shlex.split(build(10, legacy_precision="int8", calibration_cache=Path("my cache")))
    assert "--int8" in words
    assert "--calib=my cache" in words
    assert "--stronglyTyped" not in words


def test_names_with_spaces_and_quotes_are_one_word():
    line = build(10, onnx="it's a model; rm -rf $HOME.onnx")
    assert "--onnx=it's a model; rm -rf $HOME.onnx" in shlex.split(line)


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("level", [0, 5])
def test_a_line_of_11_has_no_flag_that_11_removed(tf32, level):
    words = shlex.split(build(11, RANGES, tf32=tf32, optimization_level=level)) + shlex.split(
        timing_line("m.engine", RANGES, major=11, cuda_graph=tf32, transfers=not tf32, spin_wait=tf32)
    )
    assert not [word for word in words for gone in GONE_IN_11 if word.startswith(gone)]


def test_a_line_of_10_has_no_flag_that_came_with_11():
    words = shlex.split(timing_line("m.engine", RANGES, major=10))
    assert not set(words) & set(NEW_IN_11)


def test_options_without_a_word_in_trtexec_are_named_in_a_comment():
    line = build(10, strict_nans=True)
    assert line.endswith("  # without: STRICT_NANS")
    assert "STRICT_NANS" not in shlex.split(line, comments=True)


def test_conditions_are_the_same_in_both_dialects():
    """11 has graph on, copies out and spin-wait on unless told otherwise; 10 the opposite."""
    assert timing_line("m.engine", (), major=10) == "trtexec --loadEngine=m.engine --noDataTransfers"
    assert timing_line("m.engine", (), major=11) == "trtexec --loadEngine=m.engine --noCudaGraph --noSpinWait"
    everything = {"cuda_graph": True, "transfers": True, "spin_wait": True}
    assert (
        timing_line("m.engine", (), major=10, **everything)
        == "trtexec --loadEngine=m.engine --useCudaGraph --useSpinWait"
    )
    assert timing_line("m.engine", (), major=11, **everything) == "trtexec --loadEngine=m.engine --includeDataTransfers"
    assert "--shapes=images:4x3x320x320" in timing_line("m.engine", RANGES, major=11)
