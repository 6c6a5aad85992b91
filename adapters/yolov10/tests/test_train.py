"""Training lowers the loss, stops on NaN, resumes, and refuses options it does not have."""

import dataclasses
import json
import math

import pytest
import torch

from adapters._shared.checkpoints import read_state_dict
from adapters.yolov10 import adapter
from adapters.yolov10.config import TrainConfig
from adapters.yolov10.data import Augmentation, AugmentedSet, label_of_category, load_examples
from adapters.yolov10.loss import LossGains, dual_loss
from adapters.yolov10.model import YoloV10
from adapters.yolov10.names import SHAPES_NAMES
from bench.errors import InputError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches.*"),
]
SMALL = TrainConfig(image_size=64, epochs=2, batch=2, evaluate_every=1, warmup_steps=1, ema_steps=1, threads=1)


@pytest.fixture(autouse=True)
def restore_threads_and_random_state():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other on a busy host: 18 s instead of 2
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def fit(config, fixtures, out):
    from adapters.yolov10.train import fit

    return fit(config, fixtures, fixtures, SHAPES_NAMES, "n", out)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_few_steps_lower_the_loss_on_four_images(drawn):
    from adapters.yolov10.train import collate

    torch.manual_seed(0)
    examples = load_examples(drawn, label_of_category(drawn, SHAPES_NAMES), 64)
    still = Augmentation(mosaic=0, flip=0, scale=0, translate=0, hue=0, saturation=0, value=0)
    images, truth = collate([AugmentedSet(examples, 64, still, 0)[i] for i in range(4)])
    network = YoloV10("n", 8).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(28):
        loss, _ = dual_loss(*network.branches(images), truth, LossGains())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # the targets of an untrained network are near zero, so the loss first rises with them
    assert losses[-1] < 0.7 * max(losses)


def test_a_run_writes_weights_metrics_and_a_checkpoint_and_can_be_resumed(drawn, tmp_path):
    out = tmp_path / "run"
    best = fit(SMALL, drawn, out)
    assert best == out / "best.safetensors"
    adapter.build(best)
    written = lines(out)
    assert [line["epoch"] for line in written] == [0, 1]
    assert all(math.isfinite(line["loss"]) and 0 <= line["AP"] <= 1 for line in written)
    before = read_state_dict(out / "last.safetensors")

    fit(dataclasses.replace(SMALL, epochs=3, resume=out / "last.ckpt"), drawn, out)
    assert [line["epoch"] for line in lines(out)] == [0, 1, 2]
    after = read_state_dict(out / "last.safetensors")
    assert int(after["model.0.bn.num_batches_tracked"]) == 6
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_the_same_seed_gives_the_same_weights(drawn, tmp_path):
    config = dataclasses.replace(SMALL, epochs=1)
    one, two = (read_state_dict(fit(config, drawn, tmp_path / name)) for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_time_budget_ends_the_run_early(drawn, tmp_path):
    out = tmp_path / "run"
    fit(dataclasses.replace(SMALL, epochs=500, max_minutes=0.01), drawn, out)
    written = lines(out)
    assert len(written) < 20
    assert "AP" in written[-1]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_remedy(drawn, tmp_path, monkeypatch):
    from adapters.yolov10 import train

    def broken(*arguments):
        loss, parts = dual_loss(*arguments)
        return loss.detach() * math.nan, parts

    monkeypatch.setattr(train, "dual_loss", broken)
    with pytest.raises(train.TrainingError, match="lower lr"):
        fit(SMALL, drawn, tmp_path / "run")


def test_a_run_can_start_from_given_weights(drawn, tmp_path):
    first = fit(dataclasses.replace(SMALL, epochs=1), drawn, tmp_path / "first")
    start = read_state_dict(first)
    out = tmp_path / "second"
    fit(dataclasses.replace(SMALL, epochs=1, lr=1e-9, weight_decay=0.0, initial_weights=first), drawn, out)
    after = read_state_dict(out / "last.safetensors")
    key = "model.8.cv1.conv.weight"
    torch.testing.assert_close(after[key], start[key], atol=1e-6, rtol=0)


def test_a_checkpoint_that_cannot_be_resumed_is_refused_before_training_starts(drawn, tmp_path):
    torch.save(YoloV10("n", 8).state_dict(), tmp_path / "weights.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK damaged")
    for name, message in (
        ("absent", "no such file"),
        ("weights", "use initial_weights"),
        ("damaged", "not a complete"),
    ):
        with pytest.raises(InputError, match=message):
            fit(dataclasses.replace(SMALL, resume=tmp_path / f"{name}.ckpt"), drawn, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_is_refused_with_the_nearest_known_one(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'epochs'"):
        adapter.train({"epoch": 3}, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", "many"),
        ("epochs", 1.5),
        ("image_size", 300),
        ("lr", -1),
        ("precision", "fp8"),
        ("max_minutes", 0),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=key):
        TrainConfig.parse({key: value})


def test_text_values_are_converted_as_a_command_line_gives_them():
    config = TrainConfig.parse({"epochs": "3", "lr": "1e-3", "max_images": None, "resume": "last.ckpt"})
    assert (config.epochs, config.lr, config.max_images) == (3, 1e-3, None)
    assert config.resume.name == "last.ckpt"


def test_a_shipped_run_is_small_loads_as_the_default_and_records_how_it_was_made(drawn, tmp_path):
    from adapters.yolov10.ship import ship

    runs = [tmp_path / "first", tmp_path / "second"]
    first = fit(dataclasses.replace(SMALL, epochs=1), drawn, runs[0])
    fit(dataclasses.replace(SMALL, epochs=1, initial_weights=first), drawn, runs[1])
    weights = tmp_path / "shipped.safetensors"
    ship(runs, drawn, weights)
    adapter.build(weights)
    text = weights.with_suffix(".json").read_text()
    record = json.loads(text)
    assert [len(stage["epochs"]) for stage in record["stages"]] == [1, 1]
    assert record["stages"][1]["config"]["initial_weights"] == "best.safetensors"
    assert 0 <= record["stats"]["AP"] <= 1
    assert str(tmp_path) not in text


def test_the_adapter_trains_on_a_folder_in_coco_layout(drawn, tmp_path):
    folder = drawn.samples[0].path.parent / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for sample in drawn.samples:
        sample.path.rename(folder / "images" / sample.path.name)
    images = [{"id": s.image_id, "file_name": s.path.name, "width": s.width, "height": s.height} for s in drawn.samples]
    content = {"images": images, "categories": list(drawn.categories), "annotations": list(drawn.annotations)}
    (folder / "annotations" / "instances.json").write_text(json.dumps(content))
    options = {"fixtures": str(folder), "image_size": 64, "epochs": 1, "batch": 4, "threads": 1}
    assert adapter.train(options, tmp_path / "run") == tmp_path / "run" / "best.safetensors"
    assert "AP" in lines(tmp_path / "run")[0]
