"""``suite.json`` to one self-contained page: a pure function, the same file gives the same bytes.

No clock, no environment, no disk but the packaged templates. Everything that comes from the suite is escaped by
jinja2; only the figures are marked as safe, and they escape their own text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import (
    answer,
    classes,
    findings,
    noise,
    numbers,
    poses,
    precision,
    provenance,
    resolution,
    strips,
    tables,
)
from bench.report.cells import DID_NOT_RUN, NEEDS_A_PERSON, read_run
from bench.report.evidence import cases_of, open_questions_of, thumbnails_of
from bench.report.figure import scatter_svg
from bench.report.flips import label_grounds, outlines
from bench.report.precision_agreement import agreement_tables_of
from bench.report.precision_nodes import blamed_of
from bench.report.scatter import FILLS, drawable, marker_of, panel_of
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.report.cells import Run

WIDE, LONE, NARROW = (540, 370), (760, 370), (358, 340)
"""View boxes of a scatter beside another, alone, and on a phone, in pixels: text keeps its size on all."""


def render_html(suite: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        suite: a mapping that is valid under ``schemas/suite_result.json``.

    Returns:
        HTML with everything inside: style, script, figures and thumbnails.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        plural=numbers.plural, short_hash=numbers.short_hash, delta=numbers.delta, delta_short=numbers.delta_short,
        ratio=numbers.ratio, in_words=numbers.in_words, fixed=numbers.fixed,
        outlines=outlines, label_grounds=label_grounds,
    )  # fmt: skip
    return environment.get_template("page.html").render(_context(read_run(suite)))


def _context(run: Run) -> dict[str, Any]:
    percentiles = tables.percentiles_of(run)
    cases = cases_of(run)
    class_tables = classes.class_tables_of(run)
    return {
        "run": run,
        "suite": run.suite,
        "command": provenance.command_of(run),
        "headline": answer.headline(run),
        "tally": answer.tally(run),
        "bests": [_best(group) for group in run.groups if group.candidates],
        "attention": answer.needs_person(run),
        "facts": provenance.facts_of(run),
        "finding": {
            "verdicts": findings.verdict_finding(run), "tradeoff": findings.tradeoff_finding(run),
            "cells": findings.cells_finding(run), "why": findings.failure_finding(run),
            "timing": noise.timing_finding(run), "resolution": resolution.resolution_finding(run),
            "classes": classes.classes_finding(run) if class_tables else None,
            "precision": precision.precision_finding(run),
        },
        "matrix": tables.matrix_of(run),
        "figures": _figures(run),
        "key": _key(run),
        "percentiles": percentiles,
        "with_end_to_end": any((c.raw["speed"] or {}).get("end_to_end_ms") for c in run.cells),
        "table": [(group, tables.rows_of(group, run, percentiles)) for group in run.groups],
        "filters": _filters(run),
        "precision_tables": precision.precision_tables_of(run),
        "blamed": [item for group in run.groups for item in blamed_of(group, run)],
        "agreement_tables": agreement_tables_of(run),
        "pose_tables": poses.pose_tables_of(run),
        "pose_caption": poses.CAPTION,
        "includes": sorted({cell.raw["speed"]["includes"] for cell in run.cells if cell.raw["speed"]}),
        "resolved": resolution.resolved_of(run),
        "resolved_without": resolution.without_of(run),
        "no_resolution": resolution.absent_line(run),
        "ways_out": resolution.ways_out_of(run),
        "cross_checks": resolution.checks_of(run),
        "class_tables": class_tables,
        "class_empties": classes.empty_lines(class_tables),
        "no_classes": classes.absent_line(run),
        "cases": cases,
        "thumbnails": thumbnails_of(cases, classes.ROW_BYTES * sum(len(table.folded) for table in class_tables)),
        "questions": open_questions_of(run),
        "timings": strips.timings_of(run),
        "timed_rows": noise.timed_rows(run),
        "check_notes": noise.check_notes(run),
        "noise": noise.noise_of(run),
        "protocol": provenance.protocol_of(run),
        "artifacts": provenance.artifacts_of(run),
        "host": provenance.host_of(run),
    }  # fmt: skip


def _best(group: Any) -> dict[str, Any]:
    found = answer.best(group)
    return {"found": found, "cost": answer.cost_line(found), "nearest": answer.nearest_facts(found)}


def _figures(run: Run) -> list[dict[str, Any]]:
    """A panel per model with candidates; its SVG twice, for wide and narrow screens, none without a point."""
    figures = []
    groups = [group for group in run.groups if group.candidates]
    wide = LONE if len(groups) == 1 else WIDE
    for index, group in enumerate(groups):
        panel = panel_of(group, run)
        svgs = []
        if panel.points:
            for name, (width, height) in (("wide", wide), ("narrow", NARROW)):
                prefix = f"s{index}{name[0]}-"
                svgs.append(scatter_svg(panel, width=width, height=height, prefix=prefix, css_class=name))
        figures.append({"panel": panel, "svgs": svgs})
    return figures


def _key(run: Run) -> list[tuple[str, str, str]]:
    """Legend entries ``(marker, fill, words)`` for what is drawn."""
    drawn = [c for c in run.candidates if drawable(c)]
    marker = marker_of(run)
    entries = [(marker[name], "none", name) for name in marker if any(c.backend == name for c in drawn)]
    for fill, word in (("none", "hollow"), ("left", "half"), ("full", "solid")):
        names = [p for p in PRECISIONS if FILLS.get(p, "full") == fill and any(c.precision == p for c in drawn)]
        if names:
            entries.append(("o", fill, f"{', '.join(names)} {word}"))
    return entries


def _filters(run: Run) -> list[tuple[str, str, bool]]:
    """Filter buttons: words, the statuses they show, and whether it is the one that is on."""
    words = [cell.word for cell in run.cells]
    groups = (
        ("same", ("passed", "reference")),
        ("needs a person", NEEDS_A_PERSON),
        ("waived", ("waived",)),
        ("did not run", DID_NOT_RUN),
    )
    shown = [(f"all {len(words)}", "*", True)]
    shown += [(name, " ".join(group), False) for name, group in groups if any(word in group for word in words)]
    return shown
