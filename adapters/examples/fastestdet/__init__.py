"""FastestDet: a complete adapter for a third-party detector with real COCO weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from adapters._shared.coco import COCO_NAMES
from adapters.examples.fastestdet.process import INPUT_SIZE, NMS_IOU, Recipe, decode, select, to_input
from bench.errors import Unsupported
from bench.types import ModelSpec, Prediction, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array

GRID = INPUT_SIZE // 16


@dataclass(frozen=True, slots=True)
class FastestDet:
    """The adapter; ``recipe`` is there to show what each choice around the network costs."""

    recipe: Recipe = field(default_factory=Recipe)

    # The tensor names are those of the upstream ONNX file, so that it runs as it is.
    spec: ClassVar[ModelSpec] = ModelSpec(
        name="fastestdet",
        task="detect",
        inputs=(TensorSpec(name="input.1", shape=("batch", 3, INPUT_SIZE, INPUT_SIZE), dtype="float32"),),
        outputs=(TensorSpec(name="758", shape=("batch", 5 + len(COCO_NAMES), GRID, GRID), dtype="float32"),),
        image_hw=(INPUT_SIZE, INPUT_SIZE),
        preprocessing={"method": "resize", "resize_interp": "linear", "input_color": "BGR", "normalize": "0_1"},
        class_names=COCO_NAMES,
        default_fixtures="coco128",
        preprocess_goldens=Path(__file__).resolve().parent / "goldens" / "preprocess-coco128.json",
        score_floor=0.001,
        max_detections=100,
        nms_iou=NMS_IOU,
        float_nodes=(
            "^Conv_249$",
            "detect_head",
        ),  # the first convolution of the head there, the head's weights in ours
        licence="BSD-3-Clause",
        origin="https://github.com/dog-qiuqiu/FastestDet",
    )

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """(H, W, 3) uint8 RGB -> feeds with B = 1, and the size of the image."""
        return {"input.1": to_input(image_rgb_u8, self.recipe)}, {"image_hw": image_rgb_u8.shape[:2]}

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Raw outputs with B = 1 -> detections in pixels of the original image."""
        return select(*decode(outputs["758"], meta["image_hw"]), meta["image_hw"], self.recipe)

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """Return the network in eval mode, with ``weights`` (.pth state dict or .safetensors) or seeded random ones."""
        import torch

        from adapters._shared.checkpoints import load_strict, read_state_dict
        from adapters.examples.fastestdet.model import FastestDetNet

        torch.manual_seed(seed)
        network = FastestDetNet(len(COCO_NAMES))
        if weights is not None:
            _refuse_onnx(weights)
            load_strict(network, read_state_dict(weights), source=str(weights))
        return network.eval()

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """Write ``out`` with the names of ``spec`` and a dynamic batch axis; return the recipe."""
        from adapters.examples.fastestdet.export import export_onnx

        return export_onnx(self.build(weights), self.spec, out, opset=opset)

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """Raise Unsupported: this example brings weights that were trained elsewhere."""
        raise Unsupported(
            "fastestdet is not trained here: train it with dog-qiuqiu/FastestDet, pass the .pth as --weights"
        )


def _refuse_onnx(weights: Path) -> None:
    if weights.suffix == ".onnx":
        raise Unsupported(f"{weights}: there is no torch module in an .onnx; give the .pth, or only ONNX backends")


adapter = FastestDet()
