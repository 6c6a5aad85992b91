"""Random changes of one image with its boxes: colours, flip, zoom, shift, rotation, and the grey square around it.

The changes are albumentations' own; what is decided here is their order, their seeds, and what becomes of boxes at
the edge. Measured at 640 px on one core: 2.5 ms for all of them, of which 0.3 ms is the library's own bookkeeping.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters._shared.training.examples import PLACEMENT, Example
from adapters._shared.training.mosaic import MIN_SIDE_PX, MIN_VISIBLE, PAD_VALUE, chained
from bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array

_LIMITS = {
    "mosaic": 1.0,
    "mixup": 1.0,
    "flip": 1.0,
    "scale": 0.95,  # a zoom of 0 leaves no image
    "translate": 1.0,
    "hue": 0.5,
    "saturation": 1.0,
    "value": 1.0,
    "degrees": 180.0,
}
"""Largest sensible strength; the smallest is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Strengths of the random changes; zero switches one off.

    Raises:
        UsageError: a strength below 0, above its limit, or not a number.
    """

    mosaic: float = 0.5
    """Probability of joining four images."""
    mixup: float = 0.0
    """Probability of blending in a second image."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    scale: float = 0.4
    """Zoom is drawn from 1 - x to 1 + x."""
    translate: float = 0.1
    """Shift of a single image is drawn from -x to x, share of the side."""
    hue: float = 0.015
    """Shift of the hue is drawn from -x to x, share of the colour circle."""
    saturation: float = 0.5
    """Gain of the saturation is drawn from 1 - x to 1 + x."""
    value: float = 0.4
    """Gain of the brightness is drawn from 1 - x to 1 + x."""
    degrees: float = 0.0
    """Rotation is drawn from -x to x; a box becomes the box around its rotated corners."""

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            strength = getattr(self, name)
            if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= limit:
                raise UsageError(f"training option {name} must be a number from 0 (off) to {limit:g}, got {strength!r}")

    @classmethod
    def off(cls) -> Augmentation:
        """No change at all: a plain letterbox."""
        return cls(**dict.fromkeys((f.name for f in fields(cls)), 0.0))

    def __str__(self) -> str:
        """What is on and how strong, for example ``flip 0.5, scale 0.4``."""
        on = [f"{f.name} {getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name)]
        return ", ".join(on) or "none"


@cache
def library() -> ModuleType:
    """Import albumentations without its look for a newer version.

    Raises:
        UsageError: it is not installed.
    """
    # it asks PyPI at import, with a timeout of two seconds, unless told not to: training must not phone home
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    except ImportError as error:
        raise UsageError("augmentation needs albumentations: pip install 'backend-parity[train]'") from error
    return albumentations


class Pipeline:
    """Colours, flip, pad to a square, then zoom, shift and rotation about its centre.

    Args:
        augmentation: strengths; ``mosaic`` and ``mixup`` are not read here.
        side_px: S, side of the result; no image that comes in is larger.
        joined: for images that are joined already: zoom and shift were part of the joining.
    """

    def __init__(self, augmentation: Augmentation, side_px: int, *, joined: bool = False) -> None:
        self.side_px = side_px
        library_ = library()
        moves = not joined and bool(augmentation.scale or augmentation.translate)
        # boxes that nothing can have cut are not judged: a plain letterbox keeps them all
        cuts = moves or augmentation.degrees > 0
        self._compose = library_.Compose(
            _steps(library_, augmentation, side_px, moves=moves),
            bbox_params=library_.BboxParams(
                format="pascal_voc",
                min_width=MIN_SIDE_PX if cuts else 0,
                min_height=MIN_SIDE_PX if cuts else 0,
                min_visibility=MIN_VISIBLE if cuts else 0,
                check_each_transform=False,  # a box too small before a zoom may be large enough after it
            ),
            keypoint_params=library_.KeypointParams(format="xy", remove_invisible=False),
        )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Change one example, every number drawn from ``rng``: (H, W, 3) with H, W <= S -> (S, S, 3)."""
        # one stream for all steps: with set_random_seed each step starts from the same seed, and then bright images
        # are the ones that are zoomed and flipped
        self._compose.set_random_state(rng, random.Random(int(rng.integers(1 << 62))))
        rows = np.arange(len(example.labels), dtype=np.float32)[:, None]
        targets: dict[str, Any] = {
            "image": example.image_rgb_u8,
            "bboxes": np.concatenate((example.boxes_xyxy, rows), axis=1),
            # three points that follow the image tell where everything else goes
            "keypoints": _reference_points(self.side_px) if PLACEMENT in example.attributes else np.zeros((0, 2)),
        }
        done = self._compose(**targets)
        boxes = np.asarray(done["bboxes"], np.float32).reshape(-1, 5)
        kept = boxes[:, 4].astype(np.int64)
        return Example(
            image_rgb_u8=done["image"],
            boxes_xyxy=boxes[:, :4].clip(0, self.side_px),
            labels=example.labels[kept],
            attributes=_attributes(example.attributes, kept, done["keypoints"], self.side_px),
            image_id=example.image_id,
        )


def _steps(library_: ModuleType, strength: Augmentation, side_px: int, *, moves: bool) -> list[Any]:
    steps = []
    if strength.hue or strength.saturation or strength.value:
        # gains, not the additive HueSaturationValue: adding saturation turns greys, whose hue is 0, red
        steps.append(
            library_.ColorJitter(
                brightness=(1 - strength.value, 1 + strength.value),
                contrast=(1, 1),
                saturation=(1 - strength.saturation, 1 + strength.saturation),
                hue=(-strength.hue, strength.hue),
                p=1,
            )
        )
    if strength.flip:
        steps.append(library_.HorizontalFlip(p=strength.flip))
    steps.append(library_.PadIfNeeded(side_px, side_px, position="center", border_mode=0, fill=PAD_VALUE, p=1))
    if moves or strength.degrees:
        scale, translate = (strength.scale, strength.translate) if moves else (0, 0)
        steps.append(
            library_.Affine(
                scale=(1 - scale, 1 + scale),
                translate_percent=(-translate, translate),
                rotate=(-strength.degrees, strength.degrees),
                keep_ratio=True,
                fill=PAD_VALUE,
                p=1,
            )
        )
    return steps


def _reference_points(side_px: int) -> Array:
    """(3, 2): the origin and one point along each axis, in pixel centres as the library's keypoints are."""
    return np.array([[0, 0], [side_px, 0], [0, side_px]], np.float32) - 0.5


def _attributes(before: Mapping[str, Array], kept: Array, points: Array, side_px: int) -> dict[str, Array]:
    """Rows that stay; the placement goes on by the map that the reference points have seen."""
    after = {name: values[kept] for name, values in before.items()}
    if PLACEMENT in after:
        origin, along_x, along_y = np.asarray(points, np.float64)[:, :2] + 0.5
        step = np.column_stack(((along_x - origin) / side_px, (along_y - origin) / side_px, origin))
        after[PLACEMENT] = chained(step, after[PLACEMENT])
    return after
