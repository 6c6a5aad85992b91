"""Section 5: how small a loss these images can show, what would decide the rest, and who else scored. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Group, Run

WIDTH, MARGIN_AT = 240.0, 75.0
"""Pixels of the bar, and where one margin lies: up to 3.2 margins are drawn to scale."""
_NAMED_GROUPS, _NAMED_CELLS = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """One row."""

    cell: CellView
    name: str
    images: str
    resolvable: str
    margin: str
    bar: float
    """Length in pixels, at most ``WIDTH``."""
    clipped: bool
    enough: bool
    open: bool
    """The accuracy of this cell is undecided: the row is marked."""
    words: str
    """``yes``, ``no, 2.8 margins``, and what became of it where that is not what one expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayOut:
    """What would decide one undecided cell."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One cell that an independent scorer scored again."""

    text: str
    agrees: bool


def resolved_of(run: Run) -> list[Resolved]:
    """A row per candidate with a resolvable loss and a margin."""
    return [_row(cell, run) for cell in run.candidates if _share(cell) is not None]


def without_of(run: Run) -> str | None:
    """Candidates that were scored and have no row, in a sentence; None when there are none."""
    left = [c for c in run.candidates if c.raw["accuracy"] and _share(c) is None]
    if not left or len(left) == sum(bool(c.raw["accuracy"]) for c in run.candidates):
        return None
    names = numbers.in_words([run.name(c) for c in left]) if len(left) <= _NAMED_CELLS else ""
    return f"{names or numbers.plural(len(left), 'cell')} {'has' if len(left) == 1 else 'have'} no interval, so no row."


def absent_line(run: Run) -> str:
    """Why the section is not drawn."""
    if not run.has_intervals:
        return (
            "Left out: this file has no intervals over images, so it is not known how small a loss these images "
            "can show."
        )
    scored = [c for c in run.candidates if c.raw["accuracy"]]
    if not scored:
        return "Left out: no candidate was scored."
    reasons = list(dict.fromkeys(c.raw["accuracy"]["reason"] for c in scored if c.raw["accuracy"]["reason"]))
    return f"Left out: no candidate has an interval.{f' {reasons[0]}' if reasons else ''}"


def resolution_finding(run: Run) -> str:
    """``600 shapes images resolve every margin of yolov10n.`` and which cells have too few."""
    rows = resolved_of(run)
    groups = [(group, [r for r in rows if r.cell in group.cells]) for group in run.groups]
    groups = [(group, found) for group, found in groups if found]
    few = [row for row in rows if not row.enough]
    if len(groups) > _NAMED_GROUPS:
        if not few:
            return f"The images resolve the margin of every one of {numbers.plural(len(rows), 'cell')}."
        return f"The images resolve the margins of {len(rows) - len(few)} of {numbers.plural(len(rows), 'cell')}."
    return " ".join(_group_sentence(group, found) for group, found in groups)


def ways_out_of(run: Run) -> list[WayOut]:
    """A note per cell whose accuracy is undecided although it has an interval."""
    return [WayOut(name=run.name(cell), text=_way_out(cell)) for cell in run.candidates if cell.would_decide]


def checks_of(run: Run) -> list[Checked]:
    """``pycocotools 2.0.11 re-scored onnxrt fp32 on 600 images: identical, largest difference 0.0.``.

    Many cells on which the scorers agree are one line; a disagreement is always its own, and first.
    """
    checked = [(cell, cell.raw["accuracy"]["cross_check"]) for cell in run.cells if _cross_check(cell)]
    wrong = [(cell, check) for cell, check in checked if not check["agrees"]]
    right = [(cell, check) for cell, check in checked if check["agrees"]]
    found = [
        Checked(
            text=f"{_rescored(cell, check, run)}: disagrees, largest difference {_difference([check])}.", agrees=False
        )
        for cell, check in wrong
    ]
    if len(right) > _NAMED_CELLS:
        scorers = numbers.in_words(list(dict.fromkeys(str(check["scorer"]) for _, check in right)))
        word = _agreement([check for _, check in right])
        return [*found, Checked(text=f"{scorers} re-scored {len(right)} cells: {word}.", agrees=True)]
    return found + [
        Checked(text=f"{_rescored(cell, check, run)}: {_agreement([check])}.", agrees=True) for cell, check in right
    ]


def _cross_check(cell: CellView) -> Mapping[str, Any] | None:
    check: Mapping[str, Any] | None = (cell.raw["accuracy"] or {}).get("cross_check")
    return check


def _rescored(cell: CellView, check: Mapping[str, Any], run: Run) -> str:
    images = numbers.plural(int(cell.raw["accuracy"]["images"]), "image")
    return f"{check['scorer']} re-scored {run.name(cell)} on {images}"


def _difference(checks: Sequence[Mapping[str, Any]]) -> str:
    found = [float(check["max_abs_difference"]) for check in checks]
    return numbers.scientific(math.nan if any(map(math.isnan, found)) else max(found))


def _agreement(checks: Sequence[Mapping[str, Any]]) -> str:
    """``identical, largest difference 0.0``."""
    difference = _difference(checks)
    return f"{'identical' if difference == '0.0' else 'agrees'}, largest difference {difference}"


def _share(cell: CellView) -> float | None:
    """Resolvable loss in margins."""
    if cell.resolvable is None or not cell.margin or not math.isfinite(cell.margin):
        return None
    return cell.resolvable / cell.margin


def _row(cell: CellView, run: Run) -> Resolved:
    share = _share(cell)
    assert share is not None
    enough = share <= 1  # False for NaN
    length = min(share * MARGIN_AT, WIDTH) if share >= 0 else WIDTH
    open_ = cell.accuracy_verdict == "undecided"
    words = "yes" if enough else f"no, {numbers.fixed(share, 1)} margins"
    if enough and open_:
        words = "yes, but the delta sits near the margin"
    elif not enough and not open_ and cell.accuracy_verdict in ("passed", "failed", "suspicious"):
        words += "; decided all the same"
    return Resolved(
        cell=cell, name=run.name(cell), images=f"{cell.raw['accuracy']['images']:,}",
        resolvable=numbers.fixed(cell.resolvable or 0.0, 4), margin=numbers.fixed(cell.margin or 0.0, 4),
        bar=round(length, 1), clipped=not share * MARGIN_AT <= WIDTH, enough=enough, open=open_, words=words,
    )  # fmt: skip


def _group_sentence(group: Group, rows: Sequence[Resolved]) -> str:
    few = [row.cell for row in rows if not row.enough]
    images = f"{rows[0].images} {group.fixtures} {'image' if rows[0].images == '1' else 'images'}"
    if not few:
        return f"{images} resolve every margin set for {group.title}."
    if len(few) == len(rows):
        return f"{images} are too few for every margin set for {group.title}."
    if len(few) <= _NAMED_CELLS:
        return f"{images} are too few for {numbers.in_words([c.label for c in few])} of {group.title}."
    return f"{images} are too few for {len(few)} of {len(rows)} cells of {group.title}."


def _way_out(cell: CellView) -> str:
    measured = (
        f"ΔAP is {numbers.delta(cell.delta or 0.0)} {numbers.interval(cell.delta_ci95 or (), 4, sign=True)} and the "
        f"margin is {numbers.delta(-(cell.margin or 0.0))}."
    )
    count, images = cell.images_to_decide, int(cell.raw["accuracy"]["images"])
    if count is None:
        return f"{measured} The delta sits at the margin; more images are unlikely to decide."
    times = count / images
    factor = numbers.fixed(times, 0 if times >= 10 else 1)
    return (
        f"{measured} If the delta stays there, the interval clears the margin at about {numbers.about(count)} images, "
        f"{factor} times this set. That is a lower bound: intervals shrink more slowly than the square root of the "
        "images."
    )
