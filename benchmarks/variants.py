"""The exported graphs of all six YOLOv10 variants: nodes, and latency at batch 1 with one thread, interleaved.

Weights are synthetic (they follow from the keys), 80 classes. ``executed`` leaves out Constant nodes, which a runtime
folds when it loads the file. ``as traced`` is the file without the folding of ``adapters.yolov10.fuse``; the exporter
folds batch norms by itself. Latencies are medians over shuffled rounds in which the runtimes take turns.

    python -m benchmarks.variants [--size 320] [--variants n,s,m,b,l,x] [--rounds 8]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from adapters._shared.synthetic import make_entry, make_image
from adapters.yolov10 import YoloV10Adapter, make_spec
from adapters.yolov10.names import COCO_NAMES
from adapters.yolov10.variants import VARIANTS
from bench.errors import BenchError, UsageError, did_you_mean
from bench.timing import run_rounds
from benchmarks import bare, scoring

CONV_GAIN = 1.5
"""Of the synthetic weights: no variant saturates, so that no runtime meets numbers that cost it more."""
WARM_UP_STEPS = 3
ROUNDS = 8
RUNTIMES: dict[str, Callable[..., Callable[[], object]]] = {
    "onnxrt": bare.onnxrt_step,
    "openvino": bare.openvino_step,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant."""

    variant: str
    parameters: int
    nodes: int
    executed: int
    executed_as_traced: int
    convolutions: int
    latency_ms: dict[str, float]
    """Runtime -> median."""
    fastest_ms: dict[str, float]
    """Runtime -> the best step: what the host can do when its neighbours are quiet."""


def make_weights(variant: str, path: Path) -> None:
    """Write synthetic weights under the official keys."""
    import torch
    from safetensors.torch import save_file

    from adapters.yolov10.model import YoloV10

    with torch.device("meta"):
        outline = YoloV10(variant, len(COCO_NAMES)).state_dict()
    state = {
        key: torch.from_numpy(make_entry(key, tuple(value.shape), CONV_GAIN)).to(value.dtype)
        for key, value in outline.items()
    }
    save_file(state, path)


def count_nodes(path: Path) -> Counter[str]:
    """Operator -> nodes of an ONNX file."""
    import onnx

    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def executed_of(kinds: Counter[str]) -> int:
    return kinds.total() - kinds["Constant"]


def as_traced(adapter: YoloV10Adapter, weights: Path, out: Path) -> int:
    """Nodes that run in a file of the network as it is, without our folding."""
    import torch

    network = adapter.build(weights)
    names = [t.name for t in adapter.spec.outputs]
    axes = {name: {0: "batch"} for name in ("images", *names)}
    example = torch.zeros(2, 3, *adapter.spec.image_hw)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # as the adapter's own export, which says why
        torch.onnx.export(
            network,
            (example,),
            str(out),
            input_names=["images"],
            output_names=names,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return executed_of(count_nodes(out))


def timer_of(step: Callable[[], object]) -> Callable[[int], list[float]]:
    """A function that runs ``step`` so many times and gives the milliseconds of each."""

    def run(steps: int) -> list[float]:
        samples = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            samples.append((time.perf_counter() - start) * 1000)
        return samples

    return run


def measure(variant: str, side_px: int, rounds: int, folder: Path) -> Row:
    """Export one variant and time it in both runtimes."""
    adapter = YoloV10Adapter(make_spec(variant, (side_px, side_px), COCO_NAMES, "coco128"), variant)
    weights, path = folder / f"{variant}.safetensors", folder / f"{variant}.onnx"
    make_weights(variant, weights)
    adapter.export(weights, path)
    kinds = count_nodes(path)
    feeds = {"images": make_image("variants", (1, 3, side_px, side_px))}
    timers = {name: timer_of(make(str(path), 1, feeds)) for name, make in RUNTIMES.items()}
    for run in timers.values():
        run(WARM_UP_STEPS)
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for done in run_rounds(timers, rounds=rounds, seed=0):
        for name, values in done["samples_ms"].items():
            samples[name] += values
    assert adapter.spec.parameters is not None
    return Row(
        variant=variant,
        parameters=adapter.spec.parameters,
        nodes=kinds.total(),
        executed=executed_of(kinds),
        executed_as_traced=as_traced(adapter, weights, folder / "traced.onnx"),
        convolutions=kinds["Conv"],
        latency_ms={name: median(values) for name, values in samples.items()},
        fastest_ms={name: float(np.min(values)) for name, values in samples.items()},
    )


def line_of(row: Row) -> str:
    """One line of the table."""
    times = "  ".join(f"{row.latency_ms[n]:8.1f} ({row.fastest_ms[n]:7.1f})" for n in RUNTIMES)
    counts = f"{row.nodes:5d}  {row.executed:8d}  {row.executed_as_traced:9d}  {row.convolutions:4d}"
    return f"  yolov10{row.variant}  {row.parameters / 1e6:7.2f} M  {counts}  {times}"


def report(side_px: int, variants: list[str], rounds: int) -> None:
    """Print the table, a line as soon as it is measured."""
    names = "  ".join(f"{f'{n} p50 (best) ms':>18}" for n in RUNTIMES)
    print(f"  YOLOv10 at {side_px} px, 80 classes, fp32, batch 1, one thread, {rounds} rounds of 5 steps")
    print(f"  {'':8}  {'parameters':>9}  nodes  executed  as traced  Conv  {names}")
    for variant in variants:
        with tempfile.TemporaryDirectory() as scratch:
            print(line_of(measure(variant, side_px, rounds, Path(scratch))), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=320, help="side of the square input, pixels")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma separated")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of 5 steps of each runtime")
    options = parser.parse_args()
    variants = options.variants.split(",")
    for name in variants:
        if name not in VARIANTS:
            raise UsageError(f"--variants {name}: unknown.{did_you_mean(name, VARIANTS)}")
    print(scoring.heading())
    report(options.size, variants, options.rounds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
