"""A history of runs to one self-contained page: AP, speed and verdict of every cell from run to run. Pure.

Runs stand at equal distances, the same in every chart, so that a step can be followed down the column; each chart has
a scale of its own, because a change of 3 % must show at 1.1 times and at 4 times the reference's speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE_NAME = "history.html"
MAX_RUNS = 60
"""Runs that are drawn, the last ones: 5 px each."""
WIDTH, HEIGHT, STRIP = 450, 92, 22
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 8
_BAND = math.log(1.03)
_MIN_SPAN_AP = 0.002
"""A chart of AP shows at least this much, so that rounding does not look like a trend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One run of one cell in a chart."""

    x: float
    y: float
    word: str
    """Status: class and colour."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One small multiple; pixels, y down."""

    dots: tuple[Dot, ...]
    line: str
    """SVG path; broken where a run has no value."""
    whiskers: str
    """SVG path of the 95 % intervals."""
    band: tuple[float, float] | None
    """Top and height of what counts as no change."""
    ticks: tuple[tuple[float, str], ...]
    """y and label."""
    label: str
    """For a reader who does not see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell."""

    label: str
    word: str
    """Latest status, or ``reference``."""
    reason: str | None
    latest: bool
    """False: not in the latest run."""
    strip: tuple[tuple[float, str, str], ...]
    """x, status and title of each run."""
    ap: Chart | None
    speed: Chart | None
    speed_word: str
    """Why there is no chart of speed."""


def render_history(history: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        history: valid under ``schemas/history.json``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(plural=numbers.plural, stamp=numbers.stamp)
    return environment.get_template("history.html").render(_context(history))


def _context(history: Mapping[str, Any]) -> dict[str, Any]:
    runs = history["runs"][-MAX_RUNS:]
    places = {run["run_id"]: _x(index, len(runs)) for index, run in enumerate(runs)}
    groups: dict[tuple[str, str], list[Row]] = {}
    for cell in sorted(history["cells"], key=_order):
        points = [p for p in cell["points"] if p["run_id"] in places]
        if points:
            key = (cell["cell"]["model"], cell["cell"]["fixtures"])
            groups.setdefault(key, []).append(_row(cell, points, places, runs[-1]["run_id"]))
    return {
        "history": history,
        "runs": runs,
        "groups": [(model, fixtures, rows) for (model, fixtures), rows in groups.items()],
        "headline": headline(history),
        "finding": finding(history),
        "moved": moved(history),
        "steps": [(places[r["run_id"]], r) for r in runs if r["changed"]],
        "width": WIDTH,
        "height": HEIGHT,
        "strip": STRIP,
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "left_out": len(history["runs"]) - len(runs),
        "glyph": max(6.0, min(14.0, (WIDTH - _LEFT - _RIGHT) / max(len(runs), 1) - 1)),
        "dot": 3.2 if len(runs) <= 30 else 2.0,
    }


def headline(history: Mapping[str, Any]) -> str:
    """``6 of 8 cells passed in the latest of 12 runs.``."""
    if not history["runs"]:
        return "No run could be read."
    latest = _latest(history)
    judged = [
        p["status"] for role, p in latest if role == "candidate" and p["status"] not in ("skipped", "unsupported")
    ]
    passed = judged.count("passed")
    runs = len(history["runs"])
    which = f"latest of {runs} runs" if runs > 1 else "one run"
    return f"{passed} of {numbers.plural(len(judged), 'cell')} passed in the {which}."


def finding(history: Mapping[str, Any]) -> str:
    """What is otherwise than in the run before: ``Since the run before: onnxrt int8 passed → failed.``."""
    if len(history["runs"]) < 2:
        return "One run is no history yet: the next one shows whether anything moved."
    before, now = (r["run_id"] for r in history["runs"][-2:])
    moved = []
    for cell in sorted(history["cells"], key=_order):
        words = [next((p["status"] for p in cell["points"] if p["run_id"] == run), "absent") for run in (before, now)]
        if words[0] != words[1]:
            moved.append(f"{_label(cell)} {words[0]} → {words[1]}")
    if not moved:
        return "Every cell has the verdict that it had in the run before."
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return f"Since the run before: {', '.join(moved[:4])}{more}."


def moved(history: Mapping[str, Any]) -> str:
    """``Over 14 runs the verdict changed in 3 of 9 cells.``."""
    cells = history["cells"]
    changed = sum(len({p["status"] for p in c["points"]}) > 1 for c in cells)
    runs = numbers.plural(len(history["runs"]), "run")
    return f"Over {runs} the verdict changed in {changed} of {numbers.plural(len(cells), 'cell')}."


def _latest(history: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    run = history["runs"][-1]["run_id"]
    return [(c["role"], p) for c in history["cells"] for p in c["points"] if p["run_id"] == run]


def _order(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    where = cell["cell"]
    return (where["model"], where["fixtures"], cell["role"] != "reference", where["backend"], where["device"],
            PRECISIONS.index(where["precision"]), where["batch"])  # fmt: skip


def _label(cell: Mapping[str, Any]) -> str:
    where = cell["cell"]
    device = "" if where["device"] == "cpu" else f" {where['device']}"
    batch = "" if where["batch"] == 1 else f" b{where['batch']}"
    return f"{where['backend']}{device} {where['precision']}{batch}"


def _row(cell: Mapping[str, Any], points: Sequence[Mapping[str, Any]], places: Mapping[str, float], latest: str) -> Row:
    last = points[-1]
    reference = cell["role"] == "reference"
    aps = [(p, *_ap_of(p)) for p in points if _number(p["ap"]) is not None]
    ratios = [(p, *_ratio_of(p)) for p in points if _number(p["ratio"]) is not None and not reference]
    return Row(
        label=_label(cell),
        word="reference" if reference and last["status"] == "passed" else last["status"],
        reason=last["reason"],
        latest=last["run_id"] == latest,
        strip=tuple((places[p["run_id"]], p["status"], _title(p, p["status"])) for p in points),
        ap=_chart("AP", aps, places, _ap_band(points), decimals=4) if aps else None,
        speed=_chart("Speed", ratios, places, _ratio_band([r[1] for r in ratios]), decimals=2) if ratios else None,
        speed_word="the reference, 1×"
        if reference
        else "emulated: no speed of this precision"
        if any(p["emulated"] for p in points)
        else "not measured",
    )


def _ap_of(point: Mapping[str, Any]) -> tuple[float, tuple[float, float] | None]:
    """AP, and the interval of its difference to the reference, moved to stand around it."""
    ap, delta, ends = float(point["ap"]), _number(point["delta"]), point["ci95"]
    if delta is None or ends is None or None in (_number(ends[0]), _number(ends[1])):
        return ap, None
    return ap, (ap - delta + float(ends[0]), ap - delta + float(ends[1]))


def _ratio_of(point: Mapping[str, Any]) -> tuple[float, tuple[float, float] | None]:
    ends = point["ratio_ci95"]
    finite = ends is not None and None not in (_number(ends[0]), _number(ends[1]))
    return float(point["ratio"]), (float(ends[0]), float(ends[1])) if finite else None


def _ap_band(points: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """From the latest allowed AP (the reference's minus the margin) upwards to the reference's."""
    for point in reversed(points):
        ap, delta, margin = (_number(point[k]) for k in ("ap", "delta", "margin"))
        if ap is not None and delta is not None and margin is not None:
            return ap - delta - margin, ap - delta
    return None


def _ratio_band(ratios: Sequence[float]) -> tuple[float, float] | None:
    """±3 % around the median of the runs."""
    if not ratios:
        return None
    ordered = sorted(ratios)
    middle = math.log((ordered[(len(ordered) - 1) // 2] * ordered[len(ordered) // 2]) ** 0.5)
    return math.exp(middle - _BAND), math.exp(middle + _BAND)


def _chart(
    name: str,
    values: Sequence[tuple[Mapping[str, Any], float, tuple[float, float] | None]],
    places: Mapping[str, float],
    band: tuple[float, float] | None,
    *,
    decimals: int,
) -> Chart:
    ends = [v for _, value, interval in values for v in (value, *(interval or ()))] + list(band or ())
    low, high = min(ends), max(ends)
    least = _MIN_SPAN_AP if name == "AP" else 0.02 * high
    pad = max((high - low) * 0.06, (least - (high - low)) / 2)
    low, high = low - pad, high + pad

    def y(value: float) -> float:
        share = (high - value) / (high - low)
        return float(round(_TOP + (HEIGHT - _TOP - _BOTTOM) * share, 1))

    dots, line, whiskers = [], [], []
    order = {run: index for index, run in enumerate(places)}
    previous: int | None = None
    for point, value, interval in values:
        x, at = places[point["run_id"]], order[point["run_id"]]
        words = numbers.fixed(value, decimals) + (numbers.TIMES if name == "Speed" else "")
        if interval is not None:
            words += f" {numbers.interval(interval, decimals, sign=False)}"
            whiskers.append(f"M{x} {y(interval[0])}V{y(interval[1])}")
        line.append(f"{'L' if previous == at - 1 else 'M'}{x} {y(value)}")
        dots.append(Dot(x=x, y=y(value), word=point["status"], title=_title(point, f"{name} {words}")))
        previous = at
    first, last = values[0][1], values[-1][1]
    return Chart(
        dots=tuple(dots),
        line="".join(line),
        whiskers="".join(whiskers),
        band=None if band is None else (y(band[1]), round(y(band[0]) - y(band[1]), 1)),
        ticks=tuple((y(v), numbers.fixed(v, decimals)) for v in _ticks(low, high, y)),
        label=f"{name} over {numbers.plural(len(values), 'run')}: first {numbers.fixed(first, decimals)}, "
        f"latest {numbers.fixed(last, decimals)}",
    )


def _ticks(low: float, high: float, y: Any) -> list[float]:
    """Two or three round values inside the chart, at least 14 px apart."""
    step = float(10.0 ** math.floor(math.log10(high - low)))
    for factor in (0.2, 0.5, 1.0, 2.0, 5.0):
        size = step * factor
        found = [size * k for k in range(math.ceil(low / size), math.floor(high / size) + 1)]
        if len(found) <= 4 and (len(found) < 2 or abs(y(found[0]) - y(found[1])) >= 14):
            return found
    return []


def _title(point: Mapping[str, Any], words: str) -> str:
    commit = f", {point['commit'][:7]}" if point["commit"] else ""
    return f"{numbers.stamp(point['started_at'])}{commit}: {words}, {point['status']}"


def _x(index: int, count: int) -> float:
    """Centre of a run's column."""
    step = (WIDTH - _LEFT - _RIGHT) / max(count, 1)
    return round(_LEFT + step * (index + 0.5), 1)


def _number(value: Any) -> float | None:
    """A finite number, or None: words for what is not finite are not drawn."""
    number = numbers.as_number(value)
    return number if number is not None and math.isfinite(number) else None
