"""Place labels beside points: greedy, deterministic, with a leader line where a label had to move away. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Rect = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels, y down."""

# Mean advance of the page's sans families at 12.5 px, rounded up: Inter 6.9, DejaVu Sans 7.3, Segoe UI 6.6.
CHARACTER_PX = 7.1
HEIGHT_PX = 15.0
_DIRECTIONS = (
    (0, "start"), (180, "end"), (270, "middle"), (90, "middle"), (315, "start"), (45, "start"),
    (225, "end"), (135, "end"), (270, "start"), (270, "end"), (90, "start"), (90, "end"),
)  # fmt: skip
"""Angle in degrees (y down) and how the text hangs on the point where its leader would end."""
_RADII_PX = (10.0, 17.0, 27.0, 40.0, 56.0, 76.0, 100.0)
_LEADER_FROM_PX = 17.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where one label stands."""

    rect: Rect
    anchor: str
    """``start``, ``middle`` or ``end``: where the text hangs, so that a narrower font stays beside its point."""
    leader: tuple[float, float, float, float] | None
    """From the point's edge to the label, or None when it stands close."""


def width_px(text: str) -> float:
    """Estimated width of a label; fonts differ, so it errs on the wide side."""
    return max(len(text), 1) * CHARACTER_PX


def place_labels(
    points_xy: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    bounds: Rect,
    taken: Sequence[Rect] = (),
    avoid: Sequence[Rect] = (),
) -> list[Placed]:
    """Choose for each point, most crowded first, the position with the least overlap and the shortest way.

    Args:
        points_xy: pixels.
        texts: one label per point.
        bounds: labels stay inside.
        taken: must not be covered (markers, other text).
        avoid: better not covered (interval bars, lines).
    """
    solid = list(taken)
    result: dict[int, Placed] = {}
    for index in sorted(range(len(points_xy)), key=lambda i: (_room(points_xy, i), i)):
        others = [point for i, point in enumerate(points_xy) if i != index]
        candidates = _candidates(points_xy[index], width_px(texts[index]))
        result[index] = min(candidates, key=lambda placed: _cost(placed, bounds, solid, avoid, others))
        solid.append(result[index].rect)
    return [result[i] for i in range(len(points_xy))]


def _candidates(point: tuple[float, float], width: float) -> list[Placed]:
    """Positions around a point, near ones first."""
    x, y = point
    found = []
    for radius in _RADII_PX:
        for degrees, anchor in _DIRECTIONS:
            dx, dy = round(math.cos(math.radians(degrees)), 6), round(math.sin(math.radians(degrees)), 6)
            edge_x, edge_y = x + dx * radius, y + dy * radius
            # A label straight above or below that starts or ends there reaches a little past its point.
            inset = 6.0 if dx == 0 and anchor != "middle" else 0.0
            left = edge_x - {"start": inset, "middle": width / 2, "end": width - inset}[anchor]
            top = edge_y if dy > 0.4 else edge_y - HEIGHT_PX if dy < -0.4 else edge_y - HEIGHT_PX / 2
            leader = (x + dx * 7, y + dy * 7, edge_x, edge_y) if radius >= _LEADER_FROM_PX else None
            found.append(Placed(rect=(left, top, left + width, top + HEIGHT_PX), anchor=anchor, leader=leader))
    return found


def _cost(
    placed: Placed, bounds: Rect, solid: Sequence[Rect], avoid: Sequence[Rect], others: Sequence[tuple[float, float]]
) -> float:
    rect, leader = placed.rect, placed.leader
    outside = max(bounds[0] - rect[0], 0) + max(rect[2] - bounds[2], 0)
    outside += max(bounds[1] - rect[1], 0) + max(rect[3] - bounds[3], 0)
    cost = outside * 100
    cost += sum(_overlap(rect, other) for other in solid) * 10
    cost += sum(_overlap(rect, other) for other in avoid) * 0.3
    if leader:
        cost += 6 + math.hypot(leader[2] - leader[0], leader[3] - leader[1])
        cost += sum(60 for point in others if _passes(leader, point))
        cost += sum(15 for step in range(2, 10) for other in solid if _within(leader, step / 10, other))
    return cost


def _passes(leader: tuple[float, float, float, float], point: tuple[float, float]) -> bool:
    """True when a leader line runs through another point's marker."""
    ax, ay, bx, by = leader
    x, y = point
    length = math.hypot(bx - ax, by - ay) or 1.0
    along = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length
    apart = abs((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / length
    return -4 < along < length + 4 and apart < 8


def _within(leader: tuple[float, float, float, float], share: float, rect: Rect) -> bool:
    """True when the place at ``share`` of a leader lies in a rectangle."""
    x = leader[0] + (leader[2] - leader[0]) * share
    y = leader[1] + (leader[3] - leader[1]) * share
    return rect[0] < x < rect[2] and rect[1] < y < rect[3]


def _overlap(a: Rect, b: Rect) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _room(points_xy: Sequence[tuple[float, float]], index: int) -> float:
    """Distance to the nearest other point: crowded points choose first."""
    x, y = points_xy[index]
    return min((math.hypot(x - u, y - v) for i, (u, v) in enumerate(points_xy) if i != index), default=math.inf)
