"""Images on which two cells disagree, drawn small. Plain mappings, no file needed."""

from __future__ import annotations

import base64
from typing import Any


def sample_flips() -> list[dict[str, Any]]:
    """One image with every kind of difference, and a tall one without a thumbnail."""
    box = lambda x, y, w, h, s, name: {"box_xyxy": [x, y, x + w, y + h], "score": s, "label": name}  # noqa: E731
    ref = [
        box(70, 56, 96, 96, 0.93, "washer"),
        box(228, 116, 70, 68, 0.81, "washer"),
        box(330, 52, 44, 42, 0.66, "washer"),
        box(38, 164, 66, 66, 0.90, "cross"),
        box(180, 208, 32, 30, 0.42, "washer"),
    ]
    cand = [
        box(70, 56, 96, 96, 0.58, "ring"),
        box(38, 164, 66, 66, 0.89, "cross"),
        box(330, 174, 62, 54, 0.37, "plate"),
    ]
    flip = {
        "image": "shapes/val/000231.png",
        "width": 420,
        "height": 260,
        "kind": "3 missing, 1 extra, 1 class changed",
        "explained": False,
        "ref": ref,
        "cand": cand,
        "thumb": _thumb(ref, 420, 260),
    }
    tall = {
        "image": "shapes/val/000078.png",
        "width": 240,
        "height": 320,
        "kind": "1 missing",
        "explained": True,
        "ref": [box(20, 40, 90, 120, 0.71, "ring")],
        "cand": [],
        "thumb": None,
    }
    return [flip, tall]


def _thumb(boxes: list[dict[str, Any]], width: int, height: int) -> str:
    """A small drawn JPEG as base64."""
    import cv2
    import numpy as np

    image = np.full((height, width, 3), (84, 95, 104), np.uint8)
    for index, box in enumerate(boxes):
        x0, y0, x1, y1 = (int(v) for v in box["box_xyxy"])
        colour = [(74, 101, 181), (109, 141, 201), (93, 119, 167), (134, 112, 88), (106, 128, 181)][index % 5]
        cv2.circle(image, ((x0 + x1) // 2, (y0 + y1) // 2), (x1 - x0) // 2, colour, -1, cv2.LINE_AA)
    return base64.b64encode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 70])[1].tobytes()).decode()
