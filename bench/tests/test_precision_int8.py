"""int8 artefacts of a small graph: what is in the file, what the recipe says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bench import precision
from bench.errors import ArtifactError, ContractError, InputError, UsageError
from bench.precision import int8
from bench.precision.gate import accept
from bench.precision.graph import int8_share, macs, matching
from bench.precision.options import Conversion
from bench.precision.qdq import scales_of
from bench.precision.session import load_session
from bench.tests.tiny_onnx import save_tiny, tiny_feeds, tiny_model

HEAD = (r"^head\.",)
(FEEDS,) = tiny_feeds(1)


@pytest.fixture
def source(tmp_path):
    return save_tiny(tmp_path / "fp32.onnx")


def make(source, out, *, images=9, feeds=None, float_nodes=HEAD, **options):
    return precision.make(
        "int8", source, out, feeds=feeds or (lambda: iter(tiny_feeds(images))), float_nodes=float_nodes,
        options=Conversion(**options),
    )  # fmt: skip


def constants(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def sqnr_db(path, source):
    expected, found = (load_session(p).run(None, FEEDS)[0] for p in (source, path))
    return 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_the_artefact_is_accepted_and_close_to_its_source(source, tmp_path, activations):
    make(source, tmp_path / "out.onnx", activations=activations)
    accept(tmp_path / "out.onnx", FEEDS)
    assert 25 < sqnr_db(tmp_path / "out.onnx", source) < 100
    zeros = {v.item(0) for n, v in constants(tmp_path / "out.onnx").items() if n.endswith("zero_point") and not v.shape}
    assert zeros == {0 if activations == "int8" else 128}


def test_onnxruntime_computes_the_body_in_int8(source, tmp_path):
    make(source, tmp_path / "out.onnx", images=4)
    load_session(tmp_path / "out.onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("QLinearConv") == 2  # stem and body; the head is float


def test_the_recipe_is_plain_json_and_names_the_images(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx", images=20)
    assert json.loads(json.dumps(recipe, allow_nan=False)) == recipe
    assert recipe["calibration_images"] == 20
    assert recipe["options"] == {"exclude": [], "calibrator": "auto", "activations": "int8", "tune": True}
    assert recipe["float_nodes"] == ["last_conv", "decode"]
    assert set(recipe["tuning"]["sqnr_db"]) == {"entropy", "percentile 99.99", "percentile 99.999", "minmax"}
    assert recipe["calibration"] in recipe["tuning"]["sqnr_db"]
    other = make(source, tmp_path / "other.onnx", images=21)
    same = make(source, tmp_path / "same.onnx", images=20)
    assert recipe["calibration_sha256"] == same["calibration_sha256"] != other["calibration_sha256"]


def test_the_same_inputs_give_the_same_file(source, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        make(source, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_ranges_of_the_recipe_are_those_of_the_file(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx")
    scales = scales_of(onnx.load(tmp_path / "out.onnx"))
    assert list(recipe["ranges"]) == list(scales)
    for name, (low, high, amax) in recipe["ranges"].items():
        assert low <= high
        assert amax / 127 == pytest.approx(scales[name], rel=1e-5)


def test_a_chosen_calibrator_is_not_compared(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx", calibrator="minmax", tune=False)
    assert recipe["calibration"] == "minmax"
    assert list(recipe["tuning"]["sqnr_db"]) == ["minmax"]
    assert "sensitivity" not in recipe["tuning"]
    low, high, amax = recipe["ranges"]["images"]
    assert amax == max(abs(low), abs(high))


def test_the_head_stays_in_float_and_the_recipe_says_why(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx", tune=False)
    values = constants(tmp_path / "out.onnx")
    assert values["head.weight"].dtype == np.float32
    assert values["body.weight_quantized"].dtype == np.int8
    assert recipe["excluded"] == [
        {
            "node": "last_conv",
            "operator": "Conv",
            "reason": "head or decode (float_nodes of the model, and what follows them)",
        }
    ]


def test_an_excluded_node_stays_in_float_alone(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx", float_nodes=(), exclude=("^body$",), tune=False)
    graph = onnx.load(tmp_path / "out.onnx").graph
    inputs = {node.name: list(node.input) for node in graph.node}
    assert inputs["body"][1] == "body.weight"
    assert inputs["last_conv"][0].endswith("_dequantized")
    assert {row["node"]: row["reason"] for row in recipe["excluded"]} == {"body": "--exclude ^body$"}


def test_share_of_int8_compute_counts_multiplications_and_nodes(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx", tune=False)
    # per image: stem 8*8*8 outputs x 27, body 8*8*8 x 72, head 4*16*16 x 8
    assert macs(tiny_model()) == {"stem": 13824, "body": 36864, "last_conv": 8192}
    assert recipe["int8_compute"] == {
        "macs": round((13824 + 36864) / (13824 + 36864 + 8192), 4), "nodes": 0.6667, "int8_nodes": 2, "compute_nodes": 3
    }  # fmt: skip
    assert int8_share(tiny_model())["macs"] == 0


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(("^nothing$",), r"--exclude '\^nothing\$' matches no node"), (("(",), "is no regular expression")],
)
def test_an_exclusion_that_means_nothing_is_a_usage_error(source, tmp_path, patterns, message):
    with pytest.raises(UsageError, match=message):
        make(source, tmp_path / "out.onnx", exclude=patterns)


def test_patterns_find_nodes_by_name_output_and_weight():
    graph = tiny_model().graph
    assert matching(graph, ["^last_conv$"]) == {"last_conv": "^last_conv$"}
    assert list(matching(graph, [r"^body\.weight$"])) == ["body"]
    assert list(matching(graph, ["^e$"])) == ["up"]  # what reads e is not meant


def test_an_old_opset_is_raised(tmp_path):
    source = save_tiny(tmp_path / "old.onnx", opset=11, batch=1)
    recipe = make(source, tmp_path / "raised.onnx", images=4)
    assert (recipe["opset_of_source"], recipe["opset"]) == (11, 13)
    accept(tmp_path / "raised.onnx", FEEDS)


@pytest.mark.parametrize("opset", [6, 99])
def test_an_opset_that_nobody_loads_is_refused(source, tmp_path, opset):
    model = onnx.load(source)
    model.opset_import[0].version = opset
    onnx.save(model, source)
    with pytest.raises(ArtifactError, match=f"fp32.onnx: opset {opset} is not supported"):
        make(source, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_quantised_source_is_refused(source, tmp_path):
    make(source, tmp_path / "once.onnx", tune=False)
    with pytest.raises(ArtifactError, match=r"once\.onnx: the graph is already quantised"):
        make(tmp_path / "once.onnx", tmp_path / "twice.onnx")


@pytest.mark.parametrize("length", [0, 10, 200])
def test_a_truncated_source_is_the_users_error(source, tmp_path, length):
    source.write_bytes(source.read_bytes()[:length])
    with pytest.raises(InputError, match=r"fp32\.onnx"):
        make(source, tmp_path / "out.onnx")


def test_without_images_the_message_says_what_to_type(source, tmp_path):
    with pytest.raises(ArtifactError, match=r"needs calibration images.*--calibration"):
        make(source, tmp_path / "out.onnx", feeds=lambda: iter(()))


def test_the_image_that_breaks_calibration_is_named(source, tmp_path):
    feeds = tiny_feeds(3)
    feeds[1] = {"images": np.full((1, 3, 8, 8), np.inf, np.float32)}
    with pytest.raises(ArtifactError, match="calibration failed at image 2"):
        make(source, tmp_path / "out.onnx", feeds=lambda: iter(feeds))
    wrong = [{"images": np.zeros((1, 3, 9, 8, 1), np.float32)}]
    with pytest.raises(ArtifactError, match=r"calibration failed at image 1: .*images"):
        make(source, tmp_path / "out.onnx", feeds=lambda: iter(wrong))


def test_a_head_that_is_not_there_is_the_adapters_error(source, tmp_path):
    with pytest.raises(ContractError, match="detect_hed"):
        make(source, tmp_path / "out.onnx", float_nodes=("detect_hed",))


def test_a_graph_that_is_all_head_has_nothing_to_quantise(source, tmp_path):
    with pytest.raises(ArtifactError, match="nothing in this graph can be quantised"):
        make(source, tmp_path / "out.onnx", float_nodes=("^stem$",))


def test_few_images_are_said_to_be_few(source, tmp_path):
    recipe = make(source, tmp_path / "out.onnx", images=3)
    assert recipe["warnings"] == ["only 3 calibration images: none could be held out"]
    assert make(source, tmp_path / "out.onnx", images=12)["warnings"] == []


def test_batch_norm_is_folded_before_the_weights_are_rounded(tmp_path):
    model = tiny_model()
    scale = np.logspace(-2, 2, 8, dtype=np.float32)
    names = ["bn.scale", "bn.bias", "bn.mean", "bn.var"]
    values = [scale, np.zeros(8, np.float32), np.zeros(8, np.float32), np.ones(8, np.float32)]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, names, strict=True))
    model.graph.node.insert(1, onnx.helper.make_node("BatchNormalization", ["a", *names], ["a_bn"], name="bn"))
    next(n for n in model.graph.node if n.name == "stem_relu").input[0] = "a_bn"
    onnx.save(model, tmp_path / "bn.onnx")
    make(tmp_path / "bn.onnx", tmp_path / "out.onnx", tune=False)
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}


def test_the_opset_constant_matters(source, tmp_path, monkeypatch):
    """Without raising, neither runtime would load the file."""
    old = save_tiny(tmp_path / "old.onnx", opset=11, batch=1)
    monkeypatch.setattr(int8, "MIN_OPSET", 1)
    with pytest.raises(ArtifactError, match="opset 11 has no per-channel Q/DQ"):
        make(old, tmp_path / "kept.onnx", images=4)


def test_a_full_disk_is_named(source):
    with pytest.raises(InputError, match="/dev/full"):
        make(source, Path("/dev/full"), images=2, tune=False)
