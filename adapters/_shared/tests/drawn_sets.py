"""Small fixture sets drawn into a folder, and examples with one bright rectangle."""

import cv2
import numpy as np

from adapters._shared.training.examples import Example
from bench.types import FixtureSet, Sample

CATEGORIES = ({"id": 7, "name": "disc"}, {"id": 9, "name": "square"})
LABEL_OF = {7: 0, 9: 1}


def note(image_id, bbox, category_id=7, **more):
    return {"image_id": image_id, "bbox": list(bbox), "category_id": category_id, "iscrowd": 0, **more}


def written_set(folder, images_rgb, notes=(), suffix=".png"):
    """``images_rgb`` become the files 1.png, 2.png and so on; an entry may also be (path, height, width)."""
    samples = []
    for image_id, image in enumerate(images_rgb, start=1):
        if isinstance(image, tuple):
            path, height, width = image
        else:
            path, (height, width) = folder / f"{image_id}{suffix}", image.shape[:2]
            assert cv2.imwrite(str(path), image[..., ::-1])
        samples.append(Sample(image_id=image_id, path=path, width=width, height=height))
    return FixtureSet(
        name="drawn",
        split="train",
        samples=tuple(samples),
        categories=CATEGORIES,
        annotations=tuple({"id": k, "area": n["bbox"][2] * n["bbox"][3], **n} for k, n in enumerate(notes, start=1)),
        sha256="0" * 64,
    )


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def with_rectangle(size_hw, box_xyxy, colour=(255, 255, 255), label=0, image_id=1):
    """A black image with one filled rectangle, whose corners are whole pixels."""
    image = np.zeros((*size_hw, 3), np.uint8)
    x0, y0, x1, y1 = box_xyxy
    image[y0:y1, x0:x1] = colour
    return Example(
        image_rgb_u8=image,
        boxes_xyxy=np.array([box_xyxy], np.float32),
        labels=np.array([label]),
        image_id=image_id,
    )


def around(mask):
    """(H, W) bool -> xyxy of the pixels that are set, pixel edges."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def bright_pixels(image_rgb_u8):
    """(S, S) bool: what is left of white rectangles on black, whatever a brightness gain of 0.85 to 1.15 did to them.

    Two thirds of the brightest: a pixel that lies wholly inside keeps more at any zoom up to 1.5, one that lies wholly
    outside has less, even beside the pad.
    """
    threshold = max(0.66 * int(image_rgb_u8.max()), 140)  # the pad alone reaches 131
    return (image_rgb_u8 >= threshold).all(axis=2)
