"""The folded network computes what the original one computes, and is as near to the truth."""

import pytest
import torch

from adapters._shared.synthetic import make_image
from adapters.yolov10.blocks import RepVGGDW
from adapters.yolov10.fuse import fused
from adapters.yolov10.tests.synthetic_networks import filled

NOISE_FACTOR = 3.0
"""Folding rounds other numbers than the original does, once each. Measured: 0.5 to 2.0 on six variants, two sizes."""


@pytest.fixture(scope="module", params=["n", "s", "m"])
def network(request):
    built = filled(request.param)
    built.head.drop_one2many()
    return built


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(make_image("fuse", (2, 3, 64, 96)))


def test_in_float64_the_folded_network_is_the_same_function(network, images):
    exact = network.double()
    for folded, original in zip(fused(exact)(images.double()), exact(images.double()), strict=True):
        torch.testing.assert_close(folded, original, rtol=0, atol=1e-9)
    network.float()


def test_in_float32_the_folded_network_lies_within_the_noise_floor_of_the_original(network, images):
    original = network(images)
    folded = fused(network)(images)
    golden = network.double()(images.double())
    network.float()
    for own, plain, exact in zip(folded, original, golden, strict=True):
        floor = float((plain - exact).abs().max())
        assert 0 < floor < 0.05
        assert float((own - exact).abs().max()) <= NOISE_FACTOR * floor


def test_no_norm_and_no_second_kernel_remain_and_the_original_is_left_as_it_was(network, images):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fused(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert all(m.conv1 is None for m in folded.modules() if isinstance(m, RepVGGDW))
    assert not any(p.requires_grad for p in folded.parameters())
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_folding_twice_changes_nothing(network):
    once = fused(network)
    twice = fused(once)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


@pytest.mark.parametrize("size", [4, 9])
def test_the_merged_kernel_equals_both_kernels_at_the_border_too(size):
    torch.manual_seed(0)
    block = RepVGGDW(6).double().eval()
    for norm in (block.conv.bn, block.conv1.bn):
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, size, size, dtype=torch.float64)
    expected = block(x)
    holder = torch.nn.Module()
    holder.block = block
    torch.testing.assert_close(fused(holder).block(x), expected, rtol=0, atol=1e-12)


def test_a_network_in_half_precision_keeps_its_dtype():
    built = filled("n").half()
    assert {p.dtype for p in fused(built).parameters()} == {torch.float16}
