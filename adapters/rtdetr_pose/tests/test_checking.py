"""Config files beside the network that weights really have."""

import pytest

from adapters.rtdetr_pose import adapter, base_adapter
from bench.errors import InputError, UsageError
from bench.types import Configured


def test_adapters_take_config_files():
    assert isinstance(adapter, Configured)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "base"},
        {"model": {"num_classes": 80, "num_queries": 300, "hidden_dim": 256, "num_decoder_layers": 3}},
        {"model": {"name": "base"}, "train": {"epochs": 1, "lr": 1e-4}, "image_size": 320},
        {"imgsz": [320, 320], "stem": [32, 64]},
    ],
)
def test_a_config_of_the_network_is_accepted(config):
    base_adapter.check_config(config, "base.json")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model": {"num_classes": 80}}, "base.json is the config of another network: num_classes 80"),
        ({"num_queries": 300, "hidden_dim": 256}, "num_queries 300, the weights have 400; hidden_dim 256"),
        ({"name": "base"}, "name base, the weights have tiny"),
        ({"image_size": 640}, r"image_size 640, the weights are for \[320, 320\]"),
        ({"class_names": ["dog"]}, "class_names"),
        ({"name": None}, "name None"),
    ],
)
def test_a_config_of_another_network_is_refused_and_every_difference_named(config, told):
    with pytest.raises(InputError, match=told):
        adapter.check_config(config, "base.json")


def test_a_file_that_says_nothing_of_a_network_is_refused_with_the_nearest_word():
    with pytest.raises(InputError, match=r"no setting of an rtdetr_pose network. Did you mean 'num_queries'"):
        adapter.check_config({"num_querys": 100}, "c.yaml")


def test_an_unknown_network_name_is_told_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'tiny'"):
        adapter.check_config({"name": "tinny"}, "c.yaml")


def test_keypoints_have_names_and_sigmas():
    assert len(adapter.spec.oks_sigmas) == len(adapter.spec.keypoint_names) == adapter.config.keypoints
    assert base_adapter.spec.oks_sigmas == ()
