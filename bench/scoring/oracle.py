"""The same numbers from an independent scorer: pycocotools, the oracle of the field, or hotcoco where that is slow.

Kept away from both: ids (pycocotools reads id 0 as "no match"), -1 for undefined, what they print, and empty
predictions, which pycocotools' own loader cannot read.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from bench.errors import UsageError
from bench.results import CrossCheck
from bench.scoring.protocol import PROTOCOLS, Task
from bench.scoring.truth import truth_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.scoring.table import Detections
    from bench.scoring.truth import Truth
    from bench.types import FixtureSet

Scorer: TypeAlias = Literal["pycocotools", "hotcoco"]

SLOW_S = 10.0
"""From this estimate on hotcoco takes over, where it is installed."""
LARGEST_DIFFERENCE = 1e-12
"""Doubles averaged in another order differ by some 1e-15; one detection judged otherwise by 1e-7 and more."""

_COST_S: dict[Task, tuple[float, float, float]] = {"detect": (25e-6, 25e-6, 6e-6), "pose": (5e-6, 65e-6, 17e-6)}
"""Of pycocotools 2.0.11, per image and class, per detection, and per pair of a detection and an object of its class:
least squares over ten sets of 940 to 50,000 detections, measured 2026-11-21 on a shared core."""


def cross_check(
    fixtures: FixtureSet,
    detections: Detections,
    stats: Mapping[str, float | None],
    *,
    task: Task = "detect",
    scorer: Scorer | None = None,
) -> CrossCheck | None:
    """Compute the numbers again with somebody else's code.

    Args:
        fixtures: as for ``match``.
        detections: as for ``match``.
        stats: what ``match`` found.
        task: as for ``match``.
        scorer: which one; None: pycocotools, or hotcoco where it is installed and pycocotools would take over
            ``SLOW_S`` seconds.

    Returns:
        The largest difference and whether it is rounding; None for empty predictions, which are not cross-checked: both
        scorers are asked about detections, and there are none.

    Raises:
        UsageError: hotcoco was asked for and is not installed.
    """
    if not len(detections):
        return None
    truth = truth_arrays(fixtures, task=task)
    if scorer is None:
        slow = estimate_pycocotools_s(truth, detections) > SLOW_S
        scorer = "hotcoco" if slow and importlib.util.find_spec("hotcoco") is not None else "pycocotools"
    if scorer == "hotcoco" and importlib.util.find_spec("hotcoco") is None:
        raise UsageError("the scorer hotcoco is not installed: pip install hotcoco, or cross-check with pycocotools")
    again = (_score_pycocotools if scorer == "pycocotools" else _score_hotcoco)(truth, detections)
    largest = max((_apart(stats[name], value) for name, value in again.items()), default=0.0)
    return CrossCheck(
        scorer=f"{scorer} {importlib.metadata.version(scorer)}",
        max_abs_difference=largest,
        agrees=set(stats) == set(again) and largest <= LARGEST_DIFFERENCE,
    )


def estimate_pycocotools_s(truth: Truth, detections: Detections) -> float:
    """Seconds that pycocotools would take, within a factor of about two (see ``_COST_S``)."""
    _, image, category = _columns(truth, detections)
    images = len(truth.image_ids) + 1
    found, per_group = np.unique(category * images + image, return_counts=True)
    objects, per_object_group = np.unique((truth.category + 1) * images + truth.image + 1, return_counts=True)
    _, a, b = np.intersect1d(found, objects, assume_unique=True, return_indices=True)
    compared = np.minimum(per_group, PROTOCOLS[truth.task].max_detections[-1])
    pairs = int((compared[a] * per_object_group[b]).sum())
    cell, detection, pair = _COST_S[truth.task]
    return len(truth.image_ids) * len(truth.category_ids) * cell + int(compared.sum()) * detection + pairs * pair


def _apart(mine: float | None, theirs: float | None) -> float:
    if mine is None or theirs is None:
        return 0.0 if mine is theirs else math.inf
    apart = abs(mine - theirs)
    return apart if math.isfinite(apart) else math.inf


def _score_pycocotools(truth: Truth, detections: Detections) -> dict[str, float | None]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (_truth_rows(truth), _detection_rows(truth, detections)):
            side = COCO()
            side.dataset = {**_listing(truth), "annotations": annotations}
            side.createIndex()
            sides.append(side)
        engine = COCOeval(*sides, iouType=_iou_type(truth))
        if truth.sigmas is not None:
            engine.params.kpt_oks_sigmas = truth.sigmas
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return _named(truth, engine.stats)


def _score_hotcoco(truth: Truth, detections: Detections) -> dict[str, float | None]:
    import hotcoco

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # the set's own sigmas are meant; it says that they are not COCO's
        warnings.filterwarnings("ignore", message="hotcoco: kpt_oks_sigmas", category=UserWarning)
        side = hotcoco.COCO({**_listing(truth), "annotations": _truth_rows(truth)})
        rows = _detection_array if truth.task == "detect" else _detection_rows
        found = side.load_res(rows(truth, detections))
        engine = hotcoco.COCOeval(side, found, _iou_type(truth))
        if truth.sigmas is not None:
            engine.params.kpt_oks_sigmas = truth.sigmas.tolist()
        engine.evaluate()
        engine.accumulate()
        engine.summarize()
    return _named(truth, engine.stats)


def _named(truth: Truth, values: Any) -> dict[str, float | None]:
    names = [stat.name for stat in PROTOCOLS[truth.task].stats]
    return {name: None if value < 0 else float(value) for name, value in zip(names, values, strict=True)}


def _iou_type(truth: Truth) -> str:
    return "bbox" if truth.task == "detect" else "keypoints"


def _listing(truth: Truth) -> dict[str, Any]:
    """Images and categories under new ids: 1 to I and 1 to C, in the order of the old ones."""
    return {
        "images": [{"id": i} for i in range(1, len(truth.image_ids) + 1)],
        "categories": [{"id": c, "name": str(c)} for c in range(1, len(truth.category_ids) + 1)],
    }


def _truth_rows(truth: Truth) -> list[dict[str, Any]]:
    keypoints: Any = [None] * len(truth) if truth.keypoints_xyv is None else truth.keypoints_xyv.reshape(len(truth), -1)
    rows = []
    for index, (image, category, box, area, crowd, ignored, points) in enumerate(
        zip(
            truth.image.tolist(),
            truth.category.tolist(),
            truth.boxes_xywh.tolist(),
            truth.area_px2.tolist(),
            truth.crowd.tolist(),
            truth.ignored.tolist(),
            keypoints,
            strict=True,
        ),
        start=1,
    ):
        row = {
            "id": index,
            "image_id": image + 1,
            "category_id": category + 1,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        if points is not None:
            row |= {"keypoints": points.tolist(), "num_keypoints": int(not ignored)}
        rows.append(row)
    return rows


def _columns(truth: Truth, detections: Detections) -> tuple[Any, Any, Any]:
    """Rows that are scored, their image and category under the new ids."""
    rows = np.flatnonzero(np.isin(detections.category_ids, truth.category_ids))
    image = np.searchsorted(truth.image_ids, detections.image_ids[rows]) + 1
    category = np.searchsorted(truth.category_ids, detections.category_ids[rows]) + 1
    return rows, image, category


def _detection_rows(truth: Truth, detections: Detections) -> list[dict[str, Any]]:
    rows, image, category = _columns(truth, detections)
    boxes = detections.boxes_xywh[rows].tolist()
    columns = zip(image.tolist(), category.tolist(), boxes, detections.scores[rows].tolist(), strict=True)
    made: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "score": value,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (image_id, category_id, box, value) in enumerate(columns, start=1)
    ]
    if truth.task == "pose" and detections.keypoints_xyv is not None:
        for row, points in zip(made, detections.keypoints_xyv[rows].reshape(len(made), -1), strict=True):
            row["keypoints"] = points.tolist()
    return made


def _detection_array(truth: Truth, detections: Detections) -> Any:
    rows, image, category = _columns(truth, detections)
    return np.column_stack((image, detections.boxes_xywh[rows], detections.scores[rows], category))
