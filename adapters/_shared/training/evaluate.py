"""The AP of a network during training: the adapter's own pre- and post-processing and the suite's own scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.errors import InputError
from bench.fixtures import category_ids, read_image_rgb
from bench.scoring import from_predictions, match
from bench.scoring.truth import truth_arrays
from bench.types import Prediction

if TYPE_CHECKING:
    from torch import nn

    from bench.types import Adapter, Array, FixtureSet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """One preprocessed image."""

    index: int
    """In the set's order."""
    feeds: dict[str, Array]
    """Input name -> array with B = 1."""
    meta: Mapping[str, Any]


class Judge:
    """Images by index, preprocessed, and the scores of what a network found on them. Ground truth is parsed once.

    Args:
        adapter: of the model, with the classes of this run.
        fixtures: images and truth.
        max_detections: per image; None: the model's own limit.
        score_floor: of detections; None: the model's own. One that is not finite is never dropped.

    Raises:
        InputError: a class of the model that the set does not have, or a set without any object to find.
    """

    def __init__(
        self,
        adapter: Adapter,
        fixtures: FixtureSet,
        max_detections: int | None = None,
        score_floor: float | None = None,
    ) -> None:
        self._adapter = adapter
        self.fixtures = fixtures
        self._max_detections = max_detections
        self._score_floor = score_floor
        self._categories = category_ids(adapter.spec.class_names, fixtures)
        self._truth = truth_arrays(fixtures, task=adapter.spec.task)
        if not len(self._truth) or bool(self._truth.ignored.all()):
            raise InputError(f"{fixtures.name}: its {fixtures.split} images hold no object, so no AP can be computed.")

    def __len__(self) -> int:
        return len(self.fixtures.samples)

    def __getitem__(self, index: int) -> Prepared:
        """Decode and preprocess one image."""
        sample = self.fixtures.samples[index]
        feeds, meta = self._adapter.preprocess(read_image_rgb(sample.path, (sample.height, sample.width)))
        return Prepared(index=index, feeds=feeds, meta=meta)

    def detect(self, network: nn.Module, items: list[Prepared], device: torch.device) -> dict[int, Prediction]:
        """Run ``network`` (inference form) on a batch; image id -> detections in pixels of the image."""
        spec = self._adapter.spec
        feeds = [
            torch.from_numpy(np.concatenate([item.feeds[tensor.name] for item in items])).to(device)
            for tensor in spec.inputs
        ]
        with torch.inference_mode():
            outputs = [tensor.cpu().numpy() for tensor in network(*feeds)]
        found = {}
        for row, item in enumerate(items):
            named = {t.name: out[row : row + 1] for t, out in zip(spec.outputs, outputs, strict=True)}
            prediction = self._adapter.postprocess(named, item.meta)
            found[self.fixtures.samples[item.index].image_id] = self._limited(prediction)
        return found

    def score(self, predictions: Mapping[int, Prediction]) -> dict[str, float | None]:
        """COCO's numbers by name, 0..1; None where the truth defines none.

        Raises:
            InputError: a detection that is not finite.
        """
        table = from_predictions(predictions, self._categories)
        matched = match(self.fixtures, table, task=self._adapter.spec.task, truth=self._truth)
        return dict(matched.stats)

    def _limited(self, prediction: Prediction) -> Prediction:
        kept = np.arange(len(prediction.scores))
        if self._score_floor is not None:
            kept = kept[~(prediction.scores < self._score_floor)]
        kept = kept[: self._max_detections]
        if len(kept) == len(prediction.scores):
            return prediction
        points, attributes = prediction.keypoints_xys, prediction.attributes
        return Prediction(
            boxes_xyxy=prediction.boxes_xyxy[kept],
            scores=prediction.scores[kept],
            labels=prediction.labels[kept],
            keypoints_xys=None if points is None else points[kept],
            attributes=None if attributes is None else {name: rows[kept] for name, rows in attributes.items()},
        )
