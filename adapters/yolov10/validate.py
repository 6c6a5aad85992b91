"""The network in torch behind a file for deployment, for the comparison with the file.

Selected detections are compared with a selection in numpy, so that the graph's own is not judged by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapters._shared.reference import NetworkReference
from adapters.yolov10 import deployed, process
from adapters.yolov10.export import deployed_network
from adapters.yolov10.nms import nms
from bench.geometry import xyxy_from_cxcywh
from bench.types import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from adapters.yolov10 import YoloV10Adapter
    from bench.deployment.options import ExportOptions
    from bench.types import Array


class TorchReference(NetworkReference):
    """``bench.deployment.options.Reference`` of this model.

    Args:
        adapter: the model.
        weights: of the file.
        options: of the file.

    Raises:
        InputError: as ``export.deployed_network``.
    """

    def __init__(self, adapter: YoloV10Adapter, weights: Path, options: ExportOptions) -> None:
        self._options = options
        self._classes = len(adapter.spec.class_names)
        super().__init__(
            deployed_network(adapter, weights, options.head),
            images=adapter.spec.inputs[0].name,
            names=("distances", "class_logits") if options.head == "raw" else deployed.DENSE,
            image_hw=options.image_hw,
        )

    def feeds(self, image_rgb_u8: Array) -> dict[str, Array]:
        """(H, W, 3) uint8 RGB -> ``images`` (1, 3, *image_hw) float32."""
        return process.preprocess(image_rgb_u8, self._options.image_hw)[0]

    def scaled(self, outputs: Mapping[str, Array]) -> dict[str, tuple[str, Array]]:
        """Boxes and distances as shares of the longer side, scores as they are, logits as the scores they give."""
        side = max(self._options.image_hw)
        if self._options.head != "raw":
            return {
                "boxes_cxcywh": ("share of the longer side", outputs["boxes_cxcywh"] / side),
                "scores": ("score", outputs["scores"]),
            }
        shares = outputs["distances"] * deployed.strides_px(self._options.image_hw) / side
        scores = deployed.dense_from_raw(outputs, self._options.image_hw)["scores"]
        return {"distances": ("share of the longer side", shares), "class_logits": ("score", scores)}

    def select(self, outputs: Mapping[str, Array], *, iou_shift: float = 0.0) -> list[Prediction]:
        """Detections per image from ``boxes_cxcywh`` and ``scores``, in input pixels.

        Args:
            outputs: dense outputs.
            iou_shift: added to the overlap threshold, to see which boxes lie at it.
        """
        options, found = self._options, []
        boxes, scores = (np.asarray(outputs[name], np.float32) for name in deployed.DENSE)
        for of_image, of_scores in zip(boxes, scores, strict=True):
            if options.head == "nms":
                corners = xyxy_from_cxcywh(of_image.T)
                limits = {"conf": options.conf, "iou": options.iou + iou_shift}
                found.append(nms(corners, of_scores, max_detections=options.max_detections, **limits))
            else:
                best, values, labels = process.select(of_image, of_scores, options.max_detections)
                found.append(Prediction(boxes_xyxy=xyxy_from_cxcywh(best), scores=values, labels=labels))
        return found

    def read(self, outputs: Mapping[str, Array]) -> list[Prediction]:
        """Rows of a file that selects, per image; ContractError when they break its convention."""
        return deployed.read_rows(outputs, self._classes)
