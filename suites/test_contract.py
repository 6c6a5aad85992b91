"""One contract for every registered backend that runs on this host; the others are skipped with their reason."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench.artifacts import Store
from bench.attest import mismatch
from bench.errors import ArtifactError, ContractError, Unavailable, Unsupported
from bench.options import split
from bench.registry import backend_names, load_backend
from bench.testing.artifacts import contract_artifact, contract_cell, contract_feeds, contract_outputs
from bench.types import PRECISIONS, Backend, Runner

PACKAGES = {"torch": "torch", "onnxrt": "onnxruntime", "openvino": "openvino", "trt": "tensorrt"}


def pytest_generate_tests(metafunc):
    """Every registered backend, or those of --backends."""
    if "backend" in metafunc.fixturenames:
        asked = split(getattr(metafunc.config.option, "parity_backends", None))
        metafunc.parametrize("backend", asked or backend_names(), indirect=True)


@pytest.fixture
def backend(request):
    return load_backend(request.param)


@pytest.fixture
def device(backend, request):
    """The first of --devices (default: cpu) that the backend runs on here; a required backend without one fails."""
    required = [load_backend(b).name for b in split(getattr(request.config.option, "parity_require_backends", None))]
    reasons = []
    for asked in split(getattr(request.config.option, "parity_devices", None)) or ("cpu",):
        try:
            backend.require(asked, "fp32")
        except (Unavailable, Unsupported) as error:
            reasons.append(str(error))
        else:
            return asked
    if backend.name in required:
        pytest.fail(f"required by --require-backends: {reasons[0]}", pytrace=False)
    pytest.skip(reasons[0])


@pytest.fixture
def runnable(backend, device):
    """The backend, on a host that has it."""
    return backend


@pytest.fixture
def opened_as(runnable, device):
    """The cell under which the network is opened; an engine must take batches up to the largest below."""
    return contract_cell(runnable.name, device=device, batch=4)


@pytest.fixture
def artifact(runnable, opened_as, tmp_path):
    return made(runnable, opened_as, tmp_path)


def made(backend, cell, folder, **options):
    """The network as the file that the backend opens; an engine is built from the ONNX file."""
    kind = "onnx" if backend.artifact_kind == "engine" else backend.artifact_kind
    return backend.prepare(contract_artifact(kind, folder, **options), cell, Store(folder / "store"))


@pytest.fixture
def runner(runnable, artifact, opened_as):
    with runnable.open(artifact, opened_as, threads=1) as opened:
        yield opened


def test_a_backend_fulfils_the_protocol(backend):
    assert isinstance(backend, Backend)
    assert set(backend.precisions) <= set(PRECISIONS)


def test_a_precision_that_is_not_declared_is_unsupported_with_a_reason(backend):
    for precision in [*set(PRECISIONS) - set(backend.precisions), "fp7"]:
        with pytest.raises(Unsupported, match=precision):
            backend.require("cpu", precision)


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "tensorrt:0"])
def test_every_declared_precision_is_native_or_emulated_or_says_why_not(backend, device):
    for precision in backend.precisions:
        try:
            answer = backend.require(device, precision)
        except (Unavailable, Unsupported) as refusal:
            answer = str(refusal)
        assert answer in ("native", "emulated") or len(answer) > 20


def test_a_missing_package_gives_the_install_command(backend, monkeypatch):
    if backend.name not in PACKAGES:
        pytest.skip(f"{backend.name} needs no package")
    monkeypatch.setitem(sys.modules, PACKAGES[backend.name], None)
    with pytest.raises(Unavailable, match=rf"{PACKAGES[backend.name]}.*not installed.*Type: pip install"):
        backend.require("cpu", "fp32")


def test_outputs_have_the_declared_names_shapes_and_dtypes(runner):
    assert isinstance(runner, Runner)
    outputs = runner.run(contract_feeds(4))
    assert list(outputs) == ["maps", "means"]
    assert [o.shape for o in outputs.values()] == [(4, 4, 8, 8), (4, 4)]
    assert [o.dtype for o in outputs.values()] == [np.float32, np.float32]


def test_outputs_are_those_of_numpy(runner):
    feeds = contract_feeds(4)
    outputs, expected = runner.run(feeds), contract_outputs(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=1e-5)


def test_batch_1_and_batch_4_agree(runner):
    feeds = contract_feeds(4)
    together = runner.run(feeds)
    for index in range(4):
        alone = runner.run({"images": feeds["images"][index : index + 1]})
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], together[name][index], rtol=0, atol=1e-6)


def test_the_same_input_gives_the_same_bits(runner):
    feeds = contract_feeds(4)
    first, second = runner.run(feeds), runner.run(feeds)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_output_arrays_are_fresh_and_the_callers_own(runner):
    feeds = contract_feeds(4)
    first = runner.run({"images": feeds["images"][:1].copy()})
    kept = {name: value.copy() for name, value in first.items()}
    second = runner.run({"images": feeds["images"][1:2].copy()})
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])
        assert value.flags.writeable
        assert not np.shares_memory(value, second[name])


def test_feeds_stay_untouched_and_may_be_read_only_or_strided(runner):
    wide = contract_feeds(4)["images"]
    strided = np.ascontiguousarray(wide.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    frozen = wide.copy()
    frozen.flags.writeable = False
    expected = runner.run({"images": wide})["maps"]
    np.testing.assert_array_equal(runner.run({"images": frozen})["maps"], expected)
    np.testing.assert_array_equal(runner.run({"images": strided})["maps"], expected)
    np.testing.assert_array_equal(wide, contract_feeds(4)["images"])


def zeros(*shape, dtype=np.float32):
    return {"images": np.zeros(shape, dtype)}


WRONG = {
    "unknown name": ({"image": np.zeros((1, 3, 8, 8))}, r"no input 'image'. Did you mean 'images'\?"),
    "missing": ({}, r"input 'images' is missing"),
    "dtype": (zeros(1, 3, 8, 8, dtype=np.float64), r"'images' must be float32 .*, got float64 \(1, 3, 8, 8\)"),
    "rank": (zeros(3, 8, 8), r"'images' must be .*\(batch, 3, 8, 8\), got float32 \(3, 8, 8\)"),
    "size": (zeros(1, 3, 8, 9), r"'images' must be .*got float32 \(1, 3, 8, 9\)"),
    "layout": (zeros(1, 8, 8, 3), r"'images' must be .*got float32 \(1, 8, 8, 3\)"),
    "empty": (zeros(0, 3, 8, 8), r"'images' must be .*empty batch"),
    "list": ({"images": [[0.0]]}, r"'images' must be .*list"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_feeds_are_refused_by_name_before_the_runtime_sees_them(runner, wrong):
    feeds, message = WRONG[wrong]
    with pytest.raises(ContractError, match=message):
        runner.run(feeds)
    with pytest.raises(ContractError, match=message):
        runner.bind(feeds)


def test_a_static_batch_refuses_another_batch(runnable, device, tmp_path):
    cell = contract_cell(runnable.name, device=device)
    artifact = made(runnable, cell, tmp_path, batch=1)
    assert artifact.static_batch == 1
    with runnable.open(artifact, cell, threads=1) as runner:
        assert runner.run(contract_feeds(4) | {"images": contract_feeds(4)["images"][:1]})["means"].shape == (1, 4)
        with pytest.raises(ContractError, match=r"got float32 \(4, 3, 8, 8\). This artefact fixes the batch at 1"):
            runner.run(contract_feeds(4))


def test_a_bound_step_runs_again_and_again_and_leaves_run_alone(runnable, runner):
    feeds = contract_feeds(4)
    expected = runner.run(feeds)
    if not runnable.measures_speed:
        with pytest.raises(Unsupported, match="no speed"):
            runner.bind(feeds)
        return
    bound = runner.bind(contract_feeds(4, seed=2))
    other = runner.bind(contract_feeds(1, seed=3))
    for _ in range(20):
        assert bound.step() is None
        other.step()
    for name, value in runner.run(feeds).items():
        np.testing.assert_array_equal(value, expected[name])


def test_bindings_are_independent_and_give_back_the_outputs_of_their_last_step(runnable, runner):
    if not runnable.measures_speed:
        pytest.skip(f"{runnable.name} has no speed: it binds nothing")
    feeds = {name: contract_feeds(4, seed=seed) for seed, name in enumerate("ABC")}
    expected = {name: runner.run(value) for name, value in feeds.items()}
    bound = {name: runner.bind(feeds[name]) for name in "AB"}
    with pytest.raises(ContractError, match="fetch before step"):
        bound["A"].fetch()
    bound["A"].step()
    bound["B"].step()
    bound["A"].step()
    for name in "AB":
        assert_equal_outputs(bound[name].fetch(), expected[name])
    kept = bound["A"].fetch()
    bound["A"].load(feeds["C"])
    with pytest.raises(ContractError, match="fetch before step"):
        bound["A"].fetch()
    bound["A"].step()
    assert_equal_outputs(bound["A"].fetch(), expected["C"])
    assert_equal_outputs(bound["B"].fetch(), expected["B"])
    assert_equal_outputs(kept, expected["A"])


def test_a_binding_does_not_share_the_memory_of_what_it_was_given(runnable, runner):
    if not runnable.measures_speed:
        pytest.skip(f"{runnable.name} has no speed: it binds nothing")
    feeds, other = contract_feeds(2), contract_feeds(2, seed=5)
    expected, expected_other = runner.run(feeds), runner.run(other)
    bound = runner.bind(feeds)
    feeds["images"][...] = 0
    bound.step()
    assert_equal_outputs(bound.fetch(), expected)
    bound.load(other)
    other["images"][...] = 0
    bound.step()
    assert_equal_outputs(bound.fetch(), expected_other)


def assert_equal_outputs(got, expected):
    assert list(got) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


def test_the_evidence_names_precision_and_device_in_plain_values(runner, opened_as):
    evidence = runner.attest()
    assert (evidence.precision, evidence.emulated) == ("fp32", False)
    assert mismatch(opened_as, "native", evidence) is None
    json.dumps(evidence.details, allow_nan=False)


def test_the_version_names_the_runtime_and_a_number(runnable):
    word, _, number = runnable.version().replace("/", " ").partition(" ")
    assert word.isalpha()
    assert number[0].isdigit()


def test_closing_twice_is_harmless(runnable, artifact, opened_as):
    runner = runnable.open(artifact, opened_as, threads=1)
    runner.close()
    runner.close()


def test_use_after_close_is_refused(runnable, artifact, opened_as):
    runner = runnable.open(artifact, opened_as, threads=1)
    feeds = contract_feeds(4)
    step = runner.bind(feeds).step if runnable.measures_speed else None
    with runner:
        runner.run(feeds)
    for use in (lambda: runner.run(feeds), lambda: runner.bind(feeds), runner.attest, step):
        if use is not None:
            with pytest.raises(ContractError, match="after close"):
                use()


def test_a_truncated_file_is_an_artefact_error_that_names_it(runnable, artifact, opened_as, tmp_path):
    if runnable.artifact_kind != "onnx":
        pytest.skip(f"{runnable.name} reads {runnable.artifact_kind}; the adapter or the recording checks them")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(artifact.path.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=r"damaged\.onnx"):
        runnable.open(replace(artifact, path=damaged), opened_as, threads=1)


def test_a_file_with_other_tensors_than_declared_is_refused_on_opening(runnable, artifact, opened_as):
    if runnable.artifact_kind != "onnx":
        pytest.skip(f"{runnable.name} reads {runnable.artifact_kind}, which name no tensors")
    renamed = replace(artifact, inputs=(replace(artifact.inputs[0], name="pixels"),))
    with pytest.raises(ArtifactError, match="has no input 'pixels'; it has images float32"):
        runnable.open(renamed, opened_as, threads=1)


def test_an_idle_runner_does_not_burn_the_processor(runnable, device, tmp_path):
    if device != "cpu":
        pytest.skip(f"{device}: the threads of a runtime are measured on the CPU")
    if not runnable.measures_speed:
        pytest.skip(f"{runnable.name} has no runtime that could spin")
    script = (
        "import sys; from pathlib import Path; from bench.testing.artifacts import idle_cpu_share; "
        "print(idle_cpu_share(sys.argv[1], Path(sys.argv[2]), threads=2))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, runnable.name, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.2
