"""Building blocks of YOLOv10 (arXiv 2405.14458), attributes named after the official state-dict keys.

Every block takes and returns (B, C, H, W) in the dtype of its weights. ``c`` channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


class Conv(nn.Module):
    """Convolution without bias, batch norm, SiLU (or nothing)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self.act = nn.SiLU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with or without the input added."""

    def __init__(self, c: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(c, c, 3)
        self.cv2 = Conv(c, c, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class RepVGGDW(nn.Module):
    """Depthwise 7x7 plus depthwise 3x3, then SiLU: the large-kernel option of `CIB`."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = Conv(c, c, 7, groups=c, activate=False)
        self.conv1: Conv | None = Conv(c, c, 3, groups=c, activate=False)
        """None once it was added to ``conv``, see `fuse.fused`."""
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        y = self.conv(x)
        return self.act(y if self.conv1 is None else y + self.conv1(x))


class CIB(nn.Module):
    """Compact inverted block: depthwise, 1x1 to 2c, depthwise, 1x1 to c, depthwise."""

    def __init__(self, c: int, *, shortcut: bool, large_kernel: bool) -> None:
        super().__init__()
        wide = 2 * c
        self.cv1 = nn.Sequential(
            Conv(c, c, 3, groups=c),
            Conv(c, wide),
            RepVGGDW(wide) if large_kernel else Conv(wide, wide, 3, groups=wide),
            Conv(wide, c),
            Conv(c, c, 3, groups=c),
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        y = self.cv1(x)
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Split in two halves; each block extends the list that the last 1x1 convolution reads."""

    def __init__(self, c_in: int, c_out: int, repeats: int, *, shortcut: bool) -> None:
        super().__init__()
        self.inner = c_out // 2
        self.cv1 = Conv(c_in, 2 * self.inner)
        self.cv2 = Conv((2 + repeats) * self.inner, c_out)
        self.m = nn.ModuleList(self._block(shortcut) for _ in range(repeats))

    def _block(self, shortcut: bool) -> nn.Module:
        return Bottleneck(self.inner, shortcut=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        parts = list(self.cv1(x).split((self.inner, self.inner), 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class C2fCIB(C2f):
    """`C2f` with `CIB` as the inner block."""

    def __init__(self, c_in: int, c_out: int, repeats: int, *, shortcut: bool, large_kernel: bool) -> None:
        self._large_kernel = large_kernel
        super().__init__(c_in, c_out, repeats, shortcut=shortcut)

    def _block(self, shortcut: bool) -> nn.Module:
        return CIB(self.inner, shortcut=shortcut, large_kernel=self._large_kernel)


class SCDown(nn.Module):
    """Spatial-channel decoupled downsampling: 1x1 for the channels, depthwise 3x3 stride 2 for the space."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.cv1 = Conv(c_in, c_out)
        self.cv2 = Conv(c_out, c_out, 3, 2, groups=c_out, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / 2, W / 2)."""
        return self.cv2(self.cv1(x))


class SPPF(nn.Module):
    """Three chained 5x5 max pools, concatenated with their input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.cv1 = Conv(c_in, c_in // 2)
        self.cv2 = Conv(c_in // 2 * 4, c_out)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Attention(nn.Module):
    """Multi-head self-attention over positions; keys have half the width of values; depthwise 3x3 position encoding."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.value_dim = c // heads
        self.key_dim = self.value_dim // 2
        self.qkv = Conv(c, c + 2 * heads * self.key_dim, activate=False)
        self.proj = Conv(c, c, activate=False)
        self.pe = Conv(c, c, 3, groups=c, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        # plain ints and one -1 keep the exported graph free of shape arithmetic
        c, height, width = (int(n) for n in x.shape[1:])
        joint = self.qkv(x).reshape(-1, self.heads, 2 * self.key_dim + self.value_dim, height * width)
        query, key, value = joint.split((self.key_dim, self.key_dim, self.value_dim), 2)
        weights = ((query.transpose(-2, -1) @ key) * self.key_dim**-0.5).softmax(-1)
        mixed = (value @ weights.transpose(-2, -1)).reshape(-1, c, height, width)
        return self.proj(mixed + self.pe(value.reshape(-1, c, height, width)))


class PSA(nn.Module):
    """Partial self-attention: one half of the channels passes attention and a feed-forward pair, both with shortcut."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.inner = c // 2
        self.cv1 = Conv(c, 2 * self.inner)
        self.cv2 = Conv(2 * self.inner, c)
        self.attn = Attention(self.inner, heads=max(self.inner // 64, 1))
        self.ffn = nn.Sequential(Conv(self.inner, 2 * self.inner), Conv(2 * self.inner, self.inner, activate=False))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        a, b = self.cv1(x).split((self.inner, self.inner), 1)
        b = b + self.attn(b)
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))
