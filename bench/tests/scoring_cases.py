"""Random sets for the scoring tests, and pycocotools' own arrays for them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from bench.scoring import Detections
from bench.types import FixtureSet, Sample

COCO_NAMES = [
    "nose",
    *(
        f"{side}_{part}"
        for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
]
AP10K_NAMES = [
    *("L_Eye", "R_Eye", "Nose", "Neck", "Root_of_tail"),
    *(f"{side}_{part}" for side in "LR" for part in ("Shoulder", "Elbow", "F_Paw")),
    *(f"{side}_{part}" for side in "LR" for part in ("Hip", "Knee", "B_Paw")),
]


def make_set(
    annotations: list[dict[str, Any]],
    *,
    images: int = 2,
    categories: tuple[int, ...] = (1, 3),
    named: bool = True,
    **of_category: Any,
) -> FixtureSet:
    return FixtureSet(
        name="tiny",
        split="val",
        samples=tuple(Sample(image_id=i + 1, path=Path(f"{i + 1}.jpg"), width=640, height=640) for i in range(images)),
        categories=tuple({"id": i, "name": f"c{i}", **of_category} for i in categories),
        annotations=tuple(annotations),
        sha256="0" * 64,
        named_categories=named,
    )


def random_case(
    seed: int = 0,
    *,
    images: int = 40,
    categories: int = 4,
    objects: int = 150,
    noise: int = 200,
    crowd: float = 0.05,
    decimals: int = 6,
    shift: float = 0.08,
    hit: float = 0.85,
    empty_images: int = 4,
    crowded_image: bool = False,
) -> tuple[FixtureSet, Detections]:
    """Objects of all sizes, found with position noise, some twice, some as another class, among false ones."""
    r = np.random.default_rng(seed)
    used = images - empty_images
    g_image = r.integers(0, used, objects) if not crowded_image else r.integers(0, 2, objects)
    g_class = r.integers(0, categories, objects)
    size = np.exp(r.normal(3.9, 1.0, (objects, 2))).clip(2, 500)
    boxes = np.concatenate((r.uniform(0, 400, (objects, 2)), size), axis=1).round(2)
    annotations = [
        {
            "id": n + 1,
            "image_id": int(g_image[n]) + 1,
            "category_id": 2 * int(g_class[n]) + 1,
            "bbox": boxes[n].tolist(),
            "area": float(boxes[n, 2] * boxes[n, 3] * r.uniform(0.6, 1.0)),
            "iscrowd": int(r.random() < crowd),
        }
        for n in range(objects)
    ]
    fixtures = make_set(annotations, images=images, categories=tuple(2 * c + 1 for c in range(categories)))
    found = np.flatnonzero(r.random(objects) < hit)
    found = np.concatenate((found, found[r.random(len(found)) < 0.4]))
    moved = boxes[found] + r.normal(0, shift, (len(found), 4)) * boxes[found][:, [2, 3, 2, 3]]
    d_class = np.where(r.random(len(found)) < 0.9, g_class[found], r.integers(0, categories, len(found)))
    false = np.concatenate((r.uniform(0, 400, (noise, 2)), np.exp(r.normal(3.9, 1, (noise, 2)))), axis=1)
    d_boxes = np.concatenate((moved, false))
    d_boxes[:, 2:] = np.maximum(d_boxes[:, 2:], 0)
    image = np.concatenate((g_image[found], r.integers(0, images if not crowded_image else 2, noise)))
    category = np.concatenate((d_class, r.integers(0, categories, noise)))
    scores = np.concatenate((r.beta(3, 2, len(found)), r.beta(1, 3, noise))).round(decimals)
    order = r.permutation(len(scores))
    return fixtures, Detections(
        (image + 1)[order].astype(np.int64), (2 * category + 1)[order].astype(np.int64), d_boxes[order], scores[order]
    )


def random_poses(
    seed: int, *, count: int = 17, images: int = 25, objects: int = 60, **of_category: Any
) -> tuple[FixtureSet, Detections]:
    """Objects of one class with labelled and unlabelled keypoints, some crowd, some without a single labelled one."""
    r = np.random.default_rng(seed)
    annotations, rows = [], []
    for n in range(objects):
        image = int(r.integers(1, images - 2))
        box = np.concatenate((r.uniform(0, 300, 2), np.exp(r.normal(4.2, 0.8, 2)).clip(4, 400))).round(1)
        points = np.concatenate((box[:2] + r.uniform(0, 1, (count, 2)) * box[2:], np.zeros((count, 1))), axis=1)
        points[:, 2] = r.choice([0, 1, 2], count) if r.random() > 0.15 else 0
        annotations.append(
            {
                "id": n,
                "image_id": image,
                "category_id": 1,
                "bbox": box.tolist(),
                "area": float(box[2] * box[3] * 0.6),
                "iscrowd": int(r.random() < 0.05),
                "keypoints": points.ravel().tolist(),
                "num_keypoints": int(np.count_nonzero(points[:, 2])),
            }
        )
        for _ in range(int(r.integers(0, 4))):
            moved = points.copy()
            moved[:, :2] += r.normal(0, 0.06, (count, 2)) * box[2:]
            rows.append((image, box + r.normal(0, 2, 4), r.random().__round__(4), moved))
    boxes = np.array([box for _, box, _, _ in rows])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0)
    fixtures = make_set(annotations, images=images, categories=(1,), **of_category)
    return fixtures, Detections(
        np.array([image for image, *_ in rows], np.int64),
        np.ones(len(rows), np.int64),
        boxes,
        np.array([value for _, _, value, _ in rows]),
        np.array([points for *_, points in rows]),
    )


def pycocotools_arrays(
    fixtures: FixtureSet, detections: Detections, *, max_detections: list[int] | None = None, sigmas: Any = None
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Precision (T, R, C, A, M), recall (T, C, A, M) and the numbers, straight from pycocotools with our own ids."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    listing = {
        "images": [{"id": s.image_id} for s in fixtures.samples],
        "categories": [dict(c) for c in fixtures.categories],
    }
    truth = [{**a, "id": n + 1} for n, a in enumerate(fixtures.annotations)]
    found = []
    for n in range(len(detections)):
        box = detections.boxes_xywh[n].tolist()
        row = {
            "id": n + 1,
            "image_id": int(detections.image_ids[n]),
            "category_id": int(detections.category_ids[n]),
            "bbox": box,
            "area": box[2] * box[3],
            "score": float(detections.scores[n]),
        }
        if detections.keypoints_xyv is not None:
            row["keypoints"] = detections.keypoints_xyv[n].ravel().tolist()
        found.append(row)
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (truth, found):
            side = COCO()
            side.dataset = {**listing, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        engine = COCOeval(*sides, iouType="bbox" if detections.keypoints_xyv is None else "keypoints")
        if max_detections is not None:
            engine.params.maxDets = max_detections
        if sigmas is not None:
            engine.params.kpt_oks_sigmas = np.asarray(sigmas)
        engine.evaluate()
        engine.accumulate()
        if max_detections is None:
            engine.summarize()
    return engine.eval["precision"], engine.eval["recall"], [float(v) for v in engine.stats]


def duplicated(fixtures: FixtureSet, detections: Detections, weights: np.ndarray) -> tuple[FixtureSet, Detections]:
    """The set in which image i literally stands ``weights[i]`` times, copies adjacent."""
    samples, annotations, columns = [], [], []
    for sample, weight in zip(fixtures.samples, weights.tolist(), strict=True):
        rows = np.flatnonzero(detections.image_ids == sample.image_id)
        for _ in range(weight):
            image_id = len(samples) + 1
            samples.append(Sample(image_id=image_id, path=sample.path, width=640, height=640))
            annotations += [
                {**a, "image_id": image_id} for a in fixtures.annotations if a["image_id"] == sample.image_id
            ]
            columns.append((rows, np.full(len(rows), image_id, np.int64)))
    rows = np.concatenate([r for r, _ in columns])
    points = detections.keypoints_xyv
    copied = Detections(
        np.concatenate([i for _, i in columns]),
        detections.category_ids[rows],
        detections.boxes_xywh[rows],
        detections.scores[rows],
        None if points is None else points[rows],
    )
    numbered = tuple({**a, "id": n + 1} for n, a in enumerate(annotations))
    return (
        FixtureSet(
            name="copies",
            split="val",
            samples=tuple(samples),
            categories=fixtures.categories,
            annotations=numbered,
            sha256="0" * 64,
        ),
        copied,
    )


def drawn_weights(images: int, seed: int) -> np.ndarray:
    return np.bincount(np.random.default_rng(seed).integers(0, images, images), minlength=images)
