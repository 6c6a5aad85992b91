"""The dual head of YOLOv10: one-to-many for training, one-to-one for inference."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adapters.yolov10.blocks import Conv
from adapters.yolov10.variants import STRIDES, WIDEST_CLASS_BRANCH

REG_MAX = 16
"""Bins of one side's distance distribution, in units of the stride."""


class Branch(NamedTuple):
    """Raw maps of one head, one entry per stride."""

    boxes: list[Tensor]
    """(B, 4 * REG_MAX, h, w): logits of left, top, right, bottom."""
    classes: list[Tensor]
    """(B, nc, h, w) logits."""


class DFL(nn.Module):
    """Expectation of a softmax over ``REG_MAX`` bins; the projection 0..15 is a constant under its official key."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(REG_MAX, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(REG_MAX, dtype=torch.float32).view(1, REG_MAX, 1, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """(B, 4 * REG_MAX, A) -> (B, 4, A) distances in units of the stride."""
        anchors = int(logits.shape[-1])
        # Bins stay beside anchors and the convolution is written as the product that it is: with the bins moved to
        # axis 1 onnxruntime's softmax took 3.1 of 34 ms (n, 640 px, one thread), here 0.5; openvino loses nothing.
        shares = logits.reshape(-1, 4, REG_MAX, anchors).softmax(2)
        return (self.conv.weight.reshape(1, REG_MAX) @ shares).reshape(-1, 4, anchors)


def make_anchors(sizes_hw: list[tuple[int, int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return (2, A) centres x y in grid cells and (1, A) strides in pixels, in the dtype and device of ``like``.

    Cells are ordered stride by stride, row by row; every value is a multiple of one half below 256 for inputs up to
    1024 px, hence exact in bfloat16.
    """
    centres, strides = [], []
    for (height, width), stride in zip(sizes_hw, STRIDES, strict=True):
        y = (torch.arange(height, device=like.device) + 0.5).view(height, 1).expand(height, width)
        x = (torch.arange(width, device=like.device) + 0.5).view(1, width).expand(height, width)
        centres.append(torch.stack((x.reshape(-1), y.reshape(-1))))
        strides.append(torch.full((1, height * width), float(stride), device=like.device))
    return torch.cat(centres, 1).to(like.dtype), torch.cat(strides, 1).to(like.dtype)


def _last_bias(branch: nn.Module) -> Tensor:
    bias = branch.get_submodule("2").bias
    assert isinstance(bias, Tensor)
    return bias


class V10Detect(nn.Module):
    """Box and class branches for three strides, twice.

    Args:
        classes: number of classes.
        channels: channels of P3, P4, P5.
    """

    def __init__(self, classes: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.classes = classes
        self.cv2 = self._box_branches(channels)
        self.cv3 = self._class_branches(channels)
        self.dfl = DFL()
        self.one2one_cv2 = self._box_branches(channels)
        self.one2one_cv3 = self._class_branches(channels)
        self._initialise_biases()

    @staticmethod
    def _box_branches(channels: tuple[int, int, int]) -> nn.ModuleList:
        inner = max(REG_MAX, channels[0] // 4, 4 * REG_MAX)
        return nn.ModuleList(
            nn.Sequential(Conv(c, inner, 3), Conv(inner, inner, 3), nn.Conv2d(inner, 4 * REG_MAX, 1)) for c in channels
        )

    def _class_branches(self, channels: tuple[int, int, int]) -> nn.ModuleList:
        inner = max(channels[0], min(self.classes, WIDEST_CLASS_BRANCH))
        return nn.ModuleList(
            nn.Sequential(
                nn.Sequential(Conv(c, c, 3, groups=c), Conv(c, inner)),
                nn.Sequential(Conv(inner, inner, 3, groups=inner), Conv(inner, inner)),
                nn.Conv2d(inner, self.classes, 1),
            )
            for c in channels
        )

    def _initialise_biases(self) -> None:
        """Start with wide boxes and with about five objects per 640 px image, and both heads alike."""
        for branches in (self.cv2, self.one2one_cv2):
            for branch in branches:
                nn.init.constant_(_last_bias(branch), 1.0)
        for branches in (self.cv3, self.one2one_cv3):
            for branch, stride in zip(branches, STRIDES, strict=True):
                nn.init.constant_(_last_bias(branch), math.log(5 / self.classes / (640 / stride) ** 2))
        self.one2one_cv2.load_state_dict(self.cv2.state_dict())
        self.one2one_cv3.load_state_dict(self.cv3.state_dict())

    def one2many(self, features: list[Tensor]) -> Branch:
        """Raw maps of the one-to-many head; AttributeError once `drop_one2many` was called."""
        return Branch(
            [branch(x) for branch, x in zip(self.cv2, features, strict=True)],
            [branch(x) for branch, x in zip(self.cv3, features, strict=True)],
        )

    def one2one(self, features: list[Tensor]) -> Branch:
        """Raw maps of the one-to-one head; its gradient stops at the features."""
        detached = [x.detach() for x in features] if self.training else features
        return Branch(
            [branch(x) for branch, x in zip(self.one2one_cv2, detached, strict=True)],
            [branch(x) for branch, x in zip(self.one2one_cv3, detached, strict=True)],
        )

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """P3, P4, P5 -> decoded one-to-one boxes (B, 4, A) and scores (B, nc, A)."""
        return self.decode(self.one2one(features))

    def decode(self, branch: Branch) -> tuple[Tensor, Tensor]:
        """Raw maps -> (B, 4, A) centre x, y, width, height in input pixels, and (B, nc, A) sigmoid scores.

        Two tensors, because an error of a score would drown in pixels if they shared one root mean square.
        """
        sizes_hw = [(int(x.shape[2]), int(x.shape[3])) for x in branch.boxes]
        counts = [height * width for height, width in sizes_hw]
        boxes = torch.cat([x.reshape(-1, 4 * REG_MAX, n) for x, n in zip(branch.boxes, counts, strict=True)], 2)
        logits = torch.cat([x.reshape(-1, self.classes, n) for x, n in zip(branch.classes, counts, strict=True)], 2)
        centres, strides = make_anchors(sizes_hw, boxes)
        low, high = self.dfl(boxes).split((2, 2), 1)
        boxes_cxcywh = torch.cat((centres + (high - low) * 0.5, low + high), 1) * strides
        return boxes_cxcywh, logits.sigmoid()

    def drop_one2many(self) -> None:
        """Remove the head that only training needs."""
        del self.cv2, self.cv3
