"""One file over HTTP: resumed after an interruption, checked before it gets its name.

What arrives is written to ``NAME.part``; the name itself appears only when the length, the MD5 (where one is known)
and the caller's own check agree. A partial file is continued with a Range request, and begun anew when the server does
not answer with that range.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench import __version__
from bench.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PART = ".part"
_CHUNK = 1 << 16
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PASSING = frozenset({408, 425, 429})
"""Client errors that may pass (timeout, too early, too many requests), like all of 5xx."""


class Missing(InputError):  # noqa: N818 - a state of the server
    """The server refuses this file (404, 403, ..) or what it gives is not that file; asking again changes nothing."""


class Unreachable(InputError):  # noqa: N818
    """No whole answer after all attempts; what has arrived is kept."""


class _Passing(Exception):  # noqa: N818
    """A failure that may pass; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient a download is."""

    timeout_s: float = 30.0
    """Silence of the server after which an attempt ends."""
    attempts: int = 4
    pause_s: float = 1.0
    """Before the second attempt; doubled before each further one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is known of a file before it is fetched."""

    limit_bytes: int
    """A longer file is refused."""
    size: int | None = None
    """Its length in bytes."""
    md5: str | None = None


def safe_name(name: str, *, where: str) -> str:
    """Return ``name`` when it is the plain name of a file; InputError when it could leave the folder or hide in it."""
    if not _NAME.fullmatch(name) or name.endswith(PART):
        raise InputError(
            f"{where}: {name[:80]!r} is no plain file name (letters, digits, '.', '_', '-'; no folder). Nothing is "
            "written outside the folder that was given. Correct the list."
        )
    return name


def fetch(
    url: str,
    target: Path,
    *,
    expected: Expected,
    policy: Policy | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch ``url`` to ``target`` and return it.

    Args:
        url: http or https.
        target: final place; its folder exists.
        expected: bounds and known facts.
        policy: attempts and timeouts.
        check: raises InputError when the content is not what it should be; called before the file gets its name.
        progress: called with (bytes here, bytes in all or 0).

    Raises:
        UsageError: not an http or https URL.
        Missing: the server refuses, or the content is not that file.
        Unreachable: still no whole answer after ``policy.attempts``; the part that came is kept.
        InputError: the disk refuses.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{url}: only http and https addresses are fetched.")
    policy = policy or Policy()
    part = target.with_name(target.name + PART)
    reason = ""
    for attempt in range(policy.attempts):
        if attempt:
            time.sleep(policy.pause_s * 2 ** (attempt - 1))
        try:
            tag = _receive(url, part, expected, policy, progress or (lambda done, total: None))
            _accept(url, part, expected.md5 or tag, check)
        except _Passing as error:
            reason = str(error)
            continue
        part.replace(target)
        return target
    kept = f" {part.stat().st_size} bytes are kept." if part.is_file() else ""
    raise Unreachable(f"{url}: {reason} ({policy.attempts} attempts).{kept}")


def _receive(
    url: str, part: Path, expected: Expected, policy: Policy, progress: Callable[[int, int], None]
) -> str | None:
    """Bring ``part`` to its full length; return the MD5 that the server states, if it does."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": f"backend-parity/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=policy.timeout_s) as answer:
            start, total = _extent(url, answer, have, part)
            _bound(url, total, expected, part)
            _store(url, answer, part, start, total, expected, progress)
            return _stated_md5(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = f"HTTP {error.code} {error.reason}"
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _Passing(f"{text}: the partial file did not fit, begun anew") from None
        if error.code in _PASSING or error.code >= 500:
            raise _Passing(text) from None
        raise Missing(f"{url}: {text}.") from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", None) or error
        raise _Passing(str(cause) or type(cause).__name__) from None


def _extent(url: str, answer: Any, have: int, part: Path) -> tuple[int, int | None]:
    """Where the answer begins, and the length of the whole file (None: chunked, it ends itself)."""
    if answer.status == 206:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            part.unlink(missing_ok=True)
            raise _Passing("the server answered with another range than asked for, begun anew")
        return have, int(found[2]) + 1 if found[3] == "*" else int(found[3])
    if answer.status != 200:
        raise _Passing(f"HTTP {answer.status}")
    length = answer.headers.get("Content-Length")
    if length is None and not answer.chunked:
        raise Missing(f"{url}: the server does not say how long the file is: half of it would look like all of it.")
    return 0, int(length) if length is not None else None


def _bound(url: str, total: int | None, expected: Expected, part: Path) -> None:
    if total is None:
        return
    if total > expected.limit_bytes:
        raise Missing(f"{url}: holds {total} bytes; more than {expected.limit_bytes} are not taken.")
    if expected.size is not None and total != expected.size:
        part.unlink(missing_ok=True)
        raise Missing(f"{url}: holds {total} bytes, the file has {expected.size}: not the same file.")


def _store(
    url: str,
    answer: Any,
    part: Path,
    start: int,
    total: int | None,
    expected: Expected,
    progress: Callable[[int, int], None],
) -> None:
    size = start
    try:
        stream = part.open("ab" if start else "wb")
    except OSError as error:
        raise _disk(part, error) from error
    with stream:
        while data := answer.read(_CHUNK):
            size += len(data)
            if size > expected.limit_bytes:
                raise Missing(f"{url}: sends more than {expected.limit_bytes} bytes.")
            try:
                stream.write(data)
                stream.flush()
            except OSError as error:
                raise _disk(part, error) from error
            progress(size, total or 0)
    if total is not None and size != total:
        if size > total:
            part.unlink(missing_ok=True)
        raise _Passing(f"the answer ended after {size} of {total} bytes")


def _stated_md5(answer: Any) -> str | None:
    """The ETag of an object that S3 took in one piece is its MD5; any other server's is only a label."""
    if answer.headers.get("Server", "") != "AmazonS3":
        return None
    tag = answer.headers.get("ETag", "").strip('"').lower()
    return tag if re.fullmatch(r"[0-9a-f]{32}", tag) else None


def _accept(url: str, part: Path, md5: str | None, check: Callable[[Path], None] | None) -> None:
    if md5 is not None:
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            part.unlink(missing_ok=True)
            raise _Passing(f"MD5 is {found}, must be {md5}; begun anew")
    if check is not None:
        try:
            check(part)
        except InputError as error:
            part.unlink(missing_ok=True)
            raise Missing(f"{url}: {error}") from error


def _disk(part: Path, error: OSError) -> InputError:
    return InputError(
        f"{part}: cannot be written ({error.strerror}). Free space, or move the cache with PARITY_CACHE=DIR; then type "
        "the same command again: it goes on where it stopped."
    )
