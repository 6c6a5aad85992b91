"""Steps that move pixels and truth together: turning about the centre, and cutting a window.

Boxes and keypoints are in pixel edges: an image W pixels wide runs from 0 to W, pixel i from i to i + 1.

What becomes of an object (one annotation):

* **turned**: the canvas holds the whole image, so nothing leaves it. A quarter turn is exact. At other angles the box
  is that of the turned polygon where the truth has one, else the box around the turned corners, which is larger than
  the object; such boxes are counted as ``loose``. The area stays as it is.
* **cut by a window**: its box is clipped, its area falls with the share of the box that stays. From ``min_visible`` of
  the box on it counts; below, what is left is a crowd region: neither to be found nor wrong to find. Outside it is
  gone. A keypoint outside the window is unlabelled (0, 0, 0).

What depends on the camera (poses, intrinsics) does not survive a move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.scenarios.chance import Chance
    from bench.types import Array

GREY = 114
"""Of the corners that turning adds."""
MIN_VISIBLE = 0.3
KEPT_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "num_keypoints")
Annotation = dict[str, Any]


@dataclass(slots=True)
class Moved:
    """What became of the objects of one or many images."""

    clipped: int = 0
    """Boxes that were cut at the window's edge and still count."""
    ignored: int = 0
    """Objects that became crowd regions: too little of them is visible."""
    gone: int = 0
    """Objects outside the window."""
    loose: int = 0
    """Boxes around turned corners, larger than their object."""

    def add(self, other: Moved) -> None:
        """Count another image's."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Clockwise about the centre of an image, onto a canvas that holds all of it."""

    degrees: float
    image_hw: tuple[int, int]

    @classmethod
    def drawn(cls, step: Mapping[str, Any], image_hw: tuple[int, int], chance: Chance) -> Turn:
        """One of the step's angles."""
        angles = step["degrees"]
        return cls(degrees=float(angles[chance.below(len(angles), "angle")]), image_hw=image_hw)

    @property
    def exact(self) -> bool:
        """Whether it is a quarter turn: then no pixel is interpolated and boxes stay tight."""
        return self.degrees % 90 == 0

    @property
    def matrix(self) -> Array:
        """(2, 2) float64 on x, y; quarter turns have exact zeros and ones."""
        cosine, sine = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        if self.exact:
            cosine, sine = round(cosine), round(sine)
        return np.array([[cosine, -sine], [sine, cosine]], np.float64)

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width in pixels after turning."""
        height, width = self.image_hw
        wide, high = np.abs(self.matrix) @ (width, height)
        return math.ceil(high - 1e-6), math.ceil(wide - 1e-6)

    def points(self, points_xy: Array) -> Array:
        """(..., 2) positions in the image -> positions on the canvas, float64."""
        centre = np.array(self.image_hw[::-1]) / 2.0
        found: Array = (np.asarray(points_xy, np.float64) - centre) @ self.matrix.T + np.array(
            self.canvas_hw[::-1]
        ) / 2.0
        return found

    def pixels(self, image_rgb_u8: Array) -> Array:
        """The turned image."""
        import cv2

        if self.exact:
            return np.ascontiguousarray(np.rot90(image_rgb_u8, -round(self.degrees / 90)))
        # cv2 counts from the middle of the first pixel, half a pixel from the edge
        offset = self.points(np.array([0.5, 0.5])) - 0.5
        affine = np.concatenate((self.matrix, offset[:, None]), axis=1)
        turned: Array = cv2.warpAffine(
            image_rgb_u8, affine, self.canvas_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY)
        )
        return turned

    def truth(self, annotations: Iterable[Mapping[str, Any]], moved: Moved) -> list[Annotation]:
        """Annotations on the canvas."""
        return [self._turned(annotation, moved) for annotation in annotations]

    def _turned(self, annotation: Mapping[str, Any], moved: Moved) -> Annotation:
        turned: Annotation = {name: annotation[name] for name in KEPT_FIELDS if name in annotation}
        polygons = [np.reshape(p, (-1, 2)) for p in _polygons(annotation)]
        if polygons:
            polygons = [self.points(p) for p in polygons]
            turned["segmentation"] = [p.ravel().tolist() for p in polygons]
        x, y, width, height = annotation["bbox"]
        around = self.points(np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]]))
        if not self.exact and polygons:
            around = np.concatenate(polygons)
        elif not self.exact:
            moved.loose += 1
        low, high = around.min(axis=0), around.max(axis=0)
        turned["bbox"] = [*low.tolist(), *(high - low).tolist()]
        if "keypoints" in annotation:
            points = np.reshape(np.array(annotation["keypoints"], np.float64), (-1, 3))
            labelled = points[:, 2] > 0
            points[labelled, :2] = self.points(points[labelled, :2])
            turned["keypoints"] = points.ravel().tolist()
        return turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of an image that is kept, in whole pixels."""

    left: int
    top: int
    width: int
    height: int
    min_visible: float

    @classmethod
    def drawn(cls, step: Mapping[str, Any], image_hw: tuple[int, int], chance: Chance) -> Window:
        """Of the step's share of each side, anywhere within the image."""
        height, width = (max(round(side * step["keep"]), 1) for side in image_hw)
        return cls(
            left=chance.below(image_hw[1] - width + 1, "left"),
            top=chance.below(image_hw[0] - height + 1, "top"),
            width=width,
            height=height,
            min_visible=float(step.get("min_visible", MIN_VISIBLE)),
        )

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width of what is kept."""
        return self.height, self.width

    def pixels(self, image_rgb_u8: Array) -> Array:
        """The window of the image."""
        return np.ascontiguousarray(image_rgb_u8[self.top : self.top + self.height, self.left : self.left + self.width])

    def truth(self, annotations: Iterable[Mapping[str, Any]], moved: Moved) -> list[Annotation]:
        """Annotations in the window; those outside are left out."""
        found = (self._cut(annotation, moved) for annotation in annotations)
        return [annotation for annotation in found if annotation is not None]

    def _cut(self, annotation: Mapping[str, Any], moved: Moved) -> Annotation | None:
        x, y, width, height = annotation["bbox"]
        x, y = x - self.left, y - self.top
        x0, x1 = max(x, 0), min(x + width, self.width)
        y0, y1 = max(y, 0), min(y + height, self.height)
        visible = _share(x1 - x0, width) * _share(y1 - y0, height)
        crowd = bool(annotation.get("iscrowd", 0))
        if not visible > 0:
            moved.gone += not crowd
            return None
        cut: Annotation = {name: annotation[name] for name in KEPT_FIELDS if name in annotation}
        if visible < 1:
            cut["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            cut["area"] = annotation["area"] * visible
        else:
            cut["bbox"] = [x, y, width, height]  # not by its ends: their difference may be another float
        if not crowd and visible < self.min_visible:
            cut["iscrowd"] = 1
            moved.ignored += 1
        elif not crowd and visible < 1:
            moved.clipped += 1
        if "keypoints" in annotation:
            cut |= self._cut_keypoints(annotation["keypoints"])
        return cut

    def _cut_keypoints(self, keypoints: Iterable[float]) -> Annotation:
        points = np.reshape(np.array(keypoints, np.float64), (-1, 3))
        points[:, :2] -= (self.left, self.top)
        inside = ((points[:, :2] >= 0) & (points[:, :2] <= (self.width, self.height))).all(axis=1) & (points[:, 2] > 0)
        points[~inside] = 0
        return {"keypoints": points.ravel().tolist(), "num_keypoints": int(inside.sum())}


MOVES: dict[str, type[Turn] | type[Window]] = {"rotate": Turn, "crop": Window}


def _share(kept: float, whole: float) -> float:
    """Of a side; a box without extent is inside or not."""
    return min(max(kept / whole, 0.0), 1.0) if whole > 0 else float(kept >= 0)


def _polygons(annotation: Mapping[str, Any]) -> list[list[float]]:
    """Outlines of an object; a mask in runs is none."""
    found = annotation.get("segmentation")
    return found if isinstance(found, list) and found and not annotation.get("iscrowd", 0) else []
