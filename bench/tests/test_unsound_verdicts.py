"""Verdicts that another harness gives wrongly: five situations typed as a person would, each beside its healthy twin.

The network, its checkpoint and its ONNX file are small and real (``suite_model``); ONNX Runtime runs the file.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

MODEL = Path(__file__).with_name("suite_model.py")
IMAGES = 32


def load_model():
    spec = importlib.util.spec_from_file_location("suite_model_of_verdicts", MODEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = load_model()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    small.save_folder(folder / "images", IMAGES)
    small.save_checkpoint(folder / "model.npz", small.make_weights())
    small.save_onnx(folder / "model.onnx", small.make_weights())
    return folder


@pytest.fixture
def suite(parity, data, tmp_path):
    """Compare a checkpoint with an ONNX file; returns exit code, the ONNX cell, and what was printed."""

    def compare(onnx="model.onnx", *, checkpoint="model.npz", backends="onnxrt", options=()):
        path = tmp_path / "suite.json"
        path.unlink(missing_ok=True)
        words = ["--dataset", data / "images", "--reference", "bench.testing:fake_backend:fp32", "--rounds", "2"]
        words += ["--backends", f"bench.testing:fake_backend,{backends}", "--openings", "1", "--output", path, *options]
        code, out, err = parity("suite", MODEL, "--checkpoint", data / checkpoint, "--onnx", data / onnx, *words)
        if not path.is_file():
            return code, None, out + err
        document = json.loads(path.read_text())
        assert document["exit_code"] == code
        cells = [c for c in document["cells"] if c["cell"]["backend"] == "onnxrt"]
        return code, cells[0] if cells else None, out + err

    return compare


def row(cell, name):
    (found,) = [r for r in cell["parity"] if r["name"].startswith(name)]
    return found


def test_the_healthy_twin_of_all_of_them_passes_with_exit_0(suite, data):
    code, cell, _ = suite()
    assert code == 0
    assert cell["status"] == "passed"
    assert cell["artifact"]["recipe"] == {"tool": "given as it is", "file": "model.onnx"}
    assert cell["accuracy"]["stats"]["AP"] == pytest.approx(1.0), "a reference that finds nothing could not lose"
    compared = {r["name"].removesuffix(" against the fp64 golden"): r["passed"] for r in cell["parity"]}
    assert compared == dict.fromkeys(
        ["input tensors", "logits", "logits, background", "bbox", "log_z", "detections"], True
    )


@pytest.mark.parametrize("head", ["logits", "bbox", "log_z"])
def test_nan_does_not_pass(suite, data, head):
    """One NaN in one query of one head; no box and no score is made of ``log_z``."""
    broken = np.zeros((1, small.QUERIES, small.HEADS[head]), np.float32)
    broken[0, 1, 0] = np.nan
    small.save_onnx(data / "nan.onnx", small.make_weights(), after={head: ("Add", broken)})
    code, cell, _ = suite("nan.onnx")
    assert code == 1
    assert cell["status"] == "failed"
    wrong = row(cell, f"{head} against")
    assert wrong["passed"] is False
    assert wrong["nonfinite"] == 4, "one of each of the four golden images"
    assert wrong["max_abs"] == "nan"


def test_a_file_of_another_shape_does_not_pass(suite, data):
    small.save_onnx(data / "classes.onnx", small.make_weights(), classes=4)
    code, cell, said = suite("classes.onnx")
    assert code == 1
    assert cell["status"] == "failed"
    assert "output logits float32 (batch, 6, 5) should be logits float32 (batch, 6, 4)" in cell["reason"]
    assert cell["reason"] in " ".join(said.split())


def test_a_shape_that_only_shows_when_the_file_runs_does_not_pass(suite, data):
    """The file declares no shapes, and gives two numbers per query where one is wanted: they are broadcast to two."""
    doubled = np.zeros((1, 1, 2), np.float32)
    small.save_onnx(data / "late.onnx", small.make_weights(), after={"log_z": ("Add", doubled)}, declared=False)
    code, cell, _ = suite("late.onnx")
    assert code == 1
    assert cell["status"] == "failed"
    wrong = row(cell, "log_z")
    assert wrong["passed"] is False
    assert "shape (1, 6, 2), expected (1, 6, 1)" in wrong["explain"]
    assert row(cell, "detections")["passed"] is True, "boxes and scores alone would not have shown it"


def test_a_file_without_declared_shapes_that_keeps_them_passes(suite, data):
    small.save_onnx(data / "open.onnx", small.make_weights(), declared=False)
    code, cell, _ = suite("open.onnx")
    assert (code, cell["status"]) == (0, "passed")


def test_extra_boxes_do_not_pass(suite, data):
    """Queries that the checkpoint calls background are boxes in the file; every box of the checkpoint is there too."""
    small.save_onnx(data / "extra.onnx", small.set_background(small.make_weights(), -9.0))
    code, cell, _ = suite("extra.onnx")
    assert code == 1
    assert cell["status"] == "failed"
    boxes = row(cell, "detections")
    assert boxes["passed"] is False
    assert f"({len(small.QUIET) * IMAGES} extra)" in boxes["explain"], "nothing is missing and nothing moved"


def test_another_checkpoint_does_not_pass(suite, data):
    small.save_checkpoint(data / "other.npz", small.make_weights(1))
    code, cell, _ = suite(checkpoint="other.npz")
    assert code == 1
    assert cell["status"] == "failed"
    assert {r["name"].split(" against")[0] for r in cell["parity"] if r["passed"] is False} >= set(small.HEADS)


def test_a_checkpoint_of_which_no_key_fits_is_refused_before_anything_is_compared(suite, data):
    small.save_checkpoint(data / "stranger.npz", {f"model.{k}": v for k, v in small.make_weights().items()})
    code, cell, said = suite(checkpoint="stranger.npz")
    assert code == 2
    assert cell is None or cell["accuracy"] is None
    assert "unmatched keys: bbox.bias" in said


def test_the_exit_code_is_not_always_0(suite, data):
    codes = {
        "trt is not there, and required": suite(backends="onnxrt,trt", options=("--require-backends", "trt"))[0],
        "trt is not there, nothing else is": suite(backends="trt")[0],
        "too few images to decide": suite(options=("--max-images", "8"))[0],
        "no such file": suite("nowhere.onnx")[0],
    }
    (data / "torn.onnx").write_bytes((data / "model.onnx").read_bytes()[:-900])
    code, cell, said = suite("torn.onnx")
    codes["half a file"] = code
    assert "torn.onnx" in said
    assert cell is None or cell["accuracy"] is None
    assert codes == {
        "trt is not there, and required": 1,
        "trt is not there, nothing else is": 3,
        "too few images to decide": 3,
        "no such file": 2,
        "half a file": 2,
    }
