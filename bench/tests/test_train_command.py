"""`parity train` and the ONNX file of its best weights: a good run is never lost by what comes after it."""

import json
import sys
import textwrap

import onnx
import pytest

from bench.commands import train as command
from bench.commands.train import Places, train_command
from bench.errors import ArtifactError, InputError
from bench.files import sha256_file
from bench.schema import validate_file

pytest.importorskip("torch", reason="the models train in torch")
pytest.importorskip("lightning", reason="the models train with lightning")

SMALL = {"fixtures": "shapes", "max_images": "4", "image_size": "64", "batch": "4", "epochs": "1", "threads": "1"}
OWN_TRAINING = """
    from adapters.rtdetr_pose import RtDetrPoseAdapter, adapter as given

    class Own(RtDetrPoseAdapter):
        def train(self, config, out):
            out.mkdir(parents=True)
            (out / "best.pt").write_bytes(b"weights")
            return out / "best.pt"

    adapter = Own(given.spec, given.config)
"""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    """Restore what training sets for the process; the file is written by another process."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setenv("PYTHONPATH", ":".join(p for p in sys.path if p))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def train(model, out, *settings, **options):
    return train_command(
        model, {**SMALL, **options}, Places(out=out), config=None, settings=["warmup_steps=1", *settings]
    )


def document_of(folder):
    return json.loads((folder / "model.onnx.meta.json").read_text())


@pytest.mark.parametrize(
    ("model", "settings", "outputs"),
    [("rtdetr_pose", [], "logits"), ("yolov10n", ["export=true"], "boxes_cxcywh")],
)
def test_the_run_folder_holds_the_file_of_the_best_weights_and_its_document(tmp_path, capfd, model, settings, outputs):
    run = tmp_path / "run"
    assert train(model, run, *settings) == 0
    assert validate_file(run / "model.onnx.meta.json") == "export_meta/1"
    document = document_of(run)
    assert (document["model"], document["head"], document["image_size"]) == (model, "dense", [64, 64])
    assert document["checkpoint"] == {"file": "best.pt", "sha256": sha256_file(run / "best.pt")}
    assert document["file"]["sha256"] == sha256_file(run / "model.onnx")
    assert onnx.load(str(run / "model.onnx")).graph.output[0].name == outputs
    out = capfd.readouterr().out
    assert f"Best weights: {run / 'best.pt'}" in out
    assert f"{run / 'model.onnx'}: fp32 onnx, head dense" in out


@pytest.mark.parametrize(("model", "settings"), [("rtdetr_pose", ["export=no"]), ("yolov10n", [])])
def test_a_run_that_does_not_ask_for_the_file_has_none(tmp_path, model, settings):
    assert train(model, tmp_path / "run", *settings) == 0
    assert (tmp_path / "run" / "best.pt").is_file()
    assert not list((tmp_path / "run").glob("model.onnx*"))


def test_a_resumed_run_exports_its_new_weights_and_a_failing_one_leaves_no_file_of_the_old(
    tmp_path, capfd, monkeypatch
):
    run = tmp_path / "run=1"  # a path is never taken for MODEL=WEIGHTS
    monkeypatch.chdir(tmp_path)
    assert train("rtdetr_pose", run.relative_to(tmp_path)) == 0
    (run / "model.onnx").write_bytes(b"of earlier weights")
    (run / "model.onnx.meta.json").write_text("{}")
    again = {"resume": run / "last.pt", "epochs": "2", "lr": "0.01"}
    assert train_command(None, again, Places(), config=None, settings=[]) == 0
    assert document_of(run)["checkpoint"]["sha256"] == sha256_file(run / "best.pt")
    assert document_of(run)["file"]["sha256"] == sha256_file(run / "model.onnx")

    def fails(*_, **__):
        raise ArtifactError("the graph is broken")

    monkeypatch.setattr(command, "export_command", fails)
    capfd.readouterr()
    places = Places(metrics=tmp_path / "metrics.json", checkpoint=tmp_path / "copy.pt")
    assert train_command(None, {**again, "epochs": "3"}, places, config=None, settings=[]) == 1
    out, err = capfd.readouterr()
    assert f"Best weights: {run / 'best.pt'}" in out
    assert "the training is finished" in err
    assert "the graph is broken" in err
    assert f"parity export rtdetr_pose --weights {run / 'best.pt'} --head dense" in err
    assert "--set export=false" in err
    assert not list(run.glob("model.onnx*")), "a file of earlier weights would be taken for these"
    assert places.checkpoint.read_bytes() == (run / "best.pt").read_bytes()
    assert validate_file(places.metrics) == "training_run/1"


@pytest.mark.parametrize("error", [InputError("no such model"), OSError(28, "No space left on device")])
def test_whatever_the_export_refuses_is_exit_1_with_the_weights_kept(tmp_path, capfd, monkeypatch, error):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.pt").write_bytes(b"weights")

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(command, "export_command", fails)
    assert command._export("rtdetr_pose", run / "best.pt", run) == 1
    assert (run / "best.pt").read_bytes() == b"weights"
    assert str(error) in capfd.readouterr().err


def test_a_model_with_a_training_of_its_own_needs_no_record_and_no_file(tmp_path, capfd):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(OWN_TRAINING))
    assert train_command(str(path), {}, Places(out=tmp_path / "run"), config=None, settings=[]) == 0
    assert "Best weights" in capfd.readouterr().out
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["best.pt"]


def test_of_several_processes_of_a_run_the_first_exports(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text(json.dumps({"config": {"export": True}}))
    assert command._wants_export(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not command._wants_export(tmp_path)
