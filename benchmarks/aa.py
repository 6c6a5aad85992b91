"""A/A timing: the same cell measured against itself through the code of a real run, and what the verdict says of it.

``python -m benchmarks.aa --pairs 400``. Each pair is a run of its own: two cells of one backend, fresh lanes, an
accuracy pass over a few images, rounds, openings, checks and judgement. Faster or slower is an error here; undecided is
not, and not an answer either. Lines of progress go to standard error, the table to standard output.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import BenchError
from bench.events import Silent
from bench.host import describe_git, describe_host
from bench.judging import judge_model
from bench.matrix import ModelPlan, Request
from bench.modelrun import ModelRun
from bench.paths import data_dir
from bench.planning import make_plans
from bench.results import SpeedResult

BACKENDS = ("onnxrt", "openvino", "torch")
IMAGES = 8
WRONG_AT_MOST = 0.01
SAME_AT_LEAST = 0.90


@dataclass(frozen=True, slots=True)
class Pair:
    backend: str
    speed: SpeedResult


def plan_of(model: str, request: Request, folder: Path) -> ModelPlan:
    weights = data_dir() / "fastestdet" / "FastestDet.pth"
    if model == "fastestdet" and weights.exists():
        request = replace(request, weights={"fastestdet": weights}, fixtures=str(data_dir() / "coco128-val"))
    return make_plans(request, logs=folder)[0]


def against_itself(plan: ModelPlan, backend: str) -> ModelPlan:
    """One cell as the reference, and the same cell under another name as the candidate."""
    planned = next(c for c in plan.cells if c.cell.backend == backend and c.cell.precision == "fp32")
    again = replace(planned, role="candidate", cell=replace(planned.cell, fixtures=f"{planned.cell.fixtures}-again"))
    return replace(
        plan, cells=(replace(planned, role="reference"), again), golden=None, fixtures=plan.fixtures.take(IMAGES)
    )


def measure(plan: ModelPlan, backend: str, request: Request) -> Pair:
    with tempfile.TemporaryDirectory() as scratch:
        run = ModelRun(against_itself(plan, backend), request, folder=Path(scratch), events=Silent())
        run.measure(lambda record: None)
        candidate = judge_model(run, request, today=datetime.date.today())[1]
    if candidate.speed is None:
        raise BenchError(f"{backend}: nothing was timed: {candidate.reason}")
    return Pair(backend, candidate.speed)


def table(pairs: list[Pair], request: Request) -> list[str]:
    lines = [
        f"  {'':10}{'pairs':>6}{'faster':>8}{'slower':>8}{'same':>8}{'undecided':>11}{'off > 3 %':>11}{'rounds':>8}"
        f"{'openings':>10}{'false alarms':>14}"
    ]
    for name in [*dict.fromkeys(p.backend for p in pairs), "all"]:
        own = [p.speed for p in pairs if name in ("all", p.backend)]
        words = Counter(s.verdict for s in own)
        off = sum(s.ratio is None or not 1 / 1.03 <= s.ratio <= 1.03 for s in own)
        alarms = sum(c.passed is False for s in own for c in s.checks)
        count = len(own)
        mean_rounds = sum(s.rounds_run for s in own) / count
        mean_openings = sum(s.openings for s in own) / count
        lines.append(
            f"  {name:10}{count:6}{words['faster']:8}{words['slower']:8}{words['same']:8}"
            f"{words['undecided'] + words['not judged']:11}{off:11}{mean_rounds:8.1f}{mean_openings:10.1f}{alarms:14}"
        )
    words = Counter(p.speed.verdict for p in pairs)
    wrong, same = (words["faster"] + words["slower"]) / len(pairs), words["same"] / len(pairs)
    for text, value, good in (
        (f"faster or slower, at most {100 * WRONG_AT_MOST:g} %", wrong, wrong <= WRONG_AT_MOST),
        (f"same, at least {100 * SAME_AT_LEAST:g} %", same, same >= SAME_AT_LEAST),
    ):
        lines.append(f"  {'ok  ' if good else 'OVER'} {text:34} {100 * value:5.1f} %")
    lines.append(
        f"  {request.rounds} to {request.max_rounds} rounds in at least {request.openings} openings, band ±3 %"
    )
    return lines


def run_pairs(pairs: int, backends: tuple[str, ...], model: str, request: Request) -> list[Pair]:
    """Measure; backends take turns, so that a noisy quarter of an hour hits them alike."""
    found: list[Pair] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        plan = plan_of(model, replace(request, models=(model,), backends=backends, precisions=("fp32",)), Path(scratch))
        for index in range(pairs):
            pair = measure(plan, backends[index % len(backends)], replace(request, seed=index))
            found.append(pair)
            speed = pair.speed
            low, high = speed.ratio_ci95 or (float("nan"), float("nan"))
            sys.stderr.write(
                f"{index + 1:4}/{pairs} {time.monotonic() - started:6.0f} s  {pair.backend:9} {speed.verdict:10} "
                f"{speed.ratio or float('nan'):.4f} [{low:.4f}, {high:.4f}]  {speed.rounds_run} rounds  "
                f"{speed.reason or ''}\n"
            )
            sys.stderr.flush()
    return found


def report(pairs: int = 400, backends: tuple[str, ...] = BACKENDS, model: str = "fastestdet") -> tuple[list[str], bool]:
    """The lines of the table, and whether both targets hold."""
    request = Request(cross_check="none", resamples=0)
    lines = table(run_pairs(pairs, backends, model, request), request)
    return [f"A/A timing of {model} fp32, batch 1, 1 thread", *lines], not any("OVER" in line for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--model", default="fastestdet", help="a registered name; its weights must be at hand")
    options = parser.parse_args()
    lines, good = report(options.pairs, tuple(options.backends.split(",")), options.model)
    host, git = describe_host(), describe_git()
    commit = "none" if git is None else git["commit"][:7] + (" (dirty)" if git["dirty"] else "")
    print(f"{datetime.date.today().isoformat()}  {host['cpu']}, {host['cores']} cores  commit {commit}")
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"aa: {error}")
