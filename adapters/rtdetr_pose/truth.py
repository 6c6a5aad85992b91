"""Ground truth checked and brought into the frame of the network input. B batch, M padded objects, K keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.errors import InputError

if TYPE_CHECKING:
    from adapters._shared.training.batch import Truth

PLACEMENT = "placement"
"""(B, M, 2, 3) from pixels of the image file to pixels of the network input; absent: they are the same."""
ATTRIBUTES: Mapping[str, tuple[int | None, ...]] = {
    "rotation": (3, 3),
    "depth_m": (),
    "center_px": (2,),
    "keypoints": (None, 3),
    "intrinsics": (4,),
    "k_delta": (4,),
    PLACEMENT: (2, 3),
}
"""What an object may carry -> shape behind (B, M), in pixels of the image file; a row of NaN: not known.

``rotation`` camera from object; ``depth_m``; ``center_px`` of its projected centre; ``keypoints`` x px, y px,
visibility (0: not known); ``intrinsics`` fx fy cx cy px, and ``k_delta`` the true correction of them, the same for
every object of an image.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Attributes of N matched objects, in the frame of the network input."""

    values: Mapping[str, Tensor]
    """Name -> (N, ...); 0 where not known."""
    given: Mapping[str, Tensor]
    """Name -> (N,) bool."""
    placement: Tensor
    """(N, 2, 3) file px to input px."""

    def has(self, *names: str) -> bool:
        """Whether the truth has all of these attributes at all."""
        return set(names) <= set(self.values)

    def both(self, *names: str) -> Tensor:
        """(N,) bool: the object has all of them."""
        return torch.stack([self.given[name] for name in names]).all(0)


def check_truth(truth: Truth, classes: int) -> None:
    """Refuse a truth that would teach something else than meant.

    Raises:
        InputError: a label beyond the classes, an empty or non-finite box, an attribute of another shape or partly
        non-finite, or a
            depth that is not above 0.
    """
    if truth.labels.numel() and int(truth.labels.max()) >= classes:
        raise InputError(f"truth: label {int(truth.labels.max())} with {classes} classes (labels start at 0)")
    real = truth.labels >= 0
    sides = truth.boxes_xyxy[..., 2:] - truth.boxes_xyxy[..., :2]
    bad = real & ~((sides > 0).all(-1) & torch.isfinite(truth.boxes_xyxy).all(-1))
    if bad.any():
        image, row = bad.nonzero()[0].tolist()
        box = truth.boxes_xyxy[image, row].tolist()
        raise InputError(f"truth: image {image}, box {row} is {box}: corners must be finite, x1 < x2, y1 < y2")
    for name, value in truth.attributes.items():
        if name in ATTRIBUTES:
            _check_attribute(name, value, real)


def _check_attribute(name: str, value: Tensor, real: Tensor) -> None:
    wanted = (*real.shape, *ATTRIBUTES[name])
    if len(value.shape) != len(wanted) or any(w not in (None, s) for w, s in zip(wanted, value.shape, strict=True)):
        raise InputError(f"truth: {name} must be {wanted}, got {tuple(value.shape)}")
    rows = value[real].flatten(1) if ATTRIBUTES[name] else value[real][:, None]
    unknown = rows.isnan().all(1)
    if name == PLACEMENT and unknown.any():
        raise InputError(f"truth: {name} is not known for {int(unknown.sum())} objects")
    if not torch.isfinite(rows[~unknown]).all():
        raise InputError(f"truth: {name} holds a number that is not finite (only a whole row of NaN means not known)")
    if name == "depth_m" and not (rows[~unknown] > 0).all():
        raise InputError("truth: depth_m must be above 0")


def known_of(
    truth: Truth,
    image: Tensor,
    object_: Tensor,
    keypoint_swap: Sequence[int] | None,
    two_sided: Sequence[bool] | None = None,
) -> Known:
    """Collect the attributes of chosen objects and move them into the frame of the network input.

    A mirrored image shows a flat object as its mirrored rotation, and swaps left and right keypoints; a turned one
    turns it. Depth stays: a zoomed image is one of a camera with a longer focal length. The mirrored rotation of a flat
    object shows its other side. Where the set shows one side of a class alone, a mirror image is to be taken for that
    side, turned in a way that only its shape could tell: then the rotation is not known.

    Args:
        truth: of the batch, checked.
        image: (N,) image of each object.
        object_: (N,) row of each object.
        keypoint_swap: where keypoint k goes in a mirror; None: keypoints have no sides.
        two_sided: per class, whether the set shows both of its sides; None: all are.
    """
    dtype = torch.float32
    values: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    for name in ATTRIBUTES:
        if name in truth.attributes and name != PLACEMENT:
            rows = truth.attributes[name][image, object_].to(dtype)
            given[name] = ~rows.isnan().flatten(1).any(1) if rows.dim() > 1 else ~rows.isnan()
            values[name] = rows.nan_to_num()
    placement = truth.boxes_xyxy.new_tensor([[1.0, 0, 0], [0, 1, 0]], dtype=dtype).expand(len(image), 2, 3)
    if PLACEMENT in truth.attributes:
        placement = truth.attributes[PLACEMENT][image, object_].to(dtype)
        linear = placement[:, :, :2]
        mirrored = torch.linalg.det(linear) < 0
        if "rotation" in values:
            values["rotation"] = placed_rotation(values["rotation"], linear, mirrored)
            if two_sided is not None:
                both = torch.as_tensor(two_sided, device=mirrored.device)[truth.labels[image, object_]]
                given["rotation"] = given["rotation"] & (both | ~mirrored)
        if "center_px" in values:
            values["center_px"] = placed_points(values["center_px"][:, None], placement)[:, 0]
        if "keypoints" in values:
            xyv = values["keypoints"]
            xyv = torch.cat((placed_points(xyv[..., :2], placement), xyv[..., 2:]), -1)
            if keypoint_swap is not None:
                xyv = torch.where(mirrored[:, None, None], xyv[:, list(keypoint_swap)], xyv)
            values["keypoints"] = xyv
    return Known(values=values, given=given, placement=placement)


def placed_points(points: Tensor, placement: Tensor) -> Tensor:
    """(N, K, 2) file px, (N, 2, 3) -> (N, K, 2) input px."""
    return points @ placement[:, :, :2].transpose(1, 2) + placement[:, None, :, 2]


def unplaced_points(points: Tensor, placement: Tensor) -> Tensor:
    """(N, K, 2) input px, (N, 2, 3) -> (N, K, 2) file px."""
    return (points - placement[:, None, :, 2]) @ torch.linalg.inv(placement[:, :, :2]).transpose(1, 2)


def placed_rotation(rotation: Tensor, linear: Tensor, mirrored: Tensor) -> Tensor:
    """(N, 3, 3) rotations, and (N, 2, 2) maps of their images -> the (N, 3, 3) that they then show.

    The rotation or reflection nearest to the map acts on the camera axes. After a reflection the object's own normal is
    turned around, which a flat object does not show, and makes the result a rotation again.
    """
    left, _, right = torch.linalg.svd(linear)
    turn = torch.zeros_like(rotation)
    turn[:, :2, :2] = left @ right
    turn[:, 2, 2] = 1
    turned = turn @ rotation
    sign = torch.where(mirrored, -1.0, 1.0).to(rotation)
    return turned * torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), -1)[:, None]
