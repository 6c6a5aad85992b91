"""The six variants as rows of one table, and what the shapes of a state dict tell, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import InputError

CLASS_BIAS_KEY = "model.23.one2one_cv3.0.2.bias"
STEM_KEY = "model.0.conv.weight"
ONE2MANY_PREFIXES = ("model.23.cv2.", "model.23.cv3.")
"""Keys of the head that only training needs; the only weights that a file for inference may leave out."""
OPTIONAL_SUFFIXES = (".num_batches_tracked",)
"""Counters that no computation reads, and that some converters drop."""
STRIDES = (8, 16, 32)
"""Pixels per cell of the three levels."""
COCO_CLASSES = 80
WIDEST_CLASS_BRANCH = 100

Shapes = Mapping[str, tuple[int, ...]]
"""Key of a state dict -> shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row of the published scaling table."""

    depth: float
    width: float
    max_channels: int
    cib: tuple[int, ...]
    """Layers that are C2fCIB instead of C2f."""
    large_kernel: tuple[int, ...] = ()
    """Those of ``cib`` whose middle convolution is the 7x7 one."""
    coco_parameters: int
    """Of the inference graph (batch norms folded, one-to-one head only) with 80 classes."""

    def channels(self, base: int) -> int:
        """Channels of a layer whose base is ``base``: capped, scaled, rounded up to a multiple of 8."""
        return -int(-min(base, self.max_channels) * self.width // 8) * 8

    def repeats(self, base: int) -> int:
        """Inner blocks of a layer whose base is ``base``."""
        return max(round(base * self.depth), 1)

    def parameters(self, classes: int) -> int:
        """Parameters of the inference graph: batch norms folded into biases, one-to-one head only."""
        return self.coco_parameters + self._class_branches(classes) - self._class_branches(COCO_CLASSES)

    def _class_branches(self, classes: int) -> int:
        """Folded parameters of what depends on the number of classes: the three one-to-one class branches."""
        levels = [self.channels(base) for base in (256, 512, 1024)]
        inner = max(levels[0], min(classes, WIDEST_CLASS_BRANCH))
        depthwise, bias = 9, 1
        return sum(
            (depthwise + bias) * (c + inner) + (c + inner + 2 * bias) * inner + (inner + bias) * classes for c in levels
        )


VARIANTS: Mapping[str, Variant] = {
    "n": Variant(depth=0.33, width=0.25, max_channels=1024, cib=(22,), large_kernel=(22,), coco_parameters=2_299_264),
    "s": Variant(
        depth=0.33, width=0.50, max_channels=1024, cib=(8, 22), large_kernel=(8, 22), coco_parameters=7_248_960
    ),
    "m": Variant(depth=0.67, width=0.75, max_channels=768, cib=(8, 19, 22), coco_parameters=15_359_488),
    "b": Variant(depth=0.67, width=1.00, max_channels=512, cib=(8, 13, 19, 22), coco_parameters=19_065_792),
    "l": Variant(depth=1.00, width=1.00, max_channels=512, cib=(8, 13, 19, 22), coco_parameters=24_371_008),
    "x": Variant(depth=1.00, width=1.25, max_channels=512, cib=(6, 8, 13, 19, 22), coco_parameters=29_473_568),
}


def classes_of(shapes: Shapes, source: str) -> int:
    """Return the number of classes that a state dict was trained for.

    Args:
        shapes: official key -> shape.
        source: where it came from, for the error message.

    Raises:
        InputError: the state has no one-to-one class head under its official name.
    """
    if CLASS_BIAS_KEY not in shapes:
        raise InputError(
            f"{source} have no entry {CLASS_BIAS_KEY}: not a YOLOv10 state dict under official names"
            f"{_prefix_hint(shapes)}"
        )
    return int(shapes[CLASS_BIAS_KEY][0])


def _prefix_hint(shapes: Shapes) -> str:
    """What to do when the official keys are there, behind a longer or without their prefix."""
    official = {STEM_KEY, CLASS_BIAS_KEY}
    if official <= {f"model.{key}" for key in shapes}:
        return ". Its keys lack the leading 'model.': save the state dict of the whole model, not of its layer list"
    for key in shapes:
        prefix = key.removesuffix(STEM_KEY)
        if prefix != key and f"{prefix}{CLASS_BIAS_KEY}" in shapes:
            return f". Its keys carry the prefix {prefix!r}: save the state dict of the inner model"
    return ""


def variant_of(shapes: Shapes) -> str | None:
    """Return the variant that a state dict belongs to, by its first layer and its depth; None when it is none of them.

    Width tells all but b and l apart, and these differ in the number of blocks of layer 2.
    """
    stem = shapes.get(STEM_KEY)
    if not stem:
        return None
    blocks = {key.split(".")[3] for key in shapes if key.startswith("model.2.m.")}
    for name, row in VARIANTS.items():
        if (row.channels(64), row.repeats(3)) == (stem[0], len(blocks)):
            return name
    return None


def require_variant(shapes: Shapes, variant: str, source: str) -> None:
    """Refuse weights of another variant, and weights whose batch norms were folded away.

    Raises:
        InputError: names the variant that the weights belong to and what to type.
    """
    found = variant_of(shapes)
    if found is not None and found != variant:
        raise InputError(f"{source} belong to yolov10{found}, not to yolov10{variant}. Type: --models yolov10{found}")
    if "model.0.conv.bias" in shapes and "model.0.bn.weight" not in shapes:
        raise InputError(
            f"{source} have their batch norms folded into the convolutions: the original network is the reference "
            "here, so save the state dict before fusing"
        )
