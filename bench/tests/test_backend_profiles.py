"""What the runtimes say about the time of their nodes."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from bench.backends.onnx_profile import node_times
from bench.backends.openvino_profile import RUNS, medians
from bench.backends.openvino_profile import node_times as counters_of
from bench.errors import ArtifactError, ContractError
from bench.nodetimes import summarise
from bench.registry import load_backend
from bench.runner_base import PROFILE_WARMUP
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds
from bench.tests.test_backend_onnxrt import artifact, int8  # noqa: F401 - fixtures
from bench.types import CONVERSION, NodeTime, Profiler


def event(name, ts, dur, operator="Conv", inputs="float", index="0"):
    arguments = {"op_name": operator, "node_index": index, "input_type_shape": [{inputs: [1, 3]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": arguments}


def trace(*durations_us, operator="Conv", inputs="float"):
    """Runs of 1 ms, one node in each."""
    events = []
    for number, dur in enumerate(durations_us):
        start = 10_000 * number
        events.append(event("a", start + 5, dur, operator, inputs))
        events.append({"cat": "Session", "name": "model_run", "ts": start, "dur": 1000, "args": {}})
    return events


def test_the_median_of_the_runs_after_the_warm_up_counts():
    (node,) = node_times(trace(900, 100, 300, 200), skip=1)
    assert (node.name, node.operator, node.precision) == ("a", "Conv", "fp32")
    assert node.ms == pytest.approx(0.2)


def test_a_node_that_runs_several_times_in_a_run_takes_their_sum():
    events = [*trace(100, 100), event("a", 300, 50), event("a", 10_300, 50)]
    assert node_times(events, skip=0)[0].ms == pytest.approx(0.15)


def test_events_outside_of_a_run_and_of_other_kinds_do_not_count():
    events = [*trace(100), event("b", 5_000, 50), {"cat": "Session", "name": "x_kernel_time", "ts": 1, "dur": 9}]
    assert [node.name for node in node_times(events, skip=0)] == ["a"]


@pytest.mark.parametrize(
    ("operator", "inputs", "precision"),
    [("QLinearConv", "uint8", "int8"), ("QLinearAdd", "uint8", "int8"), ("DequantizeLinear", "uint8", CONVERSION),
     ("QuantizeLinear", "float", CONVERSION), ("Cast", "float16", CONVERSION), ("Sigmoid", "float", "fp32"),
     ("MaxPool", "int8", "int8"), ("Conv", "float16", "fp16"), ("Gather", "int64", "")],
)  # fmt: skip
def test_a_node_computes_in_what_it_takes_unless_it_only_converts(operator, inputs, precision):
    assert node_times(trace(10, operator=operator, inputs=inputs), skip=0)[0].precision == precision


def test_names_are_those_of_the_file_as_far_as_the_optimiser_lets_them():
    events = [event("conv_nchwc", 5, 9), event("dq_token_12", 20, 9, index="1"), *trace(1)]
    assert [node.name for node in node_times(events, skip=0)] == ["conv", "dq", "a"]


def test_a_trace_without_enough_runs_is_refused():
    with pytest.raises(ArtifactError, match="a profile of 2 runs; more than 3 are needed"):
        node_times(trace(1, 1), skip=3)


class Counter:
    """As openvino's ProfilingInfo."""

    Status = SimpleNamespace(EXECUTED="executed")

    def __init__(self, name, mean_us, kind="Convolution", status="executed"):
        self.node_name, self.node_type, self.status = name, kind, status
        self.real_time = timedelta(microseconds=mean_us)


def test_the_warm_up_is_taken_out_of_a_mean_over_all_runs():
    warm_us, run_us = 900, 200
    mean = (PROFILE_WARMUP * warm_us + RUNS * run_us) / (PROFILE_WARMUP + RUNS)
    last = [Counter("a", mean), Counter("r", 50, "Reorder"), Counter("gone", 9, status="optimised out")]
    words = {"a": "u8", "r": "f32"}
    found = counters_of([Counter("a", warm_us), Counter("r", 50)], last, words, {"u8": "int8", "f32": "fp32"})
    assert [(n.name, n.precision) for n in found] == [("a", "int8"), ("r", CONVERSION)]
    assert found[0].ms == pytest.approx(run_us / 1000, rel=0.01)


def test_one_interrupted_block_does_not_make_a_node_slow():
    blocks = [[NodeTime(name="a", operator="Conv", ms=ms, precision="fp32")] for ms in (0.1, 5.0, 0.2)]
    assert medians(blocks)[0].ms == 0.2


def test_rounded_means_never_give_a_negative_time():
    (node,) = counters_of([Counter("a", 1)], [Counter("a", 0)], {}, {})
    assert node.ms == 0.0


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_a_graph_runtime_says_where_its_time_goes(name, tmp_path):
    pytest.importorskip({"onnxrt": "onnxruntime"}.get(name, name), reason=f"needs {name}")
    file = contract_artifact("onnx", tmp_path)
    with load_backend(name).open(file, contract_cell(name), threads=1) as runner:
        assert isinstance(runner, Profiler)
        assert runner.profiles
        before = runner.run(contract_feeds(2))["maps"]
        times = runner.profile(contract_feeds(2))
        assert (runner.run(contract_feeds(2))["maps"] == before).all(), "the session that is timed is another"
        with pytest.raises(ContractError, match="no input 'nothing'"):
            runner.profile({"nothing": before})
    assert any(node.precision == "fp32" and node.ms > 0 for node in times)
    assert all(node.ms >= 0 for node in times)
    assert summarise(times).total_ms < 1000
    with pytest.raises(ContractError, match="profile after close"):
        runner.profile(contract_feeds(2))


def test_quantised_operators_are_told_from_conversions(int8):  # noqa: F811 - the fixture
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    cell = contract_cell("onnxrt", precision="int8")
    with load_backend("onnxrt").open(int8, cell, threads=1) as runner:
        times = runner.profile(contract_feeds(2))
    found = {(node.operator, node.precision) for node in times}
    assert ("QLinearConv", "int8") in found
    assert any(kind == CONVERSION for _, kind in found)


def test_a_runtime_that_does_not_say_is_not_asked(tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    file = contract_artifact("weights", tmp_path)
    with load_backend("torch").open(file, contract_cell("torch"), threads=1) as runner:
        assert not runner.profiles
        assert runner.profile(contract_feeds(2)) == ()


def test_a_fixed_batch_is_profiled_as_it_is(tmp_path):
    pytest.importorskip("openvino", reason="needs openvino")
    file = contract_artifact("onnx", tmp_path, batch=2)
    cell = replace(contract_cell("openvino"), batch=2)
    with load_backend("openvino").open(file, cell, threads=1) as runner:
        assert runner.profile(contract_feeds(2))
