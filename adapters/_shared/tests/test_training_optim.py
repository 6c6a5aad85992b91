"""Groups by decay and rate, and the rate over a run."""

import itertools

import pytest
import torch
from torch import nn

from adapters._shared.training.config import TrainConfig
from adapters._shared.training.optim import make_optimizer, parameter_groups, rate_at


@pytest.fixture
def network():
    return nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            "head": nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)),
        }
    )


def test_norms_and_biases_have_no_decay_and_the_backbone_its_own_rate(network):
    config = TrainConfig(lr=0.1, backbone_lr=0.25, weight_decay=0.5)
    groups = {g["name"]: g for g in parameter_groups(network, config, ("stem.",))}
    assert {name: (g["lr"], g["weight_decay"], len(g["params"])) for name, g in groups.items()} == {
        "backbone-decay": (0.025, 0.5, 1),
        "backbone-plain": (0.025, 0.0, 3),
        "rest-decay": (0.1, 0.5, 1),
        "rest-plain": (0.1, 0.0, 3),
    }
    together = [p for g in groups.values() for p in g["params"]]
    assert {id(p) for p in together} == {id(p) for p in network.parameters()}
    assert len(together) == len({id(p) for p in together})


def test_frozen_parameters_are_in_no_group(network):
    network["stem"].requires_grad_(False)
    assert [g["name"] for g in parameter_groups(network, TrainConfig(), ("stem.",))] == ["rest-decay", "rest-plain"]


@pytest.mark.parametrize(("word", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimizer_is_the_one_asked_for(network, word, kind):
    config = TrainConfig(optimizer=word, lr=0.3, momentum=0.8)
    optimizer = make_optimizer(parameter_groups(network, config), config)
    assert type(optimizer) is kind
    assert all(g["lr"] == 0.3 for g in optimizer.param_groups)
    if word == "sgd":
        assert all(g["momentum"] == 0.8 and g["nesterov"] for g in optimizer.param_groups)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "multistep"])
def test_every_schedule_warms_up_linearly_and_never_rises_afterwards(schedule):
    share = rate_at(TrainConfig(schedule=schedule, warmup_steps=10, final_lr=0.1), 100)
    rates = [share(step) for step in range(120)]
    assert rates[4] == pytest.approx(0.5, rel=0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_cosine_and_linear_end_at_the_final_rate_and_stay_there():
    for schedule, middle in (("cosine", 0.55), ("linear", 0.55)):
        share = rate_at(TrainConfig(schedule=schedule, warmup_steps=0, final_lr=0.1), 100)
        assert share(0) == pytest.approx(1)
        assert share(50) == pytest.approx(middle)
        assert share(100) == share(1000) == pytest.approx(0.1)
    quarter = rate_at(TrainConfig(schedule="cosine", warmup_steps=0, final_lr=0), 100)(25)
    assert quarter == pytest.approx(0.8536, abs=1e-4)


def test_multistep_falls_at_its_milestones():
    share = rate_at(TrainConfig(schedule="multistep", warmup_steps=0, milestones=(0.5, 0.8), gamma=0.2), 10)
    assert [round(share(step), 6) for step in (0, 4, 5, 7, 8, 10)] == [1, 1, 0.2, 0.2, 0.04, 0.04]
