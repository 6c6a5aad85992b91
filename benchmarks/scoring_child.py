"""One scoring task in a fresh process; prints one JSON line with seconds, the AP and the peak memory of the process."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cocosize import Files


def ours(files: Files) -> dict[str, Any]:
    """Load, validate and score; the second pass is without the loading of compiled code."""
    from bench.datasets import read_coco
    from bench.predictions import read_predictions
    from bench.scoring import match

    def once() -> tuple[float, float, float, Any]:
        start = time.perf_counter()
        truth = read_coco(files.truth, None, name="truth", split="val")
        loaded_truth = time.perf_counter()
        read = read_predictions(files.first, truth)
        loaded = time.perf_counter()
        stats = match(truth, read.detections).stats
        return loaded_truth - start, loaded - loaded_truth, time.perf_counter() - loaded, stats["AP"]

    return passes(once)


def hotcoco(files: Files) -> dict[str, Any]:
    import hotcoco as engine

    def once() -> tuple[float, float, float, Any]:
        start = time.perf_counter()
        truth = engine.COCO(str(files.truth))
        loaded_truth = time.perf_counter()
        found = truth.load_res(str(files.first))
        loaded = time.perf_counter()
        scorer = engine.COCOeval(truth, found, "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
        return loaded_truth - start, loaded - loaded_truth, time.perf_counter() - loaded, float(scorer.stats[0])

    return passes(once)


def passes(once: Callable[[], tuple[float, float, float, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in ("first", "again"):
        processor = time.process_time()
        truth_s, load_s, score_s, ap = once()
        result[name] = {"truth_s": truth_s, "load_s": load_s, "score_s": score_s, "total_s": truth_s + load_s + score_s}
        result[name]["processor_s"] = time.process_time() - processor
        result["ap"] = ap
        if name == "first":
            result["peak_mb"] = peak_mb()
    return result


def pycocotools(files: Files) -> dict[str, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    start = time.perf_counter()
    truth = COCO(str(files.truth))
    found = truth.loadRes(str(files.first))
    loaded = time.perf_counter()
    scorer = COCOeval(truth, found, "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    done = time.perf_counter()
    first = {"load_s": loaded - start, "score_s": done - loaded, "total_s": done - start}
    return {"first": first, "ap": float(scorer.stats[0]), "peak_mb": peak_mb()}


def pair(files: Files, resamples: int, area_ranges: bool) -> dict[str, Any]:
    """The paired bootstrap of the two systems; matching is not part of its time."""
    from bench.datasets import read_coco
    from bench.predictions import read_predictions
    from bench.scoring import match, paired_bootstrap

    truth = read_coco(files.truth, None, name="truth", split="val")
    candidate, reference = (match(truth, read_predictions(p, truth).detections) for p in (files.second, files.first))
    paired_bootstrap(reference, candidate, resamples=2, area_ranges=area_ranges)  # loads the compiled code
    start, processor = time.perf_counter(), time.process_time()
    paired = paired_bootstrap(reference, candidate, resamples=resamples, area_ranges=area_ranges)
    wall_s, processor_s = time.perf_counter() - start, time.process_time() - processor
    delta = paired.deltas["AP"]
    return {
        "total_s": wall_s,
        "processor_s": processor_s,
        "delta": delta.value,
        "ci95": delta.ci95,
        "peak_mb": peak_mb(),
    }


def hotcoco_pair(files: Files, resamples: int) -> dict[str, Any]:
    """hotcoco.compare: all numbers and area ranges, per-class values without intervals, on all cores."""
    import hotcoco as engine

    truth = engine.COCO(str(files.truth))
    sides = [engine.COCOeval(truth, truth.load_res(str(path)), "bbox") for path in (files.first, files.second)]
    for side in sides:
        side.evaluate()
    start = time.perf_counter()
    engine.compare(*sides, n_bootstrap=0)
    base_s = time.perf_counter() - start
    start, processor = time.perf_counter(), time.process_time()
    engine.compare(*sides, n_bootstrap=resamples)
    wall_s = time.perf_counter() - start
    return {
        "total_s": wall_s,
        "each_s": (wall_s - base_s) / resamples,
        "processor_s": time.process_time() - processor,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Largest resident size. ``getrusage`` would count the parent's, whose memory a child has until it executes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("ours", "hotcoco", "pycocotools", "pair", "hotcoco-pair"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--area-ranges", action="store_true")
    options = parser.parse_args()
    files = Files(*(options.folder / f"{name}.json" for name in ("truth", "first", "second")))
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: ours(files),
        "hotcoco": lambda: hotcoco(files),
        "pycocotools": lambda: pycocotools(files),
        "pair": lambda: pair(files, options.resamples, options.area_ranges),
        "hotcoco-pair": lambda: hotcoco_pair(files, options.resamples),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        result = tasks[options.task]()
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
