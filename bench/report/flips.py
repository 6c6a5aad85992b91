"""One image, twice: what the reference found and what the candidate made of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.geometry import box_iou

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_DRAWN = 40
_PAIR_IOU, _MOVED_IOU = 0.5, 0.9
"""For drawing only: below the first, boxes are different detections; below the second, the box has moved."""
_JPEG = re.compile(r"[A-Za-z0-9+/]+=*")
# A label's height and mean character, in units of its font size.
_LINE, _CHARACTER = 1.36, 0.54


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnBox:
    """One box with its label, in pixels of the image."""

    kind: str
    """``same``, ``moved``, ``changed``, ``missed`` or ``extra``."""
    x: float
    y: float
    width: float
    height: float
    text: str | None
    text_x: float
    text_y: float
    """Top left corner of the label."""
    text_width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Both sides of one image."""

    image: str
    kind: str
    explained: bool
    width: int
    height: int
    jpeg: str | None
    """Base64, None when absent or not base64."""
    font: float
    """Label font in pixels of the image."""
    reference: tuple[DrawnBox, ...]
    candidate: tuple[DrawnBox, ...]
    left_out: int
    """Boxes beyond ``MAX_DRAWN`` per side."""

    @property
    def line(self) -> float:
        """Height of a label."""
        return self.font * _LINE


def picture_of(flip: Mapping[str, Any]) -> Picture:
    """Match reference and candidate boxes (IoU 0.5, best first) and lay out their labels."""
    width, height = max(int(flip["width"]), 1), max(int(flip["height"]), 1)
    font = round(max(width, height * 1.2) * 0.029, 2)
    reference, candidate = _finite(flip["ref"]), _finite(flip["cand"])
    pairs = pairs_of(reference, candidate)
    partner = {c: (r, iou) for r, (c, iou) in pairs.items()}
    left = [(box, "same", caption_of(box)) for box in reference]
    right = []
    for index, box in enumerate(candidate):
        if index not in partner:
            right.append((box, "extra", f"extra {caption_of(box)}"))
            continue
        source, iou = partner[index]
        if reference[source]["label"] != box["label"]:
            right.append((box, "changed", f"now {caption_of(box)}"))
        else:
            right.append((box, "moved" if iou < _MOVED_IOU else "same", caption_of(box)))
    right += [(box, "missed", f"missed, was {_score(box)}") for i, box in enumerate(reference) if i not in pairs]
    jpeg = flip["thumb"]
    return Picture(
        image=flip["image"], kind=flip["kind"], explained=flip["explained"], width=width, height=height, font=font,
        jpeg=jpeg if jpeg and _JPEG.fullmatch(jpeg) else None,
        reference=lay_out(left, width, height, font), candidate=lay_out(right, width, height, font),
        left_out=max(len(left) - MAX_DRAWN, 0) + max(len(right) - MAX_DRAWN, 0),
    )  # fmt: skip


def outlines(boxes: Sequence[DrawnBox]) -> list[tuple[str, str]]:
    """Kind -> one path around all its boxes, agreements first, so that differences are drawn over them."""
    found: dict[str, str] = {}
    for box in boxes:
        path = f"M{box.x:g} {box.y:g}h{box.width:g}v{box.height:g}h{-box.width:g}z"
        found[box.kind] = found.get(box.kind, "") + path
    return list(found.items())


def label_grounds(boxes: Sequence[DrawnBox], line: float) -> list[tuple[str, str]]:
    """Kind -> one path of the rectangles behind its labels."""
    found: dict[str, str] = {}
    for box in boxes:
        if box.text:
            path = f"M{box.text_x:g} {box.text_y:g}h{box.text_width:g}v{line:.1f}h{-box.text_width:g}z"
            found[box.kind] = found.get(box.kind, "") + path
    return list(found.items())


def _finite(boxes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Boxes that can be drawn, best score first; a score that is not finite sorts first and is written as a word."""
    usable = [box for box in boxes if np.isfinite([float(v) for v in box["box_xyxy"]]).all()]
    return sorted(usable, key=lambda box: -np.nan_to_num(float(box["score"]), nan=2.0, posinf=2.0))


def pairs_of(
    reference: Sequence[Mapping[str, Any]], candidate: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[int, float]]:
    """Reference index -> (candidate index, IoU): equal labels first, then what is left."""
    if not reference or not candidate:
        return {}
    overlap = box_iou(
        np.array([box["box_xyxy"] for box in reference], np.float64),
        np.array([box["box_xyxy"] for box in candidate], np.float64),
    )
    found: dict[int, tuple[int, float]] = {}
    used: set[int] = set()
    for same_label in (True, False):
        for r, box in enumerate(reference):
            free = [c for c, other in enumerate(candidate)
                    if c not in used and (other["label"] == box["label"]) == same_label]  # fmt: skip
            if r in found or not free:
                continue
            chosen = max(free, key=lambda c: (overlap[r, c], -c))
            if overlap[r, chosen] >= _PAIR_IOU:
                found[r] = (chosen, float(overlap[r, chosen]))
                used.add(chosen)
    return found


def _score(box: Mapping[str, Any]) -> str:
    """``.93``; a score that is no number is written as it is."""
    score = float(box["score"])
    return f"{score:.2f}".replace("0.", ".", 1) if np.isfinite(score) else str(box["score"])


def caption_of(box: Mapping[str, Any]) -> str:
    """``disc .93``."""
    label = box["label"] if len(box["label"]) <= 24 else box["label"][:23] + "\N{HORIZONTAL ELLIPSIS}"
    return f"{label} {_score(box)}"


def lay_out(
    boxes: Sequence[tuple[Mapping[str, Any], str, str]], width: int, height: int, font: float
) -> tuple[DrawnBox, ...]:
    """Differences are labelled first and always; other labels are left out where no place near their box is free."""
    rank = {"missed": 0, "changed": 0, "extra": 1, "moved": 2, "same": 3}
    ordered = sorted(boxes, key=lambda item: rank[item[1]])[:MAX_DRAWN]
    taken: list[tuple[float, float, float, float]] = []
    drawn = []
    for box, kind, text in ordered:
        x0, y0, x1, y1 = (float(v) for v in box["box_xyxy"])
        x0, x1 = sorted((min(max(x0, 0), width), min(max(x1, 0), width)))
        y0, y1 = sorted((min(max(y0, 0), height), min(max(y1, 0), height)))
        label_width, line = (len(text) * _CHARACTER + 0.8) * font, _LINE * font
        left = min(max(x0 - font * 0.08, 0), max(width - label_width, 0))
        right = max(x1 - label_width, 0)
        spots = [(left, y0 - line), (left, y1), (left, y0), (right, y1 - line), (right, y0 - line), (right, y1)]
        spots += [(left, y) for step in (1, 2, 3) for y in (y0 + step * line, y0 - (step + 1) * line)]
        spots = [(x, y) for x, y in spots if 0 <= y <= height - line] or [(left, 0.0)]
        nearest = min(spots, key=lambda spot: _covered(spot, label_width, line, taken))
        free = not _covered(nearest, label_width, line, taken)
        place = nearest if free or rank[kind] < 2 else None
        if place is not None:
            taken.append((place[0], place[1], place[0] + label_width, place[1] + line))
        at = place or (0.0, 0.0)
        drawn.append(DrawnBox(
            kind=kind, x=round(x0, 1), y=round(y0, 1), width=round(x1 - x0, 1), height=round(y1 - y0, 1),
            text=text if place else None, text_x=round(at[0], 1), text_y=round(at[1], 1),
            text_width=round(label_width, 1),
        ))  # fmt: skip
    return tuple(reversed(drawn))


def _covered(
    spot: tuple[float, float], width: float, height: float, taken: Sequence[tuple[float, float, float, float]]
) -> float:
    """Area of other labels that a label at ``spot`` would cover."""
    x, y = spot
    return sum(
        max(min(x + width, t[2]) - max(x, t[0]), 0) * max(min(y + height, t[3]) - max(y, t[1]), 0) for t in taken
    )
