"""AP difference against speed, one panel per model: what is drawn, independent of how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report import numbers
from bench.report.cells import BACKEND_ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.cells import CellView, Group, Run

MARKERS = ("o", "s", "^", "D", "v", "p", "h", "P")
"""Backend is shape, in the order of ``marker_of``."""
MAX_LABELLED = 12
"""Above this many points labels become numbers with a key."""
_REACH = 1.3
"""Intervals are drawn up to this multiple of the largest ratio."""
FILLS = {"fp64": "none", "fp32": "none", "tf32": "none", "fp16": "left", "bf16": "left", "int8": "full"}
"""Precision is fill: hollow, half, solid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One candidate in the panel."""

    anchor: str
    label: str
    """``onnxrt int8, failed``; the number of the key in a crowded panel is added by the drawer."""
    ratio: float
    delta: float
    ratio_ci95: tuple[float, float] | None
    delta_ci95: tuple[float, float] | None
    marker: str
    fill: str
    word: str
    """Status, or ``open`` where nothing was judged: the colour."""
    same: bool
    below: bool
    """True when the point lies below the drawn range and stands on its lower edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Everything that one figure shows."""

    title: str
    note: str
    points: tuple[Point, ...]
    absent: int
    """Candidates that ran or failed without both numbers."""
    margins: tuple[tuple[str, float], ...]
    """``(precision names, allowed loss)``, largest last."""
    front: tuple[tuple[float, float], ...]
    """(ratio, delta) of the cells that are the same and beaten by none, slow to fast."""
    delta_range: tuple[float, float]
    ratio_range: tuple[float, float]
    axis: str

    @property
    def numbered(self) -> bool:
        """True when labels are numbers and a key lists them."""
        return len(self.points) > MAX_LABELLED


def marker_of(run: Run) -> dict[str, str]:
    """Backend -> marker: the house's backends keep theirs, others take the next free ones by name."""
    others = sorted({cell.backend for cell in run.cells} - set(BACKEND_ORDER))
    names = [*BACKEND_ORDER, *others]
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def drawable(cell: CellView) -> bool:
    """True when a cell has both numbers of a point."""
    return _finite(cell.ratio) and _finite(cell.delta)


def panel_of(group: Group, run: Run) -> Panel:
    """Collect what is drawn for one model; cells without both numbers are counted, not drawn."""
    drawn = [c for c in group.candidates if drawable(c)]
    margins = _margins(group)
    low, high = _delta_range(drawn, [margin for _, margin in margins])
    ratios = [1.0, *(c.ratio or 1.0 for c in drawn)]
    farthest = _REACH * max(ratios)  # one wide interval must not squeeze all points; its line leaves the figure
    ratios += [min(end, farthest) for c in drawn for end in c.ratio_ci95 or ()]
    pad = max((max(ratios) - min(ratios)) * 0.12, 0.08)  # twice on the right, where labels start
    marker = marker_of(run)
    points = []
    for cell in drawn:
        ratio, delta = cell.ratio or 0.0, cell.delta or 0.0
        below = delta < low
        word = "not judged" if cell.open_question and not run.has_intervals else cell.word
        word = "suspicious gain" if cell.suspicious and cell.status == "failed" else word
        suffix = "" if cell.same else f", {word}"
        edge = f", {numbers.delta(delta)} \N{DOWNWARDS ARROW}" if below else ""
        drawn_at = low + 0.04 * (high - low) if below else delta
        points.append(Point(
            anchor=cell.anchor, label=f"{cell.label}{suffix}{edge}", ratio=ratio, delta=drawn_at,
            ratio_ci95=cell.ratio_ci95, delta_ci95=cell.delta_ci95, marker=marker[cell.backend],
            fill=FILLS.get(cell.precision, "full"), word="undecided" if cell.open_question else cell.word,
            same=cell.same, below=below,
        ))  # fmt: skip
    return Panel(
        title=f"{group.model} on {group.fixtures}",
        note=_note(group, drawn, run),
        points=tuple(points),
        absent=len(group.candidates) - len(drawn),
        margins=margins,
        front=_front([c for c in drawn if c.same]),
        delta_range=(low, high),
        ratio_range=(max(min(ratios) - pad, 0.0), max(ratios) + 2 * pad),
        axis=f"Speed, relative to {group.reference_label}",
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _margins(group: Group) -> tuple[tuple[str, float], ...]:
    """One line per distinct margin that belongs to a precision below fp32; fp32's is too thin to draw."""
    found: dict[float, list[str]] = {}
    for cell in group.candidates:
        if cell.margin is not None and math.isfinite(cell.margin) and FILLS.get(cell.precision) != "none":
            names = found.setdefault(round(cell.margin, 6), [])
            if cell.precision not in names:
                names.append(cell.precision)
    return tuple((numbers.in_words(sorted(names)), margin) for margin, names in sorted(found.items()))


def _delta_range(cells: Sequence[CellView], margins: Sequence[float]) -> tuple[float, float]:
    """Room for the margins and for what lies near them; an outlier beyond ten margins does not flatten the rest."""
    margin = max(margins, default=0.0) or max((c.margin or 0.0 for c in cells), default=0.0) or 0.001
    ends = [end for c in cells for end in (c.delta or 0.0, *(c.delta_ci95 or ()))]
    near = [end for end in ends if -10 * margin <= end <= 10 * margin]
    low, high = min([-1.5 * margin, *near]), max([0.6 * margin, *near])
    pad = (high - low) * 0.12
    return low - pad, high + pad


def _front(cells: Sequence[CellView]) -> tuple[tuple[float, float], ...]:
    """Pareto front over the reference (1, 0) and the cells that are the same."""
    pool = [(1.0, 0.0), *((c.ratio or 0.0, c.delta or 0.0) for c in cells)]
    kept = [p for p in pool if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in pool)]
    return tuple(sorted(set(kept)))


def _note(group: Group, drawn: Sequence[CellView], run: Run) -> str:
    """``ΔAP from AP 0.7118. Only onnxrt int8 failed.``."""
    reference_ap = group.reference.ap if group.reference else None
    start = "" if reference_ap is None else f"ΔAP from AP {numbers.fixed(reference_ap, 4)}."
    failed = [c.label for c in drawn if c.status in ("failed", "waived")]
    undecided = [c.label for c in drawn if c.open_question and run.has_intervals]
    outside = [c.label for c in drawn if c.open_question and c.margin and (c.delta or 0.0) < -c.margin]
    outside = [] if run.has_intervals else outside
    sentences = [start] if start else []
    if failed:
        sentences.append(f"{'Only ' if len(failed) == 1 else ''}{numbers.in_words(failed)} failed.")
    if outside:
        verb = "lies" if len(outside) == 1 else "lie"
        sentences.append(f"{numbers.in_words(outside)} {verb} outside the margin as measured, not judged.")
    if undecided:
        sentences.append(f"{numbers.in_words(undecided)} {'is' if len(undecided) == 1 else 'are'} undecided.")
    if drawn and not failed and not outside and not undecided:
        sentences.append("Every cell drawn here lies inside its margin.")
    return " ".join(sentences)
