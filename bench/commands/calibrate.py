"""``parity calibrate``: ranges of a model's activations on images that are not those of the evaluation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bench.choosing import choose_samples, pixels_sha256
from bench.commands.calibration_cache import shown
from bench.console import ConsoleEvents
from bench.errors import InputError, UsageError, did_you_mean
from bench.files import sha256_file
from bench.fixtures import list_fixtures, resolve, splits_of
from bench.host import package_versions
from bench.lanes import Lane, Limits
from bench.making import Maker
from bench.matrix import ModelPlan
from bench.precision.calibration import Calibration, CalibrationImage, write_calibration
from bench.precision.collect import METHODS, PERCENTILE
from bench.registry import adapter_reference, fitted_reference, load_adapter

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bench.events import Events
    from bench.registry import Reference
    from bench.types import FixtureSet, ModelSpec, Sample

DEFAULT = "percentile"
"""64 images, all that may be is int8 but the head, SQNR of the raw outputs on 24 others: yolov10n boxes 30.4 dB and
scores 22.5 dB (entropy 27.9 and 10.7, minmax 26.2 and 17.5), FastestDet 9.6 dB (entropy 10.4, minmax 8.0)."""
_WIDEST = 8
_PACKAGES = ("onnx", "onnxruntime", "numpy", "opencv-python-headless")


def calibrate_command(
    model: str,
    *,
    out: Path,
    fixtures: str | None,
    images: int,
    seed: int,
    weights: Path | None,
    onnx: Path | None,
    calibrator: str,
    evaluation: Sequence[str],
    force: bool,
    quiet: bool,
) -> int:
    """Calibrate, write the document and print what it holds."""
    if weights is not None and onnx is not None:
        raise UsageError("--weights and --onnx exclude each other: the graph is exported, or given.")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder. Give the name of the file, for example {out / 'calibration.json'}")
    with ConsoleEvents(Console(stderr=True), quiet=quiet) as events:
        done = calibrate(
            model,
            fixtures=fixtures,
            images=images,
            seed=seed,
            weights=onnx or weights,
            calibrator=calibrator,
            evaluation=evaluation,
            force=force,
            events=events,
        )
    write_calibration(out, done)
    _print(done, out, quiet=quiet)
    return 0


def calibrate(
    model: str,
    *,
    fixtures: str | None,
    images: int,
    seed: int,
    events: Events,
    weights: Path | None = None,
    calibrator: str = DEFAULT,
    evaluation: Sequence[str] = (),
    force: bool = False,
) -> Calibration:
    """Choose images by seed, see that they are not evaluated on, and collect the ranges of the fp32 graph in a lane.

    Args:
        model: registered name, or PATH.py of an adapter.
        fixtures: set or folder, of which the calibration split is taken; None: the model's own set.
        images: how many.
        seed: of the choice.
        events: where progress is shown.
        weights: weights or ONNX file; None: those that ship with the model.
        calibrator: one of ``collect.METHODS``.
        evaluation: more sets whose val split must not be among the images.
        force: take images of an evaluation set nevertheless; the document counts them.

    Raises:
        UsageError: an unknown name, or a model without weights.
        InputError: too few images, images of an evaluation set, or a file that cannot be used.
        ArtifactError: a graph that cannot be exported or calibrated.
    """
    if calibrator not in METHODS:
        raise UsageError(f"--calibrator {calibrator}: unknown.{did_you_mean(calibrator, METHODS)}")
    plain = adapter_reference(model)
    path = _weights(plain, load_adapter(plain.target).spec, weights)
    adapter = fitted_reference(plain, path)
    spec = load_adapter(adapter.target).spec
    name = fixtures or spec.default_fixtures
    events.stage(f"Opening {name}")
    found = _open(name, "calibration", events)
    if not 1 <= images <= len(found.samples):
        raise InputError(
            f"{found.name}: --images {images}, and its {found.split} split has {len(found.samples)} image(s). Type: "
            f"--images {len(found.samples)}, or choose a larger set with --fixtures."
        )
    chosen = choose_samples(found.samples, images, seed)
    sets = _evaluation_sets(name, spec, evaluation, events)
    evaluated = _evaluated(chosen, sets, events)
    if evaluated and not force:
        names = ", ".join(sample.path.name for sample in evaluated[:5])
        more = f" and {len(evaluated) - 5} more" if len(evaluated) > 5 else ""
        raise InputError(
            f"{found.name}: {len(evaluated)} of the {images} images are also in the evaluation set "
            f"({' or '.join(s.name for s in sets)}), by their pixels: {names}{more}. int8 "
            "would look better than it is. Choose other images with --fixtures, or type --force (the document says so)."
        )
    with tempfile.TemporaryDirectory(prefix="parity-calibrate-") as scratch:
        logs = Path(scratch)
        plan = ModelPlan(
            adapter=adapter,
            spec=spec,
            weights=path,
            fixtures=found,
            labels_to_categories=(),
            calibration=None,
            calibration_label=None,
            cells=(),
            golden=None,
        )
        limits = Limits()
        graph = Maker(plan, logs=logs, limits=limits, progress=events.progress).artifact("onnx", "fp32")
        with Lane(name=f"calibrate {spec.name}", log=logs / "calibrate.log", limits=limits) as lane:
            count, digest, ranges = lane.call(
                "calibrate",
                adapter=adapter.target,
                source=graph.path,
                samples=chosen,
                method=calibrator,
                progress=lambda done, total: events.progress(f"calibrate {spec.name}", done, total),
            )
    return Calibration(
        method=f"percentile {PERCENTILE}" if calibrator == "percentile" else calibrator,
        ranges=ranges,
        onnx_sha256=graph.sha256,
        images=count,
        images_sha256=digest,
        set_name=found.name,
        seed=seed,
        evaluation_images=len(evaluated),
        evaluation_sets=tuple(s.name for s in sets),
        model=spec.name,
        set_split=found.split,
        set_sha256=found.sha256,
        files=tuple(CalibrationImage(name=s.path.name, sha256=sha256_file(s.path)) for s in chosen),
        versions=package_versions(_PACKAGES),
    )


def _weights(adapter: Reference, spec: ModelSpec, given: Path | None) -> Path:
    path = given or spec.default_weights
    if path is None:
        raise UsageError(f"{adapter.name} ships no weights. Type: --weights PATH or --onnx FILE")
    if not path.is_file():
        raise UsageError(f"{adapter.name}: {path}: no such file. Type: --weights PATH or --onnx FILE")
    return path.resolve()


def _open(name: str, split: str, events: Events) -> FixtureSet:
    return resolve(name, split=split, progress=lambda done, total: events.progress(f"render {name}", done, total))


def _evaluation_sets(name: str, spec: ModelSpec, more: Sequence[str], events: Events) -> list[FixtureSet]:
    """Sets that int8 will be judged on: those asked for, the model's own, and the val split of the set itself.

    A folder without splits is no evaluation set by itself.
    """
    found = [_open(other, "val", events) for other in more]
    named = [n for n in dict.fromkeys((name, spec.default_fixtures)) if n in list_fixtures() or n.endswith(".json")]
    own = [*named, name] if name not in named and "val" in splits_of(name) else named
    for other in own:
        try:
            found.append(_open(other, "val", events))
        except (InputError, UsageError) as error:
            events.note(f"the images were not compared with {other}, whose val split cannot be opened: {error}")
    return found


def _evaluated(chosen: Sequence[Sample], sets: Collection[FixtureSet], events: Events) -> list[Sample]:
    """Images among ``chosen`` whose pixels are those of an evaluation image."""
    sizes = {(sample.width, sample.height) for sample in chosen}
    candidates = [s for found in sets for s in found.samples if (s.width, s.height) in sizes]
    if not candidates:
        return []
    hashes = set()
    for index, sample in enumerate(candidates):
        events.progress("compare with the evaluation set", index, len(candidates))
        hashes.add(pixels_sha256(sample))
    return [sample for sample in chosen if pixels_sha256(sample) in hashes]


def _print(done: Calibration, out: Path, *, quiet: bool) -> None:
    console = Console()
    if not quiet:
        table = Table(box=None)
        for heading in ("tensor", "lowest", "highest", "covered", "scale"):
            table.add_column(heading, justify="left" if heading == "tensor" else "right", overflow="fold")
        widest = sorted(done.ranges.items(), key=lambda item: -item[1].amax)[:_WIDEST]
        for name, found in widest:
            values = (found.low, found.high, found.amax, found.scale)
            table.add_row(shown(name), *(f"{value:.6g}" for value in values))
        console.print(f"Widest {len(widest)} of {len(done.ranges)} tensors, {done.method}:", highlight=False)
        console.print(table)
        silent = sum(found.amax == 0 for found in done.ranges.values())
        if silent:
            console.print(f"{silent} tensor(s) were zero on every image and have no scale.", highlight=False)
    against = ", ".join(done.evaluation_sets) or "no evaluation set"
    shared = f"{done.evaluation_images} of them in it, by --force" if done.evaluation_images else "none of them in it"
    console.print(
        f"{out}: ranges of {len(done.ranges)} tensors on {done.images} images of {done.set_name} ({done.set_split}, "
        f"seed {done.seed}), compared with {against}" + (f": {shared}" if done.evaluation_sets else ""),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
