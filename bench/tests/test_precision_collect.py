"""Ranges of activations: against onnxruntime's own calibrators, numpy and scipy, and with bounded memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import CalibrationMethod, HistogramCollector, create_calibrator
from scipy.stats import entropy

from bench.errors import ArtifactError, ContractError, InputError, UsageError
from bench.precision import collect as module
from bench.precision.collect import Histogram, Histograms, activations, collect
from bench.precision.thresholds import BINS, LEVELS, entropy_bins, percentile_bins
from bench.tests.tiny_onnx import save_tiny, tiny_feeds, tiny_model

IMAGES = 12


@pytest.fixture
def model(tmp_path):
    return save_tiny(tmp_path / "fp32.onnx")


def feeds(count=IMAGES):
    return lambda: iter(tiny_feeds(count))


class Reader:
    def __init__(self, inputs):
        self.inputs = iter(inputs)

    def get_next(self):
        return next(self.inputs, None)


def theirs(model, method, count=IMAGES, **options):
    calibrator = create_calibrator(
        model, augmented_model_path=str(model.with_name("augmented.onnx")), calibrate_method=method,
        extra_options={"symmetric": True, **options},
    )  # fmt: skip
    calibrator.collect_data(Reader(tiny_feeds(count)))
    return {name: float(np.abs(data.range_value).max()) for name, data in calibrator.compute_data().items()}


def test_minmax_is_that_of_onnxruntime_to_the_last_bit(model):
    ours = collect(model, feeds()).ranges("minmax")
    expected = theirs(model, CalibrationMethod.MinMax)
    assert {name: found.amax for name, found in ours.items()} == expected
    assert set(ours) == {"images", "a", "b", "c", "d", "e", "f", "cells"}
    assert ours["a"].low < 0 < ours["a"].high
    assert ours["b"].low == 0


@pytest.mark.parametrize("percentile", [99.999, 99.9, 90.0])
def test_percentiles_are_those_of_onnxruntime_within_a_bin(model, percentile, capfd):
    found = collect(model, feeds())
    ours = found.ranges("percentile", percentile=percentile)
    expected = theirs(model, CalibrationMethod.Percentile, num_bins=BINS, percentile=percentile)
    for name, theirs_amax in expected.items():
        # they take the lower edge of the bin that holds the percentile, we take the upper one
        width = found.tensors[name].amax / BINS
        assert -0.01 <= (ours[name].amax - theirs_amax) / width <= 2, name


def test_histograms_are_those_of_numpy(model):
    found = collect(model, feeds())
    values = np.concatenate([feed["images"].ravel() for feed in tiny_feeds(IMAGES)])
    expected, _ = np.histogram(np.abs(values), bins=BINS, range=(0, found.tensors["images"].amax))
    counts = found.tensors["images"].counts
    assert counts.sum() == values.size
    assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 2  # values on an edge may fall on either side


def reference_entropy_bins(counts, levels):
    """The published procedure, one candidate after the other, with scipy's divergence."""
    counts = np.asarray(counts, float).copy()
    counts[0] = counts[1]
    best, chosen = np.inf, len(counts)
    for size in range(levels, len(counts) + 1):
        reference = counts[:size].copy()
        reference[-1] += counts[size:].sum()
        quantised = np.zeros(size)
        for level in range(levels):
            inside = [j for j in range(size) if j * levels // size == level]
            filled = [j for j in inside if counts[j] > 0]
            for j in filled:
                quantised[j] = counts[inside].sum() / len(filled)
        if quantised.sum() == 0:
            continue
        divergence = entropy(reference, quantised)
        if divergence <= best + 1e-12:
            best, chosen = divergence, size
    return chosen


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=24, max_size=48),
    scale=st.sampled_from([1, 1000]),
    levels=st.sampled_from([4, 8, 16]),
)
def test_entropy_is_the_published_procedure(counts, scale, levels):
    counts = np.array(counts) * scale
    counts[-1] += 1  # the largest magnitude lies in the last bin
    assert entropy_bins(counts, levels) == reference_entropy_bins(counts, levels)


@pytest.mark.parametrize("kind", ["normal", "laplace", "standard_t"])
def test_entropy_agrees_with_onnxruntimes_search_where_values_are_symmetric(kind):
    # their histogram has both signs and their levels are spread otherwise, so not to the bin
    rng = np.random.default_rng(0)
    values = getattr(rng, kind)(**({"df": 3} if kind == "standard_t" else {}), size=200_000).astype(np.float32)
    amax = np.abs(values).max()
    both, edges = np.histogram(values, 1024, (-amax, amax))
    theirs = HistogramCollector("entropy", True, 1024, 128, 99.999, "same")
    low, high = theirs.get_entropy_threshold((both, edges, values.min(), values.max(), amax), 128)
    counts, _ = np.histogram(np.abs(values), BINS, (0, amax))
    assert entropy_bins(counts) * amax / BINS == pytest.approx(max(-low, high), rel=0.2)


def test_entropy_keeps_a_uniform_range_and_cuts_a_far_outlier():
    rng = np.random.default_rng(0)
    uniform, _ = np.histogram(rng.random(200_000), BINS, (0, 1))
    assert entropy_bins(uniform) > 0.98 * BINS
    far, _ = np.histogram(np.append(np.abs(rng.normal(0, 1, 200_000)), 40.0), BINS, (0, 40))
    assert 3 < entropy_bins(far) * 40 / BINS < 8
    assert LEVELS <= entropy_bins(np.r_[np.full(4, 10), np.zeros(BINS - 4, int)]) <= BINS


def test_exact_zeros_behind_a_relu_do_not_narrow_the_range():
    values = np.maximum(np.random.default_rng(0).normal(0, 1, 200_000), 0)
    counts, _ = np.histogram(values, BINS, (0, values.max()))
    alive, _ = np.histogram(values[values > 0], BINS, (0, values.max()))
    assert entropy_bins(counts) == pytest.approx(entropy_bins(alive), rel=0.02)
    assert entropy_bins(counts) * values.max() / BINS > 3.5


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, 63), min_size=1, max_size=200), percentile=st.floats(0.1, 100))
def test_a_percentile_covers_at_least_its_share(values, percentile):
    counts = np.bincount(values, minlength=64)
    bins = percentile_bins(counts, percentile)
    assert counts[:bins].sum() >= counts.sum() * percentile / 100 - 1e-9
    assert bins == 1 or counts[: bins - 1].sum() < counts.sum() * percentile / 100 + 1e-9


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(UsageError, match="above 0 and at most 100"):
        percentile_bins(np.ones(4, int), percentile)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="Did you mean 'entropy'"):
        Histograms(images=1, images_sha256="", tensors={}).ranges("entropie")


@pytest.mark.parametrize("method", module.METHODS)
def test_a_tensor_that_is_always_zero_has_range_zero(method):
    silent = Histogram(low=0.0, high=0.0, counts=np.r_[5, np.zeros(BINS - 1, np.int64)])
    found = Histograms(images=1, images_sha256="", tensors={"t": silent}).ranges(method)["t"]
    assert (found.low, found.high, found.amax, found.scale) == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e30, 3e38])
def test_tiny_and_huge_values_are_binned(tmp_path, size):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    value = np.array([[0, size, -size / 2, size / 4]], np.float32)
    found = collect(tmp_path / "m.onnx", lambda: [{"x": value}])
    assert found.tensors["y"].amax == float(value[0, 1])
    assert np.count_nonzero(found.tensors["y"].counts) == 4
    assert found.ranges("minmax")["y"].scale == float(value[0, 1]) / 127


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from bench.precision.collect import collect
count, side = int(sys.argv[2]), int(sys.argv[3])
collect(Path(sys.argv[1]), lambda: ({"images": np.full((1, 3, side, side), i, np.float32)} for i in range(count)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_does_not_grow_with_the_number_of_images(model):
    side = 192
    graph = onnx.load(model)
    for value in (*graph.graph.input, *graph.graph.output):
        for axis in value.type.tensor_type.shape.dim[2:]:
            axis.dim_value = side * (2 if value.name == "cells" else 1)
    onnx.save(graph, model)

    def peak(count):  # of a process of its own: onnxruntime's outputs are unknown to tracemalloc
        command = [sys.executable, "-c", PEAK, str(model), str(count), str(side)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    one_image = 4 * (3 + 4 * 8 + 4 * 8 + 2 * 4 * 4) * side**2  # bytes of its activations, 14 MB
    few, many = peak(4), peak(64)
    assert many < few + 3 * one_image


def test_large_graphs_are_read_in_several_passes_with_the_same_result(model, monkeypatch):
    calls, expected = [], collect(model, feeds())

    def counted():
        calls.append(1)
        return iter(tiny_feeds(IMAGES))

    monkeypatch.setattr(module, "PASS_BYTES", 4 * 8 * 8 * 8)
    found = collect(model, counted)
    assert len(calls) > 3
    for name, histogram in expected.tensors.items():
        assert np.array_equal(histogram.counts, found.tensors[name].counts)


def test_inputs_that_change_between_passes_are_refused(model):
    opened = []

    def changing():
        opened.append(1)
        return tiny_feeds(3 + len(opened))

    with pytest.raises(ContractError, match="changed between two passes"):
        collect(model, changing)


def test_a_chosen_tensor_alone_is_counted_and_an_unknown_one_is_refused(model):
    assert list(collect(model, feeds(2), tensors=["d", "b"]).tensors) == ["b", "d"]
    with pytest.raises(ContractError, match=r"'imagess'.*Did you mean 'images'"):
        collect(model, feeds(2), tensors=["b", "imagess"])
    with pytest.raises(ContractError, match="'scales'"):  # a float, but no activation
        collect(model, feeds(2), tensors=["scales"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 191])
def test_a_non_finite_input_is_named_with_image_and_count(model, bad, place):
    inputs = tiny_feeds(3)
    inputs[1]["images"].ravel()[place] = bad
    with pytest.raises(ArtifactError, match=r"image 2: tensor 'images' \(node 'input'\) holds 1 non-finite of 192"):
        collect(model, lambda: inputs)


def test_the_first_node_that_overflows_is_named(tmp_path):
    model = tiny_model()
    for tensor in model.graph.initializer:
        if tensor.name in ("stem.weight", "body.weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e25), tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match=r"image 1: tensor 'c' \(node 'body'\) holds \d+ non-finite of 512"):
        collect(tmp_path / "m.onnx", feeds(2))


def test_a_sum_that_overflows_over_finite_values_is_no_failure(model):
    inputs = [{"images": np.full((1, 3, 8, 8), 3e37, np.float32)}]
    found = collect(model, lambda: inputs, tensors=["images", "a"])
    assert found.tensors["images"].amax == float(np.float32(3e37))


def test_no_image_and_a_wrong_shape_are_errors(model):
    with pytest.raises(ArtifactError, match=r"needs calibration images.*--calibration"):
        collect(model, list)
    with pytest.raises(ArtifactError, match=r"calibration failed at image 1: .*images"):
        collect(model, lambda: [{"images": np.zeros((1, 3, 9, 8), np.float32)}])


def test_a_truncated_file_is_the_users_error(model):
    model.write_bytes(model.read_bytes()[:200])
    with pytest.raises(InputError, match=r"fp32\.onnx"):
        collect(model, feeds())


def test_progress_counts_images_over_all_passes(model):
    told = []
    collect(model, feeds(3), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 0), (2, 0), (3, 0), (4, 6), (5, 6), (6, 6)]


def test_the_hash_identifies_images_and_their_order(model):
    def digest(order):
        images = tiny_feeds(4)
        return collect(model, lambda: [images[i] for i in order]).images_sha256

    assert digest([0, 1, 2]) == digest([0, 1, 2])
    assert len({digest([0, 1, 2]), digest([1, 0, 2]), digest([0, 1, 3]), digest([0, 1])}) == 4


def test_weights_shapes_and_what_may_be_empty_are_no_activations():
    model = tiny_model()
    graph = model.graph
    graph.node.extend([
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Mul", ["k", "k"], ["kk"]),
        helper.make_node("Shape", ["b"], ["shape"]),
        helper.make_node("NonZero", ["b"], ["where"]),
        helper.make_node("Cast", ["where"], ["perhaps_empty"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["b", "kk"], ["scaled"]),
    ])  # fmt: skip
    found = activations(model)
    assert list(found) == ["images", "a", "b", "c", "d", "e", "f", "cells", "scaled"]
    assert (found["images"], found["b"], found["scaled"]) == ("input", "stem_relu", "Mul number 12")


def test_a_killed_calibration_leaves_nothing_and_starts_again(model, tmp_path):
    code = """
import sys, time
from pathlib import Path
from bench.precision.calibration import Calibration, write_calibration
from bench.precision.collect import collect
from bench.tests.tiny_onnx import tiny_feeds
slow = float(sys.argv[3])
def feeds():
    for feed in tiny_feeds(6):
        print("image", flush=True)
        time.sleep(slow)
        yield feed
found = collect(Path(sys.argv[1]), feeds)
write_calibration(Path(sys.argv[2]), Calibration(method="minmax", ranges=found.ranges("minmax"), onnx_sha256="0" * 64,
                  images=found.images, images_sha256=found.images_sha256, set_name="tiny"))
"""
    out = tmp_path / "made" / "calibration.json"
    out.parent.mkdir()
    out.write_text("the one before")
    command = [sys.executable, "-c", code, str(model), str(out)]
    with subprocess.Popen([*command, "0.3"], stdout=subprocess.PIPE, cwd=Path.cwd()) as child:
        child.stdout.readline()
        time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert {p.name: p.read_text() for p in out.parent.iterdir()} == {"calibration.json": "the one before"}
    subprocess.run([*command, "0"], check=True, stdout=subprocess.DEVNULL)
    assert '"schema": "calibration/1"' in out.read_text()
