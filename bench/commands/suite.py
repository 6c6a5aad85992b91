"""``parity suite``: are the files of one model still the model? Every backend on its own file, in one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.onefile import run_into_file
from bench.commands.run import command_line
from bench.errors import InputError, UsageError
from bench.options import make_request
from bench.planning import one_model
from bench.registry import load_adapter
from bench.types import Configured

if TYPE_CHECKING:
    from collections.abc import Mapping


def suite_command(
    options: Mapping[str, Any],
    *,
    files: Mapping[str, Path | None],
    config: Path | None,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run the checkpoint, the given files and their comparison; write one suite file.

    Args:
        options: as of ``parity run``, as typed; ``weights`` is the checkpoint.
        files: kind (``onnx``, ``engine``) -> the given file, or None.
        config: of the network, which the checkpoint must have.
        output: file to write; None: ``reports/MODEL_backend_suite.json``.
        quiet: print the result only.
        as_json: print the suite instead of the table.

    Returns:
        The suite's exit code.

    Raises:
        UsageError, InputError: before anything is measured.
    """
    given = {kind: path.expanduser() for kind, path in files.items() if path is not None}
    request = replace(make_request(options, command=command_line()), artifacts=given)
    adapter, weights = one_model(request)
    if weights.suffix.lower() == ".onnx" and given:
        raise UsageError(
            f"--checkpoint {weights}: an ONNX file is compared with a checkpoint, and this is none. "
            "Give the weights that it was exported from."
        )
    model = load_adapter(adapter.target)
    if config is not None:
        if not isinstance(model, Configured):
            raise UsageError(f"--config: {model.spec.name} has no network configs; its checkpoint says all there is.")
        model.check_config(read_network_config(config), str(config))
    path = output or Path("reports") / f"{model.spec.name}_backend_suite.json"
    return int(run_into_file(request, path, quiet=quiet, as_json=as_json)["exit_code"])


def read_network_config(path: Path) -> dict[str, Any]:
    """Read a network's config from JSON, TOML or YAML.

    Raises:
        InputError: it cannot be read, is none of these, or is no mapping.
    """
    import json
    import tomllib

    import yaml

    suffix = path.suffix.lower()
    if suffix not in (".json", ".toml", ".yaml", ".yml"):
        raise InputError(f"--config {path}: must be a .json, .toml, .yaml or .yml file.")
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--config {path}: not UTF-8 text (byte {error.start}).") from error
    try:
        content = json.loads(text) if suffix == ".json" else tomllib.loads(text) if suffix == ".toml" else None
        if suffix in (".yaml", ".yml"):
            content = yaml.safe_load(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: not {suffix[1:].upper()}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: must hold an object with the network's settings.")
    return content
