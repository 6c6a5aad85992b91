"""Within section 4: what each precision asked for, what ran, what it costs and what it brings, per runtime. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report import numbers
from bench.report.answer import sentence_of
from bench.report.precision_evidence import evidence_words, part_of, share_of
from bench.report.precision_nodes import FULL, blame, fp32_of
from bench.speed import judge_speed
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from bench.report.cells import CellView, Group, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A lower precision against fp32 in the same runtime."""

    cell: CellView
    fp32: CellView
    ratio: float
    """fp32 / this cell: below 1 the lower precision is slower."""
    ci95: tuple[float, float] | None
    word: str
    """``faster``, ``slower``, ``same``, ``undecided``: decided by the interval alone."""

    @property
    def text(self) -> str:
        """``0.48× [0.47, 0.50]``."""
        ends = f" {numbers.interval(self.ci95, 2, sign=False)}" if self.ci95 else ""
        return numbers.ratio(self.ratio) + ends


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRow:
    """One row; None is drawn as a dash."""

    cell: CellView
    why: str | None
    """Reason of a row without measurements."""
    ran: str
    mismatch: bool
    evidence: str
    file: str | None
    file_share: str | None
    """Of the fp32 file of the same runtime."""
    share: str | None
    share_note: str
    ap: str | None
    delta: str | None
    delta_note: str | None
    latency: str | None
    ratio: str | None
    ratio_note: str | None
    pace: str | None
    pace_ends: str | None
    pace_word: str | None
    """``slower``, or why there is no comparison with fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionTable:
    """One model."""

    group: Group
    rows: tuple[PrecisionRow, ...]
    notes: tuple[tuple[str, str], ...]
    """Glyph word and sentence: slower here, or only a part in the lower precision."""


def precision_tables_of(run: Run) -> list[PrecisionTable]:
    """A table per model that was asked for in a lower precision; of each runtime fp32 first."""
    tables = []
    for group in run.groups:
        if all(cell.precision in FULL for cell in group.cells):
            continue
        rows = tuple(_row(cell, group, run) for cell in group.cells)
        tables.append(PrecisionTable(group=group, rows=rows, notes=tuple(notes_of(group, run))))
    return tables


def precision_finding(run: Run) -> str:
    """``int8 is slower than fp32 in onnxrt; faster in openvino.``, for each lower precision, of native cells."""
    said = []
    lower = [p for p in PRECISIONS if p not in FULL and any(c.precision == p for c in run.candidates)]
    for precision in lower:
        cells = [(g, c) for g in run.groups for c in g.candidates if c.precision == precision]
        paces = [pace for g, c in cells if (pace := pace_of(g, c)) is not None]
        parts = []
        for word, text in (
            ("slower", "slower than fp32"), ("faster", "faster"), ("same", "as fast as fp32"), ("undecided", _OPEN),
        ):  # fmt: skip
            chosen = [p.cell for p in paces if p.word == word]
            if chosen:
                parts.append(f"{text} in {_where(chosen, run)}")
        compared = [pace.cell for pace in paces]
        emulated = [c for _, c in cells if c.emulated]
        wrong = [c for _, c in cells if c.status in ("failed", "waived") and c.p50_ms is not None and c not in compared]
        if parts:
            said.append(f"{precision} is {'; '.join(parts)}.")
        elif emulated:
            said.append(f"{precision} is emulated in {_where(emulated, run)}, so it has no speed of its own here.")
        if wrong:
            said.append(f"{precision} fails in {_where(wrong, run)}, so its speed there is not compared.")
    return " ".join(said) or "No lower precision was timed beside fp32 in the same runtime."


_OPEN = "not decided against fp32"


def pace_of(group: Group, cell: CellView) -> Pace | None:
    """Speed of a lower precision against the fp32 cell of its runtime; None where it has no speed to compare.

    Decided by the interval of the rounds that both took part in: as the run measured it, or, for a file that does not
    hold it, from its rounds. A file without either gives two medians, and those decide nothing.
    """
    fp32 = fp32_of(group, cell)
    if fp32 is None or cell.observed != cell.precision:  # another label than what ran: not this precision's speed
        return None
    found = (cell.raw["speed"] or {}).get("against_fp32")
    if found is not None and found["ratio"] is not None:
        ends = found["ratio_ci95"]
        ci95 = None if ends is None else (float(ends[0]), float(ends[1]))
        return Pace(cell=cell, fp32=fp32, ratio=float(found["ratio"]), ci95=ci95, word=found["verdict"])
    if cell.ratio is None or fp32.ratio is None or not cell.p50_ms or not fp32.p50_ms:
        return None
    rounds = [c.raw["speed"]["rounds"] for c in (fp32, cell)]
    if all(r and all("round" in entry for entry in r) for r in rounds):
        judged = judge_speed(*rounds)
        if judged.ratio is not None:
            return Pace(cell=cell, fp32=fp32, ratio=judged.ratio, ci95=judged.ci95, word=judged.verdict)
    return Pace(cell=cell, fp32=fp32, ratio=fp32.p50_ms / cell.p50_ms, ci95=None, word="undecided")


def notes_of(group: Group, run: Run) -> list[tuple[str, str]]:
    """What must be said of a model's lower precisions: slower than fp32 and why, or computed in part only."""
    notes = []
    for cell in group.candidates:
        if cell.emulated or cell.precision in FULL or not cell.ran:
            continue
        pace, fp32 = pace_of(group, cell), fp32_of(group, cell)
        nodes, theirs = cell.raw.get("nodes"), (fp32.raw.get("nodes") if fp32 else None)
        part = part_of(cell)
        slow = pace is not None and pace.word == "slower"
        if not slow and part is None:
            continue
        words = []
        if pace is not None and slow:
            words.append(f"slower than fp32 in the same runtime, {pace.text} its speed")
        if part is not None:
            words.append(part)
        why = blame(nodes, theirs, cell.precision) if nodes else None
        text = f"{run.name(cell)}: {' and '.join(words)}." + (f" {why}" if why else "")
        notes.append(("slower" if slow else "undecided", text))
    return notes


def _row(cell: CellView, group: Group, run: Run) -> PrecisionRow:
    raw, pace = cell.raw, pace_of(group, cell)
    share, note = share_of(cell)
    observed = cell.observed or "none"
    return PrecisionRow(
        cell=cell,
        why=None if cell.ran else sentence_of(cell),
        ran=observed,
        mismatch=cell.observed is not None and observed != cell.precision and not cell.emulated,
        evidence=evidence_words(raw["observed"], cell.precision),
        file=numbers.megabytes(raw["artifact"]["bytes"] / 1e6) if raw["artifact"] else None,
        file_share=_file_share(cell, fp32_of(group, cell)),
        share=None if share is None else numbers.percent(share),
        share_note=note,
        ap=None if cell.ap is None else numbers.fixed(cell.ap, 4),
        delta=None if cell.delta is None or cell.role == "reference" else numbers.delta(cell.delta),
        delta_note=numbers.interval(cell.delta_ci95, 4, sign=True)
        if cell.delta_ci95
        else (run.no_interval if cell.delta is not None and cell.role != "reference" else None),
        latency=None if cell.p50_ms is None else numbers.three_digits(cell.p50_ms),
        ratio="1" if cell.role == "reference" else None if cell.ratio is None else numbers.fixed(cell.ratio, 2),
        ratio_note=numbers.interval(cell.ratio_ci95, 2, sign=False) if cell.ratio_ci95 else None,
        pace=None if pace is None else numbers.fixed(pace.ratio, 2),
        pace_ends=numbers.interval(pace.ci95, 2, sign=False) if pace is not None and pace.ci95 else None,
        pace_word=_pace_word(cell, group, pace),
    )


def _pace_word(cell: CellView, group: Group, pace: Pace | None) -> str | None:
    if pace is not None:
        return pace.word
    if cell.precision in FULL or not cell.ran:
        return None
    if cell.emulated:
        return "emulated"
    if fp32_of(group, cell) is None:
        return "no fp32 here"
    if cell.status in ("failed", "waived") and cell.p50_ms is not None:
        return "outputs failed"
    return "not timed" if cell.p50_ms is None else "no ratio"


def _file_share(cell: CellView, fp32: CellView | None) -> str | None:
    mine, theirs = cell.raw["artifact"], fp32.raw["artifact"] if fp32 else None
    if not mine or not theirs or not theirs["bytes"] or mine["kind"] != theirs["kind"]:
        return None
    share = mine["bytes"] / theirs["bytes"]
    return f"{numbers.percent(share)} of fp32" if math.isfinite(share) else None


def _where(cells: list[CellView], run: Run) -> str:
    """``onnxrt and openvino``; with their models where these differ."""
    if len(run.groups) == 1:
        return numbers.in_words(list(dict.fromkeys(cell.runtime for cell in cells)))
    models: dict[str, list[str]] = {}
    for cell in cells:
        models.setdefault(cell.runtime, []).append(cell.model)
    every = len({cell.model for cell in run.cells})
    parts = [
        f"{runtime} ({'all models' if len(set(names)) == every and every > 1 else ', '.join(dict.fromkeys(names))})"
        for runtime, names in models.items()
    ]
    return numbers.in_words(parts)
