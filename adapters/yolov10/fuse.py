"""Fold what inference does not need as a separate step: batch norms, and the 3x3 beside the 7x7 depthwise convolution.

The sums are formed in float64 and rounded once, so that a folded network is as near to the truth as the original one.
The original stays the reference of every comparison; the folded network is what gets exported.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from adapters.yolov10.blocks import Conv, RepVGGDW
from adapters.yolov10.model import YoloV10


def fused(network: YoloV10) -> YoloV10:
    """Return a copy whose convolutions carry the batch norms and whose large-kernel blocks are one convolution.

    Args:
        network: in eval mode; left as it is.

    Returns:
        A network of the same dtype for inference only: its keys are no longer the official ones.
    """
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if isinstance(module, Conv):
            _fold_norm(module)
    for module in folded.modules():
        if isinstance(module, RepVGGDW):
            _merge(module)
    return folded.requires_grad_(False)


@torch.no_grad()
def _fold_norm(block: Conv) -> None:
    if not isinstance(block.bn, nn.BatchNorm2d):
        return
    dtype = block.conv.weight.dtype
    block.conv = fuse_conv_bn_eval(block.conv.double(), block.bn.double()).to(dtype)
    block.bn = nn.Identity()


@torch.no_grad()
def _merge(block: RepVGGDW) -> None:
    """Add the small kernel to the middle of the large one; both are linear and run on the same input."""
    if block.conv1 is None:
        return
    large, small = block.conv.conv, block.conv1.conv
    assert large.bias is not None
    assert small.bias is not None
    dtype = large.weight.dtype
    margin = (large.kernel_size[0] - small.kernel_size[0]) // 2
    weight = large.weight.double()
    weight[..., margin:-margin, margin:-margin] += small.weight.double()
    large.weight.copy_(weight.to(dtype))
    large.bias.copy_((large.bias.double() + small.bias.double()).to(dtype))
    block.conv1 = None
