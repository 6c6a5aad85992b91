"""One query per object: the cheapest assignment (scipy). B batch, Q queries, M padded objects, N matched pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from adapters.rtdetr_pose.config import LossConfig
from bench.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Pairs of queries and objects, image by image; each query and each object at most once."""

    image: Tensor
    """(N,) int64."""
    query: Tensor
    """(N,) int64."""
    object_: Tensor
    """(N,) int64."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.image)


def xyxy_from_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def generalized_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """(..., 4), (..., 4) corners -> (...) IoU minus the empty share of the hull (arXiv 1902.09630), -1 to 1."""
    size = (torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])).clamp(0)
    hull = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    inter, hull_area = size.prod(-1), hull.prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a_xyxy, b_xyxy))
    union = area_a + area_b - inter
    tiny = torch.finfo(union.dtype).tiny
    return inter / union.clamp(min=tiny) - (hull_area - union) / hull_area.clamp(min=tiny)


def pair_costs(
    logits: Tensor, boxes_cxcywh: Tensor, labels: Tensor, targets_cxcywh: Tensor, config: LossConfig
) -> Tensor:
    """Cost of every pair of one image.

    Args:
        logits: (Q, C + 1).
        boxes_cxcywh: (Q, 4), shares of the image, after the sigmoid.
        labels: (M,) int64, none of them padded.
        targets_cxcywh: (M, 4), shares of the image.
        config: ``match_*`` weigh the parts.

    Returns:
        (Q, M) ``match_class`` (-log p) + ``match_box`` L1 + ``match_giou`` (1 - generalised IoU).
    """
    cost = -config.match_class * logits.log_softmax(-1)[:, labels]
    cost = cost + config.match_box * torch.cdist(boxes_cxcywh, targets_cxcywh, p=1.0)
    if config.match_giou:
        a, b = xyxy_from_cxcywh(boxes_cxcywh)[:, None], xyxy_from_cxcywh(targets_cxcywh)[None]
        cost = cost + config.match_giou * (1 - generalized_iou(a, b))
    return cost


@torch.no_grad()
def match(logits: Tensor, bbox: Tensor, labels: Tensor, targets_cxcywh: Tensor, config: LossConfig) -> Matching:
    """Assign a query to every object of a batch; with more objects than queries, the costliest objects stay without.

    Args:
        logits: (B, Q, C + 1).
        bbox: (B, Q, 4) raw, before the sigmoid.
        labels: (B, M) int64, -1 where padded.
        targets_cxcywh: (B, M, 4) shares of the image.
        config: weights of the costs.

    Raises:
        ContractError: a cost that is not finite.
    """
    pairs: list[tuple[int, int, int]] = []
    boxes = bbox.sigmoid()
    for index in range(len(logits)):
        real = (labels[index] >= 0).nonzero()[:, 0]
        if len(real) == 0:
            continue
        cost = pair_costs(logits[index], boxes[index], labels[index][real], targets_cxcywh[index][real], config).cpu()
        # the sigmoid of an infinite number is finite, hence the raw boxes too
        if not (torch.isfinite(cost).all() and torch.isfinite(bbox[index]).all()):
            broken = int((~torch.isfinite(cost)).sum())
            raise ContractError(
                f"matching image {index}: {broken} of {cost.numel()} costs are not finite, or a raw box is not finite"
            )
        rows, columns = linear_sum_assignment(cost.double().numpy())
        objects = real.cpu()[columns].tolist()
        pairs += [(index, query, object_) for query, object_ in zip(rows.tolist(), objects, strict=True)]
    image, query, object_ = torch.tensor(pairs, dtype=torch.int64, device=logits.device).view(-1, 3).T
    return Matching(image=image, query=query, object_=object_)
