"""Convolutional parts: backbone and pyramid, attributes named after the official state-dict keys.

Every block takes and returns (B, C, H, W) in the dtype of its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

POOL_KERNEL = 5


def _convolution(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, SiLU; the backbone's names ``conv``, ``norm``."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = _convolution(c_in, c_out, kernel, stride)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        return functional.silu(self.norm(self.conv(x)))


class ConvBnAct(nn.Module):
    """The same under the pyramid's names ``conv``, ``bn``."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = _convolution(c_in, c_out, kernel, stride)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        return functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1, then 3x3, the input added."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(c, c)
        self.conv2 = ConvNormAct(c, c, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return x + self.conv2(self.conv1(x))


class CSPBlock(nn.Module):
    """Two 1x1 branches of half the channels, bottlenecks on the first, joined by a 1x1."""

    def __init__(self, c: int, bottlenecks: int) -> None:
        super().__init__()
        half = c // 2
        self.conv1 = ConvNormAct(c, half)
        self.conv2 = ConvNormAct(c, half)
        self.blocks = nn.Sequential(*(Bottleneck(half) for _ in range(bottlenecks)))
        self.conv3 = ConvNormAct(2 * half, c)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return self.conv3(torch.cat((self.blocks(self.conv1(x)), self.conv2(x)), 1))


class SPPF(nn.Module):
    """Three chained 5x5 max pools between two 1x1 convolutions."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(c, c)
        self.conv2 = ConvNormAct(4 * c, c)
        self.pool = nn.MaxPool2d(POOL_KERNEL, 1, POOL_KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        parts = [self.conv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.conv2(torch.cat(parts, 1))


class CSPResNet(nn.Module):
    """Images to three levels at strides 8, 16, 32."""

    def __init__(self, stem: tuple[int, int], stages: tuple[int, int, int], bottlenecks: tuple[int, int, int]) -> None:
        super().__init__()
        first, last = stem
        self.stem = nn.Sequential(
            ConvNormAct(3, first, 3, 2), ConvNormAct(first, first, 3, 2), ConvNormAct(first, last, 3)
        )
        c3, c4, c5 = stages
        self.stage3 = nn.Sequential(ConvNormAct(last, c3, 3, 2), CSPBlock(c3, bottlenecks[0]))
        self.stage4 = nn.Sequential(ConvNormAct(c3, c4, 3, 2), CSPBlock(c4, bottlenecks[1]))
        self.stage5 = nn.Sequential(ConvNormAct(c4, c5, 3, 2), CSPBlock(c5, bottlenecks[2]))
        self.sppf = SPPF(c5)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in 0..1 -> levels at strides 8, 16, 32."""
        fine = self.stage3(self.stem(images))
        middle = self.stage4(fine)
        return [fine, middle, self.sppf(self.stage5(middle))]


class FPNPAN(nn.Module):
    """Coarse to fine by adding, then fine to coarse by adding."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBnAct(c, c) for _ in range(3))
        self.fpn_convs = nn.ModuleList(ConvBnAct(c, c, 3) for _ in range(3))
        self.downsample = nn.ModuleList(ConvBnAct(c, c, 3, 2) for _ in range(2))
        self.pan_convs = nn.ModuleList(ConvBnAct(c, c, 3) for _ in range(2))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Three (B, C, h, w) -> the same shapes. Going up, the laterals are added before their 3x3."""
        fine, middle, coarse = (lateral(x) for lateral, x in zip(self.lateral, levels, strict=True))
        middle = middle + _double(coarse)
        fine = fine + _double(middle)
        fine, middle, coarse = (conv(x) for conv, x in zip(self.fpn_convs, (fine, middle, coarse), strict=True))
        middle = self.pan_convs[0](middle + self.downsample[0](fine))
        coarse = self.pan_convs[1](coarse + self.downsample[1](middle))
        return [fine, middle, coarse]


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
