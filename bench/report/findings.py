"""The sentence that answers each section's question, made from the cells. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import numbers
from bench.report.answer import best, ratio_of
from bench.report.cells import DID_NOT_RUN
from bench.report.precision import pace_of
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.cells import CellView, Group, Run
    from bench.report.precision import Pace


_NAMED_MODELS, _NAMED_SLOW = 2, 4
"""With more models, or more slow int8 cells, a finding counts instead of naming: it must stay one glance long."""


def verdict_finding(run: Run) -> str:
    """Section 2, which cells are the same: whole precisions first, then what fails, then what is open."""
    judged = [cell for cell in run.candidates if cell.status not in DID_NOT_RUN]
    if not judged:
        return "No candidate ran, so nothing is known to be the same."
    sentences = []
    precisions = _precisions(judged)
    whole = [p for p in precisions if all(cell.same for cell in judged if cell.precision == p)]
    if len(whole) == len(precisions):
        sentences.append("Every cell that ran is.")
    elif whole:
        idle = any(cell.precision in whole and cell.status in DID_NOT_RUN for cell in run.candidates)
        sentences.append(f"Every {numbers.in_words(whole)} cell {'that ran ' if idle else ''}is.")
    mixed = [p for p in precisions if p not in whole]
    for precision in mixed:
        cells = [cell for cell in judged if cell.precision == precision]
        verbs = []
        for verb, chosen in (
            ("holds", [c for c in cells if c.same]),
            ("fails", [c for c in cells if c.status == "failed" and not c.suspicious]),
            ("gains more than the same model can", [c for c in cells if c.status == "failed" and c.suspicious]),
            ("ends in an error", [c for c in cells if c.status == "error"]),
            ("fails under a waiver", [c for c in cells if c.status == "waived"]),
        ):
            if chosen and len(run.groups) <= _NAMED_MODELS:
                verbs.append(f"{verb} on {_places(run, chosen)}")
            elif chosen:
                verbs.append(f"{verb} in {len(chosen)}")
        if verbs:
            total = "" if len(run.groups) <= _NAMED_MODELS else f" of {numbers.plural(len(cells), 'cell')}"
            sentences.append(f"{precision} {numbers.in_words(verbs)}{total}.")
    open_cells = [cell for cell in judged if cell.open_question]
    if open_cells:
        kinds = numbers.in_words(_precisions(open_cells))
        is_are = "is" if len(open_cells) == 1 else "are"
        why = "not judged, for lack of an interval" if not run.has_intervals else "undecided"
        sentences.append(f"{numbers.plural(len(open_cells), f'{kinds} cell')} {is_are} {why}.")
    return " ".join(sentences) or "None of the cells that ran is known to be the same."


def tradeoff_finding(run: Run) -> str:
    """Section 3: the fastest that is still the same, per model, and int8 that does not pay."""
    sentences = []
    found = [best(group) for group in run.groups if group.candidates]
    winners = {b.cell.label for b in found if b.cell}
    if len(found) > 1 and len(winners) == 1 and all(b.cell for b in found):
        sentences.append(f"{winners.pop()} is the fastest that is still the same on {_all_models(len(found))}.")
    elif len(found) > _NAMED_MODELS:
        names = [f"{b.group.title} {b.cell.label} at {numbers.ratio(b.cell.ratio or 0.0)}" for b in found if b.cell]
        none = [b.group.title for b in found if not b.cell]
        sentences += [f"Fastest that are still the same: {', '.join(names)}."] if names else []
        sentences += [f"No candidate is both the same and faster for {numbers.in_words(none)}."] if none else []
    else:
        for item in found:
            prefix = f"{item.group.title}: " if len(found) > 1 else ""
            if item.cell:
                ends = f" {numbers.interval(item.cell.delta_ci95, 4, sign=True)}" if item.cell.delta_ci95 else ""
                cost = f", at {numbers.delta(item.cell.delta)}{ends} AP" if item.cell.delta is not None else ""
                sentences.append(
                    f"{prefix}{item.cell.label} is the fastest that is still the same, "
                    f"{ratio_of(item.cell)} {item.group.reference_label}{cost}."
                )
            else:
                sentences.append(f"{prefix}{'no' if prefix else 'No'} candidate is both the same and faster.")
    sentences += slow_int8(run)
    return " ".join(sentences) or "Nothing was compared."


def slow_int8(run: Run) -> list[str]:
    """Say plainly where int8 costs time: slower than the same runtime at fp32, or slower than the reference."""
    slow = _slow_int8(run)
    if len(slow) > _NAMED_SLOW:
        return [f"int8 is slower than fp32 in {len(slow)} cells."]
    sentences = []
    by_runtime: dict[str, list[str]] = {}
    for group, cell, pace in slow:
        if pace is not None:
            where = f"{group.title} {pace.text}" if len(run.groups) > 1 else f"{pace.text} its speed"
            by_runtime.setdefault(cell.runtime, []).append(where)
        else:
            ratio = numbers.ratio(cell.ratio or 0.0)
            sentences.append(f"{run.name(cell)} is slower than {group.reference_label}: {ratio} its speed.")
    places = [f"{name} ({', '.join(took)})" for name, took in by_runtime.items()]
    return [f"int8 is slower than fp32 on {numbers.in_words(places)}.", *sentences] if places else sentences


def cells_finding(run: Run) -> str:
    """Section 4: how many cells ran to the end, and where int8 does not pay."""
    ran = sum(cell.ran for cell in run.cells)
    counted = f"{ran} of {numbers.plural(len(run.cells), 'cell')} ran to the end."
    slow = [cell for _, cell, _ in _slow_int8(run)]
    if slow:
        where = f"on {_places(run, slow)}" if len(run.groups) <= _NAMED_MODELS else f"in {len(slow)} of them"
        return f"{counted} int8 is slower than fp32 {where}."
    return f"{counted} Each row is one artefact: accuracy, speed and memory come from the same run."


def _slow_int8(run: Run) -> list[tuple[Group, CellView, Pace | None]]:
    """Slow int8 cells, with the comparison with fp32 in their runtime where that one is decided."""
    found: list[tuple[Group, CellView, Pace | None]] = []
    for group in run.groups:
        for cell in group.candidates:
            if cell.precision != "int8" or cell.p50_ms is None:
                continue
            pace = pace_of(group, cell)
            if pace is not None and pace.word == "slower":
                found.append((group, cell, pace))
            elif cell.slower and group.reference and group.reference.precision == "fp32":
                found.append((group, cell, None))
    return found


def failure_finding(run: Run) -> str:
    """Section 6: what kinds of failure there are."""
    kinds = []
    failed = [cell for cell in run.cells if cell.status == "failed"]
    waived = [cell for cell in run.cells if cell.status == "waived"]
    errors = [cell for cell in run.cells if cell.status == "error"]
    undecided = [cell for cell in run.cells if cell.status == "undecided"]
    for cells, verb in ((failed, "failed"), (errors, "broke"), (waived, "fails under a waiver")):
        if cells:
            names = numbers.in_words([run.name(cell) for cell in cells])
            kinds.append(f"{names if len(cells) <= 3 else numbers.plural(len(cells), 'cell')} {verb}.")
    if undecided:
        is_are = "is" if len(undecided) == 1 else "are"
        kinds.append(f"{numbers.plural(len(undecided), 'cell')} {is_are} undecided.")
    return " ".join(kinds) or "Nothing failed, and nothing is undecided."


def _precisions(cells: Sequence[CellView]) -> list[str]:
    """The precisions that occur, most exact first."""
    present = {cell.precision for cell in cells}
    return [precision for precision in PRECISIONS if precision in present]


def _places(run: Run, cells: Sequence[CellView]) -> str:
    """``openvino for both models and onnxrt for yolov10n``."""
    models: dict[str, list[str]] = {}
    for cell in cells:
        models.setdefault(cell.runtime, []).append(_model_title(run, cell))
    if len(run.groups) == 1:
        return numbers.in_words(list(models))
    by_models: dict[tuple[str, ...], list[str]] = {}
    for runtime, titles in models.items():
        by_models.setdefault(tuple(dict.fromkeys(titles)), []).append(runtime)
    parts = []
    for chosen, runtimes in by_models.items():
        where = _all_models(len(chosen)) if len(chosen) == len(run.groups) else numbers.in_words(list(chosen))
        parts.append(f"{numbers.in_words(runtimes)} for {where}")
    return ", and on ".join(parts)


def _model_title(run: Run, cell: CellView) -> str:
    return next(group.title for group in run.groups if cell in group.cells)


def _all_models(count: int) -> str:
    return "both models" if count == 2 else f"all {count} models"
