"""Within section 4: what each precision asked for, what ran, what it costs and what it brings, per runtime. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.report.answer import sentence_of
from bench.report.precision_nodes import FULL, blame, fp32_of
from bench.speed import judge_speed
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.report.cells import CellView, Group, Run

MOSTLY = 0.9
"""A lower precision that computes less than this share of its nodes is said to compute a part only."""
NODE_COUNTS = ("compute_nodes", "compute_layers", "conv_linear_outputs")
"""Where a runtime's evidence counts what computes in which precision."""
_NAMES = {
    "f32": "fp32", "float32": "fp32", "float": "fp32", "f16": "fp16", "float16": "fp16", "half": "fp16",
    "bfloat16": "bf16", "float64": "fp64", "f64": "fp64", "u8": "int8", "i8": "int8", "uint8": "int8",
}  # fmt: skip


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
        part = _part(cell)
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


def share_of(cell: CellView) -> tuple[float | None, str]:
    """Share of the arithmetic in the lower precision, and what it is a share of; None for fp32 and where unknown.

    By multiply-accumulates where the artefact's recipe says so, else by the nodes that the runtime was seen to compute.
    """
    if cell.precision in FULL:
        return None, ""
    stated = _stated(cell, "macs")
    if stated is not None and not cell.emulated:
        return stated, "of multiply-adds"
    counts = node_counts((cell.raw["observed"] or {}).get("evidence") or {})
    total = sum(counts.values())
    if not total:
        return None, ""
    return counts.get(cell.precision, 0) / total, "of compute nodes"


def _stated(cell: CellView, kind: str) -> float | None:
    """What the recipe says of the file: the share of ``macs`` or of ``nodes`` in the lower precision, 0 to 1."""
    recipe = (cell.raw["artifact"] or {}).get("recipe") or {}
    stated = recipe.get(f"{cell.precision}_compute", recipe.get(f"{cell.precision}_share"))
    value = stated.get(kind) if isinstance(stated, dict) else stated if kind == "macs" else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= 1 else None


def node_counts(evidence: Mapping[str, Any]) -> dict[str, int]:
    """Precision -> nodes that compute in it, as far as the evidence counts them."""
    for key in NODE_COUNTS:
        counts = evidence.get(key)
        if isinstance(counts, dict) and counts and all(_is_count(value) for value in counts.values()):
            found: dict[str, int] = {}
            for name, value in counts.items():
                word = _NAMES.get(str(name).lower(), str(name))
                found[word] = found.get(word, 0) + int(value)
            return found
    return {}


def evidence_words(observed: Mapping[str, Any] | None, precision: str) -> str:
    """``79 of 86 nodes int8, placement CPU 92``: short words for what a runtime was seen to do."""
    if observed is None:
        return "\N{EN DASH}"
    evidence = observed["evidence"] or {}
    counts = node_counts(evidence)
    parts = []
    if counts:
        total = sum(counts.values())
        parts.append(f"{counts.get(precision, 0)} of {numbers.plural(total, 'node')} {precision}")
    placement = evidence.get("placement")
    if isinstance(placement, dict) and placement and all(isinstance(ops, dict) for ops in placement.values()):
        placed = [
            f"{_provider(name)} {sum(v for v in ops.values() if _is_count(v)):,}" for name, ops in placement.items()
        ]
        parts.append(f"placement {', '.join(placed)}")
    return ", ".join(parts) or f"on {_provider(str(observed['provider']))}"


def _provider(name: str) -> str:
    return str(name).removesuffix("ExecutionProvider") or str(name)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _part(cell: CellView) -> str | None:
    """``only 59 of 86 compute nodes in int8, of 77 in the file``: less than the file has, or than most of it."""
    counts = node_counts((cell.raw["observed"] or {}).get("evidence") or {})
    total, own = sum(counts.values()), counts.get(cell.precision, 0)
    in_file, macs = _stated(cell, "nodes"), _stated(cell, "macs")
    words = []
    if total and own < (round(in_file * total) if in_file is not None else MOSTLY * total):
        of_file = f", of {round(in_file * total)} in the file" if in_file is not None else ""
        words.append(f"only {own} of {numbers.plural(total, 'compute node')} in {cell.precision}{of_file}")
    if macs is not None and macs < MOSTLY:
        words.append(f"{numbers.percent(macs)} of the file’s multiply-adds in {cell.precision}")
    return " and ".join(words) or None


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
