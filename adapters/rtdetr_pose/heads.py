"""What is predicted per query, under the official keys. Q queries, D width, C classes, K keypoints."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor, nn

KEYPOINT_REACH = 2.0
"""Anchored keypoints lie within this many box sizes around the centre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Raw outputs of one decoder layer, batch first; those that are not None, in order, are the graph's outputs."""

    logits: Tensor
    """(B, Q, C + 1), background last, before the softmax."""
    bbox: Tensor
    """(B, Q, 4) before the sigmoid: centre x, y, width, height as shares of the image."""
    log_z: Tensor
    """(B, Q, 1) log of the depth in metres."""
    rot6d: Tensor
    """(B, Q, 6) two vectors whose orthonormal form are the first two rows of the rotation, camera from object."""
    offsets: Tensor
    """(B, Q, 2) from the box centre to the projected object centre, in box sizes."""
    k_delta: Tensor
    """(B, 4) corrections of fx, fy (relative) and cx, cy (share of width, height)."""
    keypoints: Tensor | None = None
    """(B, Q, 2 K) x y x y ... as shares of the image."""
    log_sigma_z: Tensor | None = None
    """(B, Q, 1) log standard deviation of ``log_z``."""
    log_sigma_rot: Tensor | None = None
    """(B, Q, 1) log standard deviation of the rotation angle, radians."""

    def named(self) -> dict[str, Tensor]:
        """Name -> tensor, without the absent ones."""
        found = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in found if value is not None}

    def queries(self, start: int, stop: int | None) -> Outputs:
        """Keep a range of queries; ``k_delta`` is per image and stays."""
        return replace(
            self, **{name: value[:, start:stop] for name, value in self.named().items() if name != "k_delta"}
        )


class MainHead(nn.Module):
    """One linear layer per quantity."""

    def __init__(self, width: int, classes: int, *, log_sigma: bool) -> None:
        super().__init__()
        self.cls = nn.Linear(width, classes + 1)
        self.box = nn.Linear(width, 4)
        self.log_z = nn.Linear(width, 1)
        self.rot6d = nn.Linear(width, 6)
        if log_sigma:
            self.log_sigma_z = nn.Linear(width, 1)
            self.log_sigma_rot = nn.Linear(width, 1)
        self.sigmas = log_sigma

    def forward(self, decoded: Tensor) -> dict[str, Tensor]:
        """(B, Q, D) -> fields of `Outputs` by name."""
        found = {
            "logits": self.cls(decoded),
            "bbox": self.box(decoded),
            "log_z": self.log_z(decoded),
            "rot6d": self.rot6d(decoded),
        }
        if self.sigmas:
            found |= {"log_sigma_z": self.log_sigma_z(decoded), "log_sigma_rot": self.log_sigma_rot(decoded)}
        return found


class OffsetHead(nn.Module):
    """Box centre to object centre."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Linear(width, 2)

    def forward(self, decoded: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, 2)."""
        return self.offset(decoded)


class IntrinsicsHead(nn.Module):
    """Correction of the camera from the mean over queries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.delta = nn.Linear(width, 4)

    def forward(self, decoded: Tensor) -> Tensor:
        """(B, Q, D) -> (B, 4)."""
        return self.delta(decoded.mean(1))


class KeypointHead(nn.Module):
    """Keypoints in 0..1 by a sigmoid; with a box, relative to it."""

    def __init__(self, width: int, keypoints: int) -> None:
        super().__init__()
        self.keypoints = nn.Linear(width, 2 * keypoints)

    def forward(self, decoded: Tensor, bbox: Tensor | None) -> Tensor:
        """(B, Q, D) and raw boxes (B, Q, 4) or None -> (B, Q, 2 K) shares of the image."""
        shares = self.keypoints(decoded).sigmoid()
        if bbox is None:
            return shares
        queries, points = int(decoded.shape[1]), self.keypoints.out_features // 2
        box = bbox.sigmoid().view(-1, queries, 1, 4)
        relative = (shares.view(-1, queries, points, 2) - 0.5) * (2 * KEYPOINT_REACH)
        return (box[..., :2] + relative * box[..., 2:]).view(-1, queries, 2 * points)
