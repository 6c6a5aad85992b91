"""A bare loop of one runtime, as a user would write it: ``python -m benchmarks.bare RUNTIME MODEL THREADS FEEDS``.

Reads a number of steps per line from standard input and answers with a JSON list of milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def torch_step(model: str, threads: int, feeds: dict[str, np.ndarray]):
    import torch

    from bench.registry import load_adapter

    torch.set_num_threads(threads)
    name, _, weights = model.partition("=")
    module = load_adapter(name).build(Path(weights))
    inputs = [torch.from_numpy(v) for v in feeds.values()]

    def step() -> None:
        with torch.inference_mode():
            module(*inputs)

    return step


def onnxrt_step(model: str, threads: int, feeds: dict[str, np.ndarray]):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino_step(model: str, threads: int, feeds: dict[str, np.ndarray]):
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape({name: list(value.shape) for name, value in feeds.items()})
    # Without the hint this would be another computation: on a processor with bf16 the plug-in runs fp32 graphs in bf16.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    inputs = {k: openvino.Tensor(v) for k, v in feeds.items()}
    return lambda: request.infer(inputs)


def main() -> None:
    runtime, model, threads, feeds_file = sys.argv[1:5]
    with np.load(feeds_file) as file:
        feeds = {k: file[k] for k in file.files}
    makers = {"torch": torch_step, "onnxrt": onnxrt_step, "openvino": openvino_step}
    step = makers[runtime](model, int(threads), feeds)
    for line in sys.stdin:
        samples = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            samples.append((time.perf_counter() - start) * 1000)
        sys.stdout.write(json.dumps(samples) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
