"""``parity calibration-cache read|write|migrate``: TensorRT's INT8 calibration caches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.errors import ArtifactError, InputError, UsageError
from bench.files import sha256_file, write_atomic
from bench.precision.calibration import INT8_MAX, read_calibration
from bench.precision.trtcache import read_cache, write_cache
from bench.schema import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.precision.migrate import Coverage
    from bench.precision.trtcache import TrtCache

_WIDEST = 8
_LISTED = 10


def read_command(path: Path, *, as_json: bool) -> int:
    """Print what a cache holds."""
    cache = read_cache(path)
    if as_json:
        sys.stdout.write(dumps(_document(cache)))
        return 0
    console = Console()
    scales = cache.scales.values()
    _say(
        console,
        f"{path}: {cache.header}, {len(cache.scales)} tensors, {len(set(scales))} different scales from "
        f"{min(scales):.8g} to {max(scales):.8g}",
    )
    for note in cache.notes:
        _say(console, f"note: {note}")
    table = Table(box=None)
    for heading in ("widest tensors", "scale", "covers ±"):
        table.add_column(heading, justify="left" if heading == "widest tensors" else "right", overflow="fold")
    for name, scale in sorted(cache.scales.items(), key=lambda item: -item[1])[:_WIDEST]:
        table.add_row(shown(name), f"{scale:.8g}", f"{scale * INT8_MAX:.6g}")
    console.print(table)
    return 0


def write_command(out: Path, *, calibration: Path | None, onnx: Path | None, tensorrt: str, algorithm: str) -> int:
    """Write a cache from a calibration, or from the scales of a Q/DQ graph."""
    if (calibration is None) == (onnx is None):
        raise UsageError("name one source: --calibration calibration.json or --onnx FILE with Q/DQ nodes.")
    left_out: list[str] = []
    if calibration is not None:
        ranges = read_calibration(calibration).ranges
        scales = {name: found.scale for name, found in ranges.items() if found.amax > 0}
        left_out = [name for name, found in ranges.items() if found.amax == 0]
        source: Path = calibration
    else:
        assert onnx is not None
        from bench.precision.migrate import load_model
        from bench.precision.qdq import scales_of

        scales, source = scales_of(load_model(onnx)), onnx
        if not scales:
            raise InputError(f"{onnx}: has no QuantizeLinear node on an activation. Give an int8 file (Q/DQ).")
    header = write_cache(out, scales, version=tensorrt, algorithm=algorithm)
    console = Console()
    if left_out:
        _say(
            console,
            f"left out: {len(left_out)} tensor(s) that were zero on every image and have no scale, such as "
            f"{left_out[0]!r}",
        )
    _say(console, f"{out}: {header}, {len(scales)} tensors from {source}")
    return 0


def migrate_command(
    cache: Path,
    onnx: Path,
    *,
    out: Path,
    names: Path | None,
    exclude: Sequence[str] = (),
    min_coverage: float,
    as_json: bool,
) -> int:
    """Write the Q/DQ graph that has the scales of an old cache, and print what was covered."""
    from bench.precision import migrate as migration
    from bench.precision.graph import matching, name_nodes

    if not 0 <= min_coverage <= 1:
        raise UsageError(f"--min-coverage {min_coverage}: must be a share between 0 and 1.")
    if out.resolve() in (onnx.resolve(), cache.resolve()):
        raise UsageError(f"--out {out}: is one of the files that are read. Choose another name.")
    old = read_cache(cache)
    mapping = migration.read_names(names) if names is not None else None
    model = migration.load_model(onnx)
    try:
        model = migration.raised(model)
        name_nodes(model.graph)
        excluded = matching(model.graph, exclude)
        result, coverage = migration.migrate(
            old, model, names=mapping, float_nodes=excluded, min_coverage=min_coverage, source=cache.name
        )
        content = result.SerializeToString()
        migration.accept_migrated(content)
    except (InputError, ArtifactError) as error:
        raise type(error)(f"{onnx}: {error}") from error
    write_atomic(out, content)
    if as_json:
        document = {"out": str(out), "sha256": sha256_file(out), "label": migration.LABEL, "header": old.header}
        sys.stdout.write(dumps({**document, **coverage.document()}))
    else:
        _print(coverage, out, old)
    return 0


def shown(name: str) -> Text:
    """A tensor's name for the terminal: it is free text of a file, so nothing in it is markup or a control code."""
    return Text(name if name.isprintable() else repr(name))


def _document(cache: TrtCache) -> dict[str, Any]:
    return {
        "header": cache.header,
        "version": cache.version,
        "algorithm": cache.algorithm,
        "tensors": len(cache.scales),
        "notes": list(cache.notes),
        "scales": dict(cache.scales),
    }


def _print(coverage: Coverage, out: Path, cache: TrtCache) -> None:
    console = Console()
    table = Table(box=None)
    for heading in ("", "tensors", "share"):
        table.add_column(heading, justify="left" if not heading else "right")
    covered = coverage.needed - len(coverage.without_scale)
    total = len(coverage.matched) + len(coverage.unmatched)
    table.add_row("activations that int8 needs a scale for", str(coverage.needed), "")
    table.add_row("  with a scale of the cache", str(covered), f"{coverage.share:.1%}")
    table.add_row("  without: their nodes stay in float", str(len(coverage.without_scale)), f"{1 - coverage.share:.1%}")
    table.add_row("names in the cache", str(total), "")
    table.add_row("  in the graph", str(len(coverage.matched)), f"{coverage.cache_share:.1%}")
    table.add_row("  not in the graph", str(len(coverage.unmatched)), f"{1 - coverage.cache_share:.1%}")
    console.print(table)
    for text, listed in (("without a scale", coverage.without_scale), ("only in the cache", coverage.unmatched)):
        for name in listed[:_LISTED]:
            _say(console, f"  {text}: {shown(name)}")
        if len(listed) > _LISTED:
            _say(console, f"  {text}: {len(listed) - _LISTED} more (--json lists all)")
    _say(console, f"{out}: migrated scales of {cache.header}; not the old engine: score it before you use it")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
