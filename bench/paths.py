"""Where things live on disk."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Return the store of exports, conversions and fixtures: ``PARITY_CACHE``, else the user's cache folder."""
    override = os.environ.get("PARITY_CACHE")
    if override:
        return Path(override).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).expanduser().resolve() / "backend-parity"


def data_dir() -> Path:
    """Return the folder of real images and third-party weights: ``PARITY_DATA``, else ``../shared/data``."""
    return Path(os.environ.get("PARITY_DATA") or REPOSITORY.parent / "shared" / "data").expanduser().resolve()
