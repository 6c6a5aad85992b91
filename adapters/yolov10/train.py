"""Training of YOLOv10: what the shared engine needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from adapters._shared.checkpoints import read_facts, read_shapes
from adapters._shared.training.config import TrainConfig
from adapters._shared.training.initial import start_from_contrast
from adapters._shared.training.task import Task
from adapters.yolov10 import YoloV10Adapter, make_spec
from adapters.yolov10.loss import LossGains, dual_loss
from adapters.yolov10.model import YoloV10
from adapters.yolov10.names import COCO_NAMES
from adapters.yolov10.variants import ONE2MANY_PREFIXES, STRIDES, classes_of, require_variant
from bench.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from adapters._shared.training.batch import Truth
    from bench.types import FixtureSet

BACKBONE = tuple(f"model.{layer}." for layer in range(11))
"""Layers 0 to 10: everything before the neck."""


class YoloV10Recipe:
    """Both heads learn; the one-to-one head is judged.

    Args:
        adapter: registered variant.
    """

    config: type[TrainConfig] = TrainConfig
    class_dependent: tuple[str, ...] = ("model.23.cv3.", "model.23.one2one_cv3.")
    copies: Mapping[str, str] = {
        "model.23.cv2.": "model.23.one2one_cv2.",
        "model.23.cv3.": "model.23.one2one_cv3.",
    }
    training_only: tuple[str, ...] = ()
    unshipped: tuple[str, ...] = ONE2MANY_PREFIXES
    stretch = False

    def __init__(self, adapter: YoloV10Adapter) -> None:
        self.spec = adapter.spec
        self._variant = adapter.variant

    def names_in(self, weights: Path) -> tuple[str, ...]:
        """Classes that a weights file names, or COCO's where it has 80.

        Raises:
            InputError: weights of another variant or model.
        """
        source, shapes = f"weights {weights}", read_shapes(weights)
        require_variant(shapes, self._variant, source)
        named = tuple(read_facts(weights).get("class_names", ()))
        return named or (COCO_NAMES if classes_of(shapes, source) == len(COCO_NAMES) else ())

    def task(self, config: TrainConfig, class_names: tuple[str, ...], train: FixtureSet) -> Task:
        """Network with random weights, loss and adapter for these classes.

        Raises:
            UsageError: an input size that is no multiple of the largest stride.
        """
        side, variant, gains = config.image_size, self._variant, LossGains()
        if side % STRIDES[-1]:
            near = max(round(side / STRIDES[-1]), 1) * STRIDES[-1]
            raise UsageError(f"training option image_size {side}: give a multiple of {STRIDES[-1]}, for example {near}")
        spec = make_spec(variant, (side, side), class_names, self.spec.default_fixtures)

        def forward(network: nn.Module, images: Tensor, truth: Truth) -> Any:
            assert isinstance(network, YoloV10)
            return network.branches(images)

        def loss(raw: Any, truth: Truth) -> tuple[Tensor, dict[str, Tensor]]:
            one2many, one2one = raw
            return dual_loss(one2many, one2one, truth, gains)

        def inference(state: Mapping[str, Tensor]) -> nn.Module:
            with torch.random.fork_rng(
                devices=[]
            ):  # values are overwritten; the run's own random numbers are not touched
                network = YoloV10(variant, len(class_names))
            network.load_state_dict(dict(state))
            network.head.drop_one2many()
            return network.eval().requires_grad_(False)

        network = YoloV10(variant, len(class_names))
        start_from_contrast(network.model[0])
        return Task(
            adapter=YoloV10Adapter(replace(spec, name=self.spec.name), variant),
            network=network,
            forward=forward,
            loss=loss,
            inference=inference,
            groups={"backbone": BACKBONE},
        )
