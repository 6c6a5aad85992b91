"""``parity doctor --prove``: the harness is shown faults, and shows what it made of them."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.console import ConsoleEvents
from bench.errors import UsageError, did_you_mean
from bench.proving.cells import stages
from bench.proving.faults import BENIGN, FAULTS
from bench.proving.prover import prove
from bench.schema import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.proving.prover import Fault, Proof, Shown

_SENTENCE = 70
"""Characters of a check's sentence in the table; --json has all of it."""


def prove_command(*, as_json: bool, quiet: bool, only: str | None, benign_runs: int) -> int:
    """Plant the faults and print which check caught each; the exit code is that of the proof.

    Raises:
        UsageError: ``only`` names no fault; a negative number of runs.
    """
    if benign_runs < 0:
        raise UsageError(f"--benign-runs {benign_runs}: give 0 or more.")
    faults, benign = _chosen(FAULTS, only), _chosen(BENIGN, only)
    if not faults and not benign:
        known = {f.name for f in (*FAULTS, *BENIGN)}
        raise UsageError(f"--only {only}: no fault of that name.{did_you_mean(str(only), known)}")
    with ConsoleEvents(Console(stderr=True), quiet=quiet or as_json) as events:

        def watch(text: str, done: int, total: int) -> None:
            events.stage(text)
            events.progress(text, done, total)

        proof = prove(stages, faults, benign, benign_runs=benign_runs, watch=watch)
    if as_json:
        sys.stdout.write(dumps(document(proof)))
        return proof.exit_code
    console = Console()
    rows = [s for s in proof.faults if not (quiet and s.ok)]
    if rows:
        console.print(_table(rows))
    for line in summary(proof):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return proof.exit_code


def document(proof: Proof) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "honest": [_entry(s) for s in proof.honest],
        "faults": [_entry(s) for s in proof.faults],
        "benign": [_entry(s) for s in proof.benign],
        "exit_code": proof.exit_code,
    }


def summary(proof: Proof) -> list[str]:
    """What came of it, one line per thing to know."""
    if broken := [s for s in proof.honest if not s.ok]:
        return [
            "Nothing is proven: a cell into which nothing was planted does not pass.",
            *[f"  {s.fault.name}: {s.status}. {s.reason or ''}" for s in broken],
        ]
    lines = []
    if shown := [s for s in proof.faults if s.shown]:
        caught = sum(s.ok for s in shown)
        lines.append(f"{caught} of {len(shown)} planted faults were caught by the check that must see them.")
    for s in proof.faults:
        if s.shown and not s.ok:
            missing = ", ".join(sorted(set(s.fault.expected) - {c.check for c in s.caught}))
            lines.append(f"  NOT CAUGHT {s.fault.name} ({s.fault.planted}): {missing} saw nothing; cell {s.status}.")
    if proof.benign:
        runs = [s for s in proof.benign if s.shown]
        alarms = [s for s in runs if not s.ok]
        kinds = Counter(f"{s.fault.name} ({s.fault.planted})" for s in runs)
        lines.append(f"{len(alarms)} alarms in {len(runs)} runs of changes that are none:")
        lines += [f"  {count} x {kind}" for kind, count in kinds.items()]
        lines += [f"  ALARM {s.fault.name} ({s.fault.planted}): {s.status}. {s.reason or ''}" for s in alarms]
    unseen: dict[str, list[str]] = {}
    for s in (*proof.faults, *proof.benign):
        if not s.shown:
            unseen.setdefault(s.reason or "", []).append(f"{s.fault.name} ({s.fault.planted})")
    for reason, names in unseen.items():
        lines.append(f"Not shown here: {'; '.join(dict.fromkeys(names))}. {reason}")
    return lines


def _chosen(faults: Sequence[Fault], only: str | None) -> list[Fault]:
    return [f for f in faults if only is None or only.lower() in f.name.lower()]


def _table(rows: Sequence[Shown]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("caught", no_wrap=True)
    table.add_column("fault, planted how", ratio=4, overflow="fold")
    table.add_column("by which check (what it said)", ratio=5, overflow="fold")
    for s in rows:
        word = "-" if not s.shown else "yes" if s.ok else "NO"
        by = _caught(s) if s.shown else f"not shown: {s.reason}"
        table.add_row(word, Text(f"{s.fault.name}: {s.fault.planted}"), Text(by))  # brackets are no markup here
    return table


def _caught(shown: Shown) -> str:
    """The checks, those expected first, and what the first of them said."""
    if not shown.caught:
        return f"nothing; the cell {shown.status}"
    catches = sorted(shown.caught, key=lambda c: c.check not in shown.fault.expected)
    checks = ", ".join(dict.fromkeys(c.check for c in catches))
    text = catches[0].sentence
    for words in ("detections: ", "preprocessing: "):
        text = text.removeprefix(words)
    text = text.rstrip(".")
    return f"{checks} ({text if len(text) <= _SENTENCE else f'{text[:_SENTENCE].rstrip()}…'})"


def _entry(shown: Shown) -> dict[str, Any]:
    fault = shown.fault
    return {
        "name": fault.name,
        "planted": fault.planted,
        "cell": fault.stage,
        "precision": fault.precision,
        "expected": list(fault.expected),
        "status": shown.status,
        "caught": [{"check": c.check, "sentence": c.sentence} for c in shown.caught],
        "ok": shown.ok if shown.shown else None,
        "reason": shown.reason,
    }
