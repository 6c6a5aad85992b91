"""parity suite: which file runs where, where the result goes, and what is refused before anything is measured."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from bench.compare import compare_tensors, parts_of, tensor_budget, tensor_rms
from bench.files import sha256_file

MODEL = Path(__file__).with_name("suite_model.py")
QUICK = ["--reference", "bench.testing:fake_backend:fp32", "--rounds", "2", "--openings", "1"]
BOTH = ["--backends", "bench.testing:fake_backend,onnxrt"]


def load_model():
    spec = importlib.util.spec_from_file_location("suite_model_of_commands", MODEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = load_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    small.save_folder(folder / "images", 32)
    small.save_checkpoint(folder / "model.npz", small.make_weights())
    small.save_onnx(folder / "model.onnx", small.make_weights())
    return folder


def test_each_backend_runs_its_own_file_and_the_result_is_one_suite(parity, data, tmp_path):
    engine = data / "model.engine"
    engine.write_bytes(b"an engine of another machine")
    words = ["--checkpoint", data / "model.npz", "--onnx", data / "model.onnx", "--engine", engine]
    backends = ["--backends", "bench.testing:fake_backend,onnxrt,trt"]
    code, out, _ = parity("suite", MODEL, *words, "--dataset", data / "images", *QUICK, *backends)
    assert code == 0
    path = Path("reports/small_backend_suite.json")
    assert f"Suite {path}" in out
    suite = json.loads((tmp_path / path).read_text())
    assert suite["schema"] == "suite_result/1"
    cells = {c["cell"]["backend"]: c for c in suite["cells"]}
    assert cells["fake"]["artifact"]["sha256"] == sha256_file(data / "model.npz")
    assert cells["onnxrt"]["artifact"]["sha256"] == sha256_file(data / "model.onnx")
    assert cells["onnxrt"]["observed"]["provider"] == "CPUExecutionProvider"
    assert cells["trt"]["status"] == "skipped"
    assert "tensorrt" in cells["trt"]["reason"]
    run = tmp_path / "reports" / suite["run_id"]
    assert json.loads((run / "suite.json").read_text()) == suite
    assert (run / "index.html").is_file()
    assert parity("validate", path)[0] == 0
    assert parity("report", path, "--out", tmp_path / "page")[0] == 0


def test_two_suite_files_of_one_folder_are_compared_by_their_own_detections(parity, data, tmp_path):
    small.save_onnx(data / "worse.onnx", small.set_background(small.make_weights(), -9.0))
    for name in ("model", "worse"):
        words = ["--checkpoint", data / "model.npz", "--onnx", data / f"{name}.onnx", *BOTH, *QUICK]
        parity("suite", MODEL, *words, "--dataset", data / "images", "--output", tmp_path / f"{name}.json", "--quiet")
    words = ["--fixtures", data / "images", "--json", tmp_path / "c.json"]
    code, *_ = parity("compare", tmp_path / "model.json", tmp_path / "worse.json", *words)
    assert code == 1
    changes = {c["cell"]["backend"]: c for c in json.loads((tmp_path / "c.json").read_text())["cells"]}
    assert changes["fake"]["accuracy"]["delta"] == 0.0
    assert changes["fake"]["accuracy"]["verdict"] == "passed"
    assert changes["onnxrt"]["status"] == "failed"
    code, *_ = parity("compare", tmp_path / "model.json", tmp_path / "model.json", "--fixtures", data / "images")
    assert code == 2, "a run compared with itself"


def test_what_cannot_be_used_is_exit_2_and_nothing_is_measured(parity, data, tmp_path):
    given = {"--checkpoint": data / "model.npz", "--onnx": data / "model.onnx", "--dataset": data / "images"}
    (tmp_path / "list.json").write_text('[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]')
    (tmp_path / "c.json").write_text("{}")
    for changed, told in [
        ({"--onnx": data / "nowhere.onnx"}, "--onnx .*nowhere.onnx: no such file"),
        ({"--engine": data / "nowhere.engine"}, "--engine .*nowhere.engine: no such file"),
        ({"--checkpoint": data / "nowhere.npz"}, "no such file"),
        ({"--checkpoint": data / "model.onnx"}, "an ONNX file is compared with a checkpoint"),
        ({"--output": tmp_path}, "ends in .json"),
        ({"--output": "suite.txt"}, "ends in .json"),
        ({"--output": tmp_path / "list.json"}, "holds something else than a suite"),
        ({"--config": tmp_path / "c.json"}, "small has no network configs"),
        ({"--backends": "onnxrtt"}, "Did you mean 'onnxrt'"),
    ]:
        words = {**given, **changed}
        code, _, err = parity("suite", MODEL, *[w for pair in words.items() for w in pair], *QUICK)
        assert code == 2, told
        assert pytest.importorskip("re").search(told, " ".join(err.split())), err
    left = {p.name for p in tmp_path.rglob("suite.json")}
    assert left == set()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.txt", "{}", "must be a .json"),
        ("c.json", "{", "not JSON"),
        ("c.yaml", "a: [", "not YAML"),
        ("c.toml", "a =", "not TOML"),
        ("c.json", "[]", "must hold an object"),
        ("c.yml", "tiny", "must hold an object"),
    ],
)
def test_a_config_that_cannot_be_read_is_exit_2(parity, tmp_path, name, text, told):
    from bench.commands.suite import read_network_config
    from bench.errors import InputError

    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        read_network_config(tmp_path / name)


def test_configs_are_read_in_every_notation(tmp_path):
    from bench.commands.suite import read_network_config

    for name, text in (("a.json", '{"model": {"queries": 3}}'), ("a.toml", "[model]\nqueries = 3"),
                       ("a.yaml", "model:\n  queries: 3")):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert read_network_config(tmp_path / name) == {"model": {"queries": 3}}


def test_the_background_is_compared_by_itself_and_hides_nothing():
    """Background logits a million times those of the classes: as one tensor they would allow any error of a class."""
    generator = np.random.default_rng(0)
    golden = [generator.normal(size=(1, 5, 4)) for _ in range(3)]
    for values in golden:
        values[..., 3] *= 1e6
    wrong = [values.copy() for values in golden]
    for values in wrong:
        values[..., 1] += 1e-3

    def judged(candidate, background):
        found = {}
        for label, take in parts_of("logits", background, candidate, golden):
            ours, theirs = (list(map(take, side)) for side in (candidate, golden))
            found[label] = compare_tensors(label, ours, theirs, budget=tensor_budget(tensor_rms(theirs), 0.0)).passed
        return found

    assert judged(wrong, None) == {"logits": True}, "what the cut is for"
    assert judged(wrong, 3) == {"logits": False, "logits, background": True}
    assert judged(golden, 3) == {"logits": True, "logits, background": True}
    for values in wrong:
        values[..., 3] += 1e3
    assert judged(wrong, 3)["logits, background"] is False
    shorter = [values[..., :3] for values in golden]
    assert judged(shorter, 3) == {"logits": False}, "another shape is never cut into one that fits"


@pytest.mark.slow
def test_yolov10n_in_torch_and_its_own_export(parity, tmp_path):
    """The shipped weights at 64 px; the same weights with one of 95 layers 1 % stronger are another model."""
    pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    from bench.registry import load_adapter

    shipped = load_adapter("yolov10n").spec
    facts = {"parity": json.dumps({"class_names": list(shipped.class_names), "image_size": [64, 64]})}
    state = safetensors.load_file(shipped.default_weights)
    safetensors.save_file(state, tmp_path / "shipped.safetensors", facts)
    stronger = {k: v * 1.01 if k == "model.4.cv1.conv.weight" else v for k, v in state.items()}
    assert stronger.keys() == state.keys()
    assert any(not stronger[k].equal(state[k]) for k in state)
    safetensors.save_file(stronger, tmp_path / "stronger.safetensors", facts)
    model = load_adapter(f"yolov10n::{tmp_path / 'shipped.safetensors'}")
    model.export(tmp_path / "shipped.safetensors", tmp_path / "model.onnx")
    found = {}
    for name in ("shipped", "stronger"):
        words = ["--checkpoint", tmp_path / f"{name}.safetensors", "--onnx", tmp_path / "model.onnx", "--max-images", 4]
        output = tmp_path / f"{name}.json"
        words += ["--backends", "torch,onnxrt", "--rounds", "2", "--openings", "1", "--output", output]
        code, *_ = parity("suite", "yolov10n", *words, "--quiet")
        (cell,) = [c for c in json.loads(output.read_text())["cells"] if c["cell"]["backend"] == "onnxrt"]
        found[name] = code, {r["name"].split(" against")[0]: r["passed"] for r in cell["parity"]}
    assert found["shipped"] == (
        3,  # four images decide nothing about the accuracy
        dict.fromkeys(["input tensors", "boxes_cxcywh", "scores", "detections"], True)
        | {k: None for k in found["shipped"][1] if k == "committed tensor hashes"},
    )
    assert found["stronger"][0] == 1
    assert found["stronger"][1]["scores"] is found["stronger"][1]["boxes_cxcywh"] is False
