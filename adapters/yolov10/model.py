"""The YOLOv10 network, from its paper (arXiv 2405.14458) and a table of layers; official state-dict keys.

``model.{i}`` is layer i of the table in the README. Variants are rows of `variants.VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adapters.yolov10.blocks import PSA, SPPF, C2f, C2fCIB, Conv, SCDown
from adapters.yolov10.head import Branch, V10Detect
from adapters.yolov10.variants import VARIANTS
from bench.errors import UsageError, did_you_mean


class Concat(nn.Module):
    """Join along the channels."""

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Sum of channels, same size."""
        return torch.cat(parts, 1)


class YoloV10(nn.Module):
    """The network; one-to-one head at inference, both heads in training.

    Args:
        variant: a key of `VARIANTS`.
        classes: number of classes.

    Raises:
        UsageError: unknown variant.
    """

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UsageError(f"YOLOv10 has no variant {variant!r}.{did_you_mean(variant, VARIANTS)}")
        row = VARIANTS[variant]
        width = row.channels

        def c2f(index: int, c_in: int, base: int, repeats: int, *, shortcut: bool) -> nn.Module:
            if index in row.cib:
                return C2fCIB(
                    c_in, width(base), row.repeats(repeats), shortcut=True, large_kernel=index in row.large_kernel
                )
            return C2f(c_in, width(base), row.repeats(repeats), shortcut=shortcut)

        c64, c128, c256, c512, c1024 = (width(base) for base in (64, 128, 256, 512, 1024))
        make: list[Callable[[], nn.Module]] = [
            lambda: Conv(3, c64, 3, 2),
            lambda: Conv(c64, c128, 3, 2),
            lambda: c2f(2, c128, 128, 3, shortcut=True),
            lambda: Conv(c128, c256, 3, 2),
            lambda: c2f(4, c256, 256, 6, shortcut=True),
            lambda: SCDown(c256, c512),
            lambda: c2f(6, c512, 512, 6, shortcut=True),
            lambda: SCDown(c512, c1024),
            lambda: c2f(8, c1024, 1024, 3, shortcut=True),
            lambda: SPPF(c1024, c1024),
            lambda: PSA(c1024),
            lambda: nn.Upsample(scale_factor=2, mode="nearest"),
            Concat,
            lambda: c2f(13, c1024 + c512, 512, 3, shortcut=False),
            lambda: nn.Upsample(scale_factor=2, mode="nearest"),
            Concat,
            lambda: c2f(16, c512 + c256, 256, 3, shortcut=False),
            lambda: Conv(c256, c256, 3, 2),
            Concat,
            lambda: c2f(19, c256 + c512, 512, 3, shortcut=False),
            lambda: SCDown(c512, c512),
            Concat,
            lambda: c2f(22, c512 + c1024, 1024, 3, shortcut=True),
            lambda: V10Detect(classes, (c256, c512, c1024)),
        ]
        self.model = nn.ModuleList(build() for build in make)
        self.variant = variant

    @property
    def head(self) -> V10Detect:
        """The detection head, layer 23."""
        last = self.model[-1]
        assert isinstance(last, V10Detect)
        return last

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.classes

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in 0..1, H and W multiples of 32 -> P3, P4, P5 at strides 8, 16, 32."""
        m, x = self.model, images
        kept: dict[int, Tensor] = {}
        for index in range(11):
            x = m[index](x)
            if index in (4, 6, 10):
                kept[index] = x
        p4 = m[13](m[12]([m[11](kept[10]), kept[6]]))
        p3 = m[16](m[15]([m[14](p4), kept[4]]))
        p4 = m[19](m[18]([m[17](p3), p4]))
        p5 = m[22](m[21]([m[20](p4), kept[10]]))
        return [p3, p4, p5]

    def branches(self, images: Tensor) -> tuple[Branch, Branch]:
        """Raw maps of the one-to-many and the one-to-one head, for the loss."""
        features = self.features(images)
        return self.head.one2many(features), self.head.one2one(features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> boxes (B, 4, A) centre x, y, width, height in px, and sigmoid scores (B, nc, A)."""
        boxes_cxcywh, scores = self.head(self.features(images))
        return boxes_cxcywh, scores
