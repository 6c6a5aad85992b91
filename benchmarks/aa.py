"""A/A timing: the same cell measured against itself through the code of a real run, and what the verdict says of it.

``python -m benchmarks.aa --pairs 400``. Each pair is a run of its own: two cells of one backend, fresh lanes, an
accuracy pass over a few images, rounds, openings, checks and judgement. Faster or slower is an error here; undecided is
not, and not an answer either. Lines of progress go to standard error, the table to standard output. ``--log FILE``
keeps every pair as it ends; the same command goes on from there, on the same commit and host only (an hour is long).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.events import Silent
from bench.host import describe_git, describe_host
from bench.judging import judge_model
from bench.matrix import ModelPlan, Request
from bench.modelrun import ModelRun
from bench.paths import data_dir
from bench.planning import make_plans

BACKENDS = ("onnxrt", "openvino", "torch")
IMAGES = 8
WRONG_AT_MOST = 0.01
SAME_AT_LEAST = 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What one run said of a cell and itself."""

    index: int
    backend: str
    verdict: str
    ratio: float | None
    ci95: tuple[float, float] | None
    rounds: int
    openings: int
    alarms: int
    """Timing checks that failed."""
    reason: str | None


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


def measure(plan: ModelPlan, index: int, backend: str, request: Request) -> Pair:
    with tempfile.TemporaryDirectory() as scratch:
        run = ModelRun(against_itself(plan, backend), request, folder=Path(scratch), events=Silent())
        run.measure(lambda record: None)
        candidate = judge_model(run, request, today=datetime.date.today())[1]
    speed = candidate.speed
    if speed is None:
        raise BenchError(f"{backend}: nothing was timed: {candidate.reason}")
    return Pair(
        index=index,
        backend=backend,
        verdict=speed.verdict,
        ratio=speed.ratio,
        ci95=speed.ratio_ci95,
        rounds=speed.rounds_run,
        openings=speed.openings,
        alarms=sum(c.passed is False for c in speed.checks),
        reason=speed.reason,
    )


def table(pairs: list[Pair], request: Request) -> list[str]:
    lines = [
        f"  {'':10}{'pairs':>6}{'faster':>8}{'slower':>8}{'same':>8}{'undecided':>11}{'off > 3 %':>11}{'rounds':>8}"
        f"{'openings':>10}{'false alarms':>14}"
    ]
    for name in [*dict.fromkeys(p.backend for p in pairs), "all"]:
        own = [p for p in pairs if name in ("all", p.backend)]
        words = Counter(p.verdict for p in own)
        off = sum(p.ratio is None or not 1 / 1.03 <= p.ratio <= 1.03 for p in own)
        alarms = sum(p.alarms for p in own)
        count = len(own)
        mean_rounds = sum(p.rounds for p in own) / count
        mean_openings = sum(p.openings for p in own) / count
        lines.append(
            f"  {name:10}{count:6}{words['faster']:8}{words['slower']:8}{words['same']:8}"
            f"{words['undecided'] + words['not judged']:11}{off:11}{mean_rounds:8.1f}{mean_openings:10.1f}{alarms:14}"
        )
    words = Counter(p.verdict for p in pairs)
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


def run_pairs(
    pairs: int, backends: tuple[str, ...], model: str, request: Request, log: Path | None = None
) -> list[Pair]:
    """Measure; backends take turns, so that a noisy quarter of an hour hits them alike."""
    head = {"commit": commit(), "host": describe_host()["cpu"], "backends": list(backends), "model": model}
    found = [] if log is None else restored(log, head)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        plan = plan_of(model, replace(request, models=(model,), backends=backends, precisions=("fp32",)), Path(scratch))
        for index in range(len(found), pairs):
            pair = measure(plan, index, backends[index % len(backends)], replace(request, seed=index))
            found.append(pair)
            if log is not None:
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(pair)) + "\n")
            low, high = pair.ci95 or (float("nan"), float("nan"))
            sys.stderr.write(
                f"{index + 1:4}/{pairs} {time.monotonic() - started:6.0f} s  {pair.backend:9} {pair.verdict:10} "
                f"{pair.ratio or float('nan'):.4f} [{low:.4f}, {high:.4f}]  {pair.rounds} rounds  {pair.reason or ''}\n"
            )
            sys.stderr.flush()
    return found


def restored(log: Path, head: dict[str, Any]) -> list[Pair]:
    """Pairs of an earlier start; a line that was cut off is measured again.

    Raises:
        BenchError: the file is of another commit, host or choice of cells.
    """
    if not log.exists():
        log.write_text(json.dumps(head) + "\n", "utf-8")
        return []
    first, *lines = log.read_text("utf-8").splitlines()
    if json.loads(first) != head:
        raise BenchError(f"{log}: begun as {first}, this is {json.dumps(head)}. Give another file.")
    whole = []
    for line in lines:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            break
        whole.append(Pair(**{**values, "ci95": values["ci95"] and tuple(values["ci95"])}))
    log.write_text("\n".join([first, *lines[: len(whole)]]) + "\n", "utf-8")
    return whole


def commit() -> str:
    git = describe_git()
    return "none" if git is None else git["commit"][:7] + (" (dirty)" if git["dirty"] else "")


def report(
    pairs: int = 400, backends: tuple[str, ...] = BACKENDS, model: str = "fastestdet", log: Path | None = None
) -> tuple[list[str], bool]:
    """The lines of the table, and whether both targets hold."""
    request = Request(cross_check="none", resamples=0)
    lines = table(run_pairs(pairs, backends, model, request, log), request)
    return [f"A/A timing of {model} fp32, batch 1, 1 thread", *lines], not any("OVER" in line for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--model", default="fastestdet", help="a registered name; its weights must be at hand")
    parser.add_argument("--log", type=Path, metavar="FILE.jsonl", help="keep every pair here, and go on from it")
    options = parser.parse_args()
    lines, good = report(options.pairs, tuple(options.backends.split(",")), options.model, options.log)
    host = describe_host()
    print(f"{datetime.date.today().isoformat()}  {host['cpu']}, {host['cores']} cores  commit {commit()}")
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"aa: {error}")
