"""``parity goldens``: hash a model's preprocessed images, to be committed beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from bench.console import ConsoleEvents
from bench.errors import InputError
from bench.fixtures import resolve
from bench.goldens import make_goldens, write_goldens
from bench.registry import load_adapter

if TYPE_CHECKING:
    from pathlib import Path


def goldens_command(model: str, *, out: Path, fixtures: str | None, quiet: bool) -> int:
    """Write the hashes of the first images of a set (default: the model's own)."""
    adapter = load_adapter(model)
    with ConsoleEvents(Console(stderr=True), quiet=quiet) as events:
        images = resolve(
            fixtures or adapter.spec.default_fixtures,
            progress=lambda done, total: events.progress("render images", done, total),
        )
        goldens = make_goldens(adapter, images)
    try:
        write_goldens(goldens, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}).") from error
    Console().print(
        f"{out}: hashes of {len(goldens.hashes)} images of {images.name}; name it in the model's spec as "
        "preprocess_goldens",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0
