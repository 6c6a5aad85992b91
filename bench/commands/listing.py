"""``parity list``, ``parity clean``."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.errors import InputError, UsageError, did_you_mean
from bench.fixtures import list_fixtures
from bench.paths import cache_dir
from bench.protocols import list_protocols, load_protocol
from bench.registry import adapter_names, backend_names, load_adapter, load_backend
from bench.schema import dumps

PIPE_COLUMNS = 160
MILLION = 10**6


def list_command(what: str, *, as_json: bool) -> int:
    """Print registered models, backends, fixture sets or evaluation protocols."""
    tables = {"models": _models, "backends": _backends, "fixtures": _fixtures, "protocols": _protocols}
    if what not in tables:
        raise UsageError(f"parity list {what}: nothing of that name.{did_you_mean(what, tables)}")
    _print(tables[what](), as_json=as_json)
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
    """Facts of the specs alone: no framework is imported."""
    specs = [load_adapter(n).spec for n in adapter_names()]
    return [
        {
            "model": s.name,
            "task": s.task,
            "parameters": s.parameters,
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


def _protocols() -> list[dict[str, Any]]:
    found = [load_protocol(name) for name in list_protocols()]
    return [
        {
            "protocol": p.id,
            "imgsz": "x".join(map(str, p.conditions["imgsz"])) if "imgsz" in p.conditions else "any",
            "score": p.conditions.get("score_threshold", "any"),
            "detections": p.conditions.get("max_detections", "any"),
            "set": p.conditions.get("dataset", "any"),
            "hash": p.hash[:12],
        }
        for p in found
    ]


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(dumps(rows))
        return
    table = Table(box=None)
    for number, name in enumerate(rows[0] if rows else []):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*[_shown(v) for v in row.values()])
    console = Console()
    # a pipe has no width: folded columns would be hard to read and to cut
    (console if console.is_terminal else Console(width=PIPE_COLUMNS)).print(table)


def _shown(value: Any) -> str:
    """A cell of the table: counts in million, nothing as a dash."""
    if value is None:
        return "-"
    return f"{value / MILLION:.2f} M" if isinstance(value, int) and value >= MILLION else str(value)
