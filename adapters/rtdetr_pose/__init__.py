"""rtdetr_pose: boxes and 6-DoF pose per query, an own implementation; importing it needs numpy and cv2, not torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters._shared.classes import class_names_of
from adapters._shared.trained import Trained
from adapters.rtdetr_pose import checking, deployed, process
from adapters.rtdetr_pose.config import TRAINING_PREFIXES, NetworkConfig, config_of, network_config
from adapters.rtdetr_pose.names import COCO_NAMES, KEYPOINT_NAMES, KEYPOINT_SIGMAS, SHAPES_NAMES
from bench.errors import InputError
from bench.types import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from adapters._shared.training.recipe import Recipe
    from bench.deployment.options import ExportOptions, Reference
    from bench.types import Array, Prediction

CHECKPOINTS = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
SIDE_PX = 320
MAX_DETECTIONS = 50
DISPLAY_THRESHOLD = 0.3
"""Upstream's threshold: for showing detections. Evaluation emits all above ``ModelSpec.score_floor``."""
FLOAT_NODES = (r"^/(head|offset_head|k_head|keypoint_head)/", r"^/[^/]+$")
"""The linear layers of the heads, and nodes directly in the network's scope (boxes relative to proposals)."""
PROPOSAL_FLOAT_NODES = (r"^/proposals/((box/box|cls/cls)\.1/|place/|[^/]+$)",)
"""The last layers of the proposals, and what turns their numbers into boxes."""
OPTIONAL_SUFFIXES = ("num_batches_tracked",)


def make_spec(
    name: str,
    config: NetworkConfig,
    class_names: tuple[str, ...],
    *,
    image_hw: tuple[int, int],
    fixtures: str,
    weights: Path | None = None,
) -> ModelSpec:
    """Describe one network: raw outputs per query, before the softmax, the sigmoid and the selection.

    Args:
        name: registered name.
        config: of the network; its classes are as many as the names.
        class_names: name of label 0, 1, ...
        image_hw: input height and width, pixels, multiples of 32.
        fixtures: set used when none is asked for.
        weights: weights used when none are given.
    """
    known = config.keypoints == len(KEYPOINT_NAMES)
    widths = {
        "logits": config.classes + 1,
        "bbox": 4,
        "log_z": 1,
        "rot6d": 6,
        "offsets": 2,
        "keypoints": 2 * config.keypoints,
        "log_sigma_z": 1,
        "log_sigma_rot": 1,
    }
    return ModelSpec(
        name=name,
        task="detect",
        inputs=(TensorSpec(name="images", shape=("batch", 3, *image_hw), dtype="float32"),),
        outputs=tuple(
            TensorSpec(
                name=output,
                shape=("batch", 4) if output == "k_delta" else ("batch", config.queries, widths[output]),
                dtype="float32",
            )
            for output in config.output_names
        ),
        image_hw=image_hw,
        preprocessing={"method": "resize", "resize_interp": "linear", "input_color": "RGB", "normalize": "0_1"},
        class_names=class_names,
        default_fixtures=fixtures,
        default_weights=weights,
        max_detections=MAX_DETECTIONS,
        background={"logits": config.classes},
        keypoint_names=KEYPOINT_NAMES if known else (),
        oks_sigmas=KEYPOINT_SIGMAS if known else (sum(KEYPOINT_SIGMAS) / len(KEYPOINT_SIGMAS),) * config.keypoints,
        float_nodes=FLOAT_NODES + (PROPOSAL_FLOAT_NODES if config.proposals else ()),
        parameters=config.parameters,
        licence="Apache-2.0",
        origin="own implementation of the YOLOZU rtdetr_pose architecture from a description of its layers",
    )


class RtDetrPoseAdapter(Trained):
    """One network with its classes and its input size.

    Args:
        spec: what the harness knows of it.
        config: of the network.

    Raises:
        InputError: an input size that does not fit, or whose attention exceeds the limit of the config.
    """

    def __init__(self, spec: ModelSpec, config: NetworkConfig) -> None:
        config.check_image_hw(spec.image_hw)
        self.spec = spec
        self.config = config

    def fitted(self, weights: Path) -> RtDetrPoseAdapter:
        """Return the adapter whose config, classes and input size are those of ``weights``.

        They are the facts stored with the weights (entry ``parity``: ``class_names``, ``image_size``) where there are
        any; else 80 classes are COCO's, and as many classes as the registered model has are its own.

        Raises:
            InputError: a file that cannot be used, of no known config, or that does not name its classes.
        """
        from adapters._shared.checkpoints import read_facts, read_shapes

        source = f"weights {weights}"
        facts = read_facts(weights)
        if weights.suffix == ".onnx":
            if "class_names" not in facts:
                return self
            config = replace(self.config, classes=len(facts["class_names"]))
        else:
            config = config_of(read_shapes(weights), source)
        names = class_names_of(
            facts,
            config.classes,
            known={self.spec.name: self.spec.class_names, "COCO": COCO_NAMES},
            image_hw=self.spec.image_hw,
            source=source,
        )
        height, width = facts.get("image_size", self.spec.image_hw)
        if (names, (height, width), config) == (self.spec.class_names, self.spec.image_hw, self.config):
            return self
        fixtures = "coco128" if names == COCO_NAMES else self.spec.default_fixtures
        spec = make_spec(
            self.spec.name,
            config,
            names,
            image_hw=(height, width),
            fixtures=fixtures,
            weights=self.spec.default_weights,
        )
        return RtDetrPoseAdapter(spec, config)

    def check_config(self, config: Mapping[str, Any], where: str) -> None:
        """Compare the settings of a config file with this network; InputError names each that differs."""
        checking.check_config(self.config, self.spec, config, where)

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> ``images`` (1, 3, S, S) float32 in 0..1, resized without keeping the aspect ratio."""
        return process.preprocess(image_rgb_u8, self.spec.image_hw)

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Raw outputs of one image -> the 50 best queries in image pixels with their pose, NaN rows kept."""
        return process.postprocess(
            outputs, meta, max_detections=self.spec.max_detections, score_floor=self.spec.score_floor
        )

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """Make the network in eval mode, float32.

        Args:
            weights: safetensors or plain state dict under official keys; None gives random values whose scores are
                spread, so that two runtimes can be compared at all.
            seed: of the random values.

        Raises:
            InputError: a file that cannot be used, other keys, another config or another number of classes.
        """
        import torch

        from adapters._shared.checkpoints import load_strict, read_state_dict
        from adapters.rtdetr_pose.model import RtDetrPose, spread

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = RtDetrPose(self.config)
            if weights is None:
                spread(network)
        if weights is not None:
            source = f"weights {weights}"
            state = {k: v for k, v in read_state_dict(weights).items() if not k.startswith(TRAINING_PREFIXES)}
            found = config_of({key: tuple(value.shape) for key, value in state.items()}, source)
            if (found.name, found.classes) != (self.config.name, self.config.classes):
                raise InputError(
                    f"{source} are {found.name} with {found.classes} classes, {self.spec.name} is {self.config.name} "
                    f"with {self.config.classes}; --weights fits it to them"
                )
            load_strict(network, state, allow_missing_suffixes=OPTIONAL_SUFFIXES, source=source)
        return network.eval().requires_grad_(False)

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """Write an fp32 ONNX file, dynamic batch, static size, batch norms folded; return the recipe.

        Raises:
            InputError: weights that cannot be used.
            ArtifactError: an opset that does not fit, or a graph that does not reproduce the network.
        """
        from adapters.rtdetr_pose.export import export_onnx

        return export_onnx(self.build(weights), self.spec, out, opset=opset)

    export_heads = deployed.HEADS
    image_multiple = deployed.IMAGE_MULTIPLE

    def export_deployment(self, weights: Path, out: Path, options: ExportOptions) -> Mapping[str, Any]:
        """Write the fp32 file of the raw outputs; see ``bench.deployment.options.Deployable``."""
        from adapters.rtdetr_pose.export import export_deployment

        return export_deployment(self, weights, out, options)

    def deployment_reference(self, weights: Path, options: ExportOptions) -> Reference:
        """The network in torch behind such a file."""
        from adapters.rtdetr_pose.validate import TorchReference

        return TorchReference(self, weights, options)

    def recipe(self) -> Recipe:
        """Of `adapters.rtdetr_pose.train`."""
        from adapters.rtdetr_pose.train import RtDetrPoseRecipe

        return RtDetrPoseRecipe(self)


def _adapter(name: str, class_names: tuple[str, ...], fixtures: str, weights: Path | None = None) -> RtDetrPoseAdapter:
    config = network_config(name, classes=len(class_names))
    spec = make_spec(
        "rtdetr_pose", config, class_names, image_hw=(SIDE_PX, SIDE_PX), fixtures=fixtures, weights=weights
    )
    return RtDetrPoseAdapter(spec, config)


adapter = _adapter("tiny", SHAPES_NAMES, "shapes", CHECKPOINTS / "rtdetr_pose-shapes.safetensors")
"""``tiny`` on ``shapes``, with shipped weights; given weights decide config, classes and size (``fitted``)."""
base_adapter = _adapter("base", COCO_NAMES, "coco128")
"""``base`` with COCO's classes, official keys; ships no weights."""
