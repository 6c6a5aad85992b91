"""``parity train``: the options that every model's training understands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.clioptions import Fixtures, Text


def train(
    model: Annotated[
        Text, typer.Argument(help="Registered model, or PATH.py of an adapter; with --resume it is known.")
    ] = None,
    fixtures: Fixtures = None,
    val: Annotated[
        Text,
        typer.Option(
            "--val",
            metavar="SET|DIR|train",
            help="Images to judge on (default: the val split; of a folder without one a share is held out).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            "--run-dir",
            metavar="DIR",
            help="Run folder (default: runs/MODEL-FIXTURES-TIME).",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            "--checkpoint",
            metavar="FILE",
            help="Weights to start from; another number of classes is fine.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="CKPT",
            help="Go on from a last.pt (or its run folder); --epochs is the total.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="TOML or JSON with training options; config.json of a run will do.",
        ),
    ] = None,
    device: Annotated[Text, typer.Option("--device", help="cpu (default), cuda or cuda:N.")] = None,
    seed: Annotated[
        Text,
        typer.Option("--seed", metavar="N", help="Of initial weights, order and augmentation (default: 0)."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Refuse operations that do not repeat (GPU).")
    ] = False,
    workers: Annotated[
        Text, typer.Option("--workers", metavar="N", help="Processes that load images (default: 0).")
    ] = None,
    threads: Annotated[Text, typer.Option("--threads", metavar="N", help="Threads of torch on the CPU.")] = None,
    epochs: Annotated[Text, typer.Option("--epochs", metavar="N", help="Passes over the images, in all.")] = None,
    max_steps: Annotated[Text, typer.Option("--max-steps", metavar="N", help="End after N optimizer steps.")] = None,
    patience: Annotated[
        Text, typer.Option("--patience", metavar="N", help="End after N evaluations without a better AP.")
    ] = None,
    max_images: Annotated[
        Text, typer.Option("--max-images", metavar="N", help="Only the first N images of each split.")
    ] = None,
    overfit_batches: Annotated[
        Text,
        typer.Option(
            "--overfit-batches",
            metavar="N",
            help="Learn N batches by heart and judge on them: can it learn at all?",
        ),
    ] = None,
    image_size: Annotated[
        Text, typer.Option("--image-size", "--imgsz", metavar="PX", help="Side of the square input.")
    ] = None,
    batch: Annotated[Text, typer.Option("--batch", metavar="N", help="Images per step and device.")] = None,
    grad_accum: Annotated[Text, typer.Option("--grad-accum", metavar="N", help="Batches per optimizer step.")] = None,
    lr: Annotated[Text, typer.Option("--lr", metavar="X", help="Peak learning rate.")] = None,
    amp: Annotated[Text, typer.Option("--amp", metavar="no|bf16|fp16", help="Autocast; fp16 needs a GPU.")] = None,
    freeze: Annotated[
        Text, typer.Option("--freeze", metavar="PART|REGEX", help="Keep these weights, for example: backbone.")
    ] = None,
    eval_every: Annotated[Text, typer.Option("--eval-every", metavar="N", help="Epochs between evaluations.")] = None,
    eval_max_dets: Annotated[
        Text,
        typer.Option("--eval-max-dets", "--max-detections", metavar="N", help="Detections per image at evaluation."),
    ] = None,
    score_threshold: Annotated[
        Text, typer.Option("--score-threshold", metavar="X", help="Leave out detections below, at evaluation.")
    ] = None,
    recipe: Annotated[
        Text, typer.Option("--recipe", metavar="NAME", help="Loss recipe of a model that has several (rtdetr_pose).")
    ] = None,
    metrics_json: Annotated[
        Path | None, typer.Option("--metrics-json", metavar="FILE", help="Also write record and metrics there.")
    ] = None,
    checkpoint_out: Annotated[
        Path | None, typer.Option("--checkpoint-out", metavar="FILE", help="Also write the best weights there (.pt).")
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            metavar="FILE.html",
            help="Write a page of augmented samples with their boxes, and train nothing.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any training option, for example --set mosaic=0; a wrong name lists the nearest.",
        ),
    ] = None,
) -> None:
    """Train a model with its own training code; best.pt and last.pt go into the run folder."""
    from bench.commands.train import Places, train_command

    options = {
        "fixtures": fixtures,
        "val": val,
        "weights": weights,
        "resume": resume,
        "device": device,
        "seed": seed,
        "deterministic": deterministic or None,
        "workers": workers,
        "threads": threads,
        "epochs": epochs,
        "max_steps": max_steps,
        "patience": patience,
        "max_images": max_images,
        "overfit_batches": overfit_batches,
        "image_size": image_size,
        "batch": batch,
        "grad_accum": grad_accum,
        "lr": lr,
        "amp": amp,
        "freeze": freeze,
        "eval_every": eval_every,
        "eval_max_dets": eval_max_dets,
        "score_threshold": score_threshold,
        "recipe": recipe,
    }
    places = Places(out=out, preview=preview, metrics=metrics_json, checkpoint=checkpoint_out)
    raise typer.Exit(train_command(model, options, places, config=config, settings=setting or []))
