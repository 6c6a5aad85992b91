"""The answer of a run: how many cells are the same, which is fastest, who needs a person. Shared by all reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report import numbers
from bench.report.cells import DID_NOT_RUN, NEEDS_A_PERSON
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from bench.report.cells import CellView, Group, Run

EXIT_WORDS = {
    0: "every judged cell passed",
    1: "something failed",
    3: "nothing failed, but something is undecided or no candidate ran",
    2: "input that cannot be used; finished cells were kept",
    130: "interrupted; finished cells were kept",
}
UNJUDGED = "ΔAP is shown, not judged: a lower precision needs an interval over images, which this run does not have."


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One item of the tally."""

    count: int
    words: str
    loud: bool
    """True when a person has to look."""

    def __str__(self) -> str:
        """``2 failed``."""
        return f"{self.count} {self.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The fastest cell of a group that is still the same, and what stands beside it."""

    group: Group
    cell: CellView | None
    """None: no candidate is both the same and faster."""
    contender: CellView | None
    """A faster cell that is undecided or that nobody has judged."""
    same_fastest: CellView | None
    """The highest ratio among cells that are the same, whatever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Cells of one model with one status for one reason."""

    status: str
    cells: tuple[CellView, ...]
    sentence: str


def headline(run: Run) -> str:
    """``Still the same model in 9 of 16 cells.``: reference cells are not candidates and are not counted."""
    candidates = run.candidates
    if not candidates:
        return "No candidate was compared."
    same = sum(cell.same for cell in candidates)
    return f"Still the same model in {same} of {numbers.plural(len(candidates), 'cell')}."


def tally(run: Run) -> list[Count]:
    """What the other cells are, loud ones first; kinds that do not occur are left out; a broken reference counts."""
    candidates = run.candidates
    words = [cell.status for cell in candidates]
    counts = [Count(count=words.count(status), words=status, loud=True) for status in NEEDS_A_PERSON]
    broken = sum(cell.role == "reference" and cell.status != "passed" for cell in run.cells)
    counts.append(Count(count=broken, words=f"reference{'' if broken == 1 else 's'} not passed", loud=True))
    unjudged = sum(cell.status == "passed" and not cell.same for cell in candidates)
    counts.append(Count(count=unjudged, words="ran, accuracy not judged", loud=False))
    counts.append(Count(count=words.count("waived"), words="waived", loud=False))
    counts.append(Count(count=sum(word in DID_NOT_RUN for word in words), words="did not run", loud=False))
    return [count for count in counts if count.count]


def best(group: Group) -> Best:
    """Find the fastest cell that is still the same; a failed, emulated or unjudged cell is never it."""
    with_ratio = [cell for cell in group.candidates if cell.ratio is not None and cell.ratio == cell.ratio]
    ranked = sorted(with_ratio, key=lambda cell: -(cell.ratio or 0.0))
    same = [cell for cell in ranked if cell.same]
    fastest = next((cell for cell in same if cell.faster), None)
    floor = (fastest.ratio or 0.0) if fastest else 0.0
    contender = next((c for c in ranked if c.open_question and c.faster and (c.ratio or 0.0) > floor), None)
    return Best(group=group, cell=fastest, contender=contender, same_fastest=same[0] if same else None)


def nearest_facts(found: Best) -> str:
    """What stands beside the answer: a faster cell that is not judged yet, and how fast the same ones are."""
    parts = []
    if found.contender:
        cell = found.contender
        lead = "Faster" if found.cell else "Fastest measured"
        word = "undecided" if cell.accuracy_verdict == "undecided" else "not yet judged"
        parts.append(f"{lead}, {word}: {cell.label} at {ratio_of(cell)}{_cost_of(cell)}.")
    if not found.cell:
        if found.same_fastest:
            cell = found.same_fastest
            parts.append(
                f"The fastest that is the same, {cell.label}, runs at {ratio_of(cell)} "
                f"the speed of {found.group.reference_label}."
            )
        elif any(cell.same for cell in found.group.candidates):
            parts.append("The cells that are the same have no speed ratio.")
        elif found.group.candidates:
            parts.append("No candidate is judged the same.")
    return " ".join(parts)


def ratio_of(cell: CellView) -> str:
    """``2.31× [2.26, 2.36]``; without an interval the ratio alone."""
    text = numbers.ratio(cell.ratio or 0.0)
    return f"{text} {numbers.interval(cell.ratio_ci95, 2, sign=False)}" if cell.ratio_ci95 else text


def _cost_of(cell: CellView) -> str:
    """``, AP −0.002 [−0.006, +0.001]``."""
    if cell.delta is None:
        return ""
    ends = f" {numbers.interval(cell.delta_ci95, 3, sign=True)}" if cell.delta_ci95 else ""
    return f", AP {numbers.delta_short(cell.delta)}{ends}"


def cost_line(found: Best) -> str:
    """``AP 0.709 against 0.712. 18.1 ms per image at the median, 54.6 images/s, batch 1.``."""
    cell, reference = found.cell, found.group.reference
    if cell is None:
        return ""
    parts = []
    if cell.ap is not None and reference and reference.ap is not None:
        parts.append(f"AP {numbers.fixed(cell.ap, 3)} against {numbers.fixed(reference.ap, 3)}.")
    if cell.p50_ms is not None:
        batch, fps = cell.raw["cell"]["batch"], float(cell.raw["speed"]["fps"])
        unit = "image" if batch == 1 else "batch"
        parts.append(
            f"{numbers.three_digits(cell.p50_ms)} ms per {unit} at the median, "
            f"{numbers.three_digits(fps)} images/s, batch {batch}."
        )
    return " ".join(parts)


def sentence_of(cell: CellView) -> str:
    """Why this cell is what it is, from its reason or, without one, from its first failed comparison."""
    waiver = cell.raw["waiver"]
    if waiver and not (cell.reason or "").startswith("Waived"):
        known = f" ({cell.reason})" if cell.reason else ""
        return f"Waived until {waiver['expires']}: {waiver['reason']}{known}"
    accuracy = cell.raw["accuracy"] or {}
    if cell.status == "undecided" and accuracy.get("verdict") == "not judged" and cell.reason == accuracy.get("reason"):
        return UNJUDGED  # the cell's own reason repeats its numbers, which stand beside it
    if cell.reason and cell.suspicious and cell.reason.startswith("Gains "):
        return f"Suspicious: g{cell.reason[1:]}"
    if cell.reason:
        return _with_way_out(cell, cell.reason)
    for row in cell.failed_parity:
        return row["explain"] or f"{row['mismatched']} of {row['total']} differ in {row['name']}."
    return _with_way_out(cell, accuracy.get("reason") or "No reason was recorded.")


def _with_way_out(cell: CellView, reason: str) -> str:
    """An undecided reason that does not say what would decide gets it said."""
    way = cell.would_decide if cell.status == "undecided" else None
    if way is None:
        return reason
    told = "unlikely to decide" if cell.images_to_decide is None else f"About {numbers.about(cell.images_to_decide)}"
    return reason if told.lower() in reason.lower() else f"{reason} {way[0].upper()}{way[1:]}."


def needs_person(run: Run) -> list[Attention]:
    """Cells that a person must look at: failed, error, undecided; equal reasons within a model are told once."""
    found: dict[tuple[str, str, str], list[CellView]] = {}
    for status in NEEDS_A_PERSON:
        for cell in run.cells:
            if cell.status == status:
                found.setdefault((status, cell.model, sentence_of(cell)), []).append(cell)
    items = []
    for (status, _, text), cells in found.items():
        outside = [c for c in cells if text == UNJUDGED and c.delta is not None and not c.delta >= -(c.margin or 0.0)]
        losses = ", ".join(f"{cell.label} {numbers.delta(cell.delta or 0.0)}" for cell in outside)
        more = f" As measured, outside the margin: {losses}." if outside else ""
        items.append(Attention(status=status, cells=tuple(cells), sentence=text + more))
    return items


def allowed_loss(run: Run) -> list[tuple[str, str]]:
    """Precisions and allowed AP loss: of the reference in percent, or in AP where that differs between models."""
    shares: dict[str, set[str]] = {}
    margins: dict[str, list[float]] = {}
    for group in run.groups:
        reference_ap = group.reference.ap if group.reference else None
        for cell in group.candidates:
            if cell.margin is None or not math.isfinite(cell.margin):
                continue
            margins.setdefault(cell.precision, []).append(cell.margin)
            share = numbers.percent(cell.margin / reference_ap) if reference_ap else ""
            shares.setdefault(cell.precision, set()).add(share)
    rows: dict[str, list[str]] = {}
    for precision in sorted(margins, key=PRECISIONS.index):
        low, high = (numbers.fixed(end, 4) for end in (min(margins[precision]), max(margins[precision])))
        text = f"{low} AP" if low == high else f"{low} to {high} AP"
        if len(shares[precision]) == 1 and "" not in shares[precision]:
            text = next(iter(shares[precision]))
        rows.setdefault(text, []).append(precision)
    return [(numbers.in_words(names), text) for text, names in rows.items()]


def exit_sentence(run: Run) -> str:
    """``Exit 1: something failed.``."""
    code = run.suite["exit_code"]
    return f"Exit {code}: {EXIT_WORDS[code]}."
