"""The verbs that make files: exports, calibrations, engines, and what a maker publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.clioptions import (
    Activations,
    Calibration,
    Calibrator,
    Exclude,
    Fixtures,
    Json,
    Quiet,
    Text,
    Tune,
    Weights,
)
from bench.errors import UsageError
from bench.options import HELP


def export(
    model: Annotated[str, typer.Argument(help="Registered model, or PATH.py of an adapter.")],
    out: Annotated[Path, typer.Option("--out", "--output", help="ONNX file to write.")],
    weights: Weights = None,
    precision: Annotated[Text, typer.Option("--precision", help="fp32, fp16, bf16 or int8 (default: fp32).")] = None,
    half: Annotated[bool, typer.Option("--half", help="The same as --precision fp16.")] = False,
    head: Annotated[
        Text, typer.Option("--head", metavar="NAME", help="What the file returns, of YOLOv10: dense, raw, topk or nms.")
    ] = None,
    image_size: Annotated[
        Text, typer.Option("--imgsz", metavar="S|H,W", help="Static input size in pixels (default: the model's).")
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", metavar="N", help="ONNX opset (default: 18).")] = None,
    conf: Annotated[
        float | None, typer.Option("--conf", metavar="X", help="Score threshold of the nms head (default: .25).")
    ] = None,
    iou: Annotated[
        float | None, typer.Option("--iou", metavar="X", help="Largest overlap in the nms head (default: .7).")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option("--max-dets", metavar="N", help="Rows of the topk and nms heads (default: 300).")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--validate", help="Compare with torch at batch 1, 4, 8; write nothing if it differs.")
    ] = False,
    fixtures: Fixtures = None,
    calibration: Calibration = None,
    exclude: Exclude = None,
    calibrator: Calibrator = None,
    activations: Activations = None,
    tune: Tune = None,
) -> None:
    """Write the ONNX file that the graph runtimes run, or one for deployment (--head, --imgsz, --opset, --validate).

    Beside a file for deployment lies FILE.meta.json: inputs, outputs, thresholds, pre-processing, hashes.
    """
    from bench.commands.export import Deployment, export_command

    if half and precision not in (None, "fp16"):
        raise UsageError(f"--half and --precision {precision} contradict each other.")
    deployment = Deployment(
        head=head,
        image_size=image_size,
        opset=opset,
        conf=conf,
        iou=iou,
        max_detections=max_detections,
        validate=compare,
    )
    options = {
        "models": model,
        "precisions": "fp16" if half else precision or "fp32",
        "fixtures": fixtures,
        "weights": weights or None,
        "calibration": calibration,
        "exclude": exclude or None,
        "calibrator": calibrator,
        "activations": activations,
        "tune": tune,
    }
    raise typer.Exit(export_command(options, out=out, deployment=deployment))


def build_engine(
    model: Annotated[Text, typer.Argument(help="Registered model, or PATH.py of an adapter; or give --onnx.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "--output", metavar="FILE", help="Engine to write; FILE.json beside it.")
    ] = Path("model.engine"),
    onnx: Annotated[Path | None, typer.Option("--onnx", metavar="FILE", help="Build from this file.")] = None,
    precision: Annotated[Text, typer.Option("--precision", help="fp32, tf32, fp16, bf16 or int8.")] = None,
    weights: Weights = None,
    fixtures: Fixtures = None,
    calibration: Calibration = None,
    exclude: Exclude = None,
    calibrator: Calibrator = None,
    activations: Activations = None,
    tune: Tune = None,
    rebuilds: Annotated[int, typer.Option("--rebuilds", metavar="K", help="Build K engines and compare them.")] = 1,
    tf32: Annotated[bool | None, typer.Option("--tf32/--no-tf32", help="Allow TF32 (default: for tf32 only).")] = None,
    batch: Annotated[Text, typer.Option("--batch", metavar="MIN,OPT,MAX", help="Limits of a dynamic batch.")] = None,
    workspace_mb: Annotated[
        int | None, typer.Option("--workspace-mb", metavar="N", help="MiB of scratch memory.")
    ] = None,
    optimization_level: Annotated[int, typer.Option("--optimization-level", metavar="N", help="0 to 5.")] = 3,
    strict_nans: Annotated[bool, typer.Option("--strict-nans", help="Forbid rewrites that ignore NaN.")] = False,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", metavar="DIR", help="Folder of timing caches.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", metavar="FILE", help="INT8 calibration cache (TensorRT 10, fp32 file).")
    ] = None,
    any_cache_version: Annotated[
        bool, typer.Option("--any-cache-version", help="Accept a calibration cache of another TensorRT.")
    ] = False,
    legacy_precision: Annotated[
        Text, typer.Option("--legacy-precision", metavar="P", help="Builder flag fp16, bf16 or int8 (TensorRT 10).")
    ] = None,
    device: Annotated[int, typer.Option("--device", metavar="N", help="GPU, counted as CUDA does.")] = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Build a TensorRT engine, say what its layers really compute in, and how much builds differ."""
    from bench.commands.build_engine import build_engine_command
    from bench.trt.options import BuildOptions, tf32_from
    from bench.trt.target import batches_from

    build = BuildOptions(
        tf32=tf32_from(precision, tf32),
        batches=batches_from(batch),
        workspace_mb=workspace_mb,
        optimization_level=optimization_level,
        strict_nans=strict_nans,
        timing_cache=timing_cache,
        legacy_precision=legacy_precision or ("int8" if cache else None),
        calibration_cache=cache,
        any_cache_version=any_cache_version,
    )
    options = {
        "models": model,
        "weights": weights or None,
        "fixtures": fixtures,
        "calibration": calibration,
        "exclude": exclude or None,
        "calibrator": calibrator,
        "activations": activations,
        "tune": tune,
    }
    raise typer.Exit(
        build_engine_command(
            options,
            build,
            model=model,
            onnx=onnx,
            precision=precision,
            out=out,
            rebuilds=rebuilds,
            device=device,
            quiet=quiet,
            as_json=json,
        )
    )


def calibrate(
    model: Annotated[str, typer.Argument(help="Registered model, or PATH.py of an adapter.")],
    out: Annotated[Path, typer.Option("--out", "--output", metavar="FILE", help="calibration.json to write.")],
    fixtures: Annotated[
        Text, typer.Option("--fixtures", "--dataset", help="Set whose calibration split is read, or a folder.")
    ] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", min=1, help="Images, chosen by the seed.")] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of the choice.")] = 0,
    weights: Annotated[
        Path | None, typer.Option("--weights", "--checkpoint", help="Weights (default: those that ship with it).")
    ] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", metavar="FILE", help="fp32 ONNX file as it is.")] = None,
    calibrator: Annotated[
        str, typer.Option("--calibrator", metavar="NAME", help="percentile (99.999), entropy or minmax.")
    ] = "percentile",
    evaluation: Annotated[
        list[str] | None,
        typer.Option("--evaluation", metavar="SET", help="Another set whose val images are refused; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take evaluation images too; the file says so.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure the ranges of a model's activations on calibration images; the images of the evaluation are refused."""
    from bench.commands.calibrate import calibrate_command

    raise typer.Exit(
        calibrate_command(
            model,
            out=out,
            fixtures=fixtures,
            images=images,
            seed=seed,
            weights=weights,
            onnx=onnx,
            calibrator=calibrator,
            evaluation=evaluation or [],
            force=force,
            quiet=quiet,
        )
    )


calibration_cache = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Read, write and migrate TensorRT's INT8 calibration caches."
)


@calibration_cache.command("read")
def calibration_cache_read(
    cache: Annotated[Path, typer.Argument(help="Calibration cache.")], json: Json = False
) -> None:
    """Check a cache and print what it holds; every malformed line is named."""
    from bench.commands.calibration_cache import read_command

    raise typer.Exit(read_command(cache, as_json=json))


@calibration_cache.command("write")
def calibration_cache_write(
    out: Annotated[Path, typer.Option("--out", "--output", metavar="FILE", help="Cache to write.")],
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE", help="calibration.json (parity calibrate).")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="FILE", help="Instead: an int8 file with Q/DQ nodes.")
    ] = None,
    tensorrt: Annotated[
        str, typer.Option("--tensorrt", metavar="DIGITS", help="TensorRT version of the header.")
    ] = "8601",
    algorithm: Annotated[
        str,
        typer.Option(
            "--algorithm", metavar="NAME", help="Calibrator class that will read it; the ranges may be of another."
        ),
    ] = "EntropyCalibration2",
) -> None:
    """Write a cache from our ranges, or from the scales of a Q/DQ graph."""
    from bench.commands.calibration_cache import write_command

    raise typer.Exit(write_command(out, calibration=calibration, onnx=onnx, tensorrt=tensorrt, algorithm=algorithm))


@calibration_cache.command("migrate")
def calibration_cache_migrate(
    cache: Annotated[Path, typer.Option("--cache", metavar="FILE", help="Cache of the old engine.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="FILE", help="fp32 ONNX file of the same network.")],
    out: Annotated[Path, typer.Option("--out", "--output", metavar="FILE", help="Q/DQ ONNX file to write.")],
    names: Annotated[
        Path | None, typer.Option("--names", metavar="MAP", help="JSON or TOML: name in the cache -> tensor.")
    ] = None,
    min_coverage: Annotated[
        float,
        typer.Option("--min-coverage", metavar="SHARE", help="Refuse when fewer of the needed tensors have a scale."),
    ] = 0.5,
    exclude: Exclude = None,
    json: Json = False,
) -> None:
    """Put the scales of an old cache onto an ONNX graph as Q/DQ nodes, without any image."""
    from bench.commands.calibration_cache import migrate_command

    raise typer.Exit(
        migrate_command(
            cache, onnx, out=out, names=names, exclude=exclude or [], min_coverage=min_coverage, as_json=json
        )
    )


def prepare(
    model: Annotated[str, typer.Argument(help="Registered model, or PATH.py of an adapter.")],
    out: Annotated[Path, typer.Option("--out", "--output", metavar="DIR", help="Folder to fill.")] = Path("prepared"),
    model_variant: Annotated[
        Text, typer.Option("--model-variant", metavar="V", help="A registered variant of the model.")
    ] = None,
    weights: Weights = None,
    fixtures: Fixtures = None,
    calibration: Annotated[
        Text,
        typer.Option(
            "--calibration",
            metavar="SET|DIR",
            help="Calibration images: a set, a folder, or coco-train2017 to fetch (default: the fixtures' own split).",
        ),
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option("--calibration-images", metavar="N", help="How many (default: 100, or all there are).")
    ] = None,
    calibration_list: Annotated[
        Path | None,
        typer.Option("--calibration-list", metavar="FILE", help="Names to choose from: COCO json, or a name per line."),
    ] = None,
    seed: Annotated[Text, typer.Option("--seed", metavar="S", help="Seed of the choice of images.")] = None,
    exclude: Exclude = None,
    calibrator: Calibrator = None,
    tune: Tune = None,
    cache_version: Annotated[
        str, typer.Option("--cache-version", metavar="DIGITS", help="TensorRT version in the header of the cache.")
    ] = "101601",
    hf_repo: Annotated[
        Text, typer.Option("--hf-repo", metavar="ORG/NAME", help="Publish there; token: HF_TOKEN.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, touch nothing.")] = False,
    skip_export: Annotated[bool, typer.Option("--skip-export", help="Take model.onnx in --out as it is.")] = False,
    skip_calibration_download: Annotated[
        bool, typer.Option("--skip-calibration-download", help="Use the images that are there, fetch none.")
    ] = False,
    skip_upload: Annotated[bool, typer.Option("--skip-upload", help="Publish nothing.")] = False,
    allow_evaluation_images: Annotated[
        bool,
        typer.Option("--allow-evaluation-images", help="Calibrate on images of the evaluation set; the files say so."),
    ] = False,
    lane_timeout: Annotated[Text, typer.Option("--lane-timeout", metavar="S", help=HELP["lane_timeout"])] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Export, calibrate, quantise and describe a model in one folder for TensorRT users, and publish it."""
    from bench.commands.prepare import Flags, prepare_command

    options = {
        "weights": weights or None,
        "fixtures": fixtures,
        "calibration": calibration,
        "seed": seed,
        "exclude": exclude or None,
        "calibrator": calibrator,
        "tune": tune,
        "lane_timeout": lane_timeout,
    }
    flags = Flags(
        variant=model_variant,
        images=calibration_images,
        listed=calibration_list,
        repo=hf_repo,
        cache_version=cache_version,
        dry_run=dry_run,
        skip_export=skip_export,
        skip_download=skip_calibration_download,
        skip_upload=skip_upload,
        allow_evaluation=allow_evaluation_images,
        quiet=quiet,
        as_json=json,
    )
    raise typer.Exit(prepare_command(model, options, out=out, flags=flags))


def add_artifact_verbs(app: typer.Typer) -> None:
    """Give the command the verbs of this module."""
    app.command()(export)
    app.command("build-engine")(build_engine)
    app.command()(calibrate)
    app.add_typer(calibration_cache, name="calibration-cache")
    app.command()(prepare)
