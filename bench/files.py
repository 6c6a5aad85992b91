"""Atomic writes and hashes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from bench.errors import InputError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hash a file; InputError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give the path of a readable file.") from error
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes | str) -> Path:
    """Write ``content`` beside ``path`` and rename it into place, so that a reader never sees half a file.

    Raises:
        InputError: the folder is read-only, full or missing; nothing is left behind.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Free space, or choose another folder with --out DIR."
        ) from error
    return path
