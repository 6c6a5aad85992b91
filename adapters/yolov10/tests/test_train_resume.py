"""Runs that end too early: cut off, killed, out of disk, and how they go on."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from adapters._shared.training import recipe
from adapters._shared.training.checkpoint import read_resumable
from adapters._shared.training.splits import Splits
from adapters.yolov10.tests.runs import SMALL, Cut, equal, last, lines
from bench.errors import InputError, UsageError
from bench.registry import load_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.usefixtures("restore_threads_and_random_state"),
]


@pytest.mark.parametrize(
    ("step", "more"),
    [
        pytest.param(3, {}, id="within an epoch"),
        pytest.param(1, {}, id="within the first epoch"),
        pytest.param(2, {}, id="between epochs"),
        pytest.param(1, {"batch": 1, "grad_accum": 2}, id="with accumulation"),
        pytest.param(3, {"workers": 1}, id="with a worker process"),
        pytest.param(
            3, {"optimizer": "sgd", "lr": 0.01, "schedule": "linear", "ema_decay": 0}, id="sgd without average"
        ),
    ],
)
def test_a_run_that_was_cut_and_resumed_equals_one_that_was_not(train, tmp_path, cut_after, step, more):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, **more)
    cut_after(step)
    with pytest.raises(Cut):
        train(cut, checkpoint_every=1, **more)
    assert last(cut)["global_step"] == step
    train(cut, resume=cut / "last.pt")
    assert lines(cut)[-1]["step"] == lines(whole)[-1]["step"]
    one, two = last(whole), last(cut)
    assert one["global_step"] == two["global_step"] == 4
    for part in ("model", "state_dict"):
        assert equal(one[part], two[part]), part
    moments = [c["optimizer_states"][0]["state"] for c in (one, two)]
    assert all(
        torch.equal(moments[0][p][k], moments[1][p][k])
        for p in moments[0]
        for k, v in moments[0][p].items()
        if isinstance(v, torch.Tensor)
    )
    assert lines(whole)[-1]["AP"] == lines(cut)[-1]["AP"]


def test_epochs_are_the_total_of_a_resumed_run(train, tmp_path):
    out = tmp_path / "run"
    train(out, epochs=1)
    train(out, resume=out, epochs=3)
    assert [line["epoch"] for line in lines(out)] == [0, 1, 2]
    assert json.loads((out / "run.json").read_text())["resumed"] == 1
    with pytest.raises(UsageError, match=r"finished 3 epochs.*--epochs 4"):
        train(out, resume=out, epochs=3)


def test_a_kill_while_saving_leaves_the_last_checkpoint_whole(tmp_path):
    """The process is killed by the system in the middle of writing the second checkpoint."""
    script = textwrap.dedent(
        """
        import os, signal, sys, tempfile
        from pathlib import Path
        import torch
        from adapters._shared.training import checkpoint
        out = Path(sys.argv[1])
        io = checkpoint.AtomicCheckpointIO()
        io.save_checkpoint({"step": 1, "weights": torch.ones(100_000)}, out / "last.pt")
        print("saved", flush=True)
        real = os.fdopen
        def fdopen(handle, mode):
            stream = real(handle, mode)
            stream.write(b"half of it")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        os.fdopen = fdopen
        io.save_checkpoint({"step": 2, "weights": torch.zeros(100_000)}, out / "last.pt")
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1


def test_a_full_disk_ends_the_run_with_a_remedy_and_keeps_the_earlier_checkpoint(train, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(out, epochs=1)
    before = last(out)["global_step"]
    monkeypatch.setattr(os, "fsync", lambda _handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"No space left on device.*Free space"):
        train(out, resume=out, epochs=2)
    assert last(out)["global_step"] == before


def test_what_cannot_be_resumed_is_refused_before_training_starts(train, tmp_path):
    good = tmp_path / "good"
    train(good, epochs=1)
    (tmp_path / "damaged.pt").write_bytes(b"PK damaged")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "foreign.pt")
    for path, message in (
        (tmp_path / "absent.pt", "no such file"),
        (tmp_path / "damaged.pt", "not a complete"),
        (tmp_path / "foreign.pt", "--weights"),
        (good / "best.pt", "holds weights only"),
    ):
        with pytest.raises(InputError, match=message):
            train(tmp_path / "run", resume=path)
    assert not (tmp_path / "run").exists()


def test_another_network_is_not_resumed(train, drawn, tmp_path, monkeypatch):
    good = tmp_path / "good"
    train(good, epochs=1)
    with pytest.raises(InputError, match="another model: yolov10n, now yolov10s"):
        load_adapter("yolov10s").train({**SMALL, "resume": good}, tmp_path / "run")
    with pytest.raises(InputError, match="another image_size: 64, now 96"):
        train(tmp_path / "run", resume=good, epochs=3, image_size=96)
    other = dataclasses.replace(drawn, categories=drawn.categories[:7], annotations=())
    monkeypatch.setattr(recipe, "training_splits", lambda *a, **k: Splits(train=other, val=drawn))
    with pytest.raises(InputError, match=r"another set of classes: 8 .*now 7"):
        train(tmp_path / "run", resume=good, epochs=3)


def test_options_that_a_resumed_run_cannot_change_are_refused_by_name(train, tmp_path, cut_after):
    out = tmp_path / "run"
    cut_after(3)
    with pytest.raises(Cut):
        train(out, checkpoint_every=1)
    for option in ({"optimizer": "sgd"}, {"freeze": "backbone"}, {"ema_decay": 0}):
        with pytest.raises(InputError, match=next(iter(option))):
            train(out, resume=out, **option)
    for option in ({"batch": 1}, {"seed": 9}, {"grad_accum": 2}, {"max_images": 3}):
        with pytest.raises(InputError, match=rf"stopped within an epoch.*{next(iter(option))}"):
            train(out, resume=out, **option)


def test_a_checkpoint_holds_nothing_that_needs_code(train, tmp_path):
    out = tmp_path / "run"
    train(out, epochs=1)
    assert read_resumable(out)["parity"]["model"] == "yolov10n"
    assert torch.load(out / "best.pt", weights_only=True).keys() == {"model", "parity"}


def test_the_command_reads_the_model_of_a_resumed_run_from_its_folder(tmp_path, capsys):
    from bench.commands.train import Places, train_command

    given = {"fixtures": "shapes", "max_images": "8", "image_size": "64", "batch": "4", "epochs": "1", "threads": "1"}
    x = tmp_path / "x"
    assert train_command("yolov10n", given, Places(out=x), config=None, settings=["warmup_steps=1"]) == 0
    places = Places(metrics=tmp_path / "metrics.json", checkpoint=tmp_path / "copy.pt")
    assert train_command(None, {"resume": x / "last.pt", "epochs": "2"}, places, config=None, settings=[]) == 0
    assert f"Best weights: {x / 'best.pt'}" in capsys.readouterr().out
    assert [line["epoch"] for line in lines(x) if "loss" in line] == [0, 1]
    written = json.loads(places.metrics.read_text())
    assert (written["model"], len(written["epochs"])) == ("yolov10n", len(lines(x)))
    assert places.checkpoint.read_bytes() == (x / "best.pt").read_bytes()
    with pytest.raises(UsageError, match="name a model"):
        train_command(None, {}, Places(), config=None, settings=[])
    with pytest.raises(UsageError, match="several devices need --out"):
        train_command("yolov10n", given, Places(), config=None, settings=["devices=2", "device=cuda"])


def test_a_run_that_goes_on_in_another_folder_leaves_its_best_weights_there(train, tmp_path):
    train(tmp_path / "one", epochs=1)
    best = train(tmp_path / "two", resume=tmp_path / "one", epochs=2, lr=1e-9)
    assert best == tmp_path / "two" / "best.pt"
    assert best.is_file()
