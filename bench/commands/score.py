"""``parity score``: numbers of a predictions file, without any runtime."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.datasets import read_coco
from bench.errors import UsageError
from bench.files import write_atomic
from bench.fixtures import resolve
from bench.predictions import read_predictions
from bench.results import STAT_NAMES
from bench.schema import dumps, validate
from bench.scoring import score, scorer_name


def score_command(
    predictions: Path, *, fixtures: str | None, annotations: Path | None, bbox_format: str | None, json_out: Path | None
) -> int:
    """Read, check, score, print; returns 0 (also for AP 0)."""
    if (fixtures is None) == (annotations is None):
        raise UsageError("give the ground truth: either --fixtures NAME|DIR or --annotations FILE.json")
    if annotations is not None:
        truth = read_coco(annotations, None, name=annotations.stem, split="val")
    else:
        truth = resolve(str(fixtures))
    read = read_predictions(predictions, truth, bbox_format=bbox_format)
    stats = score(truth, read.detections)
    document = {
        "schema": "score_result/1",
        "images": len(truth.samples),
        "scorer": scorer_name(),
        "stats": stats,
        "against": None,
    }
    validate(document, "score_result", where="score result")
    if json_out is not None:
        write_atomic(json_out, dumps(document))
    console = Console()
    for warning in read.warnings:
        Console(stderr=True).print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{predictions.name} on {truth.name}: {len(truth.samples)} images, {len(read.detections.scores)} detections "
        f"({scorer_name()})",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for names in (STAT_NAMES[:6], STAT_NAMES[6:]):
        table = Table(box=None, pad_edge=False)
        for name in names:
            table.add_column(name, justify="right", min_width=6)
        table.add_row(*["n/a" if stats[n] is None else f"{stats[n]:.4f}" for n in names])
        console.print(table)
    return 0
