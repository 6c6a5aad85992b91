"""YOLOv10 (arXiv 2405.14458) in six variants, an own implementation; importing it needs numpy and cv2, not torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters._shared.classes import class_names_of
from adapters._shared.trained import Trained
from adapters.yolov10 import deployed, process
from adapters.yolov10.names import COCO_NAMES, SHAPES_NAMES
from adapters.yolov10.variants import (
    ONE2MANY_PREFIXES,
    OPTIONAL_SUFFIXES,
    STRIDES,
    VARIANTS,
    classes_of,
    require_variant,
)
from bench.errors import InputError
from bench.types import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from adapters._shared.training.recipe import Recipe
    from bench.deployment.options import ExportOptions, Reference
    from bench.types import Array, Prediction

CHECKPOINTS = Path(__file__).resolve().parents[2] / "fixtures" / "checkpoints"
FLOAT_NODES = (
    r"^/model\.23/one2one_cv[23]\.\d/one2one_cv[23]\.\d\.2/",
    r"^/model\.23/dfl/",
    r"^/model\.23/[^/]+$",
)
"""The last 1x1 convolutions, the expectation over bins, and the decode: nodes directly in the head's scope."""


COCO_SIDE_PX = 640
COCO_FIXTURES = "coco128"
LICENCE = "Apache-2.0 (code); official weights AGPL-3.0"


def make_spec(
    variant: str,
    image_hw: tuple[int, int],
    class_names: tuple[str, ...],
    fixtures: str,
    weights: Path | None = None,
    licence: str = LICENCE,
    preprocess_goldens: Path | None = None,
) -> ModelSpec:
    """Describe one variant with its classes: a static input and dense predictions before the top-k.

    Args:
        variant: key of ``variants.VARIANTS``.
        image_hw: input height and width in pixels, multiples of 32.
        class_names: name of label 0, 1, ...
        fixtures: set used when none is asked for.
        weights: weights used when none are given.
        licence: of code and weights.
        preprocess_goldens: hashes of preprocessed images of ``fixtures`` at this size.
    """
    height, width = image_hw
    anchors = sum((height // stride) * (width // stride) for stride in STRIDES)
    return ModelSpec(
        name=f"yolov10{variant}",
        task="detect",
        inputs=(TensorSpec(name="images", shape=("batch", 3, height, width), dtype="float32"),),
        outputs=(
            TensorSpec(name="boxes_cxcywh", shape=("batch", 4, anchors), dtype="float32"),
            TensorSpec(name="scores", shape=("batch", len(class_names), anchors), dtype="float32"),
        ),
        image_hw=image_hw,
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
        parameters=VARIANTS[variant].parameters(len(class_names)),
        full_scale={"scores": 1.0},
        licence=licence,
        origin="own implementation from arXiv 2405.14458; no upstream code",
    )


class YoloV10Adapter(Trained):
    """One YOLOv10 variant with its classes and its input size.

    Args:
        spec: what the harness knows of it.
        variant: key of ``variants.VARIANTS``.
    """

    def __init__(self, spec: ModelSpec, variant: str) -> None:
        self.spec = spec
        self.variant = variant

    def fitted(self, weights: Path) -> YoloV10Adapter:
        """Return the adapter whose classes and input size are those of ``weights``.

        They are the facts stored with the weights (entry ``parity``: ``class_names``, ``image_size``) where there are
        any; else 80 classes are COCO's at 640 px, and as many classes as the registered model has are its own.

        Raises:
            InputError: a file that cannot be used, another variant, or weights that do not name their classes.
        """
        from adapters._shared.checkpoints import read_facts, read_shapes

        source = f"weights {weights}"
        facts = read_facts(weights)
        if weights.suffix == ".onnx":
            if facts.get("model", self.spec.name) != self.spec.name:
                raise InputError(
                    f"{source} are of {facts['model']}, not of {self.spec.name}. Type: --models {facts['model']}"
                )
            return self._with_facts(weights, facts) if "class_names" in facts else self
        shapes = read_shapes(weights)
        require_variant(shapes, self.variant, source)
        names = class_names_of(
            facts,
            classes_of(shapes, source),
            known={self.spec.name: self.spec.class_names, "COCO": COCO_NAMES},
            image_hw=(COCO_SIDE_PX, COCO_SIDE_PX),
            source=source,
        )
        official = "class_names" not in facts and names == COCO_NAMES
        size = {"image_size": (COCO_SIDE_PX, COCO_SIDE_PX)} if official else {}
        return self._with_facts(weights, {**size, **facts, "class_names": names})

    def _with_facts(self, weights: Path, facts: Mapping[str, Any]) -> YoloV10Adapter:
        """This variant with the classes, and where given the input size, that ``facts`` name."""
        own = self.spec
        names = tuple(facts["class_names"])
        height, width = facts.get("image_size", own.image_hw)
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise InputError(f"weights {weights}: image_size {height} x {width} is no multiple of {STRIDES[-1]} px")
        if (names, (height, width)) == (own.class_names, own.image_hw):
            return self
        known = {COCO_NAMES: COCO_FIXTURES, own.class_names: own.default_fixtures}
        config = facts.get("config")
        trained_on = config.get("fixtures") if isinstance(config, Mapping) else None
        fixtures = known.get(names) or (trained_on if isinstance(trained_on, str) else own.default_fixtures)
        spec = make_spec(self.variant, (height, width), names, fixtures, weights)
        return YoloV10Adapter(replace(spec, name=own.name), self.variant)

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
        from adapters.yolov10.model import YoloV10

        classes = len(self.spec.class_names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = YoloV10(self.variant, classes)
        if weights is not None:
            source = f"weights {weights}"
            state = read_state_dict(weights)
            shapes = {key: tuple(value.shape) for key, value in state.items()}
            found = classes_of(shapes, source)
            require_variant(shapes, self.variant, source)
            if found != classes:
                raise InputError(
                    f"{source} have {found} classes, {self.spec.name} has {classes}; --weights fits it to them"
                )
            load_strict(
                network,
                state,
                allow_missing_prefixes=ONE2MANY_PREFIXES,
                allow_missing_suffixes=OPTIONAL_SUFFIXES,
                source=source,
            )
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

    export_heads = deployed.HEADS
    image_multiple = deployed.IMAGE_MULTIPLE

    def export_deployment(self, weights: Path, out: Path, options: ExportOptions) -> Mapping[str, Any]:
        """Write the fp32 file of one head; see ``bench.deployment.options.Deployable``."""
        from adapters.yolov10.export import export_deployment

        return export_deployment(self, weights, out, options)

    def deployment_reference(self, weights: Path, options: ExportOptions) -> Reference:
        """The network in torch behind such a file."""
        from adapters.yolov10.validate import TorchReference

        return TorchReference(self, weights, options)

    def recipe(self) -> Recipe:
        """Of `adapters.yolov10.train`."""
        from adapters.yolov10.train import YoloV10Recipe

        return YoloV10Recipe(self)


adapter = YoloV10Adapter(
    make_spec(
        "n",
        (320, 320),
        SHAPES_NAMES,
        "shapes",
        CHECKPOINTS / "yolov10n-shapes.safetensors",
        "Apache-2.0 (code and shipped weights)",
        preprocess_goldens=Path(__file__).resolve().parent / "goldens" / "preprocess-shapes.json",
    ),
    variant="n",
)
"""Trained here on the generated set ``shapes``; ships its weights."""


def _coco(variant: str) -> YoloV10Adapter:
    """A variant that ships no weights; without others its classes are COCO's."""
    return YoloV10Adapter(make_spec(variant, (COCO_SIDE_PX, COCO_SIDE_PX), COCO_NAMES, COCO_FIXTURES), variant)


adapter_s, adapter_m, adapter_b, adapter_l, adapter_x = (_coco(variant) for variant in "smblx")
