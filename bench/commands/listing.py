"""``parity list``, ``parity doctor``, ``parity clean``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.errors import InputError, UsageError, did_you_mean
from bench.fixtures import list_fixtures
from bench.paths import cache_dir
from bench.probe import probe
from bench.registry import adapter_names, backend_names, load_adapter, load_backend
from bench.schema import dumps
from bench.types import PRECISIONS


def list_command(what: str, *, as_json: bool) -> int:
    """Print registered models, backends or fixture sets."""
    tables = {"models": _models, "backends": _backends, "fixtures": _fixtures}
    if what not in tables:
        raise UsageError(f"parity list {what}: nothing of that name.{did_you_mean(what, tables)}")
    _print(tables[what](), as_json=as_json)
    return 0


def doctor_command(*, as_json: bool) -> int:
    """Probe every backend on every device and print what runs, natively or emulated, or why not."""
    devices = ("cpu", "cuda:0")
    with tempfile.TemporaryDirectory() as logs:
        facts = probe(backend_names(), asked=backend_names(), devices=devices, precisions=PRECISIONS, logs=Path(logs))
    rows = [
        {
            "backend": f.reference.name,
            "version": f.version or "not here",
            "device": device,
            "native": " ".join(p for p in PRECISIONS if f.support[(device, p)].mode == "native"),
            "emulated": " ".join(p for p in PRECISIONS if f.support[(device, p)].mode == "emulated"),
            "why not": next(
                (f.support[(device, p)].reason for p in ("fp32", "fp16") if f.support[(device, p)].mode is None), ""
            ),
        }
        for f in facts
        for device in devices
    ]
    if as_json:
        _print(rows, as_json=True)
        return 0
    _print([{k: v for k, v in row.items() if k != "why not"} for row in rows], as_json=False)
    for row in rows:
        if row["why not"]:
            text = f"{row['backend']} on {row['device']}: {row['why not']}"
            Console().print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def clean_command(*, ask: bool) -> int:
    """Remove the store; asks first."""
    folder = cache_dir()
    if not folder.exists():
        Console().print(f"{folder}: nothing there.", markup=False, highlight=False)
        return 0
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if ask:
        import typer

        if not typer.confirm(f"Remove {folder} ({size / 2**20:.0f} MB)?"):
            return 0
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be removed ({error.strerror}).") from error
    Console().print(f"Removed {folder} ({size / 2**20:.0f} MB).", markup=False, highlight=False)
    return 0


def _models() -> list[dict[str, Any]]:
    specs = [load_adapter(n).spec for n in adapter_names()]
    return [
        {
            "model": s.name,
            "task": s.task,
            "input": "x".join(map(str, s.image_hw)),
            "classes": len(s.class_names),
            "weights": s.default_weights.name if s.default_weights else "give --weights",
            "fixtures": s.default_fixtures,
            "licence": s.licence,
        }
        for s in specs
    ]


def _backends() -> list[dict[str, Any]]:
    loaded = [load_backend(n) for n in backend_names()]
    return [
        {
            "backend": b.name,
            "aliases": " ".join(b.aliases),
            "takes": b.artifact_kind,
            "precisions": " ".join(b.precisions),
        }
        for b in loaded
    ]


def _fixtures() -> list[dict[str, Any]]:
    return [{"fixtures": n} for n in list_fixtures()]


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(dumps(rows))
        return
    table = Table(box=None)
    for name in rows[0] if rows else []:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*[str(v) for v in row.values()])
    Console().print(table)
