"""Scoring at the size of COCO val2017, ours beside others': ``python -m benchmarks.scoring [--quick]``.

Every measurement is a process of its own (``benchmarks.scoring_child``) on generated sets (``benchmarks.cocosize``).
Ours and hotcoco alternate; medians of three. ``--quick`` leaves out pycocotools (two minutes) and the largest set.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

from bench.host import describe_git, describe_host
from benchmarks.cocosize import DETECTIONS_PER_IMAGE, write_set

Row: TypeAlias = tuple[str, float, float, str]
"""What, its value, the largest one allowed (infinite: shown only), and how it came about."""

IMAGES = 5000
SIZES = (1000, 5000, 20_000)
REPEATS = 3
RESAMPLES = 1000
HOTCOCO_RESAMPLES = 20
GROWTH_RESAMPLES = 50
GROWTH_AT_MOST = 1.5
"""Of the cost per image from 1,000 to 20,000: sorting by score alone adds log(2,000,000) / log(100,000) = 1.26, and the
smallest set fits the cache. Cost that grows with the square would be 20."""
SHOWN = float("inf")


def child(task: str, folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scoring_child", task, str(folder), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def loading(folder: Path, *, quick: bool) -> list[Row]:
    """Load, validate and score, beside hotcoco and pycocotools."""
    others = importlib.util.find_spec("hotcoco") is not None
    ours, theirs = [], []
    child("ours", folder)  # compiles where nothing is compiled yet
    for _ in range(REPEATS):
        ours.append(child("ours", folder))
        if others:
            theirs.append(child("hotcoco", folder))
    total = median(ours, "first", "total_s")
    again = median(ours, "again", "total_s")
    parts = ", ".join(
        f"{words} {median(ours, 'again', key):.2f}"
        for words, key in (("ground truth", "truth_s"), ("predictions", "load_s"), ("score", "score_s"))
    )
    rows = [
        (
            "(d) load, validate, score, seconds, fresh process",
            total,
            3.0,
            f"compiled code from disk; again {again:.2f} s",
        ),
        ("(d) the same again in one process, seconds", again, 3.0, f"{parts}; {spread(ours)}"),
        ("(d) its peak memory, MB", max(o["peak_mb"] for o in ours), 600.0, "of the whole process, first pass"),
    ]
    if others:
        hot = median(theirs, "again", "total_s")
        processor = median(ours, "again", "processor_s") / median(theirs, "again", "processor_s")
        rows.append(
            (
                f"(d) ours / hotcoco {importlib.metadata.version('hotcoco')}",
                again / hot,
                1.5,
                f"{again:.2f} s against {hot:.2f} s on all ({spread(theirs)}), in processor time "
                f"{processor:.2f}; AP differs by {abs(ours[0]['ap'] - theirs[0]['ap']):.1g}; in first passes "
                f"{total / median(theirs, 'first', 'total_s'):.2f}",
            )
        )
    if not quick:
        oracle = child("pycocotools", folder)
        seconds = oracle["first"]["total_s"]
        rows.append(
            (
                f"(d) ours / pycocotools {importlib.metadata.version('pycocotools')}",
                total / seconds,
                SHOWN,
                f"{seconds / total:.0f} times as fast: {total:.2f} s against {seconds:.1f} s (load "
                f"{oracle['first']['load_s']:.1f}), {oracle['peak_mb']:.0f} MB, AP differs by "
                f"{abs(ours[0]['ap'] - oracle['ap']):.1g}",
            )
        )
    return rows


def resampling(folder: Path) -> list[Row]:
    """1,000 paired resamples of two systems on one thread."""
    rows = []
    every = {}
    for words, option, limit in (
        ("AP, AP50, AP75, AR and per class", (), 15.0),
        ("all area ranges too", ("--area-ranges",), 45.0),
    ):
        found = every[limit] = child("pair", folder, "--resamples", str(RESAMPLES), *option)
        low, high = found["ci95"]
        rows.append(
            (
                f"(e) {RESAMPLES} paired resamples, seconds: {words}",
                found["total_s"],
                limit,
                f"processor {found['processor_s']:.1f} s, dAP {found['delta']:.5f} [{low:.5f}, {high:.5f}]",
            )
        )
        rows.append(("(e) its peak memory, MB", found["peak_mb"], 600.0, "both systems loaded, matched and resampled"))
    if importlib.util.find_spec("hotcoco") is not None:
        theirs = child("hotcoco-pair", folder, "--resamples", str(HOTCOCO_RESAMPLES))
        scaled = theirs["each_s"] * RESAMPLES
        rows.append(
            (
                "(e) ours with all area ranges / hotcoco.compare",
                every[45.0]["total_s"] / scaled,
                1.0,
                f"{every[45.0]['total_s']:.1f} s on one core against {scaled:.0f} s on all: {HOTCOCO_RESAMPLES} "
                f"resamples of {1000 * theirs['each_s']:.0f} ms, scaled; it draws without multiplicity and has no "
                "class intervals",
            )
        )
    return rows


def growth(folders: dict[int, Path]) -> list[Row]:
    """Seconds and memory from 1,000 to 20,000 images."""
    single = {images: [child("ours", folder) for _ in range(REPEATS)] for images, folder in folders.items()}
    seconds = {images: median(done, "again", "total_s") for images, done in single.items()}
    peaks = {images: max(o["peak_mb"] for o in done) for images, done in single.items()}
    pairs = {
        images: child("pair", folder, "--resamples", str(GROWTH_RESAMPLES), "--area-ranges")["total_s"]
        / GROWTH_RESAMPLES
        for images, folder in folders.items()
    }
    small, large = min(folders), max(folders)
    times = large / small
    return [
        (
            f"(f) seconds per image, {large:,} images / {small:,}",
            seconds[large] / seconds[small] / times,
            GROWTH_AT_MOST,
            "load, validate, score: " + ", ".join(f"{n:,}: {seconds[n]:.2f} s {peaks[n]:.0f} MB" for n in folders),
        ),
        (
            f"(f) resample per image, {large:,} images / {small:,}",
            pairs[large] / pairs[small] / times,
            GROWTH_AT_MOST,
            "all area ranges, two systems: " + ", ".join(f"{n:,}: {1000 * pairs[n]:.1f} ms" for n in folders),
        ),
    ]


def median(results: list[dict[str, Any]], which: str, key: str) -> float:
    return statistics.median(result[which][key] for result in results)


def spread(results: list[dict[str, Any]]) -> str:
    values = sorted(result["again"]["total_s"] for result in results)
    return f"{values[0]:.2f} to {values[-1]:.2f} s of {len(values)}"


def measure(*, quick: bool = False) -> list[Row]:
    """All rows; the sets live in a temporary folder."""
    with tempfile.TemporaryDirectory() as scratch:
        sizes = SIZES[:-1] if quick else SIZES
        folders = {images: Path(scratch) / str(images) for images in sizes}
        for images, folder in folders.items():
            write_set(folder, images=images)
        return [*loading(folders[IMAGES], quick=quick), *resampling(folders[IMAGES]), *growth(folders)]


def print_rows(rows: list[Row]) -> bool:
    """Print each row with its limit; whether all hold."""
    for name, value, limit, how in rows:
        word = "ok  " if value <= limit else "OVER"
        bound = "(shown)" if limit == SHOWN else f"(at most {limit:g})"
        print(f"  {word} {name:66} {value:8.3f}  {bound:14}  {how}")
    return all(value <= limit for _, value, limit, _ in rows)


def heading() -> str:
    host, git = describe_host(), describe_git()
    commit = "none" if git is None else git["commit"][:7] + (" (dirty)" if git["dirty"] else "")
    return f"{datetime.date.today().isoformat()}  {host['cpu']}, {host['cores']} cores  commit {commit}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without pycocotools and the largest set")
    options = parser.parse_args()
    print(heading())
    print(f"  generated set: {IMAGES:,} images, {IMAGES * DETECTIONS_PER_IMAGE:,} detections")
    return 0 if print_rows(measure(quick=options.quick)) else 1


if __name__ == "__main__":
    sys.exit(main())
