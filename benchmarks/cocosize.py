"""A set of COCO val2017 size with two nearly equal systems, for the scoring benchmark.

Per 5,000 images: 80 classes with a long tail, 36,800 objects (1 % crowd regions; boxes spread as COCO's: 41 % small,
34 % medium, 25 % large), 500,000 detections (100 on each image). The second system is the first with box noise of
0.25 px, score noise of 0.0015 and 0.2 % of the detections gone. Everything scales with the number of images and follows
one seed.

    python -m benchmarks.cocosize FOLDER [--images 5000] [--seed 0]
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

CLASSES = 80
OBJECTS_PER_IMAGE = 7.36
DETECTIONS_PER_IMAGE = 100
IMAGE_WH = (640, 480)
SHARES = (0.41, 0.34, 0.25)
"""Small, medium, large."""
AREAS_PX = ((60.0, 1024.0), (1024.0, 9216.0), (9216.0, 150_000.0))
CATEGORY_IDS = np.setdiff1d(np.arange(1, 91), (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""COCO's own, with its ten gaps."""


class Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: list[float]
    score: float


@dataclass(frozen=True)
class Columns:
    """Detections of one system, image by image."""

    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Files:
    truth: Path
    first: Path
    second: Path


def objects(images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image index, class index, box (xywh px) and crowd flag of every object."""
    count = round(images * OBJECTS_PER_IMAGE)
    # gamma weights: a few images hold many objects, some none
    weights = rng.gamma(2.0, size=images)
    image = np.sort(rng.choice(images, size=count, p=weights / weights.sum()))
    tail = 1.0 / np.arange(1, CLASSES + 1) ** 1.05
    label = rng.permutation(CLASSES)[rng.choice(CLASSES, size=count, p=tail / tail.sum())]
    size = rng.choice(3, size=count, p=SHARES)
    low, high = np.array(AREAS_PX)[size].T
    area = np.exp(rng.uniform(np.log(low), np.log(high)))
    aspect = np.exp(rng.normal(0, 0.45, count))
    wh = np.stack((np.sqrt(area * aspect), np.sqrt(area / aspect)), axis=1)
    wh = np.minimum(wh, np.array(IMAGE_WH) - 1.0)
    xy = rng.uniform(size=(count, 2)) * (np.array(IMAGE_WH) - wh)
    return image, label, np.concatenate((xy, wh), axis=1), rng.uniform(size=count) < 0.01


def first_system(
    images: int, image: np.ndarray, label: np.ndarray, box: np.ndarray, crowd: np.ndarray, rng: np.random.Generator
) -> Columns:
    """Most objects found with a blur in place and score; each image is filled up to 100 detections.

    Of the filling two thirds are weak repeats near an object of the image, as a detector without NMS gives, and a third
    lies anywhere.
    """
    small = box[:, 2] * box[:, 3] < 1024
    seen = np.flatnonzero(~crowd & (rng.uniform(size=len(image)) < np.where(small, 0.72, 0.93)))
    blur = np.abs(rng.normal(0, np.where(small[seen], 0.075, 0.045))) + 0.01
    right = rng.uniform(size=len(seen)) < 0.95
    found = _jittered(box[seen], blur, rng)
    labels = np.where(right, label[seen], rng.integers(0, CLASSES, len(seen)))
    scores = rng.beta(3.0, 1.6, len(seen))
    kept = np.flatnonzero(_rank(image[seen]) < DETECTIONS_PER_IMAGE)
    lacking = DETECTIONS_PER_IMAGE - np.bincount(image[seen][kept], minlength=images)
    where = np.repeat(np.arange(images), lacking)
    # an object of the same image each; images without one keep what lies anywhere
    held = np.bincount(image, minlength=images)
    near = (rng.uniform(size=len(where)) < 2 / 3) & (held[where] > 0)
    start = np.cumsum(held) - held
    chosen = np.minimum(start[where] + (rng.uniform(size=len(where)) * held[where]).astype(int), len(image) - 1)
    wh = np.exp(rng.uniform(np.log(6), np.log(300), size=(len(where), 2)))
    anywhere = np.concatenate((rng.uniform(size=(len(where), 2)) * (np.array(IMAGE_WH) - wh), wh), axis=1)
    repeats = _jittered(box[chosen], rng.uniform(0.05, 0.4, len(where)), rng)
    tail = 1.0 / np.arange(1, CLASSES + 1) ** 0.6
    filling = np.where(near, label[chosen], rng.choice(CLASSES, size=len(where), p=tail / tail.sum()))
    every = np.concatenate((image[seen][kept], where))
    order = np.argsort(every, kind="stable")
    return Columns(
        image_ids=every[order] + 1,
        category_ids=CATEGORY_IDS[np.concatenate((labels[kept], filling))[order]],
        boxes_xywh=np.round(np.concatenate((found[kept], np.where(near[:, None], repeats, anywhere)))[order], 3),
        scores=np.round(np.clip(np.concatenate((scores[kept], rng.beta(0.5, 7, len(where))))[order], 1e-6, 1), 6),
    )


def _jittered(box: np.ndarray, blur: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moved = box + rng.normal(size=box.shape) * blur[:, None] * np.tile(box[:, 2:], 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], 1.0)
    return moved


def second_system(first: Columns, rng: np.random.Generator) -> Columns:
    kept = rng.uniform(size=len(first.scores)) >= 0.002
    boxes = first.boxes_xywh[kept] + rng.normal(0, 0.25, (int(kept.sum()), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0.1)
    scores = np.clip(first.scores[kept] + rng.normal(0, 0.0015, int(kept.sum())), 1e-6, 1)
    return Columns(first.image_ids[kept], first.category_ids[kept], np.round(boxes, 3), np.round(scores, 6))


def _rank(groups: np.ndarray) -> np.ndarray:
    """Position of each row within its run of equal, sorted ``groups``."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))


def truth_document(
    images: int, image: np.ndarray, label: np.ndarray, box: np.ndarray, crowd: np.ndarray, rng: np.random.Generator
) -> dict:
    box = np.round(box, 2)
    # COCO's area is that of the segment: 0.5 to 0.9 of the box
    area = np.round(box[:, 2] * box[:, 3] * rng.uniform(0.5, 0.9, len(box)), 2)
    rows = zip(image.tolist(), CATEGORY_IDS[label].tolist(), box.tolist(), area.tolist(), crowd.tolist(), strict=True)
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i + 1:012}.jpg", "width": IMAGE_WH[0], "height": IMAGE_WH[1]}
            for i in range(images)
        ],
        "categories": [{"id": int(c), "name": f"class {c}"} for c in CATEGORY_IDS],
        "annotations": [
            {"id": n, "image_id": i + 1, "category_id": c, "bbox": b, "area": a, "iscrowd": int(w)}
            for n, (i, c, b, a, w) in enumerate(rows, start=1)
        ],
    }


def write_results(path: Path, columns: Columns) -> None:
    rows = zip(
        columns.image_ids.tolist(),
        columns.category_ids.tolist(),
        columns.boxes_xywh.tolist(),
        columns.scores.tolist(),
        strict=True,
    )
    path.write_bytes(msgspec.json.encode([Result(*row) for row in rows]))


def write_set(folder: Path, *, images: int = 5000, seed: int = 0) -> Files:
    """Write ``truth.json``, ``first.json`` and ``second.json``."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / "truth.json", folder / "first.json", folder / "second.json")
    gc.disable()
    try:
        made = objects(images, rng)
        files.truth.write_bytes(msgspec.json.encode(truth_document(images, *made, rng)))
        first = first_system(images, *made, rng)
        write_results(files.first, first)
        write_results(files.second, second_system(first, rng))
    finally:
        gc.enable()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in vars(write_set(options.folder, images=options.images, seed=options.seed)).values():
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
