"""The training engine, run with YOLOv10 on four small images: what a run leaves, how it starts, what stops it."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adapters._shared.checkpoints import read_state_dict
from adapters._shared.training import module, recipe
from adapters._shared.training.splits import Splits
from adapters.yolov10 import adapter
from adapters.yolov10.names import SHAPES_NAMES
from adapters.yolov10.tests.runs import equal, last, lines
from bench.errors import InputError, UsageError
from bench.registry import load_adapter
from bench.schema import validate

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.usefixtures("restore_threads_and_random_state"),
]


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


def test_max_steps_end_the_run_within_an_epoch_and_it_is_still_judged(train, tmp_path):
    out = tmp_path / "run"
    train(out, max_steps=3, epochs=50)
    assert last(out)["global_step"] == 3
    assert lines(out)[-1]["step"] == 3
    assert "AP" in lines(out)[-1]
    assert json.loads((out / "run.json").read_text())["ended_because"] == "steps"


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
