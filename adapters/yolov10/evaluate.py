"""AP of a network on a fixture set, through the adapter's own pre- and post-processing and pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np

from adapters.yolov10 import process
from adapters.yolov10.data import read_rgb
from bench.geometry import xywh_from_xyxy

if TYPE_CHECKING:
    import torch

    from bench.types import Array, FixtureSet

BATCH = 32
STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class Evaluator:
    """Preprocessed images of one set, kept as uint8, and its ground truth.

    Args:
        fixtures: the set.
        label_of: category id -> label.
        side_px: side of the network input.
    """

    def __init__(self, fixtures: FixtureSet, label_of: dict[int, int], side_px: int) -> None:
        self._fixtures = fixtures
        self._category_of = {label: category for category, label in label_of.items()}
        self._canvases: list[Array] = []
        self._metas = []
        for sample in fixtures.samples:
            image = read_rgb(sample.path)
            canvas, box = process.letterbox(image, (side_px, side_px))
            self._canvases.append(canvas.transpose(2, 0, 1))
            self._metas.append({"letterbox": box})

    def __call__(self, network: torch.nn.Module) -> dict[str, float]:
        """Return the twelve COCO statistics of ``network`` (put into eval mode), -1 where undefined."""
        import torch

        network.eval()
        found: list[dict[str, object]] = []
        with torch.inference_mode():
            for start in range(0, len(self._canvases), BATCH):
                images = torch.from_numpy(np.stack(self._canvases[start : start + BATCH])).float() / 255
                boxes, scores = network(images.contiguous(memory_format=torch.channels_last))
                for offset in range(len(boxes)):
                    outputs = {"boxes_cxcywh": boxes[offset, None].numpy(), "scores": scores[offset, None].numpy()}
                    found += self._detections(start + offset, outputs)
        return self._score(found)

    def _detections(self, index: int, outputs: dict[str, Array]) -> list[dict[str, object]]:
        result = process.postprocess(outputs, self._metas[index], max_detections=300, score_floor=0.001)
        image_id = self._fixtures.samples[index].image_id
        boxes_xywh = xywh_from_xyxy(result.boxes_xyxy).tolist()
        return [
            {"image_id": image_id, "category_id": self._category_of[label], "bbox": box, "score": score}
            for box, label, score in zip(boxes_xywh, result.labels.tolist(), result.scores.tolist(), strict=True)
            if label in self._category_of
        ]

    def _score(self, found: list[dict[str, object]]) -> dict[str, float]:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not found:
            return dict.fromkeys(STAT_NAMES, 0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = {
                "info": {},
                "images": [{"id": s.image_id, "width": s.width, "height": s.height} for s in self._fixtures.samples],
                "categories": [dict(c) for c in self._fixtures.categories],
                "annotations": [dict(a) for a in self._fixtures.annotations],
            }
            truth.createIndex()
            judge = COCOeval(truth, truth.loadRes(found), "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return {name: float(value) for name, value in zip(STAT_NAMES, judge.stats, strict=True)}
