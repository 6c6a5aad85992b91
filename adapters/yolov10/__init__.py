"""YOLOv10 (arXiv 2405.14458), an own implementation; importing it needs numpy and cv2, not torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.yolov10 import process
from adapters.yolov10.names import COCO_NAMES, SHAPES_NAMES
from bench.errors import InputError
from bench.types import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from bench.types import Array, Prediction

CHECKPOINTS = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
FLOAT_NODES = (
    r"^/model\.23/one2one_cv[23]\.\d/one2one_cv[23]\.\d\.2/",
    r"^/model\.23/dfl/",
    r"^/model\.23/[^/]+$",
)
"""The last 1x1 convolutions, the expectation over bins, and the decode: nodes directly in the head's scope."""


def make_spec(
    name: str,
    side_px: int,
    class_names: tuple[str, ...],
    fixtures: str,
    weights: Path | None,
    licence: str,
    preprocess_goldens: Path | None = None,
) -> ModelSpec:
    """Describe one registered model: a square input and dense predictions before the top-k."""
    anchors = sum((side_px // stride) ** 2 for stride in (8, 16, 32))
    return ModelSpec(
        name=name,
        task="detect",
        inputs=(TensorSpec(name="images", shape=("batch", 3, side_px, side_px), dtype="float32"),),
        outputs=(
            TensorSpec(name="boxes_cxcywh", shape=("batch", 4, anchors), dtype="float32"),
            TensorSpec(name="scores", shape=("batch", len(class_names), anchors), dtype="float32"),
        ),
        image_hw=(side_px, side_px),
        preprocessing={
            "method": "letterbox",
            "resize_interp": "linear",
            "letterbox_fill": [process.PAD_VALUE] * 3,
            "input_color": "RGB",
            "normalize": "0_1",
        },
        class_names=class_names,
        default_fixtures=fixtures,
        default_weights=weights,
        float_nodes=FLOAT_NODES,
        preprocess_goldens=preprocess_goldens,
        licence=licence,
        origin="own implementation from arXiv 2405.14458; no upstream code",
    )


class YoloV10Adapter:
    """One YOLOv10 variant with its classes and its input size.

    Args:
        spec: what the harness knows of it.
        variant: key of ``model.VARIANTS``.
    """

    def __init__(self, spec: ModelSpec, variant: str) -> None:
        self.spec = spec
        self.variant = variant

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> ``images`` (1, 3, S, S) float32 in 0..1, letterboxed; meta holds the geometry."""
        return process.preprocess(image_rgb_u8, self.spec.image_hw)

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Raw outputs of one image -> the 300 best (anchor, class) pairs in image pixels, NaN rows kept."""
        return process.postprocess(
            outputs, meta, max_detections=self.spec.max_detections, score_floor=self.spec.score_floor
        )

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """Make the network in eval mode, float32, without the head that only training needs.

        Args:
            weights: safetensors or plain state dict under official keys; None gives random values.
            seed: of the random values.

        Raises:
            InputError: a file that cannot be used, other keys, or another number of classes.
        """
        import torch

        from adapters._shared.checkpoints import load_strict, read_state_dict
        from adapters.yolov10.model import ONE2MANY_PREFIXES, YoloV10, classes_in

        classes = len(self.spec.class_names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = YoloV10(self.variant, classes)
        if weights is not None:
            source = f"weights {weights}"
            state = read_state_dict(weights)
            found = classes_in(state, source)
            if found != classes:
                other = (
                    " (COCO weights: type --models adapters.yolov10:coco_adapter)" if found == len(COCO_NAMES) else ""
                )
                raise InputError(f"{source} have {found} classes, {self.spec.name} has {classes}{other}")
            load_strict(network, state, allow_missing_prefixes=ONE2MANY_PREFIXES, source=source)
        network.head.drop_one2many()
        return network.eval().requires_grad_(False)

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """Write an fp32 ONNX file, dynamic batch, static size, batch norms folded; return the recipe.

        Raises:
            InputError: weights that cannot be used.
            ArtifactError: the exported graph does not reproduce the network.
        """
        from adapters.yolov10.export import export_onnx

        return export_onnx(self.build(weights), self.spec, out, opset=opset)

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """Train from random values and return the path of the best weights.

        Raises:
            UsageError: an option that `config.TrainConfig` does not have, or a value that does not fit.
            InputError: a fixture set whose categories are not the model's classes.
        """
        from adapters.yolov10.config import TrainConfig

        options = {"fixtures": self.spec.default_fixtures, "image_size": self.spec.image_hw[0], **config}
        parsed = TrainConfig.parse(options)
        from adapters.yolov10.train import fit
        from bench.fixtures import resolve

        train, val = (resolve(parsed.fixtures, split=split) for split in ("train", "val"))
        return fit(parsed, train, val, self.spec.class_names, self.variant, out)


adapter = YoloV10Adapter(
    make_spec(
        "yolov10n",
        320,
        SHAPES_NAMES,
        "shapes",
        CHECKPOINTS / "yolov10n-shapes.safetensors",
        "Apache-2.0 (code and shipped weights, both made here)",
        preprocess_goldens=Path(__file__).resolve().parent / "goldens" / "preprocess-shapes.json",
    ),
    variant="n",
)
"""Trained here on the generated set ``shapes``; ships its weights."""

coco_adapter = YoloV10Adapter(
    make_spec(
        "yolov10n-coco",
        640,
        COCO_NAMES,
        "coco128",
        None,
        "Apache-2.0 (code); weights are the user's, upstream AGPL-3.0",
    ),
    variant="n",
)
"""Takes official 80-class weights with ``--weights``; ships none."""
