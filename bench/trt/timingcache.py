"""Timing caches: measured kernel times that shorten a build and, when editable, pin its choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ArtifactError, InputError
from bench.files import write_atomic
from bench.trt.hostkey import short_key

if TYPE_CHECKING:
    from pathlib import Path

    from bench.trt.hostkey import HostKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedCache:
    """What became of the timing cache at the start of a build."""

    state: str
    """``new``, ``loaded`` or ``rejected`` (TensorRT refused the file; the build started with an empty one)."""
    path: Path


def timing_cache_file(folder: Path, host: HostKey, *, tf32: bool) -> Path:
    """File in ``folder`` for this TensorRT, GPU, driver and TF32 setting; times of another one are not valid here."""
    return folder / f"timing-{short_key({**host.identity(), 'tf32': tf32})}.cache"


def attach_timing_cache(config: Any, path: Path, *, must_hit: bool, explain: Any) -> AttachedCache:
    """Give a builder configuration the cache in ``path``, or an empty one.

    Args:
        config: ``IBuilderConfig``.
        path: from ``timing_cache_file``; need not exist.
        must_hit: an empty cache is then an error, since every lookup would miss.
        explain: callable that returns TensorRT's log lines.

    Raises:
        ArtifactError: not even an empty cache is accepted, or ``must_hit`` without a usable file.
        InputError: the file cannot be read.
    """
    try:
        data = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Delete it or choose another folder.") from error
    state = "new"
    if data:
        state = "loaded" if _set(config, data) else "rejected"
    if state != "loaded":
        if must_hit:
            raise ArtifactError(
                f"{path}: {'TensorRT rejects this timing cache' if data else 'no timing cache yet'}, so every lookup "
                f"would miss. Build once without the error on a miss. {explain()}"
            )
        if not _set(config, b""):
            raise ArtifactError(f"TensorRT accepts no timing cache, not even an empty one. {explain()}")
    return AttachedCache(state=state, path=path)


def save_timing_cache(config: Any, path: Path) -> str | None:
    """Write the cache back after a build; returns why it could not be had from TensorRT, or None.

    Raises:
        InputError: the file cannot be written.
    """
    cache = config.get_timing_cache()
    if cache is None:
        return "TensorRT handed no timing cache back; the file was left as it was"
    content = cache.serialize()
    if content is None:
        return "TensorRT did not serialise the timing cache; the file was left as it was"
    write_atomic(path, bytes(content))
    return None


def _set(config: Any, data: bytes) -> bool:
    cache = config.create_timing_cache(data)
    if cache is None:
        return False
    # False: never ignore a mismatch; times of another GPU would choose kernels for it.
    return bool(config.set_timing_cache(cache, False))
