"""``parity train``: the model's own training code, in this process (it has its own progress bar)."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.errors import InputError, UsageError
from bench.registry import load_adapter


def train_command(
    model: str, *, fixtures: str | None, out: Path, config: Path | None, resume: Path | None, settings: list[str]
) -> int:
    """Train and print the path of the best weights."""
    values: dict[str, Any] = {}
    if config is not None:
        try:
            values.update(tomllib.loads(config.read_text("utf-8")))
        except OSError as error:
            raise InputError(f"--config {config}: cannot be read ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"--config {config}: not TOML: {error}.") from error
    for item in settings:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(f"--set {item}: the form is KEY=VALUE, for example --set epochs=10")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    if fixtures is not None:
        values["fixtures"] = fixtures
    if resume is not None:
        values["resume"] = str(resume)
    best = load_adapter(model).train(values, out)
    Console().print(f"Best weights: {best}", markup=False, highlight=False, soft_wrap=True)
    return 0
