"""The detections of every cell, matched with the ground truth once, and one of them scored again by a stranger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.errors import InputError
from bench.posing import measure, pose_truth
from bench.scoring import cross_check, from_predictions, match

if TYPE_CHECKING:
    from bench.modelrun import ModelRun, Record
    from bench.posing import Posed
    from bench.results import CrossCheck
    from bench.scoring import Detections, Matched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """One cell's detections after matching."""

    matched: Matched | None
    fault: str | None = None
    """Why the detections cannot be scored."""
    cross_check: CrossCheck | None = None
    posed: Posed | None = None
    """None where the model finds no pose or the set has no truth of one."""


def score_cells(run: ModelRun, which: str) -> dict[str, Scored]:
    """Match every cell that has detections.

    Args:
        run: what was measured of one model.
        which: cells to cross-check: ``all``, ``one`` (the first candidate that detected something, else the
            reference) or ``none``. A cell that detected nothing is never cross-checked: pycocotools cannot score it.

    Returns:
        Cell id -> matched detections, for every cell whose accuracy pass was finished.
    """
    tables: dict[str, Detections] = {}
    found: dict[str, Scored] = {}
    for record in run.records:
        if record.accuracy is None:
            continue
        try:
            table = from_predictions(record.accuracy.predictions, run.plan.labels_to_categories)
            matched = match(run.plan.fixtures, table, task=run.plan.spec.task)
        except InputError as error:
            found[str(record.cell)] = Scored(matched=None, fault=f"Its detections cannot be scored: {error}")
            continue
        tables[str(record.cell)] = table
        found[str(record.cell)] = Scored(matched=matched)
    _measure_poses(run, tables, found)
    for name in _chosen(run.records, tables, which):
        of = found[name].matched
        if of is not None:
            check = cross_check(run.plan.fixtures, tables[name], of.stats, task=run.plan.spec.task)
            found[name] = replace(found[name], cross_check=check)
    return found


def _measure_poses(run: ModelRun, tables: dict[str, Detections], found: dict[str, Scored]) -> None:
    """Add the poses of every cell; what the reference finds and a candidate lacks counts as wrong there."""
    if not any(table.attributes or table.keypoints_xyv is not None for table in tables.values()):
        return
    try:
        truth = pose_truth(run.plan.fixtures)
    except InputError as error:
        found |= {n: replace(found[n], fault=f"Its poses cannot be measured: {error}") for n in tables}
        return
    if truth is None:
        return
    reference = next(str(r.cell) for r in run.records if r.planned.role == "reference")
    base = measure(truth, tables[reference]) if reference in tables else None
    for name, table in tables.items():
        try:
            posed = base if name == reference else measure(truth, table, like=base)
        except InputError as error:
            found[name] = replace(found[name], fault=f"Its poses cannot be measured: {error}")
        else:
            found[name] = replace(found[name], posed=posed)


def _chosen(records: list[Record], tables: dict[str, Detections], which: str) -> list[str]:
    """Ids of the cells to cross-check."""
    candidates_first = sorted(records, key=lambda r: r.planned.role == "reference")
    able = [str(r.cell) for r in candidates_first if len(tables.get(str(r.cell), ()))]
    return {"all": able, "one": able[:1], "none": []}[which]
