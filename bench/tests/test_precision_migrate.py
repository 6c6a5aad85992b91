"""Old caches onto ONNX graphs: coverage, refusals, and a round trip that loses nothing."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bench.errors import ArtifactError, InputError
from bench.paths import data_dir
from bench.precision.gate import accept
from bench.precision.migrate import LABEL, METADATA, accept_migrated, load_model, migrate, raised, read_names
from bench.precision.qdq import insert_qdq, scales_of
from bench.precision.session import load_session
from bench.precision.trtcache import TrtCache, read_cache, write_cache
from bench.tests.tiny_onnx import save_tiny, tiny_feeds, tiny_model


def cache_of(scales):
    scales = {name: float(np.float32(scale)) for name, scale in scales.items()}
    return TrtCache(
        header="TRT-8600-EntropyCalibration2", version="8600", algorithm="EntropyCalibration2", scales=scales
    )


def chain(names):
    """1x1 convolutions in a row; ``names`` are the input and every output."""
    nodes, weights = [], []
    for index, (read, made) in enumerate(itertools.pairwise(names)):
        weight = np.random.default_rng(index).normal(0, 0.4, (4, 4, 1, 1)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"weight {index}"))
        nodes.append(helper.make_node("Conv", [read, f"weight {index}"], [made], name=f"node {index}"))
    graph = helper.make_graph(
        nodes, "chain",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1, 4, 6, 6])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TINY = {"images": 1 / 127, "a": 0.02, "b": 0.02, "c": 0.03, "d": 0.03, "e": 0.03, "f": 0.1, "cells": 1 / 127}


def test_a_full_cache_covers_the_graph_and_the_network_stays_itself(tmp_path):
    amax = {"images": 1.0, "b": 2.0, "d": 2.0, "e": 2.0, "a": 2.0, "c": 2.0, "f": 2.0}
    result, coverage = migrate(cache_of({name: value / 127 for name, value in amax.items()}), tiny_model())
    assert (coverage.share, coverage.cache_share) == (1.0, 1.0)
    assert coverage.without_scale == coverage.unmatched == ()
    onnx.save(result, tmp_path / "q.onnx")
    save_tiny(tmp_path / "fp32.onnx")
    (feeds,) = tiny_feeds(1)
    accept(tmp_path / "q.onnx", feeds)
    accept_migrated((tmp_path / "q.onnx").read_bytes())
    expected, got = (load_session(tmp_path / name).run(None, feeds)[0] for name in ("fp32.onnx", "q.onnx"))
    assert 0 < np.abs(expected - got).max() < 0.05


def test_the_file_says_that_its_scales_were_migrated():
    cache = cache_of({**TINY, "gone": 1.0})
    result, _ = migrate(cache, tiny_model(), source="old.cache")
    recipe = json.loads({entry.key: entry.value for entry in result.metadata_props}[METADATA])
    assert recipe["label"] == LABEL == "migrated scales"
    assert (recipe["cache"], recipe["header"]) == ("old.cache", cache.header)
    assert recipe["cache_share"] == pytest.approx(8 / 9)


def test_what_is_matched_unmatched_and_missing_is_listed():
    scales = {"images": 0.01, "(Unnamed Layer* 3) [Conv]_output": 0.5, "body.weight": 0.5, "b": 0.02}
    result, coverage = migrate(cache_of(scales), tiny_model(), min_coverage=0.0)
    assert coverage.matched == ("images", "b")
    assert coverage.unmatched == ("(Unnamed Layer* 3) [Conv]_output", "body.weight")
    assert coverage.cache_share == 0.5
    assert set(scales_of(result)) == {"images", "b"}
    assert set(coverage.without_scale).isdisjoint({"images", "b"})
    assert coverage.needed == len(coverage.without_scale) + 2
    assert "e" in coverage.without_scale  # what the head's convolution reads
    document = coverage.document()
    assert (document["needed"], document["covered"]) == (coverage.needed, 2)
    assert json.loads(json.dumps(document))["unmatched"] == list(coverage.unmatched)


def test_a_node_without_scales_stays_in_float():
    result, _ = migrate(cache_of({"images": 0.01}), tiny_model(), min_coverage=0.0)
    stored = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert stored["body.weight"] == TensorProto.FLOAT
    assert "stem.weight" not in stored


@pytest.mark.parametrize(("least", "refused"), [(0.75, False), (0.7501, True)])
def test_coverage_below_the_threshold_is_refused_with_its_figures(least, refused):
    model = chain(["x", "y1", "y2", "y3", "out"])  # x, y1, y2, y3 need a scale
    cache = cache_of({"x": 0.1, "y1": 0.1, "y3": 0.1, "other": 0.1})
    if not refused:
        assert migrate(cache, model, min_coverage=least)[1].share == 0.75
        return
    with pytest.raises(InputError) as error:
        migrate(cache, model, min_coverage=least)
    for part in ("3 of 4 activations", "75.0%", "'y2'", "'other'", "--names"):
        assert part in str(error.value)


def test_a_name_map_leads_old_names_to_their_tensors():
    model = chain(["x", "y1", "out"])
    cache = cache_of({"x": 0.1, "onnx::Conv_12": 0.2})
    result, coverage = migrate(cache, model, names={"onnx::Conv_12": "y1"})
    assert scales_of(result) == {"x": cache.scales["x"], "y1": cache.scales["onnx::Conv_12"]}
    assert coverage.matched == ("x", "onnx::Conv_12")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"onnx::Conv_13": "y1"}, r"not in the cache: 'onnx::Conv_13'.*Did you mean 'onnx::Conv_12'"),
        ({"onnx::Conv_12": "y_1"}, r"no float activation of the graph: 'y_1'.*Did you mean 'y1'"),
        ({"onnx::Conv_12": "weight 0"}, r"no float activation"),
        ({"onnx::Conv_12": "x"}, r"both become 'x'"),
    ],
)
def test_a_name_map_that_does_not_fit_is_refused(names, reason):
    with pytest.raises(InputError, match=reason):
        migrate(cache_of({"x": 0.1, "onnx::Conv_12": 0.2}), chain(["x", "y1", "out"]), names=names)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("m.json", '{"a": "b"}'),
        ("m.json", '{"names": {"a": "b"}}'),
        ("m.toml", 'a = "b"'),
        ("m.toml", '[names]\na = "b"'),
    ],
)
def test_a_name_map_is_json_or_toml(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    assert read_names(tmp_path / file) == {"a": "b"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("m.json", '["a"]'),
        ("m.json", '{"a": 1}'),
        ("m.json", '{"a"'),
        ("m.toml", "a = 1"),
        ("m.toml", "a ="),
        ("m.toml", b"\xff"),
        ("no.toml", None),
        ("no.json", None),
    ],
)
def test_a_name_map_that_is_none_is_refused_by_name(tmp_path, file, content):
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=file):
        read_names(tmp_path / file)


def test_a_graph_that_is_quantised_already_is_refused():
    quantised = insert_qdq(tiny_model(), {"images": 1.0, "b": 2.0})
    with pytest.raises(ArtifactError, match="already quantised"):
        migrate(cache_of(TINY), quantised)


def test_a_graph_without_anything_to_quantise_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="no node that int8 could compute"):
        migrate(cache_of({"x": 0.1}), helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_an_old_opset_is_raised_and_keeps_its_names(tmp_path):
    model = load_model(save_tiny(tmp_path / "old.onnx", opset=11, batch=1))
    with pytest.raises(ArtifactError, match="opset 11"):
        migrate(cache_of(TINY), model)
    result, coverage = migrate(cache_of(TINY), raised(model))
    assert coverage.share == 1.0
    accept_migrated(result.SerializeToString())


def test_a_truncated_graph_is_the_users_error(tmp_path):
    path = save_tiny(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"m\.onnx"):
        load_model(path)


def test_the_model_that_was_given_is_not_changed():
    model = tiny_model()
    before = model.SerializeToString()
    migrate(cache_of(TINY), model)
    assert model.SerializeToString() == before


def test_the_real_cache_fits_a_graph_with_its_names(tmp_path):
    original = data_dir() / "calibration-cache" / "qat2ptq.cache"
    if not original.is_file():
        pytest.skip(f"{original} is not here (PARITY_DATA)")
    cache = read_cache(original)
    names = list(cache.scales)
    result, coverage = migrate(cache, chain([*names, "out"]))
    assert (coverage.share, coverage.cache_share, coverage.needed) == (1.0, 1.0, 197)
    write_cache(tmp_path / "again.cache", scales_of(result), version=cache.version, algorithm=cache.algorithm)
    assert (tmp_path / "again.cache").read_bytes() == original.read_bytes()
    with pytest.raises(InputError, match=r"1 of 4 activations .* 1 of 197 cache names"):
        migrate(cache, chain(["images", "b", "c", "d", "e"]))


TINIEST = float(np.finfo(np.float32).tiny)
scale = st.floats(min_value=2.0**-149, max_value=2.0**127, width=32, allow_subnormal=True)
tensor_name = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda name: bool(name.strip()) and not name.startswith("weight")
)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.one_of(tensor_name, tensor_name.map(lambda n: f"{n}: {n}")), min_size=2, max_size=6, unique=True),
    data=st.data(),
)
def test_cache_to_qdq_to_cache_is_identical_for_covered_tensors(tmp_path_factory, names, data):
    path = tmp_path_factory.mktemp("round") / "c.cache"
    scales = {name: data.draw(scale) for name in names}
    write_cache(path, scales, version=8601, algorithm="EntropyCalibration2")
    cache = read_cache(path)
    result, coverage = migrate(cache, chain([*names, "the output"]), min_coverage=0.0)
    stored = onnx.load_from_string(result.SerializeToString())
    normal = {name for name in names if scales[name] >= TINIEST}
    # float32 arithmetic of runtimes may flush smaller scales to zero: those tensors stay in float, and are listed
    assert set(coverage.without_scale) == set(names) - normal
    covered = scales_of(stored)
    assert set(covered) == normal
    assert {name: cache.scales[name] for name in covered} == covered
    if covered:
        again = path.with_name("again.cache")
        write_cache(again, covered, version=8601, algorithm="EntropyCalibration2")
        lines = set(path.read_bytes().split(b"\n"))
        assert set(again.read_bytes().split(b"\n")) <= lines
