"""Training samples per second and core at 640 px, and where the time goes.

A GPU that learns 500 images/s with 8 workers asks 62.5 images/s of each, 16 ms per sample. Processor time is measured,
not wall time, with one thread: what a worker of its own gets whatever else the host does, as long as it has a core.

    python -m benchmarks.loader [--images 126] [--repeats 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from adapters._shared.training.augment import Augmentation, Pipeline
from adapters._shared.training.cleaning import labels_by_name
from adapters._shared.training.dataset import SampleKey, TrainingSet
from adapters._shared.training.examples import ExampleSource
from bench.errors import BenchError
from bench.fixtures import resolve
from bench.images import check_whole, read_image_rgb
from bench.paths import data_dir
from bench.types import FixtureSet
from benchmarks import scoring

SIDE_PX = 640
NEEDED_PER_S = 62.5
LIMIT_MS = 1000 / NEEDED_PER_S
MIXES = (
    ("single images (mosaic 0)", Augmentation(mosaic=0)),
    ("defaults (mosaic 0.5)", Augmentation()),
    ("mosaic 1", Augmentation(mosaic=1)),
    ("mosaic 1, mixup 0.15, degrees 5", Augmentation(mosaic=1, mixup=0.15, degrees=5)),
)


@dataclass(frozen=True)
class Measured:
    name: str
    ms: float
    """Processor time per image or sample, best of the repeats."""


def best_ms(call: Callable[[int], object], count: int, repeats: int) -> float:
    """Processor milliseconds per call; the best repeat: neighbours on the host only ever make it slower."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for number in range(count):
            call(number)
        times.append((time.process_time() - start) * 1000 / count)
    return min(times)


def parts(fixtures: FixtureSet, repeats: int) -> list[Measured]:
    """Each step of making a sample, alone."""
    label_of = labels_by_name(fixtures, [str(c["name"]) for c in fixtures.categories])
    count = len(fixtures.samples)
    paths = [sample.path for sample in fixtures.samples]
    files = [path.read_bytes() for path in paths]
    fresh = ExampleSource(fixtures, label_of, SIDE_PX, cache="off")
    kept = [fresh[index] for index in range(count)]
    rng = np.random.default_rng(0)

    def change(augmentation: Augmentation) -> Callable[[int], object]:
        pipeline = Pipeline(augmentation, SIDE_PX)
        return lambda k: pipeline(kept[k], rng)

    found = [
        Measured("check that a file is whole", best_ms(lambda k: check_whole(files[k], paths[k]), count, repeats)),
        Measured("read, check, decode", best_ms(lambda k: read_image_rgb(paths[k]), count, repeats)),
        Measured("read, check, decode, resize, clean boxes", best_ms(lambda k: fresh[k], count, repeats)),
        Measured("letterbox alone", best_ms(change(Augmentation.off()), count, repeats)),
        Measured(
            "letterbox, colours", best_ms(change(replace(Augmentation(), flip=0, scale=0, translate=0)), count, repeats)
        ),
        Measured("letterbox, colours, flip, zoom, shift", best_ms(change(Augmentation()), count, repeats)),
    ]
    return found + decoders(files, repeats)


def decoders(files: list[bytes], repeats: int) -> list[Measured]:
    """OpenCV's JPEG decoder beside simplejpeg, where that is installed and the files are JPEG."""
    if not all(data.startswith(b"\xff\xd8") for data in files):
        return []
    buffers = [np.frombuffer(data, np.uint8) for data in files]
    found = [
        Measured(
            "  decode JPEG: cv2, then BGR to RGB",
            best_ms(
                lambda k: cv2.cvtColor(cv2.imdecode(buffers[k], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
                len(files),
                repeats,
            ),
        ),
        Measured(
            "  decode JPEG: cv2, straight to RGB",
            best_ms(lambda k: cv2.imdecode(buffers[k], cv2.IMREAD_COLOR_RGB), len(files), repeats),
        ),
    ]
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found.append(
            Measured(
                "  decode JPEG: simplejpeg (libjpeg-turbo)",
                best_ms(lambda k: simplejpeg.decode_jpeg(files[k]), len(files), repeats),
            )
        )
    return found


def samples(fixtures: FixtureSet, repeats: int, *, cached: bool) -> list[Measured]:
    """Whole samples as a worker makes them."""
    label_of = labels_by_name(fixtures, [str(c["name"]) for c in fixtures.categories])
    source = ExampleSource(fixtures, label_of, SIDE_PX, cache="on" if cached else "off")
    if cached:
        for index in range(len(source)):
            source[index]
    found = []
    for name, augmentation in MIXES:
        set_ = TrainingSet(source, SIDE_PX, augmentation, 0)
        found.append(Measured(name, best_ms(lambda k, s=set_: s[SampleKey(0, k)], len(source), repeats)))
    return found


def sets(images: int) -> list[FixtureSet]:
    """Photographs where they are at hand, and the generated set."""
    found = []
    photographs = data_dir() / "coco128-train"
    if photographs.is_dir():
        found.append(resolve(str(photographs), split="train").take(images))
    else:
        print(f"  coco128-train is left out: no such folder below PARITY_DATA ({photographs.parent.name}/)")
    found.append(resolve("shapes", split="train").take(images))
    return found


def measure(images: int = 126, repeats: int = 3) -> list[tuple[str, float, float, str]]:
    """Rows for ``make bench``: (what, ms per sample, limit, how)."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a worker
    try:
        rows = []
        for fixtures in sets(images):
            sizes = [max(s.width, s.height) for s in fixtures.samples]
            print(f"  {fixtures.name}: {len(sizes)} images, longer side {statistics.median(sizes):.0f} px, parts:")
            for part in parts(fixtures, repeats):
                print(f"    {part.ms:6.2f} ms  {part.name}")
            for cached in (False, True):
                for found in samples(fixtures, repeats, cached=cached):
                    how = f"{1000 / found.ms:.0f} images/s per worker, needed {NEEDED_PER_S}"
                    memory = "in memory" if cached else "decoding"
                    rows.append((f"ms/sample, {fixtures.name} {memory}: {found.name}", found.ms, LIMIT_MS, how))
        return rows
    finally:
        cv2.setNumThreads(threads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=126)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(scoring.heading())
    return 0 if scoring.print_rows(measure(options.images, options.repeats)) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
