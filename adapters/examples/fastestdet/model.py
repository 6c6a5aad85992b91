"""The network in torch, with the 420 state dict keys of the upstream repository, written from a description of them.

B batch, C channels, H height, W width. All convolutions keep the size at stride 1 and have no bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

STAGES = ((24, 48, 3), (48, 96, 7), (96, 192, 3))
"""Input channels, output channels, and blocks after the first, of stage 2, 3 and 4."""


def conv_bn(inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def depthwise(channels: int, kernel: int, *, stride: int = 1) -> list[nn.Module]:
    """Convolution with one filter per channel, and batch norm."""
    return conv_bn(channels, channels, kernel, stride=stride, groups=channels)


class ShuffleBlock(nn.Module):
    """ShuffleNetV2 unit: one half of the channels is convolved, the other passes by or, at stride 2, is projected."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, self.stride = outputs // 2, stride
        main = [*conv_bn(half, half), nn.ReLU(), *depthwise(half, 3, stride=stride), *conv_bn(half, half), nn.ReLU()]
        self.branch_main = nn.Sequential(*main)
        if stride == 2:
            self.branch_proj = nn.Sequential(*depthwise(inputs, 3, stride=2), *conv_bn(inputs, inputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        if self.stride == 2:
            return torch.cat((self.branch_proj(x), self.branch_main(x)), dim=1)
        even, odd = x[:, 0::2], x[:, 1::2]
        return torch.cat((even, self.branch_main(odd)), dim=1)


class Backbone(nn.Module):
    """Three ShuffleNetV2 stages at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(*conv_bn(3, 24, 3, stride=2), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(ShuffleBlock(inputs, outputs, 2), *(ShuffleBlock(outputs, outputs, 1) for _ in range(more)))
            for inputs, outputs, more in STAGES
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> 48, 96 and 192 channels at H / 8, H / 16 and H / 32."""
        stage2 = self.stage2(self.maxpool(self.first_conv(x)))
        stage3 = self.stage3(stage2)
        return stage2, stage3, self.stage4(stage3)


class Conv1x1(nn.Module):
    """1x1 convolution, batch norm, ReLU; a module of its own because the upstream keys say so."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Sequential(*conv_bn(inputs, outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        y: Tensor = self.conv1x1(x)
        return y


class SpatialPyramid(nn.Module):
    """Stacks of one, two and three 5x5 depthwise convolutions side by side, mixed and added to their input."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.Conv1x1 = Conv1x1(inputs, channels)
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(layer for _ in range(depth) for layer in (*depthwise(channels, 5), nn.ReLU())))
            for depth in (1, 2, 3)
        )
        self.output = nn.Sequential(*conv_bn(3 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, channels, H, W)."""
        x = self.Conv1x1(x)
        return torch.relu(x + self.output(torch.cat((self.S1(x), self.S2(x), self.S3(x)), dim=1)))


class Branch(nn.Module):
    """5x5 depthwise and 1x1 convolution without a final activation."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv5x5 = nn.Sequential(*depthwise(channels, 5), nn.ReLU(), *conv_bn(channels, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, outputs, H, W)."""
        y: Tensor = self.conv5x5(x)
        return y


class DetectHead(nn.Module):
    """Objectness, box regression and class probabilities per grid cell."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1x1 = Conv1x1(channels, channels)
        self.obj_layers, self.reg_layers = Branch(channels, 1), Branch(channels, 4)
        self.cls_layers = Branch(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1 + 4 + classes, H, W): sigmoid, raw, softmax over the classes."""
        x = self.conv1x1(x)
        return torch.cat((self.obj_layers(x).sigmoid(), self.reg_layers(x), self.cls_layers(x).softmax(dim=1)), dim=1)


class FastestDetNet(nn.Module):
    """Backbone, one merged feature map at stride 16, pyramid, head: 244,490 parameters with 80 classes."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.SPP = SpatialPyramid(sum(outputs for _, outputs, _ in STAGES), 96)
        self.detect_head = DetectHead(96, classes)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W) BGR in 0..1 -> ((B, 5 + classes, H / 16, W / 16),)."""
        stage2, stage3, stage4 = self.backbone(x)
        merged = (avg_pool2d(stage2, 3, stride=2, padding=1), stage3, interpolate(stage4, scale_factor=2.0))
        return (self.detect_head(self.SPP(torch.cat(merged, dim=1))),)
