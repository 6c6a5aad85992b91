import pytest

from bench.errors import UsageError
from bench.matrix import Request, plan_cells
from bench.probe import BackendFacts, Support
from bench.registry import Reference
from bench.types import ModelSpec, TensorSpec

SPEC = ModelSpec(
    name="m",
    task="detect",
    inputs=(TensorSpec(name="x", shape=("batch", 3, 8, 8), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=("batch", 4), dtype="float32"),),
    image_hw=(8, 8),
    class_names=("a",),
    default_fixtures="f",
    unsupported={("graph", "int8"): "its head cannot"},
)
RUNS = {"fp64", "fp32", "fp16"}


def facts(name, kind, *, asked=True, runs=frozenset(RUNS), emulated=(), status="unsupported", reason="never"):
    support = {
        (d, p): Support(mode=("emulated" if p in emulated else "native"))
        if p in runs
        else Support(mode=None, status=status, reason=reason, short="no")
        for d in ("cpu", "cuda:0")
        for p in ("fp64", "fp32", "fp16", "int8")
    }
    return BackendFacts(
        reference=Reference(name=name, target=name),
        asked=asked,
        artifact_kind=kind,
        measures_speed=True,
        version="1",
        support=support,
    )


FRAME = facts("torch", "weights", runs={"fp64", "fp32"})
GRAPH = facts("graph", "onnx", runs={"fp32", "fp16", "int8"}, emulated={"fp16"})


def plan(backends=(FRAME, GRAPH), has_module=True, **request):
    return plan_cells(SPEC, fixtures_name="f", has_module=has_module, request=Request(**request), backends=backends)


def row(cells, backend, precision):
    (found,) = [c for c in cells if (c.cell.backend, c.cell.precision) == (backend, precision)]
    return found


def test_the_reference_comes_first_and_once():
    cells, golden = plan()
    assert [c.role for c in cells] == ["reference"] + ["candidate"] * 5
    assert str(cells[0].cell) == "m-torch-cpu-fp32-f-b1"
    assert golden.cell.precision == "fp64"
    assert len({c.cell for c in cells}) == 6


def test_the_reference_is_added_when_it_was_not_asked_for():
    unasked = facts("torch", "weights", asked=False, runs={"fp64", "fp32"})
    cells, _ = plan(backends=(GRAPH, unasked))
    assert {c.cell.backend for c in cells if c.role == "candidate"} == {"graph"}
    assert row(cells, "torch", "fp32").role == "reference"


def test_what_cannot_run_is_in_the_plan_with_its_reason():
    cells, _ = plan()
    assert row(cells, "torch", "int8").blocked == ("unsupported", "never", "no")
    assert row(cells, "graph", "int8").blocked[1] == "its head cannot"
    assert row(cells, "graph", "fp16").mode == "emulated"
    assert row(cells, "graph", "fp32").blocked is None


def test_onnx_weights_leave_nothing_for_a_backend_that_takes_weights():
    cells, golden = plan(has_module=False)
    assert golden is None
    assert cells[0].cell.backend == "graph"
    assert row(cells, "torch", "fp32").blocked[0] == "unsupported"
    assert "torch module" in row(cells, "torch", "fp32").blocked[1]


def test_a_required_backend_that_cannot_run_fails():
    absent = facts("trt", "engine", runs=set(), status="skipped", reason="no GPU")
    cells, _ = plan(backends=(FRAME, absent), require_backends=("trt",))
    assert row(cells, "trt", "fp32").blocked[0] == "failed"
    assert "no GPU" in row(cells, "trt", "fp32").blocked[1]


def test_an_unavailable_backend_is_skipped_when_it_is_not_required():
    absent = facts("trt", "engine", runs=set(), status="skipped", reason="no GPU")
    cells, _ = plan(backends=(FRAME, absent))
    assert row(cells, "trt", "fp32").blocked == ("skipped", "no GPU", "no")


def test_a_reference_that_cannot_run_is_a_usage_error():
    with pytest.raises(UsageError, match=r"reference torch:int8:cpu cannot run: never Choose another with --reference"):
        plan(reference=("torch", "int8", "cpu"))


def test_nothing_that_runs_onnx_for_onnx_weights_is_a_usage_error():
    with pytest.raises(UsageError, match="pip install"):
        plan(backends=(FRAME,), has_module=False)


def test_recorded_outputs_need_a_folder():
    recorded = facts("recorded", "recording")
    cells, _ = plan(backends=(FRAME, recorded))
    assert row(cells, "recorded", "fp32").blocked == (
        "skipped",
        "Recorded outputs need --recording DIR.",
        "no --recording",
    )


def test_every_device_has_its_cells():
    cells, _ = plan(devices=("cpu", "cuda:0"))
    assert {c.cell.device for c in cells} == {"cpu", "cuda:0"}
    assert "cuda0" in str(cells[-1].cell)
