"""``parity baseline``: measure the same plan several times and keep what later runs are compared with."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.across.baselines import load_side, refuse_host, store_run
from bench.across.speed import MIN_RUNS, t_quantile
from bench.commands.onefile import run_into_file
from bench.commands.run import command_line
from bench.console import ConsoleEvents
from bench.errors import UsageError
from bench.host import describe_host
from bench.options import MAX_IMAGES_OF_ONE_FILE, make_request, read_config
from bench.report import numbers
from bench.report.paper import MAX_COLUMNS, Paper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ENDED_EARLY = (2, 130)


def baseline_command(
    options: Mapping[str, Any], *, config: Path | None, runs: int | None, out: Path, add: Sequence[Path], quiet: bool
) -> int:
    """Measure ``runs`` runs, or add finished ones; each is kept as soon as it is finished.

    ``out`` with the suffix ``.json`` is one suite file of one run instead; see `write_one`.

    Returns:
        The worst exit code of the runs that were measured now: 1, 3 or 0; 2 or 130 when one ended early.
    """
    if out.suffix.lower() == ".json" and not out.is_dir():
        return write_one(options, config=config, runs=runs, out=out, add=add, quiet=quiet)
    console = Console()
    code, runs = 0, 3 if runs is None else runs
    if add:
        for folder in add:
            store_run(out, folder)
    else:
        if runs < 1:
            raise UsageError(f"--runs {runs}: at least 1.")
        code = _measure(options, config=config, runs=runs, out=out, quiet=quiet)
    if not (out / "baseline.json").is_file():
        return code
    print_baseline(out, console)
    return code


def write_one(
    options: Mapping[str, Any], *, config: Path | None, runs: int | None, out: Path, add: Sequence[Path], quiet: bool
) -> int:
    """Measure one run into one suite file: the reference cell, unless backends were named.

    Returns:
        0 when every cell that ran passed, also where it is the reference alone; else the suite's exit code.

    Raises:
        UsageError: options of a baseline of several runs.
    """
    if add or runs not in (None, 1):
        raise UsageError(f"--output {out}: one file holds one run; several are kept in a folder: --output DIR.")
    values = _values(options, config)
    defaults = {"precisions": "fp32", "max_images": MAX_IMAGES_OF_ONE_FILE}
    request = make_request({**defaults, **values}, command=command_line())
    if not request.backends:
        backend, precision, device = request.reference
        precisions = request.precisions if "precisions" in values else (precision,)
        request = replace(request, backends=(backend,), precisions=precisions, devices=(device,))
    suite = run_into_file(request, out, quiet=quiet, as_json=False)
    ran = [c for c in suite["cells"] if c["accuracy"] is not None and c["speed"] is not None]
    for record in ran:
        Console().print(_numbers(record), markup=False, highlight=False, soft_wrap=True)
    alone = all(c["role"] == "reference" or c["status"] in ("skipped", "unsupported") for c in suite["cells"])
    done = bool(ran) and not suite["interrupted"] and not suite["aborted"]
    if suite["exit_code"] == 3 and alone and done:
        Console().print("Nothing was compared, as a baseline of the reference alone: exit 0.", highlight=False)
        return 0
    return int(suite["exit_code"])


def _numbers(record: Mapping[str, Any]) -> str:
    """``torch fp32: AP 0.512, 43.1 images/s (p50 23.2 ms), end to end 38.0 images/s``."""
    speed, ap = record["speed"], record["accuracy"]["stats"]["AP"]
    whole = (speed["end_to_end_ms"] or {}).get("p50")
    rest = "" if not whole else f", with pre- and post-processing {1000 / whole:.1f} images/s"
    return (
        f"{record['cell']['backend']} {record['cell']['precision']}: AP {'undefined' if ap is None else f'{ap:.4f}'}, "
        f"{speed['fps']:.1f} images/s{rest}"
    )


def _values(options: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    return {**(read_config(config) if config else {}), **{k: v for k, v in options.items() if v is not None}}


def _measure(options: Mapping[str, Any], *, config: Path | None, runs: int, out: Path, quiet: bool) -> int:
    from bench.running import run_and_report

    values = _values(options, config)
    request = replace(make_request(values, command=command_line()), out=out / "runs", resume=None, baseline=None)
    refuse_host(out, describe_host())
    codes = []
    for number in range(1, runs + 1):
        with ConsoleEvents(Console(stderr=True), quiet=quiet) as events:
            events.note(f"run {number} of {runs}")
            outcome = run_and_report(request, events=events)
        if outcome.exit_code in _ENDED_EARLY:
            why = outcome.suite["aborted"] or "interrupted"
            kept = numbers.plural(number - 1, "run")
            Console(stderr=True).print(
                f"parity: run {number} ended early: {why} {kept} kept.", markup=False, highlight=False, soft_wrap=True
            )
            return outcome.exit_code
        store_run(out, outcome.folder)
        codes.append(outcome.exit_code)
    return 1 if 1 in codes else max(codes)


def print_baseline(out: Path, console: Console) -> None:
    """Say how many runs there are and which change of speed they can tell from none, cell by cell."""
    side = load_side(out)
    paper = Paper(console, min(console.width, MAX_COLUMNS) if console.is_terminal else MAX_COLUMNS)
    paper.wrapped(
        f"{out}: a baseline of {numbers.plural(len(side.runs), 'run')} on {side.suite['host']['name']}.", "bold"
    )
    rows = []
    for name, record in side.cells().items():
        if record["role"] == "reference":
            continue
        ratios = [c["ratio"] for r in side.runs for c in r["cells"] if c["id"] == name and c["ratio"] is not None]
        if ratios:
            rows.append((name, ratios))
    if not rows:
        paper.wrapped("No cell has a speed ratio: only accuracy can be compared with it.")
        return
    width = min(max(len(name) for name, _ in rows), 60)
    for name, ratios in rows:
        paper.line(f"  {name[:width]:<{width}}  {_spread_words(ratios)}")
    if len(side.runs) < MIN_RUNS:
        paper.wrapped(
            f"Speed is judged from {MIN_RUNS} runs on: measure {MIN_RUNS - len(side.runs)} more into it.", "yellow"
        )


def _spread_words(ratios: Sequence[float]) -> str:
    """``2.15×  runs differ by 0.4 % (sd), ±2.1 % for one more run``."""
    logs = [math.log(r) for r in ratios]
    mean = numbers.ratio(math.exp(statistics.fmean(logs)))
    if len(logs) < MIN_RUNS:
        return mean
    spread = statistics.stdev(logs)
    ahead = t_quantile(len(logs) - 1) * spread * math.sqrt(1 + 1 / len(logs))
    return f"{mean}  sd between runs {100 * spread:.2f} %, one more run lies within ±{100 * math.expm1(ahead):.1f} %"
