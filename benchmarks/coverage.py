"""Does the 95 % interval hold the true difference in 95 % of the sets? ``python -m benchmarks.coverage``.

Two systems are simulated on images drawn from one population whose true AP difference is known: zero where the two are
exchangeable, else measured on images far more numerous than the sets. Then sets of a few hundred images are drawn again
and again, the interval is computed as the harness computes it, and we count how often it holds the truth.

AP of few images is biased against AP of many (its precision envelope is a maximum), and so is a difference. No
resampling of the few can know that. So the table says both: how often the interval holds the difference in the
population, and how often the mean difference of sets of that size.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.host import describe_git
from bench.scoring import Detections, match, paired_bootstrap
from bench.types import FixtureSet, Sample

SCENARIOS = {
    "equal": "two systems with independent noise of the same kind: the true difference is 0 by symmetry",
    "loses": "the candidate is the reference with box noise of 0.25 px, score noise, and 0.3 % of its detections lost",
    "loses much": "the same with box noise of 1 px, more score noise, and 0.5 % of its detections lost",
    "rare": "the candidate is the reference but for 5 % of the images, on which its scores are halved and boxes moved",
}
STATS = ("AP", "AP50", "AP75", "AR100")
CLASSES = 8
OBJECTS_PER_IMAGE = 2.5
FALSE_PER_IMAGE = 4.0
BINS = (10, 15, 20, 30, 50, 100, 10**9)
TRUTH_IMAGES, TRUTH_SAMPLES = 50_000, 12


@dataclass
class Tally:
    """What was counted of one scenario at one size."""

    held: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    intervals: list[tuple[float, float]] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    class_held: Counter[int] = field(default_factory=Counter)
    class_runs: Counter[int] = field(default_factory=Counter)
    alarms: int = 0


def simulate(r: np.random.Generator, images: int, scenario: str) -> tuple[FixtureSet, Detections, Detections]:
    """Draw images with objects (some without any) and what both systems find on them."""
    shares = 1 / np.arange(1, CLASSES + 1)
    shares /= shares.sum()
    image = np.repeat(np.arange(images), r.poisson(OBJECTS_PER_IMAGE, images))
    count = len(image)
    label = r.choice(CLASSES, count, p=shares)
    size = np.exp(r.normal(4.2, 0.7, (count, 2))).clip(8, 400)
    boxes = np.concatenate((r.uniform(0, 240, (count, 2)), size), axis=1)
    crowd = r.random(count) < 0.01
    columns = zip(image.tolist(), label.tolist(), boxes.tolist(), crowd.tolist(), strict=True)
    annotations = tuple(
        {
            "id": n,
            "image_id": i + 1,
            "category_id": c + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(apart),
        }
        for n, (i, c, box, apart) in enumerate(columns, start=1)
    )
    fixtures = FixtureSet(
        name=scenario,
        split="val",
        samples=tuple(Sample(image_id=i + 1, path=Path(), width=640, height=640) for i in range(images)),
        categories=tuple({"id": c + 1, "name": f"class {c}"} for c in range(CLASSES)),
        annotations=annotations,
        sha256="",
    )
    hard = r.normal(0, 1, images)[image] * 0.6 + r.normal(0, 1, count)  # a hard image is hard for all its objects
    found = np.flatnonzero(hard + r.normal(0, 0.5, count) < 1.2)
    false_image = np.repeat(np.arange(images), r.poisson(FALSE_PER_IMAGE, images))
    false = len(false_image)
    false_boxes = np.concatenate((r.uniform(0, 300, (false, 2)), np.exp(r.normal(4, 0.8, (false, 2)))), axis=1)
    jitter = r.normal(0, 0.05, (len(found), 4)) * np.exp(0.4 * hard[found])[:, None] * size[found][:, [0, 1, 0, 1]]
    all_boxes = np.concatenate((boxes[found] + jitter, false_boxes))
    all_image = np.concatenate((image[found], false_image))
    all_label = np.concatenate((label[found], r.choice(CLASSES, false, p=shares)))
    logit = np.concatenate((1.0 - 0.8 * hard[found] + r.normal(0, 0.7, len(found)), r.normal(-1.5, 1.0, false)))

    def system(*, box_px: float, score: float, lost: float, where: np.ndarray | None = None) -> Detections:
        touched = np.ones(len(logit), bool) if where is None else where[all_image]
        moved = all_boxes + touched[:, None] * r.normal(0, 1, all_boxes.shape) * box_px
        moved[:, 2:] = np.maximum(moved[:, 2:], 1)
        scores = 1 / (1 + np.exp(-(logit + touched * r.normal(0, 1, len(logit)) * score)))
        if where is not None:
            scores = np.where(touched, scores / 2, scores)
        kept = np.flatnonzero(~(touched & (r.random(len(logit)) < lost)))
        return Detections(
            (all_image + 1)[kept].astype(np.int64), (all_label + 1)[kept].astype(np.int64), moved[kept], scores[kept]
        )

    if scenario == "equal":
        return fixtures, system(box_px=2, score=0.3, lost=0.02), system(box_px=2, score=0.3, lost=0.02)
    reference = system(box_px=0, score=0, lost=0)
    if scenario == "loses":
        return fixtures, reference, system(box_px=0.25, score=0.05, lost=0.003)
    if scenario == "loses much":
        return fixtures, reference, system(box_px=1, score=0.1, lost=0.005)
    return fixtures, reference, system(box_px=4, score=0.2, lost=0.1, where=r.random(images) < 0.05)


def true_differences(scenario: str, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Mean difference per number and class over large sets, and its standard error."""
    if scenario == "equal":
        names = (*STATS, *(f"class {c}" for c in range(CLASSES)))
        return dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    seen = defaultdict(list)
    for sample in range(TRUTH_SAMPLES):
        fixtures, *systems = simulate(np.random.default_rng([seed, 999, sample]), TRUTH_IMAGES, scenario)
        first, second = (match(fixtures, d) for d in systems)
        for name in STATS:
            seen[name].append(second.stats[name] - first.stats[name])
        for c, category_id in enumerate(first.class_ap):
            seen[f"class {c}"].append(second.class_ap[category_id] - first.class_ap[category_id])
    return (
        {name: float(np.mean(values)) for name, values in seen.items()},
        {name: float(np.std(values, ddof=1) / math.sqrt(len(values))) for name, values in seen.items()},
    )


def count(task: tuple[str, int, int, int, int, dict[str, float]]) -> Tally:
    scenario, images, replications, resamples, seed, truth = task
    tally = Tally()
    for run in range(replications):
        fixtures, *systems = simulate(np.random.default_rng([seed, images, run]), images, scenario)
        first, second = (match(fixtures, d) for d in systems)
        paired = paired_bootstrap(first, second, resamples=resamples, seed=run, area_ranges=False)
        tally.runs += 1
        tally.alarms += any(c.significant for c in paired.per_class)
        tally.values.append(paired.deltas["AP"].value)
        tally.errors.append(paired.standard_errors["AP"])
        for name in STATS:
            low, high = paired.deltas[name].ci95
            tally.held[name] += low <= truth[name] <= high
        tally.intervals.append(paired.deltas["AP"].ci95)
        table = first.tables["all"]
        for c, (row, held) in enumerate(zip(paired.per_class, np.diff(table.object_starts), strict=True)):
            if row.ci95 is not None:
                place = next(limit for limit in BINS[1:] if held < limit)
                tally.class_runs[place] += 1
                tally.class_held[place] += row.ci95[0] <= truth[f"class {c}"] <= row.ci95[1]
    return tally


def share(part: int, whole: int) -> str:
    p = part / whole
    return f"{100 * p:.1f} ± {100 * math.sqrt(max(p * (1 - p), 0.25 / whole) / whole):.1f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--images", default="50,100,200,500,1000,2000")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    sizes = [int(n) for n in options.images.split(",")]
    started = time.monotonic()
    rows, per_class = [], defaultdict(lambda: [0, 0])
    scenarios = options.scenarios.split(",")
    with ProcessPoolExecutor(options.processes) as pool:
        truths = dict(zip(scenarios, pool.map(partial(true_differences, seed=options.seed), scenarios), strict=True))
        tasks = [
            (scenario, images, options.replications, options.resamples, options.seed, truths[scenario][0])
            for scenario in scenarios
            for images in sizes
        ]
        for (scenario, images, *_), done in zip(tasks, pool.map(count, tasks), strict=True):
            truth, error = truths[scenario]
            cells = [share(done.held[name], done.runs) for name in STATS]
            lows, highs = np.array(done.intervals).T
            below, above = np.count_nonzero(truth["AP"] < lows), np.count_nonzero(truth["AP"] > highs)
            mean = float(np.mean(done.values))
            own = int(np.count_nonzero((lows <= mean) & (mean <= highs)))
            ratio = float(np.mean(done.errors)) / float(np.std(done.values, ddof=1))
            alarms = share(done.alarms, done.runs) if scenario == "equal" else "-"
            columns = (
                scenario,
                images,
                f"{truth['AP']:+.5f} ± {error['AP']:.5f}",
                *cells,
                f"{100 * below / done.runs:.1f} / {100 * above / done.runs:.1f}",
                f"{mean:+.5f}",
                share(own, done.runs),
                f"{ratio:.2f}",
                alarms,
            )
            rows.append(f"| {' | '.join(map(str, columns))} |")
            for place in done.class_runs:
                per_class[scenario, place][0] += done.class_held[place]
                per_class[scenario, place][1] += done.class_runs[place]
            print(rows[-1], f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    spreads = [
        f"| {scenario} | {low} to {high - 1 if high < BINS[-1] else 'more'} | {share(*per_class[scenario, high])} | "
        f"{per_class[scenario, high][1]} |"
        for scenario in scenarios
        for low, high in pairwise(BINS)
        if per_class[scenario, high][1]
    ]
    git = describe_git()
    command = f"python -m benchmarks.coverage --replications {options.replications} --resamples {options.resamples}"
    page = "\n".join(
        [
            f"`{command} --images {options.images} --scenarios '{options.scenarios}' --seed {options.seed}`, "
            f"{datetime.date.today().isoformat()}, commit {git['commit'][:10] if git else 'unknown'}, "
            f"{time.monotonic() - started:.0f} s.",
            "",
            "| scenario | images | true ΔAP | AP holds % | AP50 | AP75 | AR100 | AP truth below / above % "
            "| mean ΔAP of sets | AP holds that mean % | se / spread | any class alarm % |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Per class (AP), by the number of images that have objects of the class:",
            "",
            "| scenario | images with the class | holds % | intervals |",
            "|---|---|---|---|",
            *spreads,
            "",
        ]
    )
    print(page)
    if options.out is not None:
        options.out.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
