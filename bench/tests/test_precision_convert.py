"""fp16 and int8 artefacts of a small graph; the real one is in the adapters' tests."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from bench import precision
from bench.errors import ArtifactError, ContractError, InputError, Unsupported
from bench.precision import int8
from bench.precision.gate import accept, load_session
from bench.precision.graph import float_region
from bench.precision.onnxfile import check_against
from bench.tests.tiny_onnx import SPEC, save_tiny, tiny_feeds, tiny_model

HEAD = (r"^head\.",)
(FEEDS,) = tiny_feeds(1)


@pytest.fixture
def source(tmp_path):
    return save_tiny(tmp_path / "fp32.onnx")


def run(path):
    return load_session(path).run(None, FEEDS)[0]


def sqnr_db(path, source):
    expected = run(source)
    return 10 * np.log10((expected**2).sum() / ((run(path) - expected) ** 2).sum())


@pytest.mark.parametrize(("name", "least_db"), [("fp16", 55), ("int8", 25)])
def test_an_artefact_is_accepted_and_stays_close_to_its_source(source, tmp_path, name, least_db):
    out = tmp_path / "out.onnx"
    recipe = precision.make(name, source, out, feeds=tiny_feeds(20), float_nodes=HEAD)
    assert check_against(SPEC, out) == (SPEC.inputs, SPEC.outputs)
    accept(out, FEEDS)
    assert least_db < sqnr_db(out, source) < 100
    assert recipe["onnxruntime"] == onnxruntime.__version__


def test_an_unknown_precision_has_no_conversion(source, tmp_path):
    with pytest.raises(Unsupported, match="no conversion makes a bf16 graph; there is one for fp16, int8"):
        precision.make("bf16", source, tmp_path / "out.onnx")


@pytest.mark.parametrize("name", precision.MADE_HERE)
def test_a_truncated_source_is_the_users_error(source, tmp_path, name):
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(InputError, match=r"fp32\.onnx"):
        precision.make(name, source, tmp_path / "out.onnx", feeds=tiny_feeds(1))


def test_fp16_weights_are_stored_in_half(source, tmp_path):
    precision.make("fp16", source, tmp_path / "out.onnx")
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert stored["body.weight"] == onnx.TensorProto.FLOAT16
    assert stored["scales"] == onnx.TensorProto.FLOAT


def test_fp16_repairs_the_note_on_a_scale_that_stays_float(tmp_path):
    model = tiny_model()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("scales", onnx.TensorProto.FLOAT, [4]))
    onnx.save(model, str(tmp_path / "noted.onnx"))
    precision.make("fp16", tmp_path / "noted.onnx", tmp_path / "out.onnx")
    accept(tmp_path / "out.onnx", FEEDS)


def test_fp16_reports_the_weights_that_it_clamps(tmp_path):
    recipe = precision.make("fp16", save_tiny(tmp_path / "m.onnx", head_scale=1e6), tmp_path / "out.onnx")
    assert list(recipe["clamped_weights"]) == ["head.weight"]
    assert precision.make("fp16", save_tiny(tmp_path / "m.onnx"), tmp_path / "out.onnx")["clamped_weights"] == {}


def test_int8_leaves_the_head_in_float_and_says_so(source, tmp_path):
    recipe = precision.make("int8", source, tmp_path / "out.onnx", feeds=tiny_feeds(9), float_nodes=HEAD)
    assert recipe["float_nodes"] == ["last_conv", "decode"]
    assert recipe["calibration_images"] == 9
    graph = onnx.load(tmp_path / "out.onnx").graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert stored["head.weight"] == onnx.TensorProto.FLOAT
    assert stored["body.weight_quantized"] == onnx.TensorProto.INT8
    assert "body.weight" not in stored


def test_int8_is_symmetric_with_one_weight_scale_per_channel(source, tmp_path):
    precision.make("int8", source, tmp_path / "out.onnx", feeds=tiny_feeds(9), float_nodes=HEAD)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    zeros = {name: value for name, value in values.items() if name.endswith("zero_point")}
    assert values["body.weight_scale"].shape == (8,)
    assert {value.dtype.name: np.unique(value).tolist() for value in zeros.values()} == {"int8": [0], "uint8": [128]}


def test_int8_of_an_old_opset_is_raised_because_no_runtime_loads_it_otherwise(tmp_path, monkeypatch):
    source = save_tiny(tmp_path / "old.onnx", opset=11, batch=1)
    recipe = precision.make("int8", source, tmp_path / "raised.onnx", feeds=tiny_feeds(4), float_nodes=HEAD)
    assert (recipe["opset_of_source"], recipe["opset"]) == (11, 13)
    accept(tmp_path / "raised.onnx", FEEDS)
    monkeypatch.setattr(int8, "MIN_OPSET", 1)
    precision.make("int8", source, tmp_path / "kept.onnx", feeds=tiny_feeds(4), float_nodes=HEAD)
    with pytest.raises(ArtifactError, match="onnxruntime cannot load it"):
        load_session(tmp_path / "kept.onnx")


def test_int8_reads_the_images_in_chunks_and_gives_the_ranges_of_all(source, tmp_path, monkeypatch):
    feeds, held, most = tiny_feeds(20), 0, 0
    collect = int8._Reader.__init__

    def counting(self, chunk):
        nonlocal held, most
        held = len(chunk)
        most = max(most, held)
        collect(self, chunk)

    monkeypatch.setattr(int8._Reader, "__init__", counting)
    feeds[0]["images"] = feeds[0]["images"] * 3  # only the first chunk knows the range
    precision.make("int8", source, tmp_path / "out.onnx", feeds=iter(feeds), float_nodes=HEAD)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert most == int8.CHUNK < len(feeds)
    assert values["images_scale"] == pytest.approx(feeds[0]["images"].max() / 127.5, rel=0.02)


def test_the_recipe_identifies_the_calibration_images(source, tmp_path):
    def hashed(feeds):
        recipe = precision.make("int8", source, tmp_path / "out.onnx", feeds=feeds, float_nodes=HEAD)
        return recipe["calibration_sha256"]

    assert hashed(tiny_feeds(3)) == hashed(iter(tiny_feeds(3))) != hashed(tiny_feeds(4))


def test_what_the_quantiser_logs_is_part_of_the_recipe(source, tmp_path, monkeypatch):
    def logging_region(*arguments):
        logging.warning("a bias saturates")
        return float_region(*arguments)

    monkeypatch.setattr(int8, "float_region", logging_region)
    recipe = precision.make("int8", source, tmp_path / "out.onnx", feeds=tiny_feeds(2), float_nodes=HEAD)
    assert recipe["warnings"] == ["a bias saturates"]


def test_int8_without_images_says_what_to_type(source, tmp_path):
    with pytest.raises(ArtifactError, match=r"needs calibration images.*--calibration"):
        precision.make("int8", source, tmp_path / "out.onnx", feeds=(), float_nodes=HEAD)


def test_calibration_names_the_image_that_breaks_it(source, tmp_path):
    feeds = tiny_feeds(3)
    feeds[1] = {"images": np.full((1, 3, 8, 8), np.inf, np.float32)}
    with pytest.raises(ArtifactError, match="calibration failed at image 3"):
        precision.make("int8", source, tmp_path / "out.onnx", feeds=feeds, float_nodes=HEAD)
    with pytest.raises(ArtifactError, match=r"calibration failed at image 1: .*images"):
        precision.make("int8", source, tmp_path / "o.onnx", feeds=[{"images": np.zeros((1, 3, 9, 8), np.float32)}])


def test_a_converter_prints_nothing(source, tmp_path, capfd):
    for name in precision.MADE_HERE:
        precision.make(name, source, tmp_path / "out.onnx", feeds=tiny_feeds(2), float_nodes=HEAD)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pattern", ["^last_conv$", r"^head\.", "^f$"])
def test_a_pattern_finds_a_node_by_its_name_its_weight_or_its_output(pattern):
    assert float_region(tiny_model().graph, [pattern]) == ("last_conv", "decode")


def test_a_pattern_does_not_match_what_a_node_reads():
    assert float_region(tiny_model().graph, ["^e$"])[0] == "up"


def test_patterns_that_match_nothing_are_an_error():
    with pytest.raises(ContractError, match=r"none of 'detect_hed' matches .* last node is 'decode'"):
        float_region(tiny_model().graph, ["detect_hed"])
    with pytest.raises(ContractError, match="no regular expression"):
        float_region(tiny_model().graph, ["("])
    assert float_region(tiny_model().graph, []) == ()


def test_importing_the_package_loads_no_runtime():
    code = (
        "import sys; from bench.precision import fp16, gate, graph, int8, onnxfile; "
        "print([m for m in ('onnx', 'onnxruntime', 'torch', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
