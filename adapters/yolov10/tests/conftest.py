"""A small drawn set in COCO's words, and training on it."""

import cv2
import numpy as np
import pytest
import torch

from adapters._shared.training import keeper, recipe
from adapters._shared.training.splits import Splits
from adapters.yolov10 import adapter
from adapters.yolov10.names import SHAPES_NAMES
from adapters.yolov10.tests.runs import SMALL, Cut
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


@pytest.fixture
def restore_threads_and_random_state():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other on a busy host: 18 s instead of 2
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(drawn, monkeypatch, restore_threads_and_random_state):
    """Train on the drawn images, judged on themselves."""
    monkeypatch.setattr(recipe, "training_splits", lambda *a, **k: Splits(train=drawn, val=drawn))

    def run(out, **options):
        return adapter.train(options if "resume" in options else {**SMALL, **options}, out)

    return run


@pytest.fixture
def cut_after(monkeypatch):
    """Break a run off right after ``last.pt`` of the given step was written."""

    def arm(step):
        original = keeper.Keeper._save_last

        def save(self, trainer, **position):
            original(self, trainer, **position)
            if trainer.global_step == step:
                monkeypatch.setattr(keeper.Keeper, "_save_last", original)
                raise Cut

        monkeypatch.setattr(keeper.Keeper, "_save_last", save)

    return arm
