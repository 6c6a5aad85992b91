"""``parity prepare``: everything that a user needs to build an int8 engine, in one folder, and on a hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.console import ConsoleEvents
from bench.options import make_request
from bench.preparing.manifest import FILES
from bench.preparing.pipeline import prepare
from bench.preparing.plan import as_json, make_order, make_steps
from bench.schema import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.preparing.plan import Order, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line says beside the options of a run."""

    variant: str | None
    images: int | None
    listed: Path | None
    repo: str | None
    cache_version: str
    dry_run: bool
    skip_export: bool
    skip_download: bool
    skip_upload: bool
    allow_evaluation: bool
    quiet: bool
    as_json: bool


def prepare_command(model: str, options: Mapping[str, Any], *, out: Path, flags: Flags) -> int:
    """Prepare a model, or with ``--dry-run`` print what that would do."""
    request = make_request({**options, "precisions": "fp32,int8"}, command=command_line(sys.argv[1:]))
    order = make_order(
        model,
        request=request,
        out=out,
        variant=flags.variant,
        count=flags.images,
        listed=flags.listed,
        repo=flags.repo,
        cache_version=flags.cache_version,
        skip_export=flags.skip_export,
        skip_download=flags.skip_download,
        skip_upload=flags.skip_upload,
        allow_evaluation=flags.allow_evaluation,
    )
    steps = make_steps(order)  # also before the work: what cannot be had is said at once
    if flags.dry_run:
        if flags.as_json:
            sys.stdout.write(dumps(as_json(order, steps)))
        else:
            _print_plan(order, steps)
        return 0
    console = Console(stderr=True)
    with ConsoleEvents(console, quiet=flags.quiet) as events:
        done = prepare(order, events, bars=console.is_terminal and not flags.quiet)
    if flags.as_json:
        files = [{"name": f.name, "sha256": f.sha256, "bytes": f.bytes} for f in done.files]
        url = done.published.url if done.published else None
        sys.stdout.write(dumps({"out": done.folder, "files": files, "kept": list(done.kept), "published": url}))
        return 0
    for file in done.files:
        _say(f"{out / file.name}: {file.bytes} bytes, sha256 {file.sha256}")
    _say(f"Steps kept from an earlier start: {', '.join(done.kept) or 'none'}")
    if done.published is not None:
        _say(f"Published: {done.published.url} (commit {done.published.commit})")
    else:
        _say("Not published. To publish: the same command with --hf-repo ORG/NAME and without --skip-upload")
    return 0


def command_line(words: list[str]) -> str:
    """What was typed, with paths cut to their last part: a manifest that is published names no folder of its maker."""
    shown = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        local = value.startswith((".", "~", "/")) or Path(value).expanduser().is_absolute() or Path(value).exists()
        shown.append(option + equals + (Path(value).name or value if local else value))
    return " ".join(["parity", *shown])


def _print_plan(order: Order, steps: list[Step]) -> None:
    _say(f"parity prepare {order.spec.name} -> {order.out} (dry run: nothing is written, nothing is fetched)")
    _say(f"licence: {order.spec.licence or 'not stated'}")
    for number, step in enumerate(steps, start=1):
        _say(f"{number}. {step.name}: {step.what}")
        if step.name != "publish":
            for name, size in step.files:
                _say(f"     {name}: {'to be made' if size is None else f'{size} bytes, finished before'}")
        elif step.upload:
            _say(f"     {', '.join(FILES)} -> {', '.join(step.upload)}")
        for note in step.notes:
            _say(f"     {note}")
    count = sum(s.fetch_count for s in steps)
    _say(f"Would fetch {count} file(s)." if count else "Would fetch nothing.")
    where = ", ".join(u for s in steps for u in s.upload)
    _say(f"Would upload to {where}." if where else "Would upload nothing.")


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
