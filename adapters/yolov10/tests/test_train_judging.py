"""What training says of its weights: the AP of the harness, of the averaged weights, of the right detections."""

import json

import pytest
import torch

from adapters._shared.checkpoints import read_facts
from adapters._shared.training import recipe
from adapters._shared.training.splits import Splits
from adapters.yolov10 import adapter
from adapters.yolov10.tests.conftest import draw_set
from adapters.yolov10.tests.runs import SMALL, last, lines
from bench.errors import InputError
from bench.registry import load_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.usefixtures("restore_threads_and_random_state"),
]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Four images learnt by heart, and the folder of that run; once for the tests that need an AP above 0."""
    folder = tmp_path_factory.mktemp("learnt")
    images = draw_set(folder, 4)
    options = {
        "seed": 0,
        # at 64 px the deepest norms see 16 values: the unbiased variance that they keep is 7 % above the one that they
        # learned with, layer upon layer, and objects found in training mode are lost (AP .37, .83, .53 by seed)
        "image_size": 128,
        "epochs": 90,
        "batch": 4,
        "overfit_batches": 1,
        "eval_every": 45,
        "lr": 3e-3,
        "warmup_steps": 5,
    }
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(recipe, "training_splits", lambda *a, **k: Splits(train=images, val=images))
        adapter.train({**SMALL, **options, "ema_decay": 0, "bn_momentum": 0.2}, folder / "run")
    return images, folder / "run"


def test_an_overfit_run_learns_its_images_by_heart(learnt):
    _, out = learnt
    assert lines(out)[-1]["AP"] > 0.9
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
    assert again.spec.image_hw == (128, 128)
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
