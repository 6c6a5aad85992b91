"""``parity doctor``: what this host can run, and why not."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.host import describe_host
from bench.paths import cache_dir
from bench.probe import probe
from bench.registry import backend_names
from bench.schema import dumps
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.probe import BackendFacts

DEVICES = ("cpu", "cuda:0", "tensorrt:0")
_FLAGS = {
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}
"""What the kernel calls the instructions that compute in a lower precision."""


def doctor_command(*, as_json: bool) -> int:
    """Probe every backend on every device, and print what runs and what this host is."""
    with tempfile.TemporaryDirectory() as logs:
        facts = probe(backend_names(), asked=backend_names(), devices=DEVICES, precisions=PRECISIONS, logs=Path(logs))
    rows, host = support_rows(facts), host_facts()
    if as_json:
        sys.stdout.write(dumps({"host": host, "cells": rows}))
        return 0
    console = Console()
    console.print(_support_table(rows))
    console.print(_reasons_table(rows))
    for line in host_lines(host):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def support_rows(facts: Sequence[BackendFacts]) -> list[dict[str, Any]]:
    """One row per backend, device and precision: ``mode`` native, emulated, replays or None, and the reason of None.

    ``replays``: recorded outputs, whose speed is none.
    """
    rows = []
    for f in facts:
        for (device, precision), support in f.support.items():
            mode = "replays" if support.mode and not f.measures_speed else support.mode
            rows.append(
                {
                    "backend": f.reference.name,
                    "version": f.version or None,
                    "device": device,
                    "precision": precision,
                    "mode": mode,
                    "reason": support.reason or None,
                }
            )
    return rows


def host_facts() -> dict[str, Any]:
    """What of this host matters for lower precisions and for timing."""
    host = describe_host()
    flags = _cpu_flags()
    store = cache_dir()
    return {
        "cpu": host["cpu"],
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": host["cores"],
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else host["cores"],
        "cpu_flags": {p: None if flags is None else [f for f in names if f in flags] for p, names in _FLAGS.items()},
        "memory_gb": host["memory_gb"],
        "gpu": host["gpu"],
        "os": host["os"],
        "python": host["python"],
        "versions": host["versions"],
        "store": str(store),
        "store_mb": round(sum(p.stat().st_size for p in store.rglob("*") if p.is_file()) / 2**20, 1),
    }


def host_lines(host: dict[str, Any]) -> list[str]:
    """The host for a person."""
    flags = []
    for precision, found in host["cpu_flags"].items():
        word = "unknown" if found is None else " ".join(found) or "none"
        flags.append(f"{precision} {word}")
    usable, logical, physical = host["cores_usable"], host["cores_logical"], host["cores_physical"]
    return [
        f"cpu      {host['cpu']}",
        f"cores    {usable} usable of {logical} logical, {physical or 'unknown'} physical; parity run uses --threads 1",
        f"         instructions: {'; '.join(flags)}",
        f"memory   {host['memory_gb']:g} GB",
        f"gpu      {host['gpu'] or 'none: no NVIDIA driver answers'}",
        f"python   {host['python']}, {host['os']}",
        f"store    {host['store']}, {host['store_mb']:g} MB (PARITY_CACHE moves it, parity clean empties it)",
    ]


def _cpu_flags() -> set[str] | None:
    """Instruction sets by the kernel's names; None where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    line = next((n for n in lines if n.startswith(("flags", "Features"))), None)
    return None if line is None else set(line.partition(":")[2].split())


def _support_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("backend", "device", "version", *PRECISIONS):
        table.add_column(name, no_wrap=True)
    for (backend, device), group in _grouped(rows).items():
        modes = {row["precision"]: row["mode"] or "-" for row in group}
        version = group[0]["version"]
        # the number alone, so that six precisions fit beside it in 80 columns
        short = re.split(r"[-+]", version.split()[-1])[0] if version and any(r["mode"] for r in group) else "-"
        table.add_row(backend, device, short[:12], *[modes[p] for p in PRECISIONS])
    return table


def _reasons_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Why something does not run: one line per backend and reason."""
    table = Table(box=None, pad_edge=False, title="Why not", title_justify="left", title_style="bold")
    table.add_column("where", no_wrap=True)
    table.add_column("why", overflow="fold")
    places: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        if row["mode"] is None:
            reason = row["reason"].removeprefix(f"{row['backend']}:{row['precision']} is declared unsupported: ")
            places.setdefault((row["backend"], reason), {}).setdefault(row["device"], []).append(row["precision"])
    for (backend, reason), found in places.items():
        first = next(iter(found.values()))
        everywhere = len(found) == len(DEVICES) and all(p == first for p in found.values())
        for device, precisions in [("", first)] if everywhere else found.items():
            which = "" if len(precisions) == len(PRECISIONS) else " ".join(precisions)
            table.add_row(" ".join(w for w in (backend, device, which) if w), Text(reason))  # [extra] is no markup
    return table


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["backend"], row["device"]), []).append(row)
    return groups
