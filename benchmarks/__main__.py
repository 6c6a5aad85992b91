"""``make bench``: the ratios that the README quotes, with date, commit and host.

(a) to (c) the harness beside bare loops, (d) to (f) scoring (``benchmarks.scoring``), training samples per worker
(``benchmarks.loader``), a training step and an evaluation (``benchmarks.training``), nodes and latency of the six
variants of YOLOv10 (``benchmarks.variants``), then A/A timing (``benchmarks.aa``, by far the longest part). ``--quick``
leaves out what takes longest. ``benchmarks.coverage`` is a command of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from bench.errors import BenchError
from bench.lanes import Lane
from bench.making import Maker
from bench.matrix import ModelPlan, Request
from bench.passes import prepare
from bench.planning import make_plans
from bench.registry import load_adapter
from bench.timing import run_rounds, speed_ratio
from benchmarks import aa, loader, scoring, training, variants

BACKENDS = ("torch", "onnxrt", "openvino")
OPENINGS = 5
AA_PAIRS = 400
HEAVY = ("torch", "onnxruntime", "openvino", "transformers", "lightning")


class Bare:
    """The bare loop in a process of its own."""

    def __init__(self, runtime: str, model: str, threads: int, feeds: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.bare", runtime, model, str(threads), str(feeds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, steps: int) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def open_lane(plan: ModelPlan, backend: str, maker: Maker, folder: Path) -> Lane:
    planned = next(c for c in plan.cells if c.cell.backend == backend and c.cell.precision == "fp32")
    lane = Lane(name=backend, log=folder / f"{backend}.log")
    lane.call(
        "load",
        adapter=plan.adapter.target,
        backend=planned.backend.target,
        cell=planned.cell,
        artifact=maker.artifact(planned.artifact_kind, "fp32"),
        weights=plan.weights,
        seed=0,
        threads=1,
        first=plan.fixtures.samples[0],
    )
    return lane


def one_opening(plan: ModelPlan, backend: str, maker: Maker, folder: Path, rounds: int, seed: int) -> tuple[float, str]:
    """Both sides opened anew, then interleaved: ratio of harness to bare loop, and the medians in words."""
    feeds = folder / "feeds.npz"
    model = f"{plan.adapter.target}={plan.weights}" if backend == "torch" else str(maker.artifact("onnx", "fp32").path)
    bare = Bare(backend, model, 1, feeds)
    samples: dict[str, list[list[float]]] = {"harness": [], "bare": []}
    with open_lane(plan, backend, maker, folder) as lane:
        lane.call("bind", sample=plan.fixtures.samples[0], batch=1, warmup=5)
        bare.time(5)
        timers = {"harness": lambda n: lane.call("time", steps=n), "bare": bare.time}
        for done in run_rounds(timers, rounds=rounds, seed=seed):
            for name, values in done["samples_ms"].items():
                samples[name].append(values)
    bare.close()
    medians = {k: statistics.median(v for r in rs for v in r) for k, rs in samples.items()}
    return speed_ratio(
        samples["harness"], samples["bare"]
    ), f"{medians['harness']:.2f} ms against {medians['bare']:.2f} ms"


def against_bare(plan: ModelPlan, maker: Maker, folder: Path, rounds: int) -> list[tuple[str, float, float, str]]:
    """(a) Median latency of the harness against a bare loop.

    Opening a session anew moves it by about 1 %, which rounds cannot remove: the median of several openings counts.
    """
    np.savez(folder / "feeds.npz", **prepare(load_adapter(plan.adapter.target), plan.fixtures.samples[0])[0])
    rows = []
    for backend in BACKENDS:
        found = [one_opening(plan, backend, maker, folder, rounds, seed) for seed in range(OPENINGS)]
        ratios = sorted(ratio for ratio, _ in found)
        how = f"{found[-1][1]}; openings {', '.join(f'{r:.3f}' for r in ratios)}"
        rows.append((f"(a) harness / bare loop, {backend} fp32", statistics.median(ratios), 1.03, how))
    return rows


def idle_share(plan: ModelPlan, maker: Maker, folder: Path) -> tuple[str, float, float, str]:
    """What waiting lanes burn between their turns."""
    lanes = [open_lane(plan, backend, maker, folder) for backend in BACKENDS]
    for lane in lanes:
        lane.call("bind", sample=plan.fixtures.samples[0], batch=1, warmup=20)
    processes = [psutil.Process(lane.pid) for lane in lanes]
    before = sum(sum(p.cpu_times()[:2]) for p in processes)
    time.sleep(2.0)
    burnt = (sum(sum(p.cpu_times()[:2]) for p in processes) - before) / 2.0
    for lane in lanes:
        lane.close()
    return "idle: processor share of 3 waiting lanes", burnt, 0.05, "over 2 s, right after running"


def accuracy_pass(plan: ModelPlan, maker: Maker, folder: Path, images: int) -> tuple[str, float, float, str]:
    """(b) Wall time of an accuracy pass against the sum of its pure inference times."""
    with open_lane(plan, "onnxrt", maker, folder) as lane:
        samples = plan.fixtures.samples[:images]
        lane.call("predict", samples=samples[:20], batch=1)
        lane.call("bind", sample=samples[0], batch=1, warmup=5)
        before = lane.call("time", steps=100)
        done = lane.call("predict", samples=samples, batch=1)
        after = lane.call("time", steps=100)
    pure_s = statistics.mean(before + after) * len(samples) / 1000
    return (
        f"(b) accuracy pass / pure inference, onnxrt, {len(samples)} images",
        done.wall_s / pure_s,
        1.25,
        f"{done.wall_s:.2f} s against {pure_s:.2f} s",
    )


def start_up() -> list[tuple[str, float, float, str]]:
    """(c) ``parity --help``, and what importing the core loads."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "bench", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    code = f"import sys, bench, bench.cli; print(len([m for m in {HEAVY} if m in sys.modules]))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return [
        ("(c) parity --help, seconds", statistics.median(times), 0.4, f"best {min(times):.3f} s of {len(times)}"),
        ("(c) runtimes loaded by importing bench", float(loaded), 0.0, ", ".join(HEAVY)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of 5 steps, in each opening")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="without pycocotools, the largest set and A/A timing")
    parser.add_argument("--aa-pairs", type=int, help=f"pairs of A/A timing (default: {AA_PAIRS}, 0 when quick)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        request = Request(models=("yolov10n",), backends=BACKENDS, precisions=("fp32",))
        plan = make_plans(request, logs=folder)[0]
        maker = Maker(plan, logs=folder, limits=request.limits)
        rows = [
            *start_up(),
            accuracy_pass(plan, maker, folder, options.images),
            *against_bare(plan, maker, folder, options.rounds),
            idle_share(plan, maker, folder),
        ]
    print(scoring.heading())
    good = scoring.print_rows(rows)
    print(f"  scoring on a generated set of {scoring.IMAGES:,} images")
    good &= scoring.print_rows(scoring.measure(quick=options.quick))
    print(f"  training samples at {loader.SIDE_PX} px, one worker")
    good &= scoring.print_rows(loader.measure(repeats=1 if options.quick else 3))
    print("\n".join(f"  {line}" for line in training.lines()))
    chosen = ["n", "s"] if options.quick else list(variants.VARIANTS)
    variants.report(320, chosen, variants.ROUNDS)
    pairs = (0 if options.quick else AA_PAIRS) if options.aa_pairs is None else options.aa_pairs
    if pairs:
        lines, fine = aa.report(pairs)
        print("\n".join(f"  {line}" for line in lines))
        good &= fine
    else:
        print("  A/A timing is left out: --aa-pairs N")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
