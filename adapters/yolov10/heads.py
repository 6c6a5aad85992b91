"""The trained network with the outputs that a file for deployment has."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters.yolov10.head import REG_MAX, V10Detect
from bench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from adapters.yolov10.model import YoloV10


class _SameWeights(V10Detect):
    """A trained head with another ``forward``: the branches are shared, and keep their names in an exported graph."""

    def __init__(self, head: V10Detect) -> None:
        nn.Module.__init__(self)
        self.classes = head.classes
        for name, child in head.named_children():
            self.add_module(name, child)


class RawDetect(_SameWeights):
    """One-to-one head before the decode."""

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """P3, P4, P5 -> distances (B, 4, A) left top right bottom in strides, class logits (B, nc, A)."""
        boxes, logits = (torch.cat([x.flatten(2) for x in maps], 2) for maps in self.one2one(features))
        anchors = int(boxes.shape[2])
        return self.dfl(boxes.reshape(-1, 4 * REG_MAX, anchors)), logits.reshape(-1, self.classes, anchors)


class OneToManyDetect(_SameWeights):
    """Decoded one-to-many head, for NMS."""

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """P3, P4, P5 -> boxes (B, 4, A) centre x y width height in px, sigmoid scores (B, nc, A)."""
        return self.decode(self.one2many(features))


def with_outputs_of(network: YoloV10, head: str) -> YoloV10:
    """Return a network that shares the weights of ``network`` and has the dense outputs behind a head.

    Args:
        network: in eval mode; for ``nms`` with its one-to-many head.
        head: key of ``deployed.HEADS``. ``topk`` and ``nms`` select from decoded boxes and scores.
    """
    kinds = {"raw": RawDetect, "nms": OneToManyDetect}
    if head not in kinds:
        return network
    other = copy.copy(network)
    other.__dict__["_modules"] = dict(network._modules)
    other.model = nn.ModuleList([*network.model[:-1], kinds[head](network.head)])
    return other.eval()


def load_with_one2many(variant: str, classes: int, weights: Path) -> YoloV10:
    """Read training weights, both heads, in eval mode and float32.

    Raises:
        InputError: a file that cannot be used, or one without the one-to-many head; says where to get one.
    """
    from adapters._shared.checkpoints import load_strict, read_state_dict
    from adapters.yolov10.model import YoloV10
    from adapters.yolov10.variants import ONE2MANY_PREFIXES, OPTIONAL_SUFFIXES

    source = f"weights {weights}"
    state = read_state_dict(weights)
    if not any(key.startswith(ONE2MANY_PREFIXES) for key in state):
        raise InputError(
            f"{source} hold no one-to-many head ({', '.join(f'{p}*' for p in ONE2MANY_PREFIXES)}), and --head nms "
            "selects from it. Export from the best.pt of a training run, or from official training weights; or type "
            "--head topk, which needs no NMS"
        )
    network = YoloV10(variant, classes)
    load_strict(network, state, allow_missing_suffixes=OPTIONAL_SUFFIXES, source=source)
    return network.eval().requires_grad_(False)
