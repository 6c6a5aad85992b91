"""Section 6: what is known about each cell that failed, broke or stayed undecided. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.report.answer import sentence_of
from bench.report.flips import picture_of
from bench.report.precision_agreement import blameless

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Run
    from bench.report.flips import Picture

MAX_STDERR_LINES = 24
THUMBNAIL_BUDGET, LEAST_THUMBNAILS = 550_000, 400_000
"""Characters of base64 on one page, which stays below 1 MB; and what is left of them beside long tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One cell to explain."""

    cell: CellView
    title: str
    lead: str
    more: tuple[str, ...]
    """Further findings that the lead does not tell."""
    parity: tuple[Mapping[str, str | bool | None], ...]
    """Failed comparisons, in words: ``level name found allowed worst explain``."""
    facts: tuple[tuple[str, str], ...]
    """Block of label and text: attestation, or how the lane ended."""
    pictures: tuple[Picture, ...]

    @property
    def wide(self) -> bool:
        """True when it needs the whole width."""
        return bool(self.parity or self.pictures)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """Undecided cells that share a model and a reason."""

    title: str
    reason: str
    rows: tuple[tuple[CellView, str, str, str], ...]
    """Cell, AP difference, margin, speed."""


def cases_of(run: Run) -> list[Case]:
    """Failed, then error, then waived cells; those with tables or pictures before the short ones."""
    order = {"failed": 0, "error": 1, "waived": 2}
    cases = [_case(cell, run) for cell in run.cells if cell.status in order]
    return sorted(cases, key=lambda case: (not case.wide, order[case.cell.status]))


def thumbnails_of(cases: Sequence[Case], taken: int = 0) -> dict[str, str]:
    """Base64 JPEG -> id: each image once, the worst of every cell before any second one, within the page's budget.

    Args:
        cases: with their pictures.
        taken: characters of the page that long tables need.
    """
    found: dict[str, str] = {}
    room = max(THUMBNAIL_BUDGET - taken, LEAST_THUMBNAILS)
    for place in range(max((len(case.pictures) for case in cases), default=0)):
        for case in cases:
            jpeg = case.pictures[place].jpeg if place < len(case.pictures) else None
            if jpeg and jpeg not in found and len(jpeg) <= room:
                found[jpeg] = f"thumb-{len(found)}"
                room -= len(jpeg)
    return found


def open_questions_of(run: Run) -> list[OpenQuestion]:
    """Undecided cells, told once per reason and model."""
    found: dict[tuple[str, str], list[CellView]] = {}
    for group in run.groups:
        for cell in group.cells:
            if cell.status == "undecided":
                found.setdefault((group.title, sentence_of(cell)), []).append(cell)
    return [
        OpenQuestion(title=title, reason=reason, rows=tuple(_open_row(cell) for cell in cells))
        for (title, reason), cells in found.items()
    ]


def _open_row(cell: CellView) -> tuple[CellView, str, str, str]:
    dash = "\N{EN DASH}"
    delta = dash if cell.delta is None else numbers.delta(cell.delta)
    if cell.delta_ci95:
        delta = f"{delta} {numbers.interval(cell.delta_ci95, 4, sign=True)}"
    margin = dash if cell.margin is None else numbers.delta(-cell.margin)
    speed = "emulated" if cell.emulated else dash if cell.ratio is None else numbers.ratio(cell.ratio)
    if cell.ratio_ci95:
        speed = f"{speed} {numbers.interval(cell.ratio_ci95, 2, sign=False)}"
    return cell, delta, margin, speed


def _case(cell: CellView, run: Run) -> Case:
    short = cell.raw["reason_short"]
    return Case(
        cell=cell,
        title=f"{run.name(cell)}: {short}" if short else run.name(cell),
        lead=sentence_of(cell),
        more=tuple(_more(cell)),
        parity=tuple(_parity_row(row) for row in cell.failed_parity),
        facts=tuple(_facts(cell)),
        pictures=tuple(picture_of(flip) for flip in cell.raw["flips"]),
    )


def _more(cell: CellView) -> list[str]:
    """Further findings, and that the runtime is not to blame where that is known."""
    lead = sentence_of(cell)
    found = [str(f["reason"]) for f in cell.raw.get("findings", []) if f["reason"] not in lead]
    clear = blameless(cell)
    return found if clear is None else [*found, clear]


def _parity_row(row: Mapping[str, Any]) -> Mapping[str, str | bool | None]:
    """One failed comparison as text."""
    found = []
    if row["rms"] is not None:
        found.append(f"rms {numbers.scientific(float(row['rms']))}")
    if row["max_abs"] is not None:
        found.append(f"largest {numbers.scientific(float(row['max_abs']))}")
    if row["nonfinite"]:
        found.append(f"{row['nonfinite']:,} not finite")
    return {
        "level": row["level"],
        "name": row["name"],
        "differ": f"{row['mismatched']:,} / {row['total']:,}",
        "found": ", ".join(found) or None,
        "budget": None
        if row["budget"] is None
        else f"\N{LESS-THAN OR EQUAL TO} {numbers.scientific(float(row['budget']))}",
        "worst": row["worst"],
        "explain": row["explain"],
    }


def _facts(cell: CellView) -> list[tuple[str, str]]:
    failure, observed = cell.raw["failure"], cell.raw["observed"]
    if failure:
        facts = [("stage", failure["stage"])]
        if failure["signal"]:
            facts.append(("signal", failure["signal"]))
        if failure["after_s"] is not None:
            facts.append(("after", numbers.seconds(float(failure["after_s"]))))
        lines = failure["stderr_tail"].rstrip().splitlines()
        if lines:
            cut = len(lines) - MAX_STDERR_LINES
            head = [f"({cut} earlier lines are in the log)"] if cut > 0 else []
            facts.append(("stderr", "\n".join(head + lines[-MAX_STDERR_LINES:])))
        return facts
    if observed and observed["precision"] != cell.precision:
        evidence = flat(observed["evidence"])
        return [("requested", cell.precision), ("observed", f"{observed['precision']}  {observed['provider']}"),
                *([("evidence", "\n".join(evidence))] if evidence else [])]  # fmt: skip
    return []


def flat(value: Any, name: str = "") -> list[str]:
    """Nested JSON as lines ``name: value``; long lists are counted."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in flat(item, f"{name} {key}" if name else str(key))]
    if isinstance(value, list):
        text = ", ".join(map(plain, value[:8])) + (f", and {len(value) - 8} more" if len(value) > 8 else "")
    else:
        text = plain(value)
    return [f"{name}: {text}" if name else text]


def plain(value: Any) -> str:
    """A JSON value for a reader: no Python words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}".replace("-", numbers.MINUS)
    return str(value)
