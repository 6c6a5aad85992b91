"""Tuning: each step is a function of its own, and is kept only when held-out images say that it helps."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.errors import ArtifactError
from bench.precision import sensitivity
from bench.precision import tune as tuning
from bench.precision.bias import corrected, mean_errors
from bench.precision.calibration import TensorRange
from bench.precision.equalise import channel_ranges, equalised, pairs_of
from bench.precision.graph import macs, share_ranges
from bench.precision.options import Conversion
from bench.precision.qdq import OPERATORS, insert_qdq
from bench.precision.sensitivity import scan
from bench.precision.sqnr import EQUAL_DB, Reference, Score, decibels, run
from bench.precision.tune import tune
from bench.tests.tiny_onnx import tiny_feeds, tiny_model

AMAX = {"images": 1.0, "a": 3.0, "b": 3.0, "c": 3.0, "e": 3.0, "f": 3.0}
HEAD = ("last_conv", "decode")


def chain(*, spread=1.0, group=1, relu=True, reader=False, bias=True, seed=0):
    """Conv -> (Relu) -> Conv or depthwise Conv -> Conv; ``spread`` is the ratio between channel ranges."""
    rng = np.random.default_rng(seed)
    width = 8
    first = rng.normal(0, 0.3, (width, 3, 3, 3)).astype(np.float32)
    first *= np.geomspace(1, spread, width, dtype=np.float32).reshape(-1, 1, 1, 1)
    second = rng.normal(0, 0.3, (width, width // group, 3, 3)).astype(np.float32)
    second /= np.geomspace(1, spread, width, dtype=np.float32).reshape((1, -1, 1, 1) if group == 1 else (-1, 1, 1, 1))
    weights = {"w1": first, "w2": second, "w3": rng.normal(0, 0.3, (4, width, 1, 1)).astype(np.float32)}
    if bias:
        weights["b1"] = rng.normal(0, 0.3, width).astype(np.float32)
    middle = "b" if relu else "a"
    nodes = [helper.make_node("Conv", ["images", "w1", *(["b1"] if bias else [])], ["a"], name="first", pads=[1] * 4)]
    if relu:
        nodes.append(helper.make_node("Relu", ["a"], ["b"], name="relu"))
    nodes += [
        helper.make_node("Conv", [middle, "w2"], ["c"], name="second", pads=[1] * 4, group=group),
        helper.make_node("Conv", ["c", "w3"], ["d"], name="third"),
    ]
    outputs = ["d"]
    if reader:
        nodes.append(helper.make_node("Sigmoid", [middle], ["seen"], name="reader"))
        outputs.append("seen")
    channels = {"d": 4, "seen": width}
    graph = helper.make_graph(
        nodes, "chain", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", channels[n], 8, 8]) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def amax_of(model, feeds):
    """Min-max ranges of every tensor."""
    probe = onnx.shape_inference.infer_shapes(model)
    names = [v.name for v in probe.graph.value_info] + [v.name for v in model.graph.output]
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    rows = run(probe, feeds)
    return {"images": 1.0, **{n: float(max(np.abs(r[n]).max() for r in rows)) for n in names}}


def score(model, feeds, candidate=None, **options):
    candidate = candidate or model
    return Reference.of(model, feeds).score(insert_qdq(candidate, amax_of(candidate, feeds), **options)).mean_db


# -- SQNR ------------------------------------------------------------------------------------------------------------


def test_sqnr_of_a_known_error():
    model = tiny_model()
    feeds = tiny_feeds(2)
    reference = Reference.of(model, feeds)
    assert reference.score(model).by_output_db == {"cells": EQUAL_DB}
    scaled = tiny_model()
    scaled.graph.node[-1].output[0] = "raw"
    scaled.graph.initializer.append(numpy_helper.from_array(np.array(1.1, np.float32), "factor"))
    scaled.graph.node.append(helper.make_node("Mul", ["raw", "factor"], ["cells"]))
    assert reference.score(scaled).mean_db == pytest.approx(20, abs=1e-3)  # noise is 0.1 of the signal


def test_a_non_finite_output_loses_to_everything():
    broken = tiny_model()
    broken.graph.node[-1].output[0] = "raw"
    broken.graph.node.append(helper.make_node("Log", ["negative"], ["cells"]))
    broken.graph.node.insert(len(broken.graph.node) - 1, helper.make_node("Neg", ["raw"], ["negative"]))
    reference = Reference.of(tiny_model(), tiny_feeds(1))
    assert reference.score(broken).mean_db == -math.inf
    assert not reference.score(broken).mean_db >= -300


def test_decibels():
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0.0) == EQUAL_DB
    assert decibels(math.nan) == decibels(math.inf) == -math.inf
    assert Score.of({"a": 0.1, "b": 0.001}).mean_db == pytest.approx(20)


def test_a_graph_that_cannot_run_is_named_a_candidate():
    with pytest.raises(ArtifactError, match="a candidate graph cannot be run"):
        run(tiny_model(), [{"images": np.zeros((1, 4, 8, 8), np.float32)}])


# -- ranges ----------------------------------------------------------------------------------------------------------


def test_what_only_a_relu_reads_has_the_range_of_its_result():
    ranges = {n: TensorRange(low=-9.0, high=v, amax=9.0 if n in "ac" else v) for n, v in AMAX.items()}
    shared = share_ranges(tiny_model(), ranges)
    assert shared["a"].amax == ranges["b"].amax == 3.0
    assert (shared["a"].low, shared["a"].high) == (-9.0, 3.0)
    assert shared["c"].amax == 9.0  # the range behind its ReLU is not known
    assert shared["e"] == ranges["e"]


def test_sharing_rounds_once_instead_of_twice():
    model, feeds = chain(), tiny_feeds(4)
    found = amax_of(model, feeds)
    reference = Reference.of(model, feeds)
    shared = {**found, "a": found["b"]}
    wide = {**found, "a": found["b"] * 3}
    assert reference.score(insert_qdq(model, shared)).mean_db > reference.score(insert_qdq(model, wide)).mean_db + 1


# -- equalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 8])
@pytest.mark.parametrize("relu", [True, False])
def test_equalisation_keeps_the_function_and_gains_where_channels_differ(group, relu):
    model, feeds = chain(spread=64.0, group=group, relu=relu), tiny_feeds(8)
    pairs = pairs_of(model)
    assert (pairs[0].first, pairs[0].second, pairs[0].depthwise) == ("first", "second", group == 8)
    better = equalised(model, pairs, channel_ranges(model, [p.tensor for p in pairs], feeds))
    assert Reference.of(model, feeds).score(better).mean_db > 100
    assert score(model, feeds, better) > score(model, feeds) + 3


def test_equalisation_brings_ranges_in_front_of_a_depthwise_convolution_within_a_factor_of_two():
    model, feeds = chain(spread=64.0, group=8), tiny_feeds(8)
    pair = pairs_of(model)[0]
    before = channel_ranges(model, [pair.tensor], feeds)[pair.tensor]
    after_model = equalised(model, [pair], {pair.tensor: before})
    after = channel_ranges(after_model, [pair.tensor], feeds)[pair.tensor]
    assert before.max() / before.min() > 20
    assert after.max() / after.min() <= 2.01


def test_a_dead_channel_is_not_blown_up():
    model, feeds = chain(group=8, bias=False), tiny_feeds(2)
    ranges = channel_ranges(model, ["b"], feeds)
    ranges["b"][3] = 0.0
    better = equalised(model, pairs_of(model)[:1], ranges)
    old, new = (numpy_helper.to_array(m.graph.initializer[0]) for m in (model, better))
    np.testing.assert_array_equal(new[3], old[3])
    ranges["b"][3] = 1e-12
    better = equalised(model, pairs_of(model)[:1], ranges)
    assert np.abs(numpy_helper.to_array(better.graph.initializer[0])[3]).max() <= 256 * np.abs(old[3]).max()


def test_a_channel_that_somebody_else_reads_is_left_alone():
    assert [p.tensor for p in pairs_of(chain(reader=True))] == ["c"]
    assert [p.tensor for p in pairs_of(chain(), float_nodes=["third"])] == ["b"]
    assert pairs_of(tiny_model(), float_nodes=HEAD)[0].tensor == "b"


# -- bias ------------------------------------------------------------------------------------------------------------


def test_bias_correction_takes_the_mean_error_back():
    model, feeds = chain(seed=3), tiny_feeds(16)
    amax = {name: value * 0.5 for name, value in amax_of(model, feeds).items()}  # saturation shifts means
    errors = mean_errors(model, amax, feeds)
    assert set(errors) == {"first", "second", "third"}
    fixed = corrected(model, errors)
    onnx.checker.check_model(fixed, full_check=True)
    left = mean_errors(fixed, amax, feeds)
    reference = Reference.of(model, feeds)
    before, after = (reference.score(insert_qdq(m, amax)).mean_db for m in (model, fixed))
    assert after > before + 0.5
    assert set(left) == set(errors)


def test_the_mean_error_is_that_of_the_rounded_node():
    model, feeds = chain(), tiny_feeds(5)
    amax = {"images": 0.6, "a": 3.0}
    errors = mean_errors(model, amax, feeds)
    # only the first convolution is quantised on its input; its output pair must not count
    quantised = insert_qdq(model, {"images": 0.6}, operators=OPERATORS)
    for m in (model, quantised):
        m.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    difference = [q["a"] - f["a"] for f, q in zip(run(model, feeds), run(quantised, feeds), strict=True)]
    np.testing.assert_allclose(errors["first"], np.mean(difference, axis=(0, 1, 3, 4)), atol=1e-6)


def test_a_node_without_a_bias_gets_one():
    model = chain(bias=False)
    fixed = corrected(model, {"first": np.arange(8, dtype=np.float64)})
    feeds = tiny_feeds(1)
    for m in (model, fixed):
        m.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    difference = run(model, feeds)[0]["a"] - run(fixed, feeds)[0]["a"]
    np.testing.assert_allclose(difference.mean(axis=(0, 2, 3)), np.arange(8), atol=1e-5)


# -- sensitivity -----------------------------------------------------------------------------------------------------


def outlier_model():
    """A chain whose second convolution reads one value far larger than all others: its grid is useless."""
    model = chain(relu=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    first, second = (numpy_helper.to_array(weights[n]).copy() for n in ("w1", "w2"))
    first[0] *= 3000
    second[:, 0] /= 3000
    for name, value in (("w1", first), ("w2", second)):
        weights[name].CopyFrom(numpy_helper.from_array(value, name))
    return model


def test_the_scan_finds_the_node_that_cannot_take_eight_bits():
    model, feeds = outlier_model(), tiny_feeds(4)
    table = scan(
        model, amax_of(model, feeds), Reference.of(model, feeds), operators=OPERATORS, macs=macs(model), limit_s=60
    )
    assert {price.node for price in table.prices[:2]} == {"first", "second"}
    assert sum(price.share for price in table.prices) == pytest.approx(1)
    assert sum(price.macs_share for price in table.prices) == pytest.approx(1)
    assert table.prices[-1].share < 0.01
    assert table.unscanned == ()


@pytest.mark.parametrize(("work", "images"), [(0, 1), (1.0, 1), (2.0, 2), (1e9, 4)])
def test_a_large_graph_is_scanned_on_fewer_images(monkeypatch, work, images):
    model, feeds = chain(), tiny_feeds(4)
    monkeypatch.setattr(sensitivity, "WORK_MACS", int(work * 3 * sum(macs(model).values())))
    table = scan(model, amax_of(model, feeds), Reference.of(model, feeds), operators=OPERATORS, macs=macs(model))
    assert table.images == images


def test_a_scan_out_of_time_says_what_it_left():
    model, feeds = chain(), tiny_feeds(2)
    table = scan(
        model, amax_of(model, feeds), Reference.of(model, feeds), operators=OPERATORS, macs=macs(model), limit_s=-1
    )
    assert (table.prices, table.unscanned) == ((), ("first", "second", "third"))


# -- the whole -------------------------------------------------------------------------------------------------------


def tuned(model, images=20, **options):
    steps = []
    result = tune(
        model, lambda: iter(tiny_feeds(images)), options=Conversion(**options),
        progress=lambda step, done, total: steps.append(step),
    )  # fmt: skip
    return result, steps


def test_tuning_tells_what_it_tried_and_never_ends_below_its_start():
    result, steps = tuned(chain(spread=64.0, group=8))
    report = result.report
    best = max(report["sqnr_db"].values(), key=lambda s: s["mean"])["mean"]
    assert report["sqnr_db_final"]["mean"] >= best
    assert report["equalisation"]["kept"]
    assert report["equalisation"]["float_sqnr_db"] > 100
    assert {"calibrate", "equalise", "correct biases", "scan"} <= set(steps)
    assert report["held_out_images"] == 5
    assert [row["node"] for row in report["sensitivity"]["table"]]


def test_held_out_images_are_not_calibrated_on():
    result, _ = tuned(chain(), images=20)
    assert (result.images, result.report["ranges_from_images"], result.report["held_out_images"]) == (20, 15, 5)
    few, _ = tuned(chain(), images=5)
    assert (few.report["ranges_from_images"], few.report["held_out_images"]) == (5, 5)
    assert few.report["held_out_are_calibration_images"]


def test_a_step_that_does_not_help_is_not_kept(monkeypatch):
    for name in ("EQUALISING_HELPS_DB", "BIAS_HELPS_DB", "FLOAT_GAIN_DB"):
        monkeypatch.setattr(tuning, name, 1000.0)
    model = chain(spread=64.0, group=8)
    result, _ = tuned(model)
    assert not result.report["equalisation"]["kept"]
    assert result.model.SerializeToString() == model.SerializeToString()
    assert result.float_nodes == ()


def test_a_node_that_cannot_take_eight_bits_goes_back_to_float(monkeypatch):
    monkeypatch.setattr(tuning, "FLOAT_MACS", 1.0)
    monkeypatch.setattr(tuning._Search, "equalise", lambda self, state: state)
    result, _ = tuned(outlier_model())
    assert {"first", "second"} <= set(result.float_nodes)
    assert set(result.reasons) == set(result.float_nodes)
    assert "% of the quantisation noise" in next(iter(result.reasons.values()))
    table = result.report["sensitivity"]
    assert table["sqnr_db"]["after"]["mean"] > table["sqnr_db"]["before"]["mean"] + 0.5
    assert {row["node"] for row in table["table"] if row["float"]} == set(result.float_nodes)


def test_the_share_of_arithmetic_that_goes_back_is_bounded(monkeypatch):
    monkeypatch.setattr(tuning, "FLOAT_MACS", 0.0)
    monkeypatch.setattr(tuning._Search, "equalise", lambda self, state: state)
    assert tuned(outlier_model())[0].float_nodes == ()


def test_the_calibrator_is_chosen_again_for_what_is_left(monkeypatch):
    monkeypatch.setattr(tuning, "FLOAT_MACS", 1.0)
    monkeypatch.setattr(tuning._Search, "equalise", lambda self, state: state)
    report = tuned(outlier_model())[0].report
    again = {name: score["mean"] for name, score in report["sqnr_db_of_the_rest"].items()}
    assert report["calibrator"] == max(again, key=again.get)
    assert set(again) == set(report["sqnr_db"])
    chosen = tuned(outlier_model(), calibrator="minmax")[0].report
    assert "sqnr_db_of_the_rest" not in chosen
    assert chosen["calibrator"] == "minmax"


def test_tuning_stops_when_every_output_is_good(monkeypatch):
    monkeypatch.setattr(tuning, "FLOAT_MACS", 1.0)
    monkeypatch.setattr(tuning, "GOOD_DB", -1.0)
    monkeypatch.setattr(tuning._Search, "equalise", lambda self, state: state)
    assert tuned(outlier_model())[0].float_nodes == ()


def test_the_means_that_stay_come_from_all_images(monkeypatch):
    read = []

    def counting(model, amax, feeds, **options):
        feeds = list(feeds)
        read.append(len(feeds))
        return mean_errors(model, amax, feeds, **options)

    monkeypatch.setattr(tuning, "mean_errors", counting)
    monkeypatch.setattr(tuning, "BIAS_HELPS_DB", -1000.0)
    tuned(chain(), images=20)
    tuned(chain(), images=5)  # nothing is held out
    assert read == [15, 20, 5]
