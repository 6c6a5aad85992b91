"""The verbs of a team's day around one model: its detections, its baseline, its backend suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.clioptions import (
    AllowMismatch,
    Calibration,
    Fixtures,
    Json,
    MaxImages,
    Protocol,
    Quiet,
    Threads,
    Weights,
    with_options_of,
)
from bench.options import MAX_IMAGES_OF_ONE_FILE

BACKENDS = "torch,onnxrt,trt"
_NOT_OF_ONE_FILE = ("out", "resume", "band", "baseline", "dry_run", "json", "junit", "markdown", "strict_undecided")
_OWN_OF_SUITE = ("models", "adapter", "config", "backends", "precisions", "max_images")
_MODEL = "Registered model, or PATH.py of an adapter."


def predict(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    out: Annotated[
        Path, typer.Option("--out", "--output", metavar="FILE|-", help="Predictions file; - for standard output.")
    ] = Path("reports/predictions.json"),
    backend: Annotated[str, typer.Option("--backend", "--backends", help="One backend.")] = "torch",
    precision: Annotated[str, typer.Option("--precision", "--precisions", help="One precision.")] = "fp32",
    device: Annotated[str, typer.Option("--device", "--devices", help="cpu or cuda:0.")] = "cpu",
    fixtures: Fixtures = None,
    weights: Weights = None,
    calibration: Calibration = None,
    max_images: MaxImages = None,
    threads: Threads = None,
    wrap: Annotated[bool, typer.Option("--wrap", help="Write the wrapped form with its meta.")] = False,
    records: Annotated[
        Path | None,
        typer.Option("--records", metavar="FILE", help="Images to run: JSON list or lines of {image, labels, ...}."),
    ] = None,
    bbox_format: Annotated[
        str | None,
        typer.Option("--bbox-format", help="Of entries (default: the protocol's, else cxcywh_norm)."),
    ] = None,
    protocol: Protocol = None,
    allow_protocol_mismatch: AllowMismatch = False,
    record: Annotated[
        Path | None, typer.Option("--record", metavar="DIR", help="Also keep raw outputs for the backend `recorded`.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run one cell over the images and write its detections, checked against the schema.

    --wrap: {schema_version, meta, predictions: [{image, detections: [{class_id, score, bbox: {cx, cy, w, h}}]}]}, boxes
    as shares of the image; the meta says what really ran. Without it: a COCO results list; with --records, a list of
    entries, each named as its record names it.
    """
    from bench.commands.predict import predict_command

    options = {
        "models": model,
        "backends": backend,
        "precisions": precision,
        "devices": device,
        "fixtures": fixtures,
        "weights": weights or None,
        "calibration": calibration,
        "max_images": max_images,
        "threads": threads,
        "protocol": protocol,
        "allow_protocol_mismatch": allow_protocol_mismatch or None,
    }
    raise typer.Exit(
        predict_command(
            options, out=out, wrap=wrap, records=records, bbox_format=bbox_format, record=record, quiet=quiet
        )
    )


def baseline(
    values: dict[str, Any],
    runs: Annotated[
        int | None, typer.Option("--runs", metavar="N", help="Runs to measure (default: 3; 3 or more judge speed).")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "--output", metavar="DIR|FILE.json", help="Folder of the baseline, or one file.")
    ] = Path("baseline"),
    add: Annotated[
        list[Path] | None, typer.Option("--add", metavar="RUN", help="Add a finished run's folder; measure nothing.")
    ] = None,
) -> None:
    """Measure what later runs are compared with: `parity compare` and `--baseline` read both forms.

    --output DIR (default: baseline): the same plan several times, so that changes of speed can be judged.
    --output FILE.json: one run into one suite file, of the reference cell unless --backends names more, with its AP and
    images per second; at most 50 images unless --max-images says otherwise.
    """
    from bench.commands.baseline import baseline_command

    config, quiet = values.pop("config"), values.pop("quiet")
    if values.pop("half"):
        values["precisions"] = "fp16"
    options = {name: value or None for name, value in values.items()}
    raise typer.Exit(baseline_command(options, config=config, runs=runs, out=out, add=add or [], quiet=quiet))


def suite(
    values: dict[str, Any],
    model: Annotated[str, typer.Argument(help=_MODEL)],
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx", metavar="FILE", help="ONNX file that runs as it is (default: exported from the checkpoint)."
        ),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option("--engine", metavar="FILE", help="TensorRT engine that runs as it is (default: built from ONNX)."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Network config (JSON, TOML, YAML) that it must have."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "--out", metavar="FILE.json", help="Suite file (default: reports/MODEL_backend_suite.json)."
        ),
    ] = None,
    backends: Annotated[str, typer.Option("--backends", "--backend", help="Backends, comma separated.")] = BACKENDS,
    precisions: Annotated[
        str, typer.Option("--precisions", "--precision", help="Precisions; lower ones are made of the given file.")
    ] = "fp32",
    max_images: Annotated[
        int, typer.Option("--max-images", metavar="N", help="Use only the first N images.")
    ] = MAX_IMAGES_OF_ONE_FILE,
    json: Json = False,
) -> None:
    """Is it still the same model? The checkpoint in torch, the given ONNX file and engine in their runtimes.

    Every output is compared by name, then the detections; a file with other tensors fails, a backend that is not there
    is skipped with the reason.
    """
    from bench.commands.suite import suite_command

    quiet = values.pop("quiet")
    precisions = "fp16" if values.pop("half") else precisions
    own = {"models": model, "backends": backends, "precisions": precisions, "max_images": max_images}
    options = {**own, **{name: value or None for name, value in values.items()}}
    raise typer.Exit(
        suite_command(
            options, files={"onnx": onnx, "engine": engine}, config=config, output=output, quiet=quiet, as_json=json
        )
    )


def add_suite_verbs(app: typer.Typer, run: Callable[..., None]) -> None:
    """Register the verbs; ``run`` gives its options to those that measure."""
    app.command()(predict)
    app.command()(with_options_of(run, leave_out=_NOT_OF_ONE_FILE)(baseline))
    app.command()(with_options_of(run, leave_out=(*_NOT_OF_ONE_FILE, *_OWN_OF_SUITE))(suite))
