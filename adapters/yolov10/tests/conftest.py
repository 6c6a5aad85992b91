"""A small drawn set in COCO's words."""

import cv2
import numpy as np
import pytest

from adapters.yolov10.names import SHAPES_NAMES
from bench.types import FixtureSet, Sample


def draw_set(folder, count, split="train", size_hw=(48, 64)):
    """``count`` images with two bright rectangles each, one small crowd region."""
    rng = np.random.default_rng(7)
    samples, notes = [], []
    for image_id in range(1, count + 1):
        image = rng.integers(0, 60, (*size_hw, 3)).astype(np.uint8)
        for number in range(2):
            x, y = int(rng.integers(2, 20)) + 28 * number, int(rng.integers(2, 20))
            width, height = int(rng.integers(12, 16)), int(rng.integers(12, 22))
            category = int(rng.integers(1, 9))
            image[y : y + height, x : x + width] = (255, 25 * category, 255 * number)
            notes.append((image_id, category, [x, y, width, height], 0))
        notes.append((image_id, 1, [0, 0, 4, 4], 1))
        path = folder / f"{image_id}.png"
        cv2.imwrite(str(path), image)
        samples.append(Sample(image_id=image_id, path=path, width=size_hw[1], height=size_hw[0]))
    return FixtureSet(
        name="drawn",
        split=split,
        samples=tuple(samples),
        categories=tuple({"id": i, "name": name} for i, name in enumerate(SHAPES_NAMES, start=1)),
        annotations=tuple(
            {"id": i, "image_id": image, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
            for i, (image, c, b, crowd) in enumerate(notes, start=1)
        ),
        sha256="0" * 64,
    )


@pytest.fixture
def drawn(tmp_path):
    """Four images of 48 x 64 pixels."""
    return draw_set(tmp_path, 4)
