"""The loss: classes, boxes and pose of matched queries.

B batch, Q queries, M padded objects, N matched pairs, K keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adapters._shared.training.anchors import Anchors, Gains, anchor_loss
from adapters._shared.training.assign import iou
from adapters.rtdetr_pose.config import LossConfig
from adapters.rtdetr_pose.matcher import Matching, generalized_iou, match, xyxy_from_cxcywh
from adapters.rtdetr_pose.proposals import taught_less
from adapters.rtdetr_pose.rotations import check_symmetries, matrix_from_rot6d, symmetric_angle
from adapters.rtdetr_pose.truth import Known, check_truth, known_of, unplaced_points
from bench.errors import ContractError

if TYPE_CHECKING:
    from adapters._shared.training.batch import Truth
    from adapters.rtdetr_pose.denoise import Noised
    from adapters.rtdetr_pose.heads import Outputs
    from adapters.rtdetr_pose.model import RtDetrPose
    from adapters.rtdetr_pose.proposals import Proposals


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What the network says in training."""

    layers: list[Outputs]
    """Of every decoder layer, the last one last; the network's own queries first, then the noised ones."""
    queries: int
    """How many are the network's own."""
    noised: Noised | None
    image_hw: tuple[int, int]
    """Of the network input, pixels."""
    proposed: Anchors | None = None
    """What the cells say that the queries start from."""


class PoseLoss:
    """``loss(network, images, truth) -> (scalar, parts)``, or its two halves `forward` and `judge`.

    Args:
        config: weights.
        symmetries: per class, how many turns about an object's own z axis change nothing (1 none, 0 all);
            None: 1 everywhere.
        keypoint_swap: where keypoint k goes in a mirrored image; None: keypoints have no sides.
        two_sided: per class, whether the set shows both of its sides (`truth.known_of`); None: all are.
    """

    def __init__(
        self,
        config: LossConfig,
        symmetries: Sequence[int] | None = None,
        keypoint_swap: Sequence[int] | None = None,
        two_sided: Sequence[bool] | None = None,
    ) -> None:
        self.config = config
        self.symmetries = symmetries
        self.keypoint_swap = keypoint_swap
        self.two_sided = two_sided

    def __call__(self, network: RtDetrPose, images: Tensor, truth: Truth) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the network in its mode and judge it; see the two halves."""
        return self.judge(self.forward(network, images, truth), truth)

    def forward(self, network: RtDetrPose, images: Tensor, truth: Truth) -> Raw:
        """Run the network on (B, 3, H, W) RGB in 0..1; may run under autocast.

        Raises:
            InputError: a truth that cannot be used, or an image size that does not fit.
            ContractError: denoising with a network that was not built for it.
        """
        check_truth(truth, network.classes)
        image_hw = (int(images.shape[2]), int(images.shape[3]))
        noised = None
        if self.config.denoising_groups and truth.labels.numel():
            if network.denoise is None:
                raise ContractError("denoising_groups needs a network built with denoising=True")
            noised = network.denoise(truth, image_hw, self.config)
        pyramid = network.pyramid(images)
        proposals = network.propose(pyramid)
        if proposals is not None:
            pyramid = [taught_less(level, self.config.decoder_gradient) for level in pyramid]
        return Raw(
            layers=network.layers(pyramid, proposals, noised),
            queries=network.config.queries,
            noised=noised,
            proposed=None if proposals is None else _anchors(network, proposals, image_hw),
            image_hw=image_hw,
        )

    def judge(self, raw: Raw, truth: Truth) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar with a gradient, and its detached parts.

        They are those of the last layer by name, ``auxiliary``, ``denoising`` and ``proposals``.

        Raises:
            ContractError: an output that is not finite.
        """
        _require_finite(raw.layers)
        own = [layer.queries(0, raw.queries) for layer in raw.layers]
        weighted = self._parts(own[-1], truth, raw.image_hw, None)
        parts = {name: value.detach() for name, value in weighted.items()}
        total = _sum(weighted)
        if self.config.auxiliary and len(own) > 1:
            earlier = [_sum(self._parts(layer, truth, raw.image_hw, None)) for layer in own[:-1]]
            auxiliary = self.config.auxiliary * torch.stack(earlier).sum()
            total, parts["auxiliary"] = total + auxiliary, auxiliary.detach()
        if raw.noised is not None:
            restored = [layer.queries(raw.queries, None) for layer in raw.layers]
            losses = [_sum(self._parts(r, truth, raw.image_hw, raw.noised.matching)) for r in restored]
            denoising = torch.stack(losses).mean()
            total, parts["denoising"] = total + denoising, denoising.detach()
        if raw.proposed is not None:
            found = anchor_loss(raw.proposed, truth, self.config.proposals_top_k, Gains())
            proposals = self.config.proposals * _sum(found)
            total, parts["proposals"] = total + proposals, proposals.detach()
        return total, parts

    def _parts(
        self, outputs: Outputs, truth: Truth, image_hw: tuple[int, int], matching: Matching | None
    ) -> dict[str, Tensor]:
        """Weighted parts of one layer; padded or unmatched queries of given matchings count for nothing."""
        config = self.config
        found = {name: value.float() for name, value in outputs.named().items()}
        size = found["bbox"].new_tensor([image_hw[1], image_hw[0]])
        targets = cxcywh_shares(truth.boxes_xyxy.float(), size)
        unmatched = config.background if matching is None else 0.0
        if matching is None:
            matching = match(found["logits"], found["bbox"], truth.labels, targets, config)
        at, to = (matching.image, matching.query), (matching.image, matching.object_)
        wanted, labels = targets[to], truth.labels[to]
        parts = self._detection(found["logits"], found["bbox"], matching, truth.labels, targets, unmatched)
        known = known_of(truth, *to, self.keypoint_swap, self.two_sided)
        chosen = {name: value[at] for name, value in found.items() if name != "k_delta"}
        chosen["k_delta"] = found["k_delta"][matching.image]
        pose = self._pose(chosen, known, wanted, labels, size)
        return parts | {name: getattr(config, name) * value for name, value in pose.items()}

    def _detection(
        self, logits: Tensor, bbox: Tensor, matching: Matching, labels: Tensor, targets: Tensor, unmatched: float
    ) -> dict[str, Tensor]:
        """Weighted parts of classes and boxes; ``labels`` (B, M) and ``targets`` (B, M, 4) are of all objects."""
        config, to = self.config, (matching.image, matching.object_)
        boxes, wanted, pairs = bbox[matching.image, matching.query].sigmoid(), targets[to], max(len(matching), 1)
        if config.soft_classes:
            sure = iou(xyxy_from_cxcywh(boxes.detach()), xyxy_from_cxcywh(wanted))
            classes = soft_class_loss(logits, matching, labels[to], sure, unmatched)
        else:
            classes = class_loss(logits, matching, labels[to], unmatched, config.focal_gamma)
        parts = {
            "classes": config.classes * classes,
            "box": config.box * (boxes - wanted).abs().sum() / pairs,
        }
        if config.giou:
            overlap = generalized_iou(xyxy_from_cxcywh(boxes), xyxy_from_cxcywh(wanted))
            parts["giou"] = config.giou * (1 - overlap).sum() / pairs
        return parts

    def _pose(
        self, found: Mapping[str, Tensor], known: Known, box: Tensor, labels: Tensor, size: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted parts of the pose, each a mean over the pairs whose attribute is known.

        Args:
            found: outputs of the matched queries, (N, ...).
            known: attributes of their objects.
            box: (N, 4) true boxes, centre and size as shares.
            labels: (N,).
            size: (2,) width and height of the network input, pixels.
        """
        values, parts = known.values, dict[str, Tensor]()
        if known.has("depth_m"):
            error = (found["log_z"][:, 0] - values["depth_m"].clamp(min=_TINY).log()).abs()
            parts["log_z"] = _mean(with_sigma(error, found.get("log_sigma_z")), known.given["depth_m"])
        if known.has("rotation"):
            classes = found["logits"].shape[-1] - 1
            orders = check_symmetries(self.symmetries if self.symmetries is not None else (1,) * classes, classes)
            angle = symmetric_angle(
                matrix_from_rot6d(found["rot6d"]), values["rotation"], labels.new_tensor(orders)[labels]
            )
            parts["rotation"] = _mean(with_sigma(angle, found.get("log_sigma_rot")), known.given["rotation"])
        if known.has("center_px"):
            target = (values["center_px"] / size - box[:, :2]) / box[:, 2:]
            parts["offsets"] = _mean((found["offsets"] - target).abs().sum(-1), known.given["center_px"])
        if known.has("k_delta") or known.has("intrinsics"):
            # a camera that is known needs no correction
            target = values.get("k_delta", torch.zeros_like(found["k_delta"]))
            given = known.given["k_delta" if known.has("k_delta") else "intrinsics"]
            parts["k_delta"] = _mean((found["k_delta"] - target).abs().sum(-1), given)
        if known.has("center_px", "depth_m", "intrinsics"):
            parts["translation"] = self._translation(found, known, size)
        if self.config.keypoints and "keypoints" in found and known.has("keypoints"):
            parts["keypoints"] = keypoint_loss(found["keypoints"], values["keypoints"], box, size)
        return parts

    def _translation(self, found: Mapping[str, Tensor], known: Known, size: Tensor) -> Tensor:
        """Mean L1 between the translations that predicted and true centre and depth give, in the file's camera."""
        values, given = known.values, known.both("center_px", "depth_m", "intrinsics")
        shares, delta = found["bbox"].sigmoid(), found["k_delta"]
        centre_px = (shares[:, :2] + found["offsets"] * shares[:, 2:] - delta[:, 2:]) * size
        focal, middle = values["intrinsics"][:, :2].clamp(min=_TINY), values["intrinsics"][:, 2:]
        ours, theirs = (
            (unplaced_points(points[:, None], known.placement)[:, 0] - middle) / focal
            for points in (centre_px, values["center_px"])
        )
        # a focal length may not vanish or turn around while it is learned
        ours = ours / (1 + delta[:, :2]).clamp(min=0.1)
        depth, one = values["depth_m"], torch.ones_like(values["depth_m"])[:, None]
        predicted = torch.cat((ours, one), 1) * found["log_z"].exp()
        error = (predicted - torch.cat((theirs, one), 1) * depth[:, None]).abs().sum(-1)
        return _mean(error / depth.clamp(min=_TINY) if self.config.translation_relative else error, given)


_TINY = 1e-6


def _anchors(network: RtDetrPose, proposals: Proposals, image_hw: tuple[int, int]) -> Anchors:
    """The proposals for images of this size, in float32 and in the words of their loss."""
    assert network.proposals is not None
    side_logits, logits = proposals.side_logits.float(), proposals.logits.float()
    centres, grid = network.proposals.centres(logits), network.proposals.grid
    cell_px = centres.new_tensor([image_hw[1] / grid, image_hw[0] / grid])
    return Anchors(side_logits, logits, centres, cell_px.expand_as(centres))


def _sum(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(tuple(parts.values())).sum()


def _mean(values: Tensor, given: Tensor) -> Tensor:
    """Mean of (N,) over the rows that are given; 0 with a gradient when there are none."""
    return torch.where(given, values, 0).sum() / given.sum().clamp(min=1)


def _require_finite(layers: Sequence[Outputs]) -> None:
    for number, layer in enumerate(layers):
        for name, value in layer.named().items():
            if not torch.isfinite(value).all():
                broken = int((~torch.isfinite(value)).sum())
                raise ContractError(
                    f"loss: {name} of decoder layer {number} holds {broken} of {value.numel()} numbers that are not "
                    "finite; lower the learning rate, or train in float32"
                )


def cxcywh_shares(boxes_xyxy: Tensor, size: Tensor) -> Tensor:
    """(..., 4) corners in px and (2,) width, height -> (..., 4) centre and size as shares of the image."""
    low, high = boxes_xyxy[..., :2] / size, boxes_xyxy[..., 2:] / size
    return torch.cat(((low + high) / 2, high - low), -1)


def class_loss(logits: Tensor, matching: Matching, labels: Tensor, unmatched: float, focal_gamma: float) -> Tensor:
    """Cross entropy of all queries (B, Q, C + 1); the weighted mean, divided by the sum of the weights.

    Args:
        logits: background last.
        matching: queries with an object; the others belong to the background.
        labels: (N,) of the matched objects.
        unmatched: weight of the others.
        focal_gamma: exponent of (1 - p); 0 for plain cross entropy.
    """
    background = logits.shape[-1] - 1
    target = torch.full(logits.shape[:2], background, device=logits.device)
    target[matching.image, matching.query] = labels
    weight = torch.where(target == background, unmatched, 1.0)
    log_p = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    loss = -log_p
    if focal_gamma:
        loss = loss * (1 - log_p.exp()).clamp(min=0) ** focal_gamma
    return (loss * weight).sum() / weight.sum().clamp(min=_TINY)


def soft_class_loss(logits: Tensor, matching: Matching, labels: Tensor, sure: Tensor, unmatched: float) -> Tensor:
    """Cross entropy of all queries (B, Q, C + 1) less its smallest value, summed and divided by the matched ones.

    With a mean over all queries, those without an object would drown the others; with a small weight for them, two
    queries of one object would both be sure.

    Args:
        logits: background last.
        matching: queries with an object; the others belong to the background.
        labels: (N,) of the matched objects.
        sure: (N,) 0 to 1: what the class is to get, the background gets the rest (an IoU, as in arXiv 2008.13367).
        unmatched: weight of the others.
    """
    at, background = (matching.image, matching.query), logits.shape[-1] - 1
    target = torch.zeros_like(logits)
    target[..., background] = 1
    target[(*at, torch.full_like(labels, background))] = 1 - sure
    target[(*at, labels)] = sure
    weight = torch.full(logits.shape[:2], unmatched, dtype=logits.dtype, device=logits.device)
    weight[at] = 1
    excess = (torch.special.xlogy(target, target) - target * logits.log_softmax(-1)).sum(-1)
    return (excess * weight).sum() / max(len(matching), 1)


def keypoint_loss(shares: Tensor, xyv: Tensor, box_cxcywh: Tensor, size: Tensor) -> Tensor:
    """(N, 2 K) predicted, (N, K, 3) true px -> scalar: L1 in roots of the box area, mean over known keypoints."""
    predicted = shares.unflatten(-1, (-1, 2)) * size
    scale = (box_cxcywh[:, 2:] * size).prod(-1).sqrt()
    return _mean((predicted - xyv[..., :2]).abs().sum(-1) / scale[:, None], xyv[..., 2] > 0)


def with_sigma(error: Tensor, log_sigma: Tensor | None) -> Tensor:
    """(N,) errors -> (N,) minus the log likelihood of a Laplace distribution where its width (N, 1) is predicted."""
    if log_sigma is None:
        return error
    return error * (-log_sigma[:, 0]).exp() + log_sigma[:, 0]
