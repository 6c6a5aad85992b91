"""The training engine, run with YOLOv10 on four small images: what a run leaves, how it goes on, what stops it."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adapters._shared.checkpoints import read_facts, read_state_dict
from adapters._shared.training import keeper, module, recipe
from adapters._shared.training.checkpoint import read_resumable
from adapters._shared.training.splits import Splits
from adapters.yolov10 import adapter
from adapters.yolov10.names import SHAPES_NAMES
from adapters.yolov10.tests.conftest import draw_set
from bench.errors import InputError, UsageError
from bench.registry import load_adapter
from bench.schema import validate

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
SMALL = {"image_size": 64, "epochs": 2, "batch": 2, "eval_every": 1, "warmup_steps": 1, "ema_steps": 1, "threads": 1}


@pytest.fixture(autouse=True)
def restore_threads_and_random_state():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other on a busy host: 18 s instead of 2
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(drawn, monkeypatch):
    """Train on the drawn images, judged on themselves."""
    monkeypatch.setattr(recipe, "training_splits", lambda *a, **k: Splits(train=drawn, val=drawn))

    def run(out, **options):
        return adapter.train(options if "resume" in options else {**SMALL, **options}, out)

    return run


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def last(out):
    return torch.load(out / "last.pt", weights_only=True)


def equal(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(one[key], two[key]) for key in one)


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture
def cut_after(monkeypatch):
    """Break a run off right after ``last.pt`` of the given step was written."""

    def arm(step):
        original = keeper.Keeper._save_last

        def save(self, trainer, **position):
            original(self, trainer, **position)
            if trainer.global_step == step:
                monkeypatch.setattr(keeper.Keeper, "_save_last", original)
                raise Cut

        monkeypatch.setattr(keeper.Keeper, "_save_last", save)

    return arm


def test_a_run_leaves_weights_that_load_metrics_and_a_record(train, tmp_path):
    out = tmp_path / "run"
    best = train(out)
    assert best == out / "best.pt"
    loaded = load_adapter(f"yolov10n::{best}")
    assert loaded.spec.class_names == SHAPES_NAMES
    assert loaded.spec.image_hw == (64, 64)
    loaded.build(best)
    load_adapter(f"yolov10n::{out / 'last.pt'}").build(out / "last.pt")
    written = lines(out)
    assert [line["epoch"] for line in written] == [0, 1]
    assert [line["step"] for line in written] == [2, 4]
    assert all(math.isfinite(line["loss"]) and 0 <= line["AP"] <= 1 for line in written)
    record = json.loads((out / "run.json").read_text())
    validate(record, "training_run", where="run.json")
    assert record["ended_because"] == "epochs"
    assert record["best"]["AP"] == max(line["AP"] for line in written)
    assert record["train"]["images"] == 4
    assert record["config"]["epochs"] == 2
    assert str(tmp_path) not in json.dumps({k: v for k, v in record.items() if k not in ("config", "command")})
    events = EventAccumulator(str(out / "tensorboard")).Reload().Tags()
    assert {"AP", "loss_epoch", "o2o_box"} <= set(events["scalars"])
    assert len(events["images"]) == 4


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(train, tmp_path):
    one, two, other = (
        read_state_dict(train(tmp_path / name, epochs=1, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert equal(one, two)
    assert not equal(one, other)


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


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Four images learnt by heart, and the folder of that run; once for the tests that need an AP above 0."""
    folder = tmp_path_factory.mktemp("learnt")
    images = draw_set(folder, 4)
    options = {"epochs": 90, "batch": 4, "overfit_batches": 1, "eval_every": 45, "lr": 3e-3, "warmup_steps": 5}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(recipe, "training_splits", lambda *a, **k: Splits(train=images, val=images))
        adapter.train({**SMALL, **options, "ema_decay": 0, "bn_momentum": 0.2}, folder / "run")
    return images, folder / "run"


def test_an_overfit_run_learns_its_images_by_heart(learnt):
    _, out = learnt
    assert lines(out)[-1]["AP"] > 0.5
    record = json.loads((out / "run.json").read_text())
    assert any("overfit run: 4 images" in note for note in record["notes"])
    assert record["train"]["sha256"] == record["val"]["sha256"]


def test_the_ap_of_training_is_that_of_the_harness_to_the_last_digit(learnt):
    from bench.backends.pytorch import backend
    from bench.fixtures import category_ids
    from bench.passes import accuracy_pass
    from bench.scoring import from_predictions, match
    from bench.types import Artifact, Cell

    images, out = learnt
    best = out / "best.pt"
    fitted = load_adapter(f"yolov10n::{best}")
    artifact = Artifact(
        kind="weights",
        path=best,
        sha256="0" * 64,
        precision="fp32",
        inputs=fitted.spec.inputs,
        outputs=fitted.spec.outputs,
        build=lambda: fitted.build(best),
    )
    cell = Cell(model="yolov10n", backend="torch", device="cpu", precision="fp32", fixtures="drawn")
    with backend.open(artifact, cell, threads=1) as runner:
        found = accuracy_pass(runner, fitted, images.samples).predictions
    stats = match(images, from_predictions(found, category_ids(fitted.spec.class_names, images))).stats
    recorded = next(line for line in reversed(lines(out)) if line.get("AP") == read_facts(best)["ap"])
    assert recorded["AP"] > 0
    assert {name: recorded[name] for name in stats} == dict(stats)


def test_a_run_can_be_shipped_in_half_the_size_with_the_record_of_its_making(learnt, tmp_path):
    from adapters._shared.training.ship import ship

    images, out = learnt
    weights = tmp_path / "shipped.safetensors"
    fitted = load_adapter(f"yolov10n::{out / 'best.pt'}")
    ship(fitted, out, images, weights, seeds=[out])
    again = load_adapter(f"yolov10n::{weights}")
    assert again.spec.image_hw == (64, 64)
    again.build(weights)
    assert weights.stat().st_size < 0.5 * (out / "best.pt").stat().st_size
    text = weights.with_suffix(".json").read_text()
    record = json.loads(text)
    assert record["stats"]["AP"] == pytest.approx(lines(out)[-1]["AP"], abs=0.02)
    assert [s["seed"] for s in record["seeds"]] == [0, 0]
    assert len(record["epochs"]) == len(lines(out))
    assert str(tmp_path) not in text
    other = tmp_path / "other"
    other.mkdir()
    changed = json.loads((out / "run.json").read_text())
    changed["config"]["lr"] = 1
    (other / "run.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="another lr"):
        ship(fitted, out, images, weights, seeds=[other])


def test_averaged_weights_are_judged_and_kept_not_the_latest(train, tmp_path):
    out = tmp_path / "run"
    train(out, ema_decay=0.9, ema_steps=1)
    content = last(out)
    key = "model.0.conv.weight"
    assert torch.equal(content["model"][key], content["state_dict"][f"network.{key}"])
    assert not torch.equal(content["model"][key], content["current_model_state"][f"network.{key}"])


def test_max_steps_end_the_run_within_an_epoch_and_it_is_still_judged(train, tmp_path):
    out = tmp_path / "run"
    train(out, max_steps=3, epochs=50)
    assert last(out)["global_step"] == 3
    assert lines(out)[-1]["step"] == 3
    assert "AP" in lines(out)[-1]
    assert json.loads((out / "run.json").read_text())["ended_because"] == "steps"


def test_patience_ends_a_run_that_gets_no_better(train, tmp_path, monkeypatch):
    aps = iter([0.2, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4])
    monkeypatch.setattr(recipe.Judge, "score", lambda *_: {"AP": next(aps)})
    out = tmp_path / "run"
    train(out, epochs=7, patience=2)
    assert [line["AP"] for line in lines(out)] == [0.2, 0.5, 0.4, 0.4]
    assert read_facts(out / "best.pt")["epoch"] == 1
    assert json.loads((out / "run.json").read_text())["ended_because"] == "patience"


def test_the_last_epoch_is_judged_even_between_evaluations(train, tmp_path):
    out = tmp_path / "run"
    train(out, epochs=3, eval_every=2)
    assert ["AP" in line for line in lines(out)] == [False, True, False, True]
    assert lines(out)[-1]["step"] == 6


def test_a_time_limit_ends_the_run_early(train, tmp_path):
    out = tmp_path / "run"
    train(out, epochs=500, max_minutes=0.01)
    assert len(lines(out)) < 60
    assert json.loads((out / "run.json").read_text())["ended_because"] == "time"


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_batch(train, tmp_path, monkeypatch):
    from adapters.yolov10 import train as own

    original = own.dual_loss

    def broken(*arguments):
        loss, parts = original(*arguments)
        return loss * math.nan, parts

    monkeypatch.setattr(own, "dual_loss", broken)
    out = tmp_path / "run"
    with pytest.raises(module.TrainingError, match=r"step 0: the loss is nan .*lower --lr"):
        train(out)
    kept = torch.load(out / "nonfinite-batch.pt", weights_only=True)
    assert kept["images_rgb_u8"].shape == (2, 3, 64, 64)
    assert kept["boxes_xyxy"].shape[0] == 2
    assert kept["state_dict"].keys() >= {"model.0.conv.weight"}


def test_a_detection_that_is_not_finite_stops_the_run(train, tmp_path, monkeypatch):
    original = adapter.postprocess

    def broken(self, outputs, meta):
        found = original(outputs, meta)
        return dataclasses.replace(found, scores=np.full_like(found.scores, np.nan))

    monkeypatch.setattr(type(adapter), "postprocess", broken)
    with pytest.raises(module.TrainingError, match="cannot be scored"):
        train(tmp_path / "run", epochs=1)


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


def test_a_folder_that_holds_a_run_is_not_overwritten(train, tmp_path):
    out = tmp_path / "run"
    train(out, epochs=1)
    with pytest.raises(InputError, match="--resume"):
        train(out, epochs=1)


def test_a_folder_that_cannot_be_written_is_refused_before_training(train, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        train(tmp_path / "file" / "run")


def test_frozen_parts_keep_their_weights_and_statistics(train, tmp_path):
    first = train(tmp_path / "first", epochs=1)
    out = tmp_path / "second"
    train(out, epochs=1, weights=first, freeze="backbone", lr=0.01)
    before, after = read_state_dict(first), read_state_dict(out / "last.pt")
    kept = [key for key in before if key.startswith("model.4.")]
    assert kept
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert not torch.equal(before["model.16.cv1.conv.weight"], after["model.16.cv1.conv.weight"])
    record = json.loads((out / "run.json").read_text())
    assert record["parameters"]["trained"] < record["parameters"]["all"]
    assert record["weights"]["file"] == "best.pt"


def test_a_run_can_start_from_given_weights(train, tmp_path):
    first = train(tmp_path / "first", epochs=1)
    train(tmp_path / "second", epochs=1, lr=1e-12, weight_decay=0.0, weights=first)
    start, after = read_state_dict(first), read_state_dict(tmp_path / "second" / "last.pt")
    torch.testing.assert_close(after["model.8.cv1.conv.weight"], start["model.8.cv1.conv.weight"], atol=1e-6, rtol=0)


def test_other_classes_start_from_the_weights_with_a_new_head_and_say_so(train, drawn, tmp_path, monkeypatch):
    first = train(tmp_path / "first", epochs=1)
    fewer = dataclasses.replace(
        drawn,
        categories=tuple({"id": c["id"], "name": f"thing {c['id']}"} for c in drawn.categories[:8:2]),
        annotations=tuple(a for a in drawn.annotations if a["category_id"] in (1, 3, 5, 7)),
    )
    monkeypatch.setattr(recipe, "training_splits", lambda *a, **k: Splits(train=fewer, val=fewer))
    out = tmp_path / "second"
    best = train(out, epochs=1, weights=first)
    assert load_adapter(f"yolov10n::{best}").spec.class_names == ("thing 1", "thing 3", "thing 5", "thing 7")
    notes = " ".join(json.loads((out / "run.json").read_text())["notes"])
    assert "8" in notes
    assert "4 classes" in notes


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


def test_a_score_threshold_and_a_maximum_leave_out_detections_at_evaluation(learnt, tmp_path):
    from adapters._shared.training.evaluate import Judge

    images, out = learnt
    fitted = load_adapter(f"yolov10n::{out / 'best.pt'}")
    network = fitted.build(out / "best.pt")
    everything, few, sure = (
        Judge(fitted, images, most, floor) for most, floor in ((None, None), (3, None), (None, 0.5))
    )
    counts = [len(j.detect(network, [j[0]], torch.device("cpu"))[1].scores) for j in (everything, few, sure)]
    assert counts[0] > 3
    assert counts[1] == 3
    assert 0 < counts[2] <= 3


def test_a_set_larger_than_a_batch_needs_no_full_batch(train, tmp_path):
    train(tmp_path / "run", epochs=1, batch=64)
    assert lines(tmp_path / "run")[-1]["step"] == 1


def test_an_image_size_that_the_strides_do_not_divide_is_refused_with_the_nearest(train, tmp_path):
    with pytest.raises(UsageError, match="multiple of 32, for example 96"):
        train(tmp_path / "run", image_size=100)


def test_training_imports_nothing_that_phones_home_or_is_not_ours(tmp_path):
    code = (
        "import sys, adapters.yolov10; print([m for m in ('torch', 'lightning', 'albumentations') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
