"""The accuracy pass: decode and pre-processing overlap inference, and so does post-processing.

One thread decodes and pre-processes, the caller's thread runs the runtime, one thread post-processes. OpenCV, numpy
and the runtimes release the interpreter lock in their kernels.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ContractError
from bench.fixtures import read_image_rgb
from bench.runner_base import feed_key
from bench.speed import max_difference
from bench.timing import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.types import Adapter, Array, Prediction, Runner, Sample

_AHEAD = 8
KEPT_BATCHES = 4
"""Whose raw outputs the accuracy pass keeps, for the comparison with those of timed steps."""
KEPT_BYTES = 128 * 2**20
"""No further batch is kept beyond; two always are, so that one can be told from the other."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over the images gave."""

    predictions: dict[int, Prediction]
    """Image id -> detections."""
    feed_hashes: dict[int, str]
    """Image id -> hash of the preprocessed tensor."""
    pre_ms: list[float]
    run_ms: list[float]
    """Per image; the batch's time divided by its size."""
    post_ms: list[float]
    wall_s: float
    kept: tuple[dict[str, Array], ...] = ()
    """Raw outputs of the first whole batches, as the runtime gave them."""
    repeat_noise: Mapping[str, float] = field(default_factory=dict)
    """Output -> largest absolute difference when the kept batches are run again."""


@dataclass(slots=True)
class _Item:
    image_id: int
    feeds: dict[str, Array]
    meta: Mapping[str, Any]
    key: str
    pre_ms: float


def accuracy_pass(
    runner: Runner,
    adapter: Adapter,
    samples: Sequence[Sample],
    *,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Pass:
    """Run every image once and return detections, tensor hashes and stage times.

    Raises:
        InputError: an image cannot be read.
        ContractError: the runtime or the adapter breaks its protocol.
    """
    result = Pass(predictions={}, feed_hashes={}, pre_ms=[], run_ms=[], post_ms=[], wall_s=0.0)
    kept: list[tuple[dict[str, Array], dict[str, Array]]] = []
    started = clock()
    todo: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)
    raw: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)
    stop = threading.Event()
    failures: list[BaseException] = []
    workers = [
        threading.Thread(target=_guard, args=(failures, stop, todo, _load, adapter, samples, todo, stop), daemon=True),
        threading.Thread(target=_guard, args=(failures, stop, raw, _finish, adapter, raw, result), daemon=True),
    ]
    for worker in workers:
        worker.start()
    try:
        for items in _batches(_drain(todo), batch):
            feeds = batch_feeds(runner, [i.feeds for i in items], batch)
            outputs, elapsed_ms = _run_batch(runner, feeds)
            if len(items) == batch and _keeps(kept):
                kept.append((feeds, {name: value.copy() for name, value in outputs.items()}))
            result.run_ms.extend([elapsed_ms / len(items)] * len(items))
            for index, item in enumerate(items):
                raw.put((item, {k: v[index : index + 1] for k, v in outputs.items()}))
            if stop.is_set():
                break
            if progress is not None:
                progress(len(result.run_ms), len(samples))
    finally:
        stop.set()
        raw.put(None)
        workers[1].join()
        while workers[0].is_alive():  # it may be waiting for room in the queue
            _empty(todo)
            workers[0].join(timeout=0.05)
    if failures:
        raise failures[0]
    wall_s = clock() - started
    return Pass(
        predictions=result.predictions,
        feed_hashes=result.feed_hashes,
        pre_ms=result.pre_ms,
        run_ms=result.run_ms,
        post_ms=result.post_ms,
        wall_s=wall_s,
        kept=tuple(outputs for _, outputs in kept),
        repeat_noise=_repeat_noise(runner, kept),
    )


def prepare(adapter: Adapter, sample: Sample) -> tuple[dict[str, Array], Mapping[str, Any]]:
    """Decode one image and preprocess it."""
    return adapter.preprocess(read_image_rgb(sample.path, (sample.height, sample.width)))


def stack(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Join feeds of B = 1 along the batch axis."""
    if len(feeds) == 1:
        return dict(feeds[0])
    return {name: np.concatenate([f[name] for f in feeds], axis=0) for name in feeds[0]}


def batch_feeds(runner: Runner, images: Sequence[Mapping[str, Array]], batch: int) -> dict[str, Array]:
    """Stack images; the last ones of a set are filled up where the file has a fixed batch size, by repeating one."""
    static = isinstance(runner.inputs[0].shape[0], int)
    missing = batch - len(images) if static else 0
    return stack([*images, *[images[-1]] * missing])


def _keeps(kept: Sequence[tuple[dict[str, Array], dict[str, Array]]]) -> bool:
    size = sum(value.nbytes for _, outputs in kept for value in outputs.values())
    return len(kept) < 2 or (len(kept) < KEPT_BATCHES and size < KEPT_BYTES)


def _repeat_noise(runner: Runner, kept: Sequence[tuple[dict[str, Array], dict[str, Array]]]) -> dict[str, float]:
    """Run the kept batches again; NaN where an output is not finite, which no limit forgives."""
    noise: dict[str, float] = {}
    for feeds, outputs in kept:
        again = runner.run(feeds)
        for name, value in outputs.items():
            found = max_difference(again.get(name), value)
            noise[name] = float(np.maximum(noise.get(name, 0.0), found))  # np.maximum keeps NaN
    return noise


def _run_batch(runner: Runner, feeds: dict[str, Array]) -> tuple[dict[str, Array], float]:
    start = clock()
    outputs = runner.run(feeds)
    elapsed_ms = (clock() - start) * 1000.0
    check_outputs(runner, outputs)
    return outputs, elapsed_ms


def check_outputs(runner: Runner, outputs: Mapping[str, Array]) -> None:
    """Refuse outputs whose names or shapes are not the declared ones; a symbolic axis takes any length.

    Raises:
        ContractError: naming the output, what was declared and what came.
    """
    for spec in runner.outputs:
        if spec.name not in outputs:
            raise ContractError(
                f"output {spec} is missing; the runtime gave {', '.join(sorted(outputs)) or 'nothing'}."
            )
        shape = outputs[spec.name].shape
        fits = len(shape) == len(spec.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise ContractError(f"output {spec} came with shape {shape}.")


def _guard(
    failures: list[BaseException], stop: threading.Event, own: queue.Queue[Any], work: Callable[..., None], *args: Any
) -> None:
    """Run a thread's work; keep its exception for the caller's thread, which raises it."""
    try:
        work(*args)
    except BaseException as error:  # noqa: BLE001 - carried to the caller's thread and raised there
        failures.append(error)
        stop.set()
        if work is _load:
            own.put(None)
        else:
            while own.get() is not None:
                pass


def _load(adapter: Adapter, samples: Sequence[Sample], todo: queue.Queue[Any], stop: threading.Event) -> None:
    for sample in samples:
        if stop.is_set():
            return
        image = read_image_rgb(sample.path, (sample.height, sample.width))
        start = clock()
        feeds, meta = adapter.preprocess(image)
        elapsed_ms = (clock() - start) * 1000.0
        todo.put(_Item(sample.image_id, feeds, meta, feed_key(feeds), elapsed_ms))
    todo.put(None)


def _finish(adapter: Adapter, raw: queue.Queue[Any], result: Pass) -> None:
    while (entry := raw.get()) is not None:
        item, outputs = entry
        start = clock()
        result.predictions[item.image_id] = adapter.postprocess(outputs, item.meta)
        result.post_ms.append((clock() - start) * 1000.0)
        result.pre_ms.append(item.pre_ms)
        result.feed_hashes[item.image_id] = item.key


def _drain(todo: queue.Queue[Any]) -> Iterable[_Item]:
    while (item := todo.get()) is not None:
        yield item


def _batches(items: Iterable[_Item], size: int) -> Iterable[list[_Item]]:
    group: list[_Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _empty(todo: queue.Queue[Any]) -> None:
    try:
        while True:
            todo.get_nowait()
    except queue.Empty:
        return
