"""``best.pt`` and ``last.pt``: what they hold, how they are written and read.

Both hold the averaged weights under ``model`` (official keys, readable with ``--weights``) and the facts that make
them usable under ``parity``. ``last.pt`` also holds the state of the run. Nothing in them needs code to be read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from bench.errors import InputError
from bench.files import write_atomic

FORMAT = "parity_checkpoint/1"
BEST_FILE = "best.pt"
LAST_FILE = "last.pt"
WEIGHTS, FACTS, POSITION, RANDOM = "model", "parity", "position", "random_state"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames.

    Lightning's own goes through the system's folder for temporary files, which may be another file system: a kill
    while copying from there would leave half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint``; InputError when the disk is full or read-only, the old file is then still whole."""
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(content: Mapping[str, Any], path: Path) -> Path:
    """Write a torch file in one step.

    Raises:
        InputError: the folder cannot be written; an older file of that name is still whole.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return write_atomic(path, buffer.getvalue())


def resumable_file(path: Path) -> Path:
    """The file itself, or the ``last.pt`` of a run folder."""
    return path / LAST_FILE if path.is_dir() else path


def read_resumable(path: Path) -> dict[str, Any]:
    """Read a ``last.pt`` without executing anything in it.

    Raises:
        InputError: absent, damaged, or not the checkpoint of a run.
    """
    path = resumable_file(path)
    if not path.is_file():
        raise InputError(f"--resume {path}: no such file. Give the {LAST_FILE} of an earlier run.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputError(f"--resume {path}: not a complete checkpoint ({error}). Give another {LAST_FILE}.") from error
    facts = content.get(FACTS) if isinstance(content, dict) else None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"--resume {path}: not written by parity train. To start from weights type: --weights {path}")
    if POSITION not in content:
        raise InputError(
            f"--resume {path}: holds weights only. Resume from the {LAST_FILE} beside it, or start from it with "
            f"--weights {path}"
        )
    return dict(content)
