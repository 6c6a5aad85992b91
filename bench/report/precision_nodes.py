"""Which nodes are to blame: the time of a lower precision beside that of fp32 in the same runtime. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.report import numbers
from bench.types import CONVERSION, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Group, Run

_Difference: TypeAlias = "tuple[float, tuple[str, str], Mapping[str, Any] | None, Mapping[str, Any] | None]"
"""More ms than in fp32; operator and precision; its row in the cell and in fp32."""
FULL = ("fp64", "fp32")
"""Precisions that nothing is taken from."""
WORTH_NAMING = 0.03
"""Share of the total from which an operator is named in a sentence."""
NAMED, OPERATOR_ROWS, NODE_ROWS = 3, 14, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    """All nodes of one operator and precision, in the lower precision and in fp32."""

    operator: str
    kind: str
    """``int8``, ``float``, ``conversion`` ..."""
    nodes: str
    ms: str
    fp32_nodes: str
    fp32_ms: str
    extra: str
    """Signed difference in ms."""
    costs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLine:
    """One of the slowest nodes."""

    name: str
    operator: str
    kind: str
    ms: str
    fp32_ms: str
    """Of the node of that name in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blamed:
    """Where the time of one cell goes."""

    cell: CellView
    title: str
    sentence: str | None
    operators: tuple[OperatorRow, ...]
    left_out: str | None
    """Operators that are not listed, in words."""
    nodes: tuple[NodeLine, ...]
    has_fp32: bool


def fp32_of(group: Group, cell: CellView) -> CellView | None:
    """The fp32 cell of the same runtime and batch; None for fp32 itself."""
    if cell.precision in FULL:
        return None
    keys = ("backend", "device", "batch")
    identity = [cell.raw["cell"][key] for key in keys]
    return next(
        (o for o in group.cells if o.precision == "fp32" and [o.raw["cell"][key] for key in keys] == identity), None
    )


def blame(nodes: Mapping[str, Any], fp32: Mapping[str, Any] | None, precision: str) -> str | None:
    """``QuantizeLinear and DequantizeLinear take 1.20 of 3.10 ms; 57 Sigmoid (0.80 ms) run in float.``.

    Args:
        nodes: profile of the cell, as ``suite.json`` holds it.
        fp32: profile of the fp32 cell of the same runtime, or None.
        precision: of the cell.

    Returns:
        None when nothing takes a share worth naming.
    """
    total = float(nodes["total_ms"])
    operators = sorted(nodes["operators"], key=lambda row: -float(row["ms"]))
    heavy = [row for row in operators if total > 0 and float(row["ms"]) >= WORTH_NAMING * total]
    parts = []
    converting = [row for row in heavy if row["precision"] == CONVERSION][:NAMED]
    if converting:
        names = [str(row["operator"]) for row in converting]
        spent = numbers.three_digits(sum(float(row["ms"]) for row in converting))
        parts.append(f"{numbers.in_words(names)} take{'s' if len(names) == 1 else ''} {spent} of {_ms(total)}")
    floats = [row for row in heavy if _is_wider(row["precision"], precision)][:NAMED]
    if floats:
        listed = [f"{int(row['nodes'])} {row['operator']} ({_ms(float(row['ms']))})" for row in floats]
        verb = "runs" if len(floats) == 1 and int(floats[0]["nodes"]) == 1 else "run"
        parts.append(f"{numbers.in_words(listed)} {verb} in float")
    own = sum(float(row["ms"]) for row in operators if row["precision"] == precision)
    whole = float(fp32["total_ms"]) if fp32 else 0.0
    if whole and own > 0:
        parts.append(f"the {precision} nodes take {_ms(own)}, the whole of fp32 {_ms(whole)}")
    if not parts:
        return None
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def blamed_of(group: Group, run: Run) -> list[Blamed]:
    """Every cell of a lower precision whose runtime said which nodes take the time."""
    found = []
    for cell in group.candidates:
        nodes = cell.raw.get("nodes")
        if not nodes or cell.precision in FULL:
            continue
        fp32 = fp32_of(group, cell)
        theirs = fp32.raw.get("nodes") if fp32 else None
        rows = _operator_rows(nodes, theirs)
        title = f"{run.name(cell)}, {_ms(float(nodes['total_ms']))} in {numbers.plural(int(nodes['nodes']), 'node')}"
        if theirs:
            title += f"; fp32 {_ms(float(theirs['total_ms']))} in {numbers.plural(int(theirs['nodes']), 'node')}"
        hidden = len(rows) - OPERATOR_ROWS
        found.append(
            Blamed(
                cell=cell,
                title=title,
                sentence=blame(nodes, theirs, cell.precision),
                operators=tuple(_operator_row(row, float(nodes["total_ms"])) for row in _largest(rows)),
                left_out=f"{numbers.plural(hidden, 'more operator')} with smaller differences." if hidden > 0 else None,
                nodes=tuple(_node_lines(nodes["slowest"])),
                has_fp32=bool(theirs),
            )
        )
    return found


def _operator_rows(nodes: Mapping[str, Any], fp32: Mapping[str, Any] | None) -> list[_Difference]:
    """Operators of both and by how much each costs more than in fp32."""
    mine = {(str(r["operator"]), str(r["precision"])): r for r in nodes["operators"]}
    theirs = {(str(r["operator"]), str(r["precision"])): r for r in (fp32 or {}).get("operators", ())}
    rows = []
    for key in dict.fromkeys([*mine, *theirs]):
        here, there = mine.get(key), theirs.get(key)
        extra = (float(here["ms"]) if here else 0.0) - (float(there["ms"]) if there else 0.0)
        rows.append((extra, key, here, there))
    return rows


def _largest(rows: Sequence[_Difference]) -> list[_Difference]:
    """The largest differences, what costs most first and what saves most last."""
    chosen = sorted(rows, key=lambda row: (-abs(row[0]), row[1]))[:OPERATOR_ROWS]
    return sorted(chosen, key=lambda row: (-row[0], row[1]))


def _operator_row(row: _Difference, total_ms: float) -> OperatorRow:
    extra, (operator, kind), here, there = row
    dash = "\N{EN DASH}"
    return OperatorRow(
        operator=operator,
        kind=_kind(kind),
        nodes=f"{int(here['nodes']):,}" if here else dash,
        ms=_thousandths(float(here["ms"])) if here else dash,
        fp32_nodes=f"{int(there['nodes']):,}" if there else dash,
        fp32_ms=_thousandths(float(there["ms"])) if there else dash,
        extra=numbers.signed(extra, 2),
        costs=extra > WORTH_NAMING * total_ms,
    )


def _node_lines(slowest: Sequence[Mapping[str, Any]]) -> list[NodeLine]:
    """The slowest nodes; fusions differ between precisions, so that a name of one need not exist in the other."""
    return [
        NodeLine(
            name=str(row["name"]),
            operator=str(row["operator"]),
            kind=_kind(str(row["precision"])),
            ms=_thousandths(float(row["ms"])),
            fp32_ms="\N{EN DASH}" if row["fp32_ms"] is None else _thousandths(float(row["fp32_ms"])),
        )
        for row in slowest[:NODE_ROWS]
    ]


def _kind(kind: str) -> str:
    """What a node computes in, for a reader."""
    return kind or "no arithmetic"


def _is_wider(kind: str, precision: str) -> bool:
    """True for floating arithmetic that is wider than what was asked for."""
    return kind in PRECISIONS and precision in PRECISIONS and PRECISIONS.index(kind) < PRECISIONS.index(precision)


def _thousandths(value_ms: float) -> str:
    """Three digits, but no finer than a profiler's microsecond."""
    return numbers.fixed(value_ms, 3) if abs(value_ms) < 1 else numbers.three_digits(value_ms)


def _ms(value: float) -> str:
    return f"{numbers.three_digits(value)} ms"
