"""Files for deployment: which outputs they have, and how a program reads them. numpy only.

==========  ==========================================================================================================
``dense``   ``boxes_cxcywh`` (B, 4, A) input pixels and ``scores`` (B, nc, A) of the one-to-one head
``raw``     ``distances`` (B, 4, A) left top right bottom in strides and ``class_logits`` (B, nc, A), same head
``topk``    ``detections`` (B, N, 6) x1 y1 x2 y2 score class of the one-to-one head, input pixels, best first
``nms``     the same rows of the one-to-many head after class-wise NMS, zero-padded, and ``num_dets`` (B,)
==========  ==========================================================================================================

A anchors, nc classes, N = ``max_detections``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.yolov10 import process
from adapters.yolov10.variants import STRIDES
from bench.errors import ContractError
from bench.types import Prediction

if TYPE_CHECKING:
    from bench.types import Array

HEADS: Mapping[str, tuple[str, ...]] = {
    "dense": (),
    "raw": (),
    "topk": ("max_detections",),
    "nms": ("conf", "iou", "max_detections"),
}
"""Head -> thresholds inside the file."""
SELECTING = ("topk", "nms")
IMAGE_MULTIPLE = STRIDES[-1]
DENSE = ("boxes_cxcywh", "scores")
_ROWS = "rows x1 y1 x2 y2 score class, input pixels, best score first"


def anchors_in(image_hw: tuple[int, int]) -> int:
    """Number of anchors A of an input of this size."""
    return sum((image_hw[0] // stride) * (image_hw[1] // stride) for stride in STRIDES)


def describe_outputs(head: str, image_hw: tuple[int, int], classes: int, max_detections: int) -> list[dict[str, Any]]:
    """Name, shape, dtype and convention of every output of a head."""
    anchors = anchors_in(image_hw)
    order = "anchors stride by stride (8, 16, 32), row by row"

    def entry(name: str, shape: list[Any], convention: str, dtype: str = "float32") -> dict[str, Any]:
        return {"name": name, "shape": ["batch", *shape], "dtype": dtype, "convention": convention}

    if head == "dense":
        return [
            entry("boxes_cxcywh", [4, anchors], f"centre x, centre y, width, height in input pixels; {order}"),
            entry("scores", [classes, anchors], f"sigmoid scores per class; {order}"),
        ]
    if head == "raw":
        return [
            entry("distances", [4, anchors],
                  f"left, top, right, bottom of the anchor's centre in strides (expectation over bins); {order}"),
            entry("class_logits", [classes, anchors], f"logits per class, before the sigmoid; {order}"),
        ]  # fmt: skip
    if head == "topk":
        return [entry("detections", [max_detections, 6], f"{_ROWS}; no threshold, no NMS; zero rows only when there "
                      "are fewer (anchor, class) pairs than rows")]  # fmt: skip
    return [
        entry("detections", [max_detections, 6], f"{_ROWS}; zero rows after num_dets"),
        entry("num_dets", [], "number of rows that hold a detection", "int32"),
    ]


def dense_from_raw(outputs: Mapping[str, Array], image_hw: tuple[int, int]) -> dict[str, Array]:
    """``distances`` (B, 4, A) in strides and ``class_logits`` (B, nc, A) -> ``boxes_cxcywh`` in pixels, ``scores``."""
    distances, logits = outputs["distances"], outputs["class_logits"]
    centres, strides = _anchors(image_hw)
    low, high = distances[:, :2], distances[:, 2:]
    boxes = np.concatenate((centres + (high - low) / 2, low + high), axis=1) * strides
    with np.errstate(over="ignore"):  # exp(-logit) of a logit far below zero: the score is 0
        scores = 1 / (1 + np.exp(-logits))
    return {"boxes_cxcywh": boxes.astype(distances.dtype), "scores": scores.astype(logits.dtype)}


def strides_px(image_hw: tuple[int, int]) -> Array:
    """(A,) stride of every anchor, pixels."""
    return _anchors(image_hw)[1]


def read_rows(outputs: Mapping[str, Array], classes: int) -> list[Prediction]:
    """Outputs of a file that selects -> the detections of each image: corners in input pixels, best first.

    Raises:
        ContractError: rows out of order, a class that does not exist, or a row that is not zero after the last.
    """
    detections, found = outputs["detections"], []
    for image, rows in enumerate(detections):
        count = int(outputs["num_dets"][image]) if "num_dets" in outputs else len(rows)
        where = f"detections of image {image}"
        if not 0 <= count <= len(rows):
            raise ContractError(f"{where}: num_dets is {count}, there are {len(rows)} rows")
        if rows[count:].any():
            raise ContractError(f"{where}: row {count + int(rows[count:].any(1).argmax())} after num_dets is not zero")
        scores, labels = rows[:count, 4], rows[:count, 5]
        if (np.diff(scores) > 0).any():
            raise ContractError(
                f"{where}: row {1 + int((np.diff(scores) > 0).argmax())} has a better score than before"
            )
        strange = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
        if strange.any():
            at = int(strange.argmax())
            raise ContractError(f"{where}: row {at} has class {labels[at]}, the model has {classes}")
        found.append(Prediction(boxes_xyxy=rows[:count, :4], scores=scores, labels=labels.astype(np.int64)))
    return found


def postprocess(
    head: str, outputs: Mapping[str, Array], meta: Mapping[str, Any], *, image_hw: tuple[int, int], classes: int,
    max_detections: int, score_floor: float,
) -> Prediction:  # fmt: skip
    """Outputs of one image -> detections in pixels of the original image.

    Args:
        head: key of `HEADS`.
        outputs: of the file, B = 1.
        meta: second result of ``process.preprocess``.
        image_hw: input size, pixels.
        classes: nc.
        max_detections: at most this many rows.
        score_floor: rows below are dropped; rows with a non-finite number never are.
    """
    if head in SELECTING:
        (found,) = read_rows(outputs, classes)
        limit = slice(0, max_detections)
        kept = Prediction(found.boxes_xyxy[limit], found.scores[limit], found.labels[limit])
        return process.to_image(kept, meta, score_floor=score_floor)
    dense = dense_from_raw(outputs, image_hw) if head == "raw" else outputs
    return process.postprocess(dense, meta, max_detections=max_detections, score_floor=score_floor)


def _anchors(image_hw: tuple[int, int]) -> tuple[Array, Array]:
    """(2, A) centres x y in grid cells and (A,) strides in pixels, float32."""
    centres, strides = [], []
    for stride in STRIDES:
        height, width = image_hw[0] // stride, image_hw[1] // stride
        y, x = np.mgrid[:height, :width] + 0.5
        centres.append(np.stack((x.ravel(), y.ravel())))
        strides.append(np.full(height * width, stride))
    return np.concatenate(centres, 1).astype(np.float32), np.concatenate(strides).astype(np.float32)
