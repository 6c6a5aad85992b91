"""The overflow scan: largest magnitudes over calibration images, and the refusal that says what to type."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto

from bench import precision
from bench.errors import ArtifactError
from bench.precision import overflow
from bench.precision.fp16 import convert_fp16
from bench.precision.options import Conversion
from bench.precision.overflow import LIMIT, MAX_IMAGES, exclusion, scan
from bench.tests.half_graphs import WEIGHTS, f32, feed, graph, run, sqnr_db

CONV = ("Conv x w -> a", {"pads": [1] * 4})
ONE = feed()


def peaks(source, *feeds):
    return scan(onnx.load(str(source)), feeds, where=source)


def convert(source, tmp_path, *feeds, exclude=()):
    return convert_fp16(source, tmp_path / "out.onnx", feeds=lambda: iter(feeds), exclude=exclude)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        hnp.arrays(np.float32, (1, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)), min_size=1, max_size=4
    )
)
def test_the_peak_is_the_largest_magnitude_over_all_images(tmp_path_factory, values):
    source = graph(tmp_path_factory.mktemp("peaks") / "m.onnx", "Neg x -> a", "Relu a -> y", shape=(1, 4))
    found = peaks(source, *({"x": value} for value in values))
    assert found.images == len(values)
    assert found.values["x"] == found.values["a"] == float(np.abs(values).max())
    assert found.values["y"] == float(np.maximum(-np.asarray(values), 0).max())


@pytest.mark.parametrize("where", range(3))
def test_one_nan_or_infinity_in_one_image_shows(tmp_path, where):
    source = graph(tmp_path / "m.onnx", "Neg x -> y", shape=(1, 4))
    feeds = [{"x": np.ones((1, 4), np.float32)} for _ in range(3)]
    feeds[where]["x"][0, 2] = np.nan
    assert np.isnan(peaks(source, *feeds).values["y"])
    feeds[where]["x"][0, 2] = -np.inf
    assert peaks(source, *feeds).values["y"] == np.inf


def test_integers_weights_and_empty_tensors_are_no_trouble(tmp_path):
    to_float = {"to": TensorProto.FLOAT}
    lines = (
        "Shape x -> s", ("Cast s -> f", to_float), "NonZero x -> i", ("Cast i -> j", to_float),
        ("ReduceSum f -> t", {"keepdims": 0}), "Add x t -> y",
    )  # fmt: skip
    source = graph(tmp_path / "m.onnx", *lines, shape=(1, 4))
    found = peaks(source, {"x": np.zeros((1, 4), np.float32)})
    assert found.values == {"x": 0.0, "f": 4.0, "j": 0.0, "t": 5.0, "y": 5.0}


def test_at_most_so_many_images_are_read(tmp_path):
    source = graph(tmp_path / "m.onnx", "Neg x -> y", shape=(1, 4))
    read = []

    def feeds():
        for index in range(MAX_IMAGES + 5):
            read.append(index)
            yield {"x": np.full((1, 4), index, np.float32)}

    recipe = convert_fp16(source, tmp_path / "out.onnx", feeds=feeds)
    assert len(read) == MAX_IMAGES
    assert recipe["overflow_scan"] == {
        "images": MAX_IMAGES, "at_most_images": MAX_IMAGES, "limit": LIMIT, "tensors": 2,
        "largest": {"y": 31.0, "x": 31.0},
    }  # fmt: skip


def test_a_graph_with_a_fixed_batch_is_scanned_as_well(tmp_path):
    source = graph(tmp_path / "m.onnx", "Neg x -> y", shape=(3, 4))
    assert peaks(source, {"x": np.ones((1, 4), np.float32)}).values["y"] == 1.0


def overflowing(tmp_path, big=1e6):
    """The root of a mean square, as a layer norm in parts has it: the square leaves fp16's range, the root does not."""
    lines = (CONV, "Mul a big -> b", "Mul b b -> square", ("ReduceMean square -> mean", {"axes": [1]}),
             "Sqrt mean -> r", "Div b r -> y")  # fmt: skip
    return graph(tmp_path / "m.onnx", *lines, weights={"w": WEIGHTS, "big": f32(big)})


def test_a_value_beyond_fp16_refuses_the_artefact_and_names_node_value_and_command(tmp_path):
    source = overflowing(tmp_path, big=300.0)
    with pytest.raises(ArtifactError) as caught:
        convert(source, tmp_path, ONE, feed(1))
    message = str(caught.value)
    assert "fp16 ends at 65504, and on 2 calibration images it cannot hold what" in message
    assert re.search(r"Mul 'n_square' up to [\d.e+]+; ReduceMean 'n_mean' up to [\d.e+]+", message)
    assert "n_b" not in message.split("Type:")[0]
    assert not (tmp_path / "out.onnx").exists()


def test_what_the_refusal_says_to_type_works(tmp_path):
    source = overflowing(tmp_path, big=300.0)
    with pytest.raises(ArtifactError) as caught:
        convert(source, tmp_path, ONE)
    option, pattern = shlex.split(str(caught.value).split("Type: ")[1])
    assert option == "--exclude"
    options = Conversion(exclude=(pattern,))
    recipe = precision.make("fp16", source, tmp_path / "o.onnx", feeds=lambda: iter((ONE,)), options=options)
    assert recipe["nodes_left_in_float"] == {"excluded": {"Mul": 1, "ReduceMean": 1, "Sqrt": 1}}
    assert sqnr_db(run(tmp_path / "o.onnx", ONE), run(source, ONE)) > 50


def test_a_float_node_whose_value_a_half_node_reads_still_counts(tmp_path):
    source = overflowing(tmp_path, big=300.0)
    with pytest.raises(ArtifactError, match=r"'n_square' up to .* Type: --exclude '\^\(n_mean\|n_r\)\$'$"):
        convert(source, tmp_path, ONE, exclude=["^n_square$"])


def test_the_border_itself_is_allowed_and_the_next_value_is_not(tmp_path):
    source = graph(tmp_path / "m.onnx", "Relu x -> a", "Neg a -> y", shape=(1, 1))
    at, beyond = (np.full((1, 1), value, np.float32) for value in (LIMIT, np.nextafter(np.float32(LIMIT), np.inf)))
    assert convert(source, tmp_path, {"x": at})["overflow_scan"]["largest"]["a"] == LIMIT
    with pytest.raises(ArtifactError, match=r"input 'x' up to 65504.*Relu 'n_a'.*Neg 'n_y'"):
        convert(source, tmp_path, {"x": beyond})


def test_non_finite_values_refuse_too(tmp_path):
    source = graph(tmp_path / "m.onnx", "Log x -> a", "Relu a -> y", shape=(1, 1))
    with pytest.raises(ArtifactError, match=r"Log 'n_a' not finite"):
        convert(source, tmp_path, {"x": np.zeros((1, 1), np.float32)})
    with pytest.raises(ArtifactError, match=r"Log 'n_a' not finite"):
        convert(source, tmp_path, {"x": np.full((1, 1), -1, np.float32)})


def test_bf16_is_not_refused_for_the_range_of_fp16(tmp_path):
    source = overflowing(tmp_path, big=300.0)
    recipe = precision.make("bf16", source, tmp_path / "b.onnx", feeds=lambda: iter((ONE,)))
    assert recipe["nodes_left_in_float"] == {}


def test_without_images_the_recipe_says_that_nothing_was_scanned(tmp_path):
    recipe = convert_fp16(overflowing(tmp_path), tmp_path / "out.onnx")
    assert recipe["overflow_scan"] == {"images": 0, "result": "not scanned: there were no calibration images"}


def test_a_feed_that_does_not_fit_names_the_image(tmp_path):
    source = overflowing(tmp_path, big=1.0)
    with pytest.raises(ArtifactError, match="overflow scan failed at image 2"):
        convert(source, tmp_path, ONE, {"x": np.zeros((1, 5, 8, 8), np.float32)})


def test_the_recipe_is_plain_json(tmp_path):
    json.dumps(convert(overflowing(tmp_path, big=1.0), tmp_path, ONE), allow_nan=False)


def test_only_two_vectors_leave_the_graph(tmp_path, monkeypatch):
    watched = []
    original = overflow._run
    monkeypatch.setattr(overflow, "_run", lambda model, *rest: watched.append(model) or original(model, *rest))
    found = peaks(overflowing(tmp_path), ONE)
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in watched[0].graph.output]
    assert shapes == [[len(found.values)]] * 2


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), min_size=1, max_size=5))
def test_the_pattern_matches_exactly_the_named_nodes_after_the_shell_has_read_it(names):
    (pattern,) = shlex.split(exclusion(names))
    assert all(re.search(pattern, name) for name in names)
    assert not any(re.search(pattern, name + "x") for name in names if name + "x" not in names)
