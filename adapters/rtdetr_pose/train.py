"""Training of rtdetr_pose: what the shared engine needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adapters._shared.checkpoints import read_facts, read_shapes
from adapters._shared.training.config import TrainConfig
from adapters._shared.training.initial import start_from_contrast
from adapters._shared.training.task import Task
from adapters.rtdetr_pose import RtDetrPoseAdapter, make_spec
from adapters.rtdetr_pose.config import TRAINING_PREFIXES, NetworkConfig, config_of, loss_config, network_config
from adapters.rtdetr_pose.loss import PoseLoss
from adapters.rtdetr_pose.model import RtDetrPose
from adapters.rtdetr_pose.names import COCO_NAMES
from bench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from adapters._shared.training.batch import Truth
    from bench.types import FixtureSet

ATTRIBUTES = ("rotation", "depth_m", "center_px", "keypoints", "intrinsics")
SIDES = (("L_", "R_"), ("left_", "right_"))
"""Prefixes of the names of keypoints that change places in a mirror."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseTrainConfig(TrainConfig):
    """Options of rtdetr_pose besides the shared ones, whose defaults are for a network without pretraining."""

    network: str = "tiny"
    """``tiny`` (CPU) or ``base`` (official keys)."""
    recipe: str = "default"
    """``default``, or ``original``: the upstream loss (background at full weight, no GIoU, last layer only)."""
    batch: int = 8
    """Images per step and device."""
    lr: float = 1e-3
    """Peak learning rate."""
    backbone_lr: float = 1.0
    """Learning rate of the backbone, share of ``lr``."""
    weight_decay: float = 1e-3
    """Of weights with two or more axes; biases and norms have none."""
    clip_norm: float = 1.0
    """Largest gradient norm: attention layers without pretraining need a small one."""
    mosaic: float = 0.0
    """Probability of joining four images."""
    scale: float = 0.1
    """Zoom range, 1 - scale to 1 + scale; a zoom hides how far an object is."""
    export: bool = True
    """Also write ``model.onnx`` of the best weights, and what it is, into the run folder."""


class RtDetrPoseRecipe:
    """Boxes and poses learn together.

    Args:
        adapter: registered model.
    """

    config: type[TrainConfig] = PoseTrainConfig
    class_dependent: tuple[str, ...] = ("head.cls.",)
    copies: Mapping[str, str] = {}
    training_only: tuple[str, ...] = TRAINING_PREFIXES
    unshipped: tuple[str, ...] = TRAINING_PREFIXES
    stretch = True

    def __init__(self, adapter: RtDetrPoseAdapter) -> None:
        self.spec = adapter.spec

    def names_in(self, weights: Path) -> tuple[str, ...]:
        """Classes that a weights file names, or COCO's where it has 80.

        Raises:
            InputError: weights of another model.
        """
        classes = config_of(read_shapes(weights), f"weights {weights}").classes
        named = tuple(read_facts(weights).get("class_names", ()))
        return named or (COCO_NAMES if classes == len(COCO_NAMES) else ())

    def task(self, config: TrainConfig, class_names: tuple[str, ...], train: FixtureSet) -> Task:
        """Network with random weights, loss and adapter for these classes.

        Raises:
            UsageError: an unknown network or recipe.
            InputError: an input size that does not fit, or whose attention exceeds the limit.
        """
        assert isinstance(config, PoseTrainConfig)
        points = keypoint_names(train)
        network = replace(network_config(config.network, classes=len(class_names)), keypoints=len(points))
        loss = loss_config(config.recipe, proposals=network.proposals)
        side = config.image_size
        spec = make_spec(
            self.spec.name,
            network,
            class_names,
            image_hw=(side, side),
            fixtures=self.spec.default_fixtures,
        )
        judge = PoseLoss(loss, symmetries(train, class_names), mirrored(points), two_sided(train, class_names))

        def forward(module: nn.Module, images: Tensor, truth: Truth) -> Any:
            assert isinstance(module, RtDetrPose)
            return judge.forward(module, images, with_points(truth))

        fresh = RtDetrPose(network, denoising=loss.denoising_groups > 0)
        if config.recipe != "original":
            start_from_contrast(fresh.backbone.stem)
        return Task(
            adapter=RtDetrPoseAdapter(spec, network),
            network=fresh,
            forward=forward,
            loss=lambda raw, truth: judge.judge(raw, with_points(truth)),
            inference=lambda state: inference(network, state),
            groups={"backbone": ("backbone.",)},
            attributes=ATTRIBUTES if points else tuple(a for a in ATTRIBUTES if a != "keypoints"),
        )


def with_points(truth: Truth) -> Truth:
    """COCO's flat keypoints (B, M, 3 K) as (B, M, K, 3)."""
    flat = truth.attributes.get("keypoints")
    if flat is None or flat.dim() == 4:
        return truth
    return truth._replace(attributes={**truth.attributes, "keypoints": flat.unflatten(-1, (-1, 3))})


def inference(config: NetworkConfig, state: Mapping[str, Tensor]) -> nn.Module:
    """What the adapter's ``build`` makes of a state dict."""
    with torch.random.fork_rng(devices=[]):  # values are overwritten; the run's own random numbers are not touched
        network = RtDetrPose(config)
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith(TRAINING_PREFIXES)})
    return network.eval().requires_grad_(False)


def symmetries(fixtures: FixtureSet, class_names: Sequence[str]) -> tuple[int, ...]:
    """Turns about an object's own axis that change nothing, by label; 1 where the set does not say."""
    known = {str(c["name"]): int(c.get("symmetry", 1)) for c in fixtures.categories}
    return tuple(known.get(name, 1) for name in class_names)


def two_sided(fixtures: FixtureSet, class_names: Sequence[str]) -> tuple[bool, ...]:
    """By label: does the set show both sides of the class, own z axes along the camera's and against it?"""
    names = {c["id"]: str(c["name"]) for c in fixtures.categories}
    sides: dict[str, set[bool]] = {}
    for note in fixtures.annotations:
        if "rotation" in note:
            along = np.asarray(note["rotation"], float).reshape(3, 3)[2, 2] > 0
            sides.setdefault(names[note["category_id"]], set()).add(bool(along))
    return tuple(len(sides.get(name, ())) == 2 for name in class_names)


def keypoint_names(fixtures: FixtureSet) -> tuple[str, ...]:
    """Names of the keypoints that the categories of a set share; none when no category has any.

    Raises:
        InputError: categories with different keypoints: the network has one list of them.
    """
    lists = {tuple(c["keypoints"]) for c in fixtures.categories if c.get("keypoints")}
    if len(lists) > 1:
        raise InputError(
            f"{fixtures.name}: its categories name {len(lists)} different lists of keypoints; rtdetr_pose has one. "
            "Train on one of them, or take the keypoints out."
        )
    return next(iter(lists), ())


def mirrored(names: Sequence[str]) -> tuple[int, ...] | None:
    """Where keypoint k goes in a mirror, by the sides in the names; None without keypoints."""
    if not names:
        return None
    place = {name: index for index, name in enumerate(names)}
    swaps = []
    for name in names:
        other = name
        for left, right in SIDES:
            for one, two in ((left, right), (right, left)):
                if name.startswith(one):
                    other = two + name[len(one) :]
        swaps.append(place.get(other, place[name]))
    return tuple(swaps)
