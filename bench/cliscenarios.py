"""``parity scenarios``: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.clioptions import (
    AllowMismatch,
    Calibration,
    Fixtures,
    Json,
    MaxImages,
    Protocol,
    Quiet,
    Text,
    Threads,
    Weights,
)
from bench.options import HELP


def scenarios(
    adapter: Annotated[
        Text, typer.Option("--adapter", "--model", help="Registered model, PATH.py of an adapter, or precomputed.")
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            "--predictions",
            metavar="[NAME=]FILE",
            help="For precomputed: detections on the images as they are; NAME=FILE on those of an altering scenario.",
        ),
    ] = None,
    dataset: Fixtures = None,
    max_images: MaxImages = None,
    scenario_file: Annotated[
        Path | None,
        typer.Option("--scenarios", metavar="FILE.json", help="Scenarios that add to the defaults or replace them."),
    ] = None,
    only: Annotated[
        Text, typer.Option("--only", metavar="A,B", help="Only these scenarios, and clean (default: all).")
    ] = None,
    backend: Annotated[Text, typer.Option("--backend", "--backends", help="One backend (default: torch).")] = None,
    precision: Annotated[
        Text, typer.Option("--precision", "--precisions", help="One precision (default: fp32).")
    ] = None,
    device: Annotated[Text, typer.Option("--device", "--devices", help="cpu (default) or cuda:0.")] = None,
    weights: Weights = None,
    calibration: Calibration = None,
    threads: Threads = None,
    task: Annotated[Text, typer.Option("--task", help="detect or pose (default: the model's; detect).")] = None,
    min_ap: Annotated[
        list[str] | None,
        typer.Option("--min-ap", metavar="NAME=X", help="Exit 1 where the AP of this scenario is below; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of the alterations and the bootstrap (default: 0).")
    ] = None,
    bootstrap: Annotated[int | None, typer.Option("--bootstrap", metavar="N", help=HELP["bootstrap"])] = None,
    protocol: Protocol = None,
    allow_protocol_mismatch: AllowMismatch = False,
    write_images: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            "--write-images",
            metavar="NAME DIR",
            help="Write the altered images of a scenario and their truth as a COCO folder, and score nothing.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            metavar="DIR",
            help="Folder of scenarios.json and the page (default: reports/scenarios-TIME).",
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Score a model, or given predictions, under named scenarios: low light, blur, crowded, rotated and others."""
    from bench.commands.scenarios import ScenarioOptions, scenarios_command
    from bench.options import split

    shared = {
        "fixtures": dataset,
        "max_images": max_images,
        "backends": backend,
        "precisions": precision,
        "devices": device,
        "weights": weights or None,
        "calibration": calibration,
        "threads": threads,
        "protocol": protocol,
        "allow_protocol_mismatch": allow_protocol_mismatch or None,
    }
    options = ScenarioOptions(
        adapter=adapter,
        predictions=tuple(predictions or ()),
        scenarios=scenario_file,
        only=split(only),
        min_ap=tuple(min_ap or ()),
        task=task,
        bootstrap=bootstrap,
        seed=seed,
        write_images=write_images,
        out=out,
        as_json=json,
        quiet=quiet,
    )
    raise typer.Exit(scenarios_command(shared, options))
