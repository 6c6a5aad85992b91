"""The ``parity`` command: options and help. Each verb imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import __version__
from bench.cliartifacts import add_artifact_verbs
from bench.clioptions import (
    Activations,
    Adapter,
    AllowMismatch,
    Band,
    Bootstrap,
    Calibration,
    Calibrator,
    Exclude,
    Fixtures,
    Json,
    Junit,
    Margin,
    Markdown,
    MaxImages,
    Protocol,
    Quiet,
    Seed,
    Strict,
    Text,
    Threads,
    Tune,
    Weights,
)
from bench.cliscenarios import scenarios
from bench.clisuite import add_suite_verbs
from bench.clitraining import train
from bench.options import HELP

app = typer.Typer(
    name="parity",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Is it still the same model, and how much faster is it? "
    "Runs one model through several runtimes and precisions and judges each against the reference.",
    epilog="Exit codes: 0 all judged cells passed; 1 something failed or errored; 2 usage or bad input; "
    "3 nothing failed, but something is undecided or nothing ran; 130 interrupted.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"backend-parity {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    models: Annotated[Text, typer.Option("--models", "--model", help=HELP["models"])] = None,
    backends: Annotated[Text, typer.Option("--backends", "--backend", help=HELP["backends"])] = None,
    devices: Annotated[Text, typer.Option("--devices", "--device", help=HELP["devices"])] = None,
    precisions: Annotated[Text, typer.Option("--precisions", "--precision", help=HELP["precisions"])] = None,
    half: Annotated[bool, typer.Option("--half", help="The same as --precisions fp16.")] = False,
    fixtures: Fixtures = None,
    weights: Weights = None,
    calibration: Calibration = None,
    exclude: Exclude = None,
    calibrator: Calibrator = None,
    activations: Activations = None,
    tune: Tune = None,
    rebuilds: Annotated[Text, typer.Option("--rebuilds", metavar="K", help=HELP["rebuilds"])] = None,
    max_images: MaxImages = None,
    batch: Annotated[Text, typer.Option("--batch", metavar="N", help=HELP["batch"])] = None,
    threads: Threads = None,
    reference: Annotated[Text, typer.Option("--reference", help=HELP["reference"])] = None,
    adapter: Adapter = None,
    require_backends: Annotated[Text, typer.Option("--require-backends", help=HELP["require_backends"])] = None,
    min_ap: Annotated[Text, typer.Option("--min-ap", metavar="X", help=HELP["min_ap"])] = None,
    max_latency_ms: Annotated[Text, typer.Option("--max-latency-ms", metavar="X", help=HELP["max_latency_ms"])] = None,
    margin: Annotated[list[str] | None, typer.Option("--margin", metavar="P=X", help=HELP["margin"])] = None,
    time_budget: Annotated[Text, typer.Option("--time-budget", metavar="S", help=HELP["time_budget"])] = None,
    rounds: Annotated[Text, typer.Option("--rounds", metavar="N", help=HELP["rounds"])] = None,
    max_rounds: Annotated[Text, typer.Option("--max-rounds", metavar="N", help=HELP["max_rounds"])] = None,
    openings: Annotated[Text, typer.Option("--openings", metavar="N", help=HELP["openings"])] = None,
    bootstrap: Annotated[Text, typer.Option("--bootstrap", metavar="N", help=HELP["bootstrap"])] = None,
    cross_check: Annotated[Text, typer.Option("--cross-check", metavar="WHICH", help=HELP["cross_check"])] = None,
    band: Band = None,
    baseline: Annotated[Text, typer.Option("--baseline", metavar="FILE", help=HELP["baseline"])] = None,
    seed: Annotated[Text, typer.Option("--seed", metavar="N", help=HELP["seed"])] = None,
    recording: Annotated[Text, typer.Option("--recording", metavar="DIR", help=HELP["recording"])] = None,
    waivers: Annotated[Text, typer.Option("--waivers", metavar="FILE", help=HELP["waivers"])] = None,
    protocol: Protocol = None,
    allow_protocol_mismatch: AllowMismatch = False,
    lane_timeout: Annotated[Text, typer.Option("--lane-timeout", metavar="S", help=HELP["lane_timeout"])] = None,
    lane_memory: Annotated[Text, typer.Option("--lane-memory", metavar="GB", help=HELP["lane_memory"])] = None,
    out: Annotated[Text, typer.Option("--out", "--output", metavar="DIR", help=HELP["out"])] = None,
    resume: Annotated[Text, typer.Option("--resume", metavar="RUN_ID", help=HELP["resume"])] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.toml", help="Option values; the command line wins.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and a time estimate, run nothing.")
    ] = False,
    markdown: Markdown = None,
    junit: Junit = None,
    strict_undecided: Strict = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """The main job: run a model through backends and precisions, judge every cell, write suite.json and a page."""
    from bench.commands.run import run_command

    options = {
        "models": models,
        "backends": backends,
        "devices": devices,
        "precisions": "fp16" if half else precisions,
        "fixtures": fixtures,
        "weights": weights or None,
        "calibration": calibration,
        "exclude": exclude or None,
        "calibrator": calibrator,
        "activations": activations,
        "tune": tune,
        "rebuilds": rebuilds,
        "max_images": max_images,
        "batch": batch,
        "threads": threads,
        "reference": reference,
        "adapter": adapter or None,
        "require_backends": require_backends,
        "min_ap": min_ap,
        "max_latency_ms": max_latency_ms,
        "margin": margin or None,
        "time_budget": time_budget,
        "rounds": rounds,
        "max_rounds": max_rounds,
        "openings": openings,
        "bootstrap": bootstrap,
        "cross_check": cross_check,
        "band": band,
        "baseline": baseline,
        "seed": seed,
        "recording": recording,
        "waivers": waivers,
        "protocol": protocol,
        "allow_protocol_mismatch": allow_protocol_mismatch or None,
        "lane_timeout": lane_timeout,
        "lane_memory": lane_memory,
        "out": out,
        "resume": resume,
    }
    raise typer.Exit(
        run_command(
            options,
            config=config,
            dry_run=dry_run,
            quiet=quiet,
            as_json=json,
            markdown=markdown,
            junit=junit,
            strict_undecided=strict_undecided,
        )
    )


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="COCO results, or one of the predictions forms.")],
    against: Annotated[
        Path | None, typer.Option("--against", metavar="B.json", help="Compare with another file: this one minus B.")
    ] = None,
    fixtures: Fixtures = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="COCO ground truth, instead of a set.")
    ] = None,
    bbox_format: Annotated[
        Text,
        typer.Option(
            "--bbox-format", help="cxcywh_norm, cxcywh_abs, xywh_abs or xyxy_abs; F,G when the two files differ."
        ),
    ] = None,
    task: Annotated[Text, typer.Option("--task", help="detect or pose (default: what files and set have).")] = None,
    bootstrap: Annotated[int | None, typer.Option("--bootstrap", metavar="N", help=HELP["bootstrap"])] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of the bootstrap.")] = None,
    precision: Annotated[
        Text, typer.Option("--precision", help="Whose margin judges the difference (default: fp32).")
    ] = None,
    margin: Annotated[Text, typer.Option("--margin", metavar="X", help="Allowed AP loss, instead of a rule.")] = None,
    intersect: Annotated[bool, typer.Option("--intersect", help="Score only the images that both files have.")] = False,
    cross_check: Annotated[
        Text,
        typer.Option(
            "--cross-check", metavar="WHICH", help="Files an independent scorer scores too: all, one or none."
        ),
    ] = None,
    protocol: Protocol = None,
    allow_protocol_mismatch: AllowMismatch = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every class.")] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Also write score_result JSON.")] = None,
) -> None:
    """Score a predictions file, or judge it against another one; needs no runtime."""
    from bench.commands.score import make_options, score_command

    options = make_options(
        fixtures=fixtures,
        annotations=annotations,
        against=against,
        bbox_format=bbox_format,
        task=task,
        bootstrap=bootstrap,
        seed=seed,
        precision=precision,
        margin=margin,
        intersect=intersect,
        cross_check=cross_check,
        protocol=protocol,
        allow_protocol_mismatch=allow_protocol_mismatch,
        verbose=verbose,
        json_out=json,
    )
    raise typer.Exit(score_command(predictions, options))


@app.command()
def report(
    suite: Annotated[Path, typer.Argument(help="suite.json of a run.")],
    out: Annotated[
        Path | None, typer.Option("--out", "--output", help="Folder of the page (default: beside it).")
    ] = None,
    markdown: Markdown = None,
    junit: Junit = None,
    strict_undecided: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Draw the page again from suite.json alone; the same file gives the same bytes."""
    from bench.commands.documents import report_command

    raise typer.Exit(
        report_command(suite, out=out, quiet=quiet, markdown=markdown, junit=junit, strict_undecided=strict_undecided)
    )


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="suite.json, baseline.json or the folder that holds it.")],
    cand: Annotated[Path, typer.Argument(help="suite.json of the run under test, or its folder.")],
    fixtures: Fixtures = None,
    margin: Margin = None,
    bootstrap: Bootstrap = None,
    seed: Seed = None,
    band: Band = None,
    protocol: Protocol = None,
    allow_protocol_mismatch: AllowMismatch = False,
    json: Annotated[Text, typer.Option("--json", metavar="OUT|-", help="Write compare_result JSON.")] = None,
    markdown: Markdown = None,
    junit: Junit = None,
    strict_undecided: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Say whether a run is worse than a base: accuracy from the stored detections, speed from the in-run ratios."""
    from bench.commands.compare import compare_command

    raise typer.Exit(
        compare_command(
            base,
            cand,
            fixtures=fixtures,
            options={
                "margin": margin or None,
                "bootstrap": bootstrap,
                "seed": seed,
                "band": band,
                "protocol": protocol,
                "allow_protocol_mismatch": allow_protocol_mismatch or None,
            },
            json_out=json,
            markdown=markdown,
            junit=junit,
            strict_undecided=strict_undecided,
            quiet=quiet,
        )
    )


@app.command()
def history(
    folder: Annotated[Path, typer.Argument(help="Folder of runs; suite.json files are found at any depth.")],
    out: Annotated[
        Path | None, typer.Option("--out", "--output", help="Folder of the page (default: this one).")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Draw accuracy, speed and verdict of every cell from run to run."""
    from bench.commands.history import history_command

    raise typer.Exit(history_command(folder, out=out, as_json=json, quiet=quiet))


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="Any JSON file that this project reads or writes.")],
    fixtures: Fixtures = None,
    bbox_format: Annotated[
        Text, typer.Option("--bbox-format", help="Of predictions: cxcywh_norm, cxcywh_abs, xywh_abs or xyxy_abs.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Violations to explain.")] = 20,
    json: Json = False,
) -> None:
    """Say everything that is wrong with a file, place by place, and how to repair it; 2 when there is something."""
    from bench.commands.documents import validate_command

    raise typer.Exit(validate_command(file, fixtures=fixtures, bbox_format=bbox_format, limit=limit, as_json=json))


app.command()(train)
app.command()(scenarios)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="models, backends, fixtures or protocols.")] = "models", json: Json = False
) -> None:
    """List what is registered here."""
    from bench.commands.listing import list_command

    raise typer.Exit(list_command(what, as_json=json))


@app.command()
def doctor(
    prove: Annotated[
        bool, typer.Option("--prove", help="Plant faults one at a time and show which check catches each.")
    ] = False,
    only: Annotated[Text, typer.Option("--only", metavar="NAME", help="With --prove: faults of this name.")] = None,
    benign_runs: Annotated[
        int, typer.Option("--benign-runs", metavar="N", help="With --prove: runs of changes that must raise nothing.")
    ] = 6,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say which backends, devices and precisions this host can run; with --prove, whether faults would be noticed."""
    if prove:
        from bench.commands.prove import prove_command

        raise typer.Exit(prove_command(as_json=json, quiet=quiet, only=only, benign_runs=benign_runs))
    from bench.commands.doctor import doctor_command

    raise typer.Exit(doctor_command(as_json=json))


@app.command()
def goldens(
    model: Annotated[str, typer.Argument(help="Registered model, or PATH.py of an adapter.")],
    out: Annotated[Path, typer.Option("--out", "--output", help="JSON file to write, beside the adapter.")],
    fixtures: Fixtures = None,
    quiet: Quiet = False,
) -> None:
    """Hash a model's preprocessed images; its spec names the file, and every later run is held to it."""
    from bench.commands.goldens import goldens_command

    raise typer.Exit(goldens_command(model, out=out, fixtures=fixtures, quiet=quiet))


@app.command()
def clean(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Empty the store of exports, conversions and rendered fixtures."""
    from bench.commands.listing import clean_command

    raise typer.Exit(clean_command(ask=not yes))


add_suite_verbs(app, run)
add_artifact_verbs(app)
