"""``parity compare``: is a run worse than a base?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.across.accuracy import GroundTruth, PairedAccuracy
from bench.across.baselines import load_side, refuse_versions
from bench.across.comparing import Scope, compare_runs, to_document
from bench.across.pins import check_pins
from bench.commands.documents import write_summaries
from bench.console import ConsoleEvents
from bench.files import write_atomic
from bench.fixtures import resolve
from bench.options import make_request, split
from bench.schema import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping


def compare_command(
    base: Path,
    cand: Path,
    *,
    fixtures: str | None,
    options: Mapping[str, Any],
    json_out: str | None,
    markdown: Path | None,
    junit: Path | None,
    strict_undecided: bool,
    quiet: bool,
) -> int:
    """Compare, print, write what was asked for; 0, 1 or 3 (2 is an exception).

    Args:
        base: suite, baseline or folder.
        cand: suite or folder.
        fixtures: names or folders of the ground truth, comma separated; else found by the cells' own names.
        options: ``margin``, ``bootstrap``, ``seed``, ``band`` and the protocol's, as typed.
        json_out: file, or ``-`` for standard output instead of the table.
        markdown: pull-request summary.
        junit: results for a CI system.
        strict_undecided: undecided is a failure in the JUnit file.
        quiet: the answer and what needs a person only.
    """
    request = make_request(options, command="parity compare")
    refuse_versions(base, cand)
    old, new = load_side(base), load_side(cand)
    pins = [side.suite.get("evaluation", {}) for side in (old, new)]
    models = set.intersection(*[{c["cell"]["model"] for c in side.suite["cells"]} for side in (old, new)])
    warnings = check_pins(pins[0], pins[1], models, request.protocol, allow=request.allow_protocol_mismatch)
    truth = GroundTruth([resolve(name) for name in split(fixtures)])
    for warning in warnings:
        Console(stderr=True).print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    with ConsoleEvents(Console(stderr=True), quiet=quiet or json_out == "-") as events:
        accuracy = PairedAccuracy(
            truth, margins=request.margins, resamples=request.resamples, seed=request.seed, progress=None
        )
        document = to_document(compare_runs(old, new, accuracy, scope=Scope(band=request.band), events=events))
    if json_out not in (None, "-"):
        write_atomic(Path(str(json_out)), dumps(document))
    if junit is not None:
        from bench.report.junit import junit_of_comparison

        write_atomic(junit, junit_of_comparison(document, strict_undecided=strict_undecided))
    write_summaries(new.suite, document, markdown=markdown, junit=None, strict_undecided=strict_undecided)
    if json_out == "-":
        sys.stdout.write(dumps(document))
    else:
        from bench.report.compared import print_comparison

        print_comparison(document, Console(), quiet=quiet)
    return int(document["exit_code"])
