"""Options of a run: wrong ones are refused by name."""

import json

import pytest

from adapters._shared.training.config import TrainConfig
from adapters._shared.training.runfolder import config_json
from bench.errors import UsageError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", "many"),
        ("epochs", 1.5),
        ("epochs", True),
        ("lr", -1),
        ("lr", float("nan")),
        ("amp", "fp8"),
        ("max_minutes", 0),
        ("final_lr", 1.5),
        ("ema_decay", 1),
        ("milestones", "0.9,0.5"),
        ("milestones", "a"),
        ("deterministic", "perhaps"),
        ("seed", -1),
        ("optimizer", "adam"),
        ("flip", -0.1),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(key, value):
    with pytest.raises(UsageError, match=key):
        TrainConfig.parse({key: value})


def test_an_unknown_option_is_refused_with_the_nearest_known_one():
    with pytest.raises(UsageError, match="Did you mean 'epochs'"):
        TrainConfig.parse({"epoch": 3})


def test_an_unknown_word_is_refused_with_the_nearest_known_one():
    with pytest.raises(UsageError, match="Did you mean 'adamw'"):
        TrainConfig.parse({"optimizer": "adam"})


def test_text_is_converted_as_a_command_line_gives_it():
    config = TrainConfig.parse(
        {
            "epochs": "3",
            "lr": "1e-3",
            "max-images": None,
            "resume": "last.pt",
            "milestones": "0.5, 0.8",
            "deterministic": "yes",
        }
    )
    assert (config.epochs, config.lr, config.max_images, config.milestones) == (3, 1e-3, None, (0.5, 0.8))
    assert config.resume.name == "last.pt"
    assert config.deterministic is True


def test_the_resolved_options_come_back_from_their_file_unchanged():
    config = TrainConfig.parse({"epochs": 7, "weights": "a/b.pt", "milestones": (0.3,), "patience": 4})
    assert TrainConfig.parse(json.loads(json.dumps(config_json(config)))) == config


def test_fp16_on_a_cpu_is_refused_with_what_works_there():
    with pytest.raises(UsageError, match="--amp bf16"):
        TrainConfig.parse({"amp": "fp16"})


def test_several_devices_need_gpus():
    with pytest.raises(UsageError, match="--device cuda"):
        TrainConfig.parse({"devices": 2})
