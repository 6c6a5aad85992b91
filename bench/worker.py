"""What runs inside a lane: ``python -m bench.worker FD`` answers commands until it is told to close.

Commands that ask: ``probe``. That make artefacts: ``export``, ``deploy``, ``convert``, ``calibrate``, ``inspect``. That
own a runtime: ``load``, ``sample``, ``predict``, ``observe_input``, ``record``, ``hold``, ``stay_on``, ``turn``,
``round``, ``profile``, ``peak``; ``bind`` and ``time`` are a plain loop on one image. And ``simulate``, ``train``,
``close``.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import resource
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.artifacts import Made, Store
from bench.cores import stay_on
from bench.errors import ArtifactError, BenchError, ContractError, Unavailable, Unsupported
from bench.timing import clock, time_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.deployment.options import ExportOptions
    from bench.precision.calibration import TensorRange
    from bench.precision.options import Conversion
    from bench.timed import TimedBatches
    from bench.types import Adapter, Array, Artifact, Cell, Evidence, NodeTime, Runner, Sample


class Worker:
    """State of one lane: an adapter, and a runner once something is loaded."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self._adapter: Adapter | None = None
        self._runner: Runner | None = None
        self._step: Callable[[], None] | None = None
        self._timed: TimedBatches | None = None
        self._rebuilt = False
        """The file is another build than the one whose outputs were scored."""

    def probe(self, *, backend: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, dict[tuple[str, str], Any]]:
        """Version of a backend, and (device, precision) -> (mode, "") or (exception name, reason)."""
        from bench.registry import load_backend

        runtime = load_backend(backend)
        answers: dict[tuple[str, str], tuple[str, str]] = {}
        version = ""
        for device, precision in pairs:
            try:
                answers[(device, precision)] = (runtime.require(device, precision), "")
                version = version or runtime.version()
            except (Unavailable, Unsupported) as error:
                answers[(device, precision)] = (type(error).__name__, str(error))
        return version, answers

    def export(self, *, adapter: str, weights: Path, out: Path, opset: int) -> Made:
        """Export fp32 ONNX through the adapter, check its names, load it and run it once."""
        from bench.precision import gate, onnxfile
        from bench.registry import load_adapter

        model = load_adapter(adapter)
        recipe = model.export(weights, out, opset=opset)
        inputs, outputs = onnxfile.check_against(model.spec, out)
        gates = gate.accept(out, example_feeds(inputs))
        return Made(inputs=inputs, outputs=outputs, recipe={**recipe, "gates": gates})

    def deploy(
        self, *, adapter: str, weights: Path, out: Path, options: ExportOptions, samples: Sequence[Sample],
        images_of: str, validate: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Write a file for deployment and return its document; with ``validate`` the comparison with torch is in it."""
        from bench.deployment import export as deploying
        from bench.deployment.options import as_deployable
        from bench.registry import load_adapter

        model = as_deployable(load_adapter(adapter))
        images = deploying.read_images(samples)
        document, details = deploying.export_file(model, weights, out, options, images=images)
        if validate:
            named = {images_of: images} if images else {}
            document["validation"] = deploying.check_file(
                model, weights, out, options, document, details, images=named, progress=self._progress
            )
        return document

    def convert(
        self,
        *,
        adapter: str,
        precision: str,
        source: Path,
        out: Path,
        calibration: Sequence[Sample],
        calibration_name: str,
        options: Conversion,
    ) -> Made:
        """Convert an fp32 ONNX file to ``precision``; int8 calibrates on the given images."""
        from bench import precision as conversion
        from bench.passes import prepare
        from bench.precision import gate, onnxfile
        from bench.registry import load_adapter

        model = load_adapter(adapter)

        def feeds() -> Any:
            for index, sample in enumerate(calibration):
                self._progress(index, len(calibration))
                yield prepare(model, sample)[0]

        recipe = dict(
            conversion.make(precision, source, out, feeds=feeds, float_nodes=model.spec.float_nodes, options=options)
        )
        if calibration:
            recipe["calibration_set"] = calibration_name
        inputs, outputs = onnxfile.check_against(model.spec, out)
        gate.accept(out, example_feeds(inputs))
        return Made(inputs=inputs, outputs=outputs, recipe=recipe)

    def calibrate(
        self, *, adapter: str, source: Path, samples: Sequence[Sample], method: str
    ) -> tuple[int, str, dict[str, TensorRange]]:
        """Number of images, hash of their tensors, and the range of every float activation of ``source``."""
        from bench.passes import prepare
        from bench.precision import onnxfile
        from bench.precision.collect import collect
        from bench.registry import load_adapter

        model = load_adapter(adapter)
        onnxfile.check_against(model.spec, source)
        reading = ""

        def feeds() -> Iterator[Mapping[str, Array]]:
            nonlocal reading
            for sample in samples:
                reading = sample.path.name
                yield prepare(model, sample)[0]

        def progress(done: int, total: int) -> None:
            self._progress(done, total or 2 * len(samples))  # two passes, unless the graph is large

        try:
            found = collect(source, feeds, progress=progress)
        except ArtifactError as error:
            raise ArtifactError(f"{reading}: {error}" if reading else str(error)) from error
        return found.images, found.images_sha256, found.ranges(method)

    def inspect(self, *, adapter: str, path: Path) -> Made:
        """Check a given ONNX file against the model's spec."""
        from bench.precision import onnxfile
        from bench.registry import load_adapter

        inputs, outputs = onnxfile.check_against(load_adapter(adapter).spec, path)
        return Made(inputs=inputs, outputs=outputs, recipe={"sha256": onnxfile.artifact_sha256(path)})

    def load(
        self,
        *,
        adapter: str,
        backend: str,
        cell: Cell,
        artifact: Artifact,
        weights: Path | None,
        seed: int,
        threads: int,
        first: Sample,
        build: int = 0,
    ) -> dict[str, Any]:
        """Open the runtime, run it once on the image ``first`` and attest it; times in seconds and milliseconds.

        ``build`` numbers the file that a backend makes of the shared one (an engine): another number, another file.
        """
        import cv2

        from bench.passes import prepare, stack
        from bench.registry import load_adapter, load_backend
        from bench.types import Profiler

        cv2.setNumThreads(1)  # decoding shares the machine with the runtime that is being measured
        self._adapter = load_adapter(adapter)
        model, runtime = self._adapter, load_backend(backend)
        if artifact.kind == "weights":
            artifact = dataclasses.replace(artifact, build=lambda: model.build(weights, seed))
        start = clock()
        prepared = runtime.prepare(artifact, cell, Store(build=build))
        build_s = clock() - start
        start = clock()
        self._runner = runtime.open(prepared, cell, threads=threads)
        load_s = clock() - start
        feeds = stack([prepare(model, first)[0]] * cell.batch)
        start = clock()
        self._runner.run(feeds)
        first_ms = (clock() - start) * 1000.0
        evidence: Evidence = self._runner.attest()
        own_file = prepared.sha256 != artifact.sha256
        self._rebuilt = own_file and build > 0
        return {
            "profiles": isinstance(self._runner, Profiler) and self._runner.profiles,
            "load_s": load_s,
            "build_s": build_s if own_file else None,
            "first_inference_ms": first_ms,
            "evidence": evidence,
            "version": runtime.version(),
            "prepared": dataclasses.replace(prepared, build=None) if own_file else None,
        }

    def sample(self, *, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Raw outputs of a few images, one dictionary per image, batch axis kept (of length 1)."""
        from bench.passes import check_outputs, prepare, stack

        runner, adapter = self._opened()
        fixed = runner.inputs[0].shape[0]
        raw = []
        for item in samples:
            feeds = prepare(adapter, item)[0]
            outputs = runner.run(stack([feeds] * fixed) if isinstance(fixed, int) else feeds)
            check_outputs(runner, outputs)
            raw.append({name: values[:1] for name, values in outputs.items()})
        return raw

    def profile(self, *, sample: Sample, batch: int) -> tuple[NodeTime, ...]:
        """Time of every node on one image, ``batch`` times; empty when the runtime does not say."""
        from bench.nodetimes import checked
        from bench.passes import prepare, stack
        from bench.types import Profiler

        runner, adapter = self._opened()
        if not isinstance(runner, Profiler):
            return ()
        feeds = prepare(adapter, sample)[0]
        return checked(runner.profile(stack([feeds] * batch)))

    def simulate(self, *, adapter: str, path: Path, samples: Sequence[Sample]) -> tuple[str, list[dict[str, Any]]]:
        """Raw outputs of a few images in the own arithmetic of an ONNX file, and what ran it, in words."""
        from bench.passes import prepare
        from bench.precision.simulate import described, simulate
        from bench.registry import load_adapter

        model = load_adapter(adapter)
        feeds = (prepare(model, item)[0] for item in samples)
        return described(), simulate(path, feeds, progress=self._progress)

    def predict(self, *, samples: Sequence[Sample], batch: int) -> Any:
        """The accuracy pass; see ``bench.passes.accuracy_pass``."""
        from bench.passes import accuracy_pass

        runner, adapter = self._opened()
        return accuracy_pass(runner, adapter, samples, batch=batch, progress=self._progress)

    def observe_input(self) -> dict[str, Any]:
        """What the loaded model's pre-processing does to drawn images; see ``bench.inputprobe``."""
        from bench.inputprobe import observe_input

        return observe_input(self._opened()[1])

    def record(self, *, samples: Sequence[Sample], out: Path) -> int:
        """Write raw outputs keyed by the hash of the preprocessed tensor, for the recorded backend."""
        from bench.backends.recorded import record
        from bench.passes import prepare

        runner, adapter = self._opened()
        for index, item in enumerate(samples):
            feeds = prepare(adapter, item)[0]
            record(out, feeds, runner.run(feeds))
            self._progress(index + 1, len(samples))
        return len(samples)

    def bind(self, *, sample: Sample, batch: int, warmup: int) -> None:
        """Make one image resident ``batch`` times and warm up."""
        from bench.passes import prepare, stack

        runner, adapter = self._opened()
        feeds = prepare(adapter, sample)[0]
        self._step = runner.bind(stack([feeds] * batch)).step
        time_steps(self._step, warmup)

    def time(self, *, steps: int) -> list[float]:
        """Milliseconds of each of ``steps`` runs on the bound input."""
        if self._step is None:
            raise ContractError("time before bind")
        return time_steps(self._step, steps)

    def hold(
        self, *, samples: Sequence[Sample], batch: int, warmup: int, expected: Sequence[Mapping[str, Array]]
    ) -> dict[str, float]:
        """Make the first batches resident and warm up; see ``bench.timed.TimedBatches``.

        Returns:
            Of another build than the one that was scored: output -> largest absolute difference between the two. Its
            timed outputs are then held to its own. Empty otherwise.
        """
        from bench.timed import TimedBatches

        runner, adapter = self._opened()
        self._timed = TimedBatches(runner, adapter, samples, batch=batch, expected=expected)
        apart = self._timed.expect_own(runner) if self._rebuilt else {}
        self._timed.warm_up(warmup)
        return apart

    def stay_on(self, *, cores: Sequence[int]) -> None:
        """Keep this process on some cores; see ``bench.cores``."""
        stay_on(cores)

    def turn(self, *, number: int, first: int, steps: int) -> list[float]:
        """Milliseconds of some steps of a round on the held batches."""
        return self._held().turn(number=number, first=first, steps=steps)

    def round(self, *, number: int, first: int, steps: int) -> dict[str, Any]:
        """The last turn of a round; see ``bench.timed.TimedBatches``."""
        return self._held().round(number=number, first=first, steps=steps)

    def train(self, *, adapter: str, config: Mapping[str, Any], out: Path) -> Path:
        """Train through the adapter."""
        from bench.registry import load_adapter

        return load_adapter(adapter).train(config, out)

    def peak(self) -> float:
        """Peak resident memory of this process in MB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0

    def close(self) -> None:
        """Release the runtime."""
        self._step = self._timed = None
        if self._runner is not None:
            self._runner.close()

    def _held(self) -> TimedBatches:
        if self._timed is None:
            raise ContractError("round before hold")
        return self._timed

    def _opened(self) -> tuple[Runner, Adapter]:
        if self._runner is None or self._adapter is None:
            raise ContractError("the lane has nothing loaded")
        return self._runner, self._adapter


def example_feeds(inputs: Sequence[Any], *, batch: int = 1) -> dict[str, Any]:
    """Zeros for every input; symbolic axes become ``batch``."""
    import numpy as np

    return {t.name: np.zeros([d if isinstance(d, int) else batch for d in t.shape], t.dtype) for t in inputs}


def serve(connection: Connection) -> None:
    """Answer commands until ``close`` or until the parent is gone."""
    worker = Worker(lambda done, total: connection.send(("progress", (done, total))))
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            result = getattr(worker, command)(**arguments)
        except BenchError as error:
            traceback.print_exc()
            connection.send((type(error).__name__, str(error)))
        except MemoryError as error:
            connection.send(("LaneError", f"Ran out of memory in {command}: MemoryError {error}".strip()))
        except Exception as error:  # noqa: BLE001 - foreign: becomes the cell's error, by name; traceback in the log
            traceback.print_exc()
            connection.send((type(error).__name__, str(error)))
        else:
            connection.send(("result", result))
        if command == "close":
            return


if __name__ == "__main__":
    faulthandler.enable()
    serve(Connection(int(sys.argv[1])))
