"""Filters that start blind to brightness."""

import pytest
import torch
from torch import nn

from adapters._shared.training.initial import BLIND_SHARE, start_from_contrast


@pytest.fixture
def stem():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.SiLU()), nn.Conv2d(16, 8, 3))


def test_most_filters_answer_alike_to_every_uniform_colour_and_the_others_do_not(stem):
    start_from_contrast(stem)
    first = stem[0][0]
    answers = first(torch.rand(5, 3, 1, 1).expand(5, 3, 3, 3))[:, :, 0, 0]
    blind = answers.abs().amax(0) < 1e-6
    assert blind.tolist() == [True] * round(BLIND_SHARE * 16) + [False] * (16 - round(BLIND_SHARE * 16))


def test_the_size_of_weights_the_other_filters_and_later_layers_stay(stem):
    before = {key: value.clone() for key, value in stem.state_dict().items()}
    start_from_contrast(stem)
    after = stem.state_dict()
    rms = after["0.0.weight"].square().mean() / before["0.0.weight"].square().mean()
    assert rms.item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(after["0.0.weight"][12:], before["0.0.weight"][12:])
    assert all(torch.equal(after[key], before[key]) for key in before if key != "0.0.weight")
