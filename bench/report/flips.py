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
_LINE, _CHARACTER = 1.36, 0.56


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


def picture_of(flip: Mapping[str, Any]) -> Picture:
    """Match reference and candidate boxes (IoU 0.5, best first) and lay out their labels."""
    width, height = max(int(flip["width"]), 1), max(int(flip["height"]), 1)
    font = round(max(width, height * 1.3) * 0.031, 2)
    reference, candidate = _finite(flip["ref"]), _finite(flip["cand"])
    pairs = _pairs(reference, candidate)
    partner = {c: (r, iou) for r, (c, iou) in pairs.items()}
    left = [(box, "same", _caption(box)) for box in reference]
    right = []
    for index, box in enumerate(candidate):
        if index not in partner:
            right.append((box, "extra", f"extra {_caption(box)}"))
            continue
        source, iou = partner[index]
        if reference[source]["label"] != box["label"]:
            right.append((box, "changed", f"now {_caption(box)}"))
        else:
            right.append((box, "moved" if iou < _MOVED_IOU else "same", _caption(box)))
    right += [(box, "missed", f"missed, was {_score(box)}") for i, box in enumerate(reference) if i not in pairs]
    jpeg = flip["thumb"]
    return Picture(
        image=flip["image"], kind=flip["kind"], explained=flip["explained"], width=width, height=height, font=font,
        jpeg=jpeg if jpeg and _JPEG.fullmatch(jpeg) else None,
        reference=_lay_out(left, width, height, font), candidate=_lay_out(right, width, height, font),
        left_out=max(len(left) - MAX_DRAWN, 0) + max(len(right) - MAX_DRAWN, 0),
    )  # fmt: skip


def _finite(boxes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Boxes that can be drawn, best score first; a score that is not finite sorts first and is written as a word."""
    usable = [box for box in boxes if np.isfinite([float(v) for v in box["box_xyxy"]]).all()]
    return sorted(usable, key=lambda box: -np.nan_to_num(float(box["score"]), nan=2.0, posinf=2.0))


def _pairs(
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


def _caption(box: Mapping[str, Any]) -> str:
    label = box["label"] if len(box["label"]) <= 24 else box["label"][:23] + "\N{HORIZONTAL ELLIPSIS}"
    return f"{label} {_score(box)}"


def _lay_out(
    boxes: Sequence[tuple[Mapping[str, Any], str, str]], width: int, height: int, font: float
) -> tuple[DrawnBox, ...]:
    """Differences are labelled before agreements; a label that finds no free place near its box is left out."""
    rank = {"missed": 0, "changed": 0, "extra": 1, "moved": 2, "same": 3}
    ordered = sorted(boxes, key=lambda item: rank[item[1]])[:MAX_DRAWN]
    taken: list[tuple[float, float, float, float]] = []
    drawn = []
    for box, kind, text in ordered:
        x0, y0, x1, y1 = (float(v) for v in box["box_xyxy"])
        x0, x1 = sorted((min(max(x0, 0), width), min(max(x1, 0), width)))
        y0, y1 = sorted((min(max(y0, 0), height), min(max(y1, 0), height)))
        label_width, line = (len(text) * _CHARACTER + 0.9) * font, _LINE * font
        left = min(max(x0 - font * 0.08, 0), max(width - label_width, 0))
        spots = [(left, y0 - line), (left, y1), (left, y0), (max(x1 - label_width, 0), y1 - line)]
        place = next((s for s in spots if 0 <= s[1] <= height - line and not _hits(s, label_width, line, taken)), None)
        if place is None and rank[kind] < 3:
            place = (left, min(max(y0 - line, 0), max(height - line, 0)))
        if place is not None:
            taken.append((place[0], place[1], place[0] + label_width, place[1] + line))
        at = place or (0.0, 0.0)
        drawn.append(DrawnBox(
            kind=kind, x=round(x0, 1), y=round(y0, 1), width=round(x1 - x0, 1), height=round(y1 - y0, 1),
            text=text if place else None, text_x=round(at[0], 1), text_y=round(at[1], 1),
            text_width=round(label_width, 1),
        ))  # fmt: skip
    return tuple(reversed(drawn))


def _hits(
    spot: tuple[float, float], width: float, height: float, taken: Sequence[tuple[float, float, float, float]]
) -> bool:
    x, y = spot
    return any(x < t[2] and t[0] < x + width and y < t[3] and t[1] < y + height for t in taken)
