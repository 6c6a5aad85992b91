"""Builds with the fake TensorRT of 10.16 and 11.4: flags by name, every failure an error with the log in it.

The fake's names and arities are those of the real bindings; what it "builds" says nothing about TensorRT.
"""

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench.errors import ArtifactError, InputError, Unsupported
from bench.testing.trt_fake import fake_tensorrt
from bench.tests.tiny_onnx import tiny_model
from bench.tests.trt_samples import half, quantised
from bench.trt.build import build_engine, inspect_plan
from bench.trt.hostkey import HostKey
from bench.trt.inspector import observed_precision
from bench.trt.legacy import header_version
from bench.trt.log import make_logger
from bench.trt.names import buildable_major, member
from bench.trt.options import BuildOptions
from bench.trt.timingcache import timing_cache_file

TEN, ELEVEN = "10.16.1.11", "11.4.0.106"
BOTH = pytest.mark.parametrize("version", [TEN, ELEVEN])
PLAIN = BuildOptions(tf32=False)


def host(version):
    return HostKey(tensorrt=version, gpu="Fake GPU", compute_capability="9.0", driver="580.65.06")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(), str(path))
    return path


@pytest.fixture
def cache(tmp_path):
    path = tmp_path / "calibration.cache"
    path.write_bytes(b"TRT-101601-EntropyCalibration2\nimages: 3c010a14\n")
    return path


def build(world, path, options=PLAIN):
    return build_engine(world.module, path, options, host=host(world.version))


@BOTH
def test_an_engine_is_built_and_known(version, model):
    world = fake_tensorrt(version)
    built = build(world, model)
    assert built.creation_flags == ("STRONGLY_TYPED",)
    assert built.flags == ()
    assert [(t.name, t.mode, t.dtype, t.shape) for t in built.io] == [
        ("images", "input", "float32", (-1, 3, 8, 8)),
        ("cells", "output", "float32", (-1, 4, 16, 16)),
    ]
    assert [r.high for r in built.ranges] == [(1, 3, 8, 8)]
    assert observed_precision(built.layers) == ("fp32", {"fp32": 3}, 1.0)
    assert {layer.inputs for layer in built.layers} == {("fp32",)}, "a dynamic axis hides types without a context"
    assert built.tensorrt == version
    assert built.trtexec_build.startswith(f"trtexec --onnx={model}")
    assert ("--stronglyTyped" in built.trtexec_build) is (version == TEN)
    assert b'"typed": true' in built.plan
    assert built.seconds >= 0.0


@BOTH
def test_tf32_is_set_or_cleared_in_words(version, model):
    for tf32 in (True, False):
        world = fake_tensorrt(version)
        built = build(world, model, BuildOptions(tf32=tf32))
        assert ("TF32" in built.flags) is tf32
        assert f"IBuilderConfig.{'set_flag' if tf32 else 'clear_flag'}" in world.calls
        assert observed_precision(built.layers).precision == ("tf32" if tf32 else "fp32")


@BOTH
@pytest.mark.parametrize(("change", "expected"), [(half, "fp16"), (quantised, "int8")])
def test_the_precision_of_the_file_is_observed_in_the_engine(version, tmp_path, change, expected):
    path = tmp_path / "m.onnx"
    onnx.save(change(tiny_model()), str(path))
    assert observed_precision(build(fake_tensorrt(version), path).layers).precision == expected


@BOTH
def test_the_profile_has_the_batches_and_the_static_size(version, model):
    built = build(fake_tensorrt(version), model, BuildOptions(tf32=False, batches=(1, 4, 8)))
    assert [(r.name, r.low, r.best, r.high) for r in built.ranges] == [
        ("images", (1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
    ]
    assert "--optShapes=images:4x3x8x8" in built.trtexec_build


def test_a_static_batch_has_no_profile_and_no_other_batch(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(tiny_model(batch=2), str(path))
    world = fake_tensorrt(ELEVEN)
    assert build(world, path).ranges == ()
    assert "Builder.create_optimization_profile" not in world.calls
    with pytest.raises(Unsupported, match="fixed batch 2"):
        build(fake_tensorrt(ELEVEN), path, BuildOptions(tf32=False, batches=(1, 4, 8)))


def test_other_dynamic_axes_are_refused(tmp_path):
    model = tiny_model()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(Unsupported, match=r"dynamic axes \[0, 2\].*static height and width"):
        build(fake_tensorrt(ELEVEN), tmp_path / "m.onnx")


FAILURES = [
    ("Builder", None, "creates no builder"),
    ("Builder.create_network", None, "creates no network"),
    ("OnnxParser", None, "creates no ONNX parser"),
    ("OnnxParser.parse_from_file", False, "parser refuses the file: the parser gives no reason"),
    ("Builder.create_builder_config", None, "creates no builder configuration"),
    ("Builder.create_optimization_profile", None, "no optimisation profile"),
    ("IOptimizationProfile.set_shape", ValueError("min exceeds max"), r"refuses the shapes.*min exceeds max"),
    ("IBuilderConfig.add_optimization_profile", -1, r"refuses the optimisation profile \(index -1\): images"),
    ("Builder.build_serialized_network", None, "built no engine"),
    ("Builder.build_serialized_network", b"", "empty engine"),
    ("Runtime", None, "creates no runtime"),
    ("Runtime.deserialize_cuda_engine", None, "cannot load the engine"),
    ("ICudaEngine.create_engine_inspector", None, "no engine inspector"),
    ("EngineInspector.get_engine_information", '{"Layers": ["names only"]}', "DETAILED"),
]


@BOTH
@pytest.mark.parametrize(("call", "value", "words"), FAILURES, ids=[f"{c}={v!r}"[:60] for c, v, _ in FAILURES])
def test_every_failure_is_an_error_with_the_log(version, model, call, value, words):
    world = fake_tensorrt(version)
    world.answer(call, value)
    with pytest.raises(ArtifactError, match=words) as caught:
        build(world, model)
    if call not in ("Builder", "ICudaEngine.create_engine_inspector", "EngineInspector.get_engine_information"):
        assert f"[fake] {call} fails as scripted" in str(caught.value)


@BOTH
def test_a_flag_that_is_not_kept_is_an_error(version, model):
    world = fake_tensorrt(version)
    world.answer("IBuilderConfig.get_flag", True)  # TF32 was cleared, and is read back as set
    with pytest.raises(ArtifactError, match="does not keep the builder flag TF32 clear"):
        build(world, model)


@BOTH
def test_every_error_of_the_parser_is_told(version, model):
    world = fake_tensorrt(version)
    world.answer("OnnxParser.parse_from_file", False)
    world.answer("OnnxParser.num_errors", 2)
    for number in (7, 9):
        error = world.made("ParserError", text=f"no importer for operator {number}")
        world.answer("OnnxParser.get_error", error)
    with pytest.raises(ArtifactError, match=r"operator 7.*operator 9"):
        build(world, model)


def test_a_file_that_is_no_onnx_has_the_parsers_words(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        build(fake_tensorrt(ELEVEN), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no such file"):
        build(fake_tensorrt(ELEVEN), tmp_path / "none.onnx")


@BOTH
def test_plugins_that_cannot_be_registered_are_told(version, model):
    world = fake_tensorrt(version)
    world.answer("init_libnvinfer_plugins", False)
    assert "plugins could not be registered" in build(world, model).notes[0]


@BOTH
def test_an_inspector_that_is_silent_with_a_context_is_asked_without_one(version, model):
    world = fake_tensorrt(version)
    world.answer("EngineInspector.get_engine_information", "")
    built = build(world, model)
    assert observed_precision(built.layers).precision == "fp32", "types are read from the kernels' names"
    assert world.calls.count("EngineInspector.get_engine_information") == 2


@BOTH
def test_objects_end_before_those_they_depend_on(version, model):
    world = fake_tensorrt(version)
    build(world, model)
    gc.collect()
    ended = world.destroyed
    for first, then in [("OnnxParser", "INetworkDefinition"), ("INetworkDefinition", "Builder"),
                        ("IBuilderConfig", "Builder"), ("EngineInspector", "ICudaEngine"),
                        ("IExecutionContext", "ICudaEngine"), ("ICudaEngine", "Runtime")]:  # fmt: skip
        assert ended.index(first) < ended.index(then), (first, then)


@BOTH
def test_a_truncated_engine_is_not_loaded(version, model):
    world = fake_tensorrt(version)
    plan = build(world, model).plan
    with pytest.raises(ArtifactError, match=r"cannot load the engine.*magic tag"):
        inspect_plan(world.module, plan[:-7], make_logger(world.module))


def test_an_engine_of_another_version_or_gpu_is_not_loaded(model):
    plan = build(fake_tensorrt(TEN), model).plan
    for other in (fake_tensorrt(ELEVEN), fake_tensorrt(TEN, gpu="Other GPU")):
        with pytest.raises(ArtifactError, match=r"the engine is of TensorRT 10\.16"):
            inspect_plan(other.module, plan, make_logger(other.module))


class TestTimingCache:
    OPTIONS = BuildOptions(tf32=False, timing_cache=Path("timing"))

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def path(self, version=ELEVEN, *, tf32=False):
        return timing_cache_file(Path("timing"), host(version), tf32=tf32)

    def test_it_is_made_kept_and_loaded(self, model):
        first = build(fake_tensorrt(ELEVEN), model, self.OPTIONS)
        assert (first.timing_cache.state, first.timing_cache.path) == ("new", self.path())
        assert self.path().read_bytes() == b"FAKE-TIMING 11.4.0.106"
        assert f"--timingCacheFile={self.path()}" in first.trtexec_build
        assert build(fake_tensorrt(ELEVEN), model, self.OPTIONS).timing_cache.state == "loaded"

    def test_each_host_and_tf32_setting_has_its_own_file(self):
        assert len({self.path(), self.path(TEN), self.path(tf32=True)}) == 3

    @pytest.mark.parametrize("content", [b"FAKE-TIMING 8.6.1", b"garbage"])
    def test_a_rejected_file_is_told_and_made_again(self, model, content):
        self.path().parent.mkdir()
        self.path().write_bytes(content)
        built = build(fake_tensorrt(ELEVEN), model, self.OPTIONS)
        assert built.timing_cache.state == "rejected"
        assert "rejected the timing cache" in built.notes[0]
        assert self.path().read_bytes() == b"FAKE-TIMING 11.4.0.106"

    def test_a_mismatch_is_never_ignored(self, model):
        build(fake_tensorrt(ELEVEN), model, self.OPTIONS)
        world = fake_tensorrt(ELEVEN)
        world.answer("IBuilderConfig.set_timing_cache", False)
        assert build(world, model, self.OPTIONS).timing_cache.state == "rejected"
        seen = []
        world = fake_tensorrt(ELEVEN)
        world.behaviour["IBuilderConfig.set_timing_cache"] = lambda self, cache, ignore: seen.append(ignore) or True
        world.behaviour["IBuilderConfig.get_timing_cache"] = lambda self: None
        build(world, model, self.OPTIONS)
        assert seen == [False]

    def test_not_even_an_empty_one_is_an_error(self, model):
        world = fake_tensorrt(ELEVEN)
        world.answer("IBuilderConfig.create_timing_cache", None)
        with pytest.raises(ArtifactError, match="not even an empty one"):
            build(world, model, self.OPTIONS)

    def test_an_error_on_a_miss_needs_a_file(self, model):
        options = BuildOptions(tf32=False, timing_cache=Path("timing"), error_on_timing_cache_miss=True)
        with pytest.raises(ArtifactError, match="no timing cache yet"):
            build(fake_tensorrt(ELEVEN), model, options)
        build(fake_tensorrt(ELEVEN), model, self.OPTIONS)
        assert build(fake_tensorrt(ELEVEN), model, options).flags == ("ERROR_ON_TIMING_CACHE_MISS",)

    @pytest.mark.parametrize("call", ["IBuilderConfig.get_timing_cache", "ITimingCache.serialize"])
    def test_a_cache_that_does_not_come_back_leaves_the_file(self, model, call):
        build(fake_tensorrt(ELEVEN), model, self.OPTIONS)
        before = self.path().read_bytes()
        world = fake_tensorrt(ELEVEN)
        world.answer(call, None)
        assert "left as it was" in build(world, model, self.OPTIONS).notes[0]
        assert self.path().read_bytes() == before

    def test_a_folder_that_cannot_be_written_is_bad_input(self, model):
        Path("timing").write_text("a file")
        with pytest.raises(InputError, match="cannot be written"):
            build(fake_tensorrt(ELEVEN), model, self.OPTIONS)


class TestLegacy:
    def options(self, precision, cache=None, **more):
        return BuildOptions(tf32=False, legacy_precision=precision, calibration_cache=cache, **more)

    @pytest.mark.parametrize(("precision", "flag"), [("fp16", "FP16"), ("bf16", "BF16")])
    def test_10_builds_by_flag_on_an_untyped_network(self, model, precision, flag):
        built = build(fake_tensorrt(TEN), model, self.options(precision))
        assert (built.creation_flags, built.flags) == ((), (flag,))
        assert b'"typed": false' in built.plan
        assert observed_precision(built.layers).precision == precision
        assert f"--{precision} " in built.trtexec_build

    def test_10_builds_int8_from_a_cache(self, model, cache):
        built = build(fake_tensorrt(TEN), model, self.options("int8", cache))
        assert built.flags == ("INT8",)
        assert observed_precision(built.layers).precision == "int8"
        assert f"--calib={cache}" in built.trtexec_build

    @pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
    def test_11_refuses_it_with_the_reason_before_anything_else(self, precision, cache, tmp_path):
        world = fake_tensorrt(ELEVEN)
        options = self.options(precision, cache if precision == "int8" else None)
        with pytest.raises(Unsupported, match=r"removed in 11\.0.*parity (export|calibration-cache migrate)"):
            build(world, tmp_path / "none.onnx", options)
        assert world.calls == []

    @pytest.mark.parametrize(
        ("header", "base"),
        [("EntropyCalibration2", "IInt8EntropyCalibrator2"), ("MinMaxCalibration", "IInt8MinMaxCalibrator"),
         ("EntropyCalibration", "IInt8EntropyCalibrator")],
    )  # fmt: skip
    def test_the_calibrator_is_that_of_the_header(self, model, cache, header, base):
        cache.write_bytes(f"TRT-101601-{header}\nimages: 3c010a14\n".encode())
        world = fake_tensorrt(TEN)
        assert build(world, model, self.options("int8", cache)).notes == ()
        assert base in world.calls

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "no header"),
            (b"images: 3c010a14\n", "no header"),
            (b"TRT-101601-EntropyCalibration2\n", "no entry after the header"),
            (b"TRT-101601-LegacyCalibration\nimages: 3c010a14\n", "LegacyCalibration is not one of"),
            (b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n", r"8601, this is 10\.16.*--any-cache-version"),
            (b"\x00\xff\n", "no header"),
        ],
    )
    def test_a_cache_that_would_be_ignored_is_bad_input(self, model, cache, content, words):
        cache.write_bytes(content)
        with pytest.raises(InputError, match=words):
            build(fake_tensorrt(TEN), model, self.options("int8", cache))

    def test_a_cache_of_another_version_is_handed_over_when_asked_for_and_told(self, model, cache):
        cache.write_bytes(b"TRT-8601-MinMaxCalibration\r\nimages: 3c010a14\r\n")
        given = []
        world = fake_tensorrt(TEN)
        ordinary = world.behaviour["Builder.build_serialized_network"]

        def looked_at(self, network, config, kernel_text=None):
            given.append(config.int8_calibrator.read_calibration_cache())
            return ordinary(self, network, config, kernel_text)

        world.behaviour["Builder.build_serialized_network"] = looked_at
        built = build(world, model, self.options("int8", cache, any_cache_version=True))
        assert given == [b"TRT-101601-MinMaxCalibration\nimages: 3c010a14\n"]
        assert built.notes == ("calibration cache of TensorRT 8601 handed over as 101601",)
        assert cache.read_bytes().startswith(b"TRT-8601-"), "the user's file stays as it is"

    def test_a_cache_that_tensorrt_does_not_take_is_an_error(self, model, cache):
        """It then asks for images, of which there are none."""
        for complete in (True, False):
            world = fake_tensorrt(TEN)
            ordinary = world.behaviour["Builder.build_serialized_network"]

            def asks(self, network, config, kernel_text=None, complete=complete, ordinary=ordinary):
                config.int8_calibrator.get_batch(["images"])
                return ordinary(self, network, config, kernel_text) if complete else None

            world.behaviour["Builder.build_serialized_network"] = asks
            with pytest.raises(ArtifactError, match="did not accept the calibration cache"):
                build(world, model, self.options("int8", cache))

    def test_a_refused_calibration_profile_is_an_error(self, model, cache):
        world = fake_tensorrt(TEN)
        world.answer("IBuilderConfig.set_calibration_profile", False)
        with pytest.raises(ArtifactError, match="refuses the calibration profile"):
            build(world, model, self.options("int8", cache))

    @pytest.mark.parametrize(("version", "number"), [("8.6.1", "8601"), ("10.14.1.48", "101401"), ("10.0.1", "100001")])
    def test_the_number_in_a_header(self, version, number):
        assert header_version(type("trt", (), {"__version__": version})) == number


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0.0", "dev"])
def test_other_major_versions_are_refused(version):
    with pytest.raises(Unsupported, match=r"10 or 11 only"):
        buildable_major(type("trt", (), {"__version__": version}))


@BOTH
def test_a_member_that_a_version_lacks_is_named(version):
    with pytest.raises(Unsupported, match=rf"TensorRT {version} has no BuilderFlag\.FP17"):
        member(fake_tensorrt(version).module, "BuilderFlag", "FP17")


@BOTH
def test_strict_nans_and_the_other_options_arrive(version, model):
    world = fake_tensorrt(version)
    kept = {}
    ordinary = world.behaviour["Builder.build_serialized_network"]

    def looked_at(self, network, config, kernel_text=None):
        kept.update(level=config.builder_optimization_level, compatible=config.hardware_compatibility_level.name,
                    verbosity=config.profiling_verbosity.name, pools=dict(config._state.pools))  # fmt: skip
        return ordinary(self, network, config, kernel_text)

    world.behaviour["Builder.build_serialized_network"] = looked_at
    options = BuildOptions(tf32=True, strict_nans=True, version_compatible=True, optimization_level=5, workspace_mb=64)
    assert build(world, model, options).flags == ("STRICT_NANS", "TF32", "VERSION_COMPATIBLE")
    assert kept == {"level": 5, "compatible": "NONE", "verbosity": "DETAILED", "pools": {"WORKSPACE": 64 << 20}}


def test_the_flags_are_names_whatever_their_numbers(model):
    """The same names in both versions, whose enums are numbered differently."""
    worlds = [fake_tensorrt(version) for version in (TEN, ELEVEN)]
    numbers = {int(w.module.BuilderFlag.STRICT_NANS) for w in worlds}
    assert len(numbers) == 2
    assert len({build(w, model, BuildOptions(tf32=False, strict_nans=True)).flags for w in worlds}) == 1


def test_external_data_are_found_beside_the_file(tmp_path):
    rng = np.random.default_rng(1)
    model = tiny_model()
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(rng.normal(size=(8, 3, 3, 3)).astype(np.float32), model.graph.initializer[0].name)
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    world = fake_tensorrt(ELEVEN)
    build(world, tmp_path / "m.onnx")
    assert "OnnxParser.parse_from_file" in world.calls, "bytes alone would not find external data"
    assert "OnnxParser.parse" not in world.calls


def test_warnings_of_tensorrt_are_kept(model):
    world = fake_tensorrt(ELEVEN)
    ordinary = world.behaviour["OnnxParser.parse_from_file"]

    def warns(self, path):
        world.log("WARNING", "weights were clamped")
        world.log("INFO", "nobody reads this")
        return ordinary(self, path)

    world.behaviour["OnnxParser.parse_from_file"] = warns
    assert build(world, model).warnings == ("weights were clamped",)
