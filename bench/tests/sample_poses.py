"""A small set with true poses, and detections that find them as well as is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from bench.scoring import Detections
from bench.types import FixtureSet, Prediction, Sample

CAMERA = (500.0, 510.0, 101.0, 99.0)
NOSE_AND_TAIL = ["nose", "tail"]


def posed_set(images: int = 40, per_image: int = 3, *, seed: int = 0, symmetry: int = 1) -> FixtureSet:
    """Objects of two classes, one of them with two keypoints, apart enough that no two boxes touch."""
    generator = np.random.default_rng(seed)
    rotations = Rotation.random(images * per_image, random_state=seed).as_matrix()
    samples, annotations = [], []
    for at in range(images):
        samples.append(Sample(image_id=at + 1, path=Path(f"{at}.png"), width=400, height=200, camera=CAMERA))
        for number in range(per_image):
            row = len(annotations)
            left, top = 130.0 * number, float(generator.integers(5, 40))
            width, height = (float(v) for v in generator.integers(60, 100, 2))
            centre = [left + width / 2, top + height / 2]
            truth: dict[str, Any] = {
                "id": row + 1,
                "image_id": at + 1,
                "category_id": 1 + row % 2,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
                "rotation": rotations[row].tolist(),
                "depth_m": float(generator.uniform(0.5, 3.0)),
                "center_px": centre,
            }
            if truth["category_id"] == 2:
                truth |= {"keypoints": [left + 5, top + 5, 2, centre[0], centre[1], 1], "num_keypoints": 2}
            annotations.append(truth)
    return FixtureSet(
        name="posed",
        split="val",
        samples=tuple(samples),
        annotations=tuple(annotations),
        categories=(
            {"id": 1, "name": "plain", "symmetry": symmetry},
            {"id": 2, "name": "pointed", "keypoints": NOSE_AND_TAIL, "sigmas": [0.1, 0.1]},
        ),
        sha256="0" * 64,
    )


def found_poses(
    fixtures: FixtureSet,
    *,
    degrees: float = 0.0,
    depth_share: float = 0.0,
    shift_px: float = 0.0,
    seed: int = 1,
    keep: Any = None,
) -> dict[int, Prediction]:
    """Detections of the true boxes, rotated by about ``degrees``, deeper by about a share, keypoints shifted."""
    generator = np.random.default_rng(seed)
    found = {}
    for sample in fixtures.samples:
        rows = [a for a in fixtures.annotations if a["image_id"] == sample.image_id and (keep is None or keep(a))]
        count = len(rows)
        xywh = np.array([a["bbox"] for a in rows], np.float64).reshape(-1, 4)
        turns = Rotation.from_rotvec(
            np.radians(degrees * generator.normal(size=count))[:, None] * unit_vectors(generator, count)
        )
        rotation = np.array([a["rotation"] for a in rows], np.float64).reshape(-1, 3, 3)
        points = np.array([a.get("keypoints", [0.0] * 6) for a in rows], np.float64).reshape(-1, 2, 3)
        points[:, :, :2] += shift_px * generator.normal(size=(count, 2, 2))
        depth_m = np.array([a["depth_m"] for a in rows]) * (1 + depth_share * generator.normal(size=count))
        found[sample.image_id] = Prediction(
            boxes_xyxy=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32),
            scores=(0.5 + 0.5 * generator.random(count)).astype(np.float32),
            labels=np.array([a["category_id"] - 1 for a in rows], np.int64),
            keypoints_xys=points.astype(np.float32),
            attributes={
                "rotation": (turns.as_matrix() if count else np.zeros((0, 3, 3))) @ rotation,
                "depth_m": depth_m,
                "center_px": np.array([a["center_px"] for a in rows], np.float64).reshape(-1, 2),
            },
        )
    return found


def unit_vectors(generator: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    vectors = generator.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def with_attribute(detections: Detections, name: str, rows: Any, value: float) -> Detections:
    """The same detections with one attribute of some rows replaced."""
    column = detections.attributes[name].copy()
    column[rows] = value
    return replace(detections, attributes={**detections.attributes, name: column})
