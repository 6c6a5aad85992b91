"""Section 7 in words: was the timing clean, what else the machine did, and whether what was timed was scored. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import numbers
from bench.report.evidence import flat
from bench.report.rounds import kind_of, rounds_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Group, Run

STEADY, MOVED = 0.05, 0.15
"""Spread of round medians up to which timing is called clean, and from which it is not."""
MANY_TAGGED = 0.25
"""Share of tagged rounds from which timing is not called clean."""
UNREADABLE = "not readable here"
_NAMED = 3
_HEADS = {
    "load_average_before": "load average before", "load_average_after": "load average after",
    "cpu_steal_percent": "CPU steal", "other_cpu_percent": "other processes", "cpu_mhz": "CPU clock",
    "gpu": "GPU", "sm_mhz": "clock", "temperature_c": "temperature", "power_w": "power",
    "rounds": "rounds watched", "tagged_rounds": "rounds tagged",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One timing check of one cell."""

    word: str
    """Glyph: ``passed``, ``failed`` or ``undecided``."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRow:
    """How one cell was timed."""

    name: str
    rounds: str
    openings: str
    tagged: str
    """``2 of 20``, of the rounds that the file keeps."""
    speed: str
    word: str
    """Verdict on its speed."""
    stopped: str
    checks: tuple[Check, ...]
    """Timed outputs, repeated input."""


CHECKS = ("timed outputs", "repeated input")


def timing_finding(run: Run) -> str:
    """Was the timing clean: by checks, tags, and how far round medians moved within a cell."""
    timed = [cell for cell in run.cells if cell.raw["speed"]]
    if not timed:
        return "Nothing was timed."
    failed = [run.name(c) for c in timed if any(x["passed"] is False for x in c.raw["speed"].get("checks") or ())]
    if failed:
        names = numbers.in_words(failed) if len(failed) <= _NAMED else numbers.plural(len(failed), "cell")
        return f"No: a timing check failed for {names}, so what was timed is not what was scored."
    spreads = [(spread, cell) for cell in timed if (spread := _spread(cell)) is not None]
    tagged, rounds = _tagged(run)
    share = tagged / rounds if rounds else 0.0
    counted = f"{tagged} of {numbers.plural(rounds, 'round')} {'is' if tagged == 1 else 'are'} tagged"
    if not spreads:
        text = "Unknown: this file keeps no samples by round."
        if rounds:
            text = f"Unknown: {numbers.plural(rounds, 'round')} are too few to see how far a cell’s median moves."
        if share > MANY_TAGGED:
            text = f"No: {counted}. {_UNSAFE}"
        return " ".join([text, *_facts(timed)])
    worst, cell = max(spreads, key=lambda item: item[0])
    moved = f"{numbers.percent(worst)} ({run.name(cell)})"
    word = "Yes" if worst <= STEADY and not tagged else "Mostly" if worst <= MOVED and share <= MANY_TAGGED else "No"
    if not any("tags" in r for c in timed for r in c.raw["speed"]["rounds"]):
        if worst > MOVED:
            return f"No: the median of {run.name(cell)} moved by {numbers.percent(worst)} between rounds. {_UNSAFE}"
        return f"{word}: between the calmest and the slowest tenth of rounds, a cell’s median moved by at most {moved}."
    text = (
        f"{word}: {counted if tagged else 'no round is tagged'}, and round medians of a cell moved by at most {moved}."
    )
    return " ".join([text, *([_UNSAFE] if word == "No" else []), *_facts(timed)])


_UNSAFE = "Small ratios are not safe."


def timed_rows(run: Run) -> list[TimedRow]:
    """A row per timed cell, for files that say how often rounds and openings were made; else none."""
    return [_timed_row(c, run) for c in run.cells if c.raw["speed"] and c.raw["speed"].get("rounds_run")]


def check_notes(run: Run) -> list[tuple[str, str]]:
    """Cells and what their checks say, for checks that did not pass, failed ones first; equal words are told once."""
    found: dict[str, list[str]] = {}
    for cell in run.cells:
        for check in (cell.raw["speed"] or {}).get("checks") or ():
            if check["passed"] is not True:
                state = "failed" if check["passed"] is False else "could not be checked"
                found.setdefault(f"{check['name']} {state}. {check['explain']}", []).append(run.name(cell))
    notes = sorted(found.items(), key=lambda item: " failed. " not in item[0])
    return [(", ".join(names), text) for text, names in notes]


def noise_of(run: Run) -> tuple[list[str], tuple[str, ...], list[tuple[str, tuple[str, ...]]]]:
    """Noise facts: those equal for all timed cells as lines, the others as column names and rows with a name each.

    Cells of a model that were timed together share their noise and are one row.
    """
    rows = [
        (group, cell, _noise_items((cell.raw["speed"] or {}).get("noise")))
        for group in run.groups
        for cell in group.cells
    ]
    rows = [row for row in rows if row[2]]
    names = list(dict.fromkeys(name for _, _, items in rows for name in items))
    values = {name: {items.get(name) for _, _, items in rows} for name in names}
    common = [f"{name} {rows[0][2][name]}" for name in names if len(values[name]) == 1]
    shown = tuple([name for name in names if len(values[name]) > 1][:9])
    table: list[tuple[str, tuple[str, ...]]] = []
    for group in run.groups if shown else ():
        lines = [(cell, tuple(items.get(n, "\N{EN DASH}") for n in shown)) for g, cell, items in rows if g is group]
        if len(lines) > 1 and len({texts for _, texts in lines}) == 1:
            table.append((f"{group.title}, all cells", lines[0][1]))
        else:
            table += [(run.name(cell), texts) for cell, texts in lines]
    return common, shown, table


def _noise_items(noise: Any) -> dict[str, str]:
    """Label -> text, nested values flat; ``{min, max}`` becomes ``2,210 to 2,900 MHz``."""
    items: dict[str, str] = {}
    for key, value in (noise or {}).items():
        if isinstance(value, dict) and value.keys() != {"min", "max"}:
            items.update({f"{_head(key)} {name}": text for name, text in _noise_items(value).items()})
        elif isinstance(value, dict):
            ends = [numbers.fixed(float(end), 0) for end in (value["min"], value["max"])]
            items[_head(key)] = (ends[0] if ends[0] == ends[1] else " to ".join(ends)) + _unit(key)
        else:
            items[_head(key)] = flat(value)[0] + (_unit(key) if isinstance(value, (int, float)) else "")
    return items


def rounds_sentence(group: Group) -> str | None:
    """``20 rounds in 4 openings, 2 tagged (other load, cpu steal)``; None where the file does not say."""
    speeds = [c.raw["speed"] for c in group.cells if c.raw["speed"] and c.raw["speed"].get("rounds_run")]
    if not speeds:
        return None
    rounds = sorted({int(s["rounds_run"]) for s in speeds})
    openings = sorted({int(s.get("openings") or 1) for s in speeds})
    most = numbers.plural(rounds[-1], "round")
    text = most if len(rounds) == 1 else f"{rounds[0]} to {most}"
    often = numbers.plural(openings[-1], "opening")
    text += f" in {often if len(openings) == 1 else f'{openings[0]} to {often}'}"
    tagged, _ = _tagged_in(group)
    kinds = dict.fromkeys(kind_of(t) for c in group.cells for r in rounds_of(c) for t in r.tags)
    if not tagged:
        return f"{text}, none tagged"
    return f"{text}, {tagged} tagged{f' ({numbers.in_words(list(kinds))})' if kinds else ''}"


def _head(name: str) -> str:
    return _HEADS.get(name, name.replace("_", " "))


def _unit(key: str) -> str:
    """The unit that the end of a key names."""
    units = {"percent": " %", "mhz": " MHz", "c": " °C", "w": " W"}
    return units.get(key.rsplit("_", 1)[-1], "") if "_" in key else ""


def _spread(cell: CellView) -> float | None:
    """90th over 10th percentile of round medians, minus one; None below five rounds."""
    medians = [r.median_ms for r in rounds_of(cell)]
    if len(medians) < 5:
        return None
    low, high = (float(end) for end in np.percentile(medians, [10, 90]))
    return high / low - 1


def _tagged(run: Run) -> tuple[int, int]:
    """Tagged and all rounds of the run."""
    pairs = [_tagged_in(group) for group in run.groups]
    return sum(tagged for tagged, _ in pairs), sum(rounds for _, rounds in pairs)


def _tagged_in(group: Group) -> tuple[int, int]:
    """Rounds that are tagged for any cell of a model, and all: as counted by the run, or of those the file keeps."""
    noises = [(c.raw["speed"] or {}).get("noise") or {} for c in group.cells]
    counted = [(n["tagged_rounds"], n["rounds"]) for n in noises if {"tagged_rounds", "rounds"} <= n.keys()]
    if counted and all(isinstance(v, int) for pair in counted for v in pair):
        return max(tagged for tagged, _ in counted), max(rounds for _, rounds in counted)
    kept = [r for cell in group.cells for r in rounds_of(cell)]
    return len({r.number for r in kept if r.tags}), len({r.number for r in kept})


def _facts(timed: Sequence[CellView]) -> list[str]:
    """``CPU steal 0.4 %, other processes 31 % of all cores, clock 2,210 to 2,900 MHz.``; the worst of all cells."""
    noises = [c.raw["speed"].get("noise") or {} for c in timed]
    parts = []
    for key, words, after in (
        ("cpu_steal_percent", "CPU steal", " %"), ("other_cpu_percent", "other processes", " % of all cores"),
    ):  # fmt: skip
        values = [n[key] for n in noises if key in n]
        if values:
            known = [float(v) for v in values if isinstance(v, (int, float))]
            parts.append(f"{words} {numbers.fixed(max(known), 1)}{after}" if known else f"{words} {UNREADABLE}")
    clocks = [n["cpu_mhz"] for n in noises if "cpu_mhz" in n]
    if clocks:
        parts.append(f"clock {_clock(clocks)}")
    gpus = [n["gpu"] for n in noises if n.get("gpu")]
    reasons = dict.fromkeys(str(r) for g in gpus for r in g.get("reasons") or {})
    if gpus:
        parts.append(f"GPU throttle reasons: {numbers.in_words(list(reasons)) or 'none'}")
    text = ", ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if parts else []


def _clock(values: Sequence[Any]) -> str:
    """``2,210 to 2,900 MHz``, from numbers or ``{min, max}``."""
    found = [end for value in values for end in (value.values() if isinstance(value, dict) else [value])]
    known = [float(end) for end in found if isinstance(end, (int, float))]
    if not known:
        return UNREADABLE
    low, high = numbers.fixed(min(known), 0), numbers.fixed(max(known), 0)
    return f"{low} MHz" if low == high else f"{low} to {high} MHz"


def _timed_row(cell: CellView, run: Run) -> TimedRow:
    speed = cell.raw["speed"]
    kept = rounds_of(cell)
    ratio = "" if cell.ratio is None or cell.role == "reference" else numbers.ratio(cell.ratio)
    ends = f" {numbers.interval(cell.ratio_ci95, 2, sign=False)}" if ratio and cell.ratio_ci95 else ""
    sentences = [str(text).rstrip(".") for text in (speed.get("stopped"), speed.get("reason")) if text]
    checks: dict[str, Mapping[str, Any]] = {str(c["name"]): c for c in speed.get("checks") or ()}
    return TimedRow(
        name=run.name(cell), rounds=f"{speed['rounds_run']:,}", openings=f"{speed.get('openings') or 1}",
        tagged=f"{sum(bool(r.tags) for r in kept)} of {len(kept)}" if kept else "\N{EN DASH}", speed=ratio + ends,
        word=cell.speed_verdict or "not judged", stopped=". ".join([*sentences, ""]).rstrip() or "\N{EN DASH}",
        checks=tuple(_check(checks.get(name)) for name in CHECKS),
    )  # fmt: skip


def _check(check: Mapping[str, Any] | None) -> Check:
    """``same, 0.0``, ``1.00×``, with the limit; absent or unknown is said."""
    if check is None or check["passed"] is None:
        return Check(word="undecided", text="not checked")
    write = numbers.ratio if check["name"] == "repeated input" else numbers.scientific
    value = "" if check["value"] is None else write(float(check["value"]))
    limit = "" if check["limit"] is None else f" \N{LESS-THAN OR EQUAL TO} {write(float(check['limit']))}"
    if not check["passed"]:
        return Check(word="failed", text=f"{value or 'failed'}, not{limit}" if limit else value or "failed")
    return Check(word="passed", text=f"{value}{limit}" or "passed")
