"""Which runtime disagrees with which: the comparison of runtimes on one file, drawn. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.agreement import OWN, decibels
from bench.report import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Group, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One row: two results of one file."""

    precision: str
    first: str
    second: str
    values: tuple[tuple[str, bool], ...]
    """Decibels per output in words, and whether they lie below the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementTable:
    """One model."""

    title: str
    loud: tuple[tuple[str, str], ...]
    """Glyph word and sentence of runtimes that do not agree."""
    quiet: str
    """In one sentence: what agrees, and how closely."""
    outputs: tuple[str, ...]
    rows: tuple[Pairing, ...]
    note: str
    """Limits, and what ran the files' own arithmetic."""


def agreement_tables_of(run: Run) -> list[AgreementTable]:
    """A table per model of which several runtimes ran a file, or a cell failed."""
    return [table for group in run.groups if (table := _table(group, run)) is not None]


def blameless(cell: CellView) -> str | None:
    """Of a cell that failed by its accuracy or parity while its runtime computes what the file says: that it does."""
    found = cell.raw.get("agreement")
    if found is None or found["verdict"] != "agrees" or cell.status not in ("failed", "waived"):
        return None
    checks = {finding["check"] for finding in cell.raw.get("findings", ())}
    if not checks & {"accuracy", "parity", "min-ap"} or found["worst_db"] is None:
        return None
    return f"{found['sentence'].rstrip('.')}: what is lost is lost in the file, not in the runtime."


def _table(group: Group, run: Run) -> AgreementTable | None:
    cells = [cell for cell in group.cells if cell.raw.get("agreement")]
    if not cells:
        return None
    outputs = list(dict.fromkeys(row["output"] for cell in cells for row in cell.raw["agreement"]["rows"]))
    labels = {cell.id: cell for cell in group.cells}
    rows: list[Pairing] = []
    done: set[frozenset[str]] = set()
    for cell in cells:
        found = cell.raw["agreement"]
        for against in dict.fromkeys(row["against"] for row in found["rows"]):
            pair = frozenset((cell.id, against))
            if pair in done:
                continue
            done.add(pair)
            values = {r["output"]: float(r["sqnr_db"]) for r in found["rows"] if r["against"] == against}
            other = labels.get(against)
            rows.append(
                Pairing(
                    precision=cell.precision,
                    first=cell.runtime,
                    second=OWN if not against else _other(cell, other, against),
                    values=tuple(_value(values.get(name), float(found["limit_db"])) for name in outputs),
                )
            )
    loud = [
        ("failed" if cell.raw["agreement"]["verdict"] == "apart" else "undecided",
         f"{cell.precision}: {cell.raw['agreement']['sentence']}")
        for cell in cells if cell.raw["agreement"]["verdict"] != "agrees"
    ]  # fmt: skip
    return AgreementTable(
        title=group.title, loud=tuple(dict.fromkeys(loud)), quiet=_quiet(cells), outputs=tuple(outputs),
        rows=tuple(rows), note=_note(cells),
    )  # fmt: skip


def _other(cell: CellView, other: CellView | None, against: str) -> str:
    """The other runtime; with its precision where that differs (tf32 runs the fp32 file)."""
    if other is None:
        return against
    return other.runtime if other.precision == cell.precision else other.label


def _value(value: float | None, limit: float) -> tuple[str, bool]:
    if value is None:
        return "not compared", False
    return decibels(value), not value >= limit


def _quiet(cells: Sequence[CellView]) -> str:
    """``2 of 3 cells compute what the file says, to 38 dB at least (openvino int8).``."""
    agreeing = [c for c in cells if c.raw["agreement"]["verdict"] == "agrees"]
    known = [(_worst(c.raw["agreement"]), c) for c in agreeing if c.raw["agreement"]["worst_db"] is not None]
    total = numbers.plural(len(cells), "cell")
    counted = (
        f"{len(agreeing)} of {total}" if len(agreeing) < len(cells) else f"all {total}" if len(cells) > 1 else total
    )
    text = f"{counted} compute{'s' if len(agreeing) == 1 else ''} what the file says"
    finite = [(value, c) for value, c in known if math.isfinite(value)]
    if finite:
        value, cell = min(finite, key=lambda item: item[0])
        text += f", to {decibels(value)} at least ({cell.label})"
    return f"{text}."


def _worst(found: Mapping[str, Any]) -> float:
    return float(found["worst_db"])


def _note(cells: Sequence[CellView]) -> str:
    limits: dict[str, list[str]] = {}
    for cell in cells:
        limits.setdefault(decibels(float(cell.raw["agreement"]["limit_db"])), []).append(cell.precision)
    words = ", ".join(f"{numbers.in_words(list(dict.fromkeys(names)))} {limit}" for limit, names in limits.items())
    told = list(dict.fromkeys(cell.raw["agreement"]["own"] for cell in cells if cell.raw["agreement"]["own"]))
    own = f" The file’s own arithmetic: {'; '.join(told)}." if told else ""
    return f"Signal to difference over the golden images; below the limit two results do not agree ({words}).{own}"
