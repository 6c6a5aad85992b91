"""Images per second of a training step, and where the seconds of an evaluation go: yolov10n at 320 px, this CPU.

python -m benchmarks.training [--steps 12] [--images 100]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from adapters._shared.training.augment import Augmentation
from adapters._shared.training.batch import collate
from adapters._shared.training.cleaning import labels_by_name
from adapters._shared.training.config import TrainConfig
from adapters._shared.training.dataset import SampleKey, TrainingSet
from adapters._shared.training.evaluate import Judge
from adapters._shared.training.examples import ExampleSource
from adapters._shared.training.module import Training
from adapters._shared.training.optim import make_optimizer, parameter_groups
from adapters.yolov10 import adapter
from adapters.yolov10.train import YoloV10Recipe
from bench.errors import BenchError
from bench.fixtures import resolve

BATCH = 16
SIDE_PX = 320


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[name] = spent.get(name, 0.0) + time.perf_counter() - start


def step_rates(steps: int) -> dict[str, float]:
    """Images/s by kind of arithmetic; the kinds take turns, so that they share the host's mood."""
    train = resolve("shapes", split="train").take(4 * BATCH)
    names = adapter.spec.class_names
    samples = TrainingSet(ExampleSource(train, labels_by_name(train, names), SIDE_PX), SIDE_PX, Augmentation(), 0)
    batches = [collate([samples[SampleKey(0, BATCH * b + i)] for i in range(BATCH)]) for b in range(4)]
    runs: dict[str, Callable[[int], None]] = {}
    for kind in ("no", "bf16"):
        config = TrainConfig(batch=BATCH)
        task = YoloV10Recipe(adapter).task(config, names, train)
        judge = Judge(task.adapter, resolve("shapes", split="val").take(1))
        module = Training(task, config, judge, Path(tempfile.gettempdir()))
        optimizer = make_optimizer(parameter_groups(module.network, config), config)

        def step(number: int, kind: str = kind, module: Training = module, task=task, optimizer=optimizer) -> None:
            images_u8, truth = batches[number % len(batches)]
            images = images_u8.float().div_(255).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
                raw = task.forward(module.network, images, truth)
            loss, _ = task.loss(raw, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        runs["fp32" if kind == "no" else kind] = step
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(steps + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run(number)
            if number >= 2:
                found[name].append(BATCH / (time.perf_counter() - start))
    return {name: statistics.median(rates) for name, rates in found.items()}


def evaluation_s(images: int) -> dict[str, float]:
    """Seconds per 1,000 images: decoding with pre-processing, inference with post-processing, scoring."""
    val = resolve("shapes", split="val").take(images)
    spent: dict[str, float] = {}
    judge = Judge(adapter, val)
    network = adapter.build(adapter.spec.default_weights)
    judge.score(judge.detect(network, [judge[0]], torch.device("cpu")))  # numba compiles once
    found = {}
    for index in range(len(judge)):
        with timed(spent, "decode and pre-process"):
            item = judge[index]
        with timed(spent, "inference and post-process"):
            found |= judge.detect(network, [item], torch.device("cpu"))
    with timed(spent, "scoring"):
        judge.score(found)
    return {name: 1000 * seconds / images for name, seconds in spent.items()}


def lines(steps: int = 12, images: int = 100) -> list[str]:
    """What ``make bench`` prints."""
    rates, parts = step_rates(steps), evaluation_s(images)
    return [
        f"training step of yolov10n, {SIDE_PX} px, batch {BATCH}, {torch.get_num_threads()} threads: "
        + ", ".join(f"{name} {rate:.0f} images/s" for name, rate in rates.items()),
        f"evaluation of yolov10n, {SIDE_PX} px, batch 1, seconds per 1,000 images: "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items()),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    print("\n".join(lines(options.steps, options.images)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
