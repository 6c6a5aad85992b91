"""Publishing a prepared folder to a model hub with huggingface_hub.

The token comes from the environment variable ``HF_TOKEN`` and goes to the hub, nowhere else: it is taken out of every
text that leaves this module, and errors are raised without the chain that may hold it.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.errors import InputError, Unavailable, UsageError
from bench.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.preparing.steps import Stored

TOKEN = "HF_TOKEN"
ENDPOINT = "HF_ENDPOINT"
DEFAULT_ENDPOINT = "https://huggingface.co"
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HIDDEN = "***"
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
"""hf_xet, which uploads the large files, states the status in words only."""
TIMEOUT_S = 60.0
"""Silence of the hub after which a request ends."""


class HubError(InputError):
    """The hub did not take the folder; everything local is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where the folder is now."""

    url: str
    commit: str
    """Revision of the commit."""


def check_repo(repo: str) -> str:
    """Return ``repo`` when it has the form ORG/NAME; UsageError otherwise."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".", "-")):
        raise UsageError(f"--hf-repo {repo!r}: the form is ORG/NAME (letters, digits, '.', '_', '-').")
    return repo


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, else huggingface.co.

    Raises:
        UsageError: no http(s) address, one with a password in it, or plain http to another host: that would show the
            token to the network.
    """
    text = (os.environ.get(ENDPOINT) or DEFAULT_ENDPOINT).rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError(f"{ENDPOINT} is no http(s) address of a hub.")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise UsageError(f"{ENDPOINT}={text}: plain http would send the token unencrypted. Use https.")
    return text


def token() -> str:
    """The token of the environment.

    Raises:
        UsageError: it is not set, or cannot be one. The value is not shown.
    """
    value = os.environ.get(TOKEN, "").strip()
    if not value:
        raise UsageError(
            f"--hf-repo needs the environment variable {TOKEN}: a token that may write (make one at "
            f"{endpoint()}/settings/tokens). Type: export {TOKEN}=..., then the same command; or leave the upload out: "
            "--skip-upload"
        )
    if not re.fullmatch(r"[\x21-\x7e]{8,512}", value):
        raise UsageError(f"{TOKEN} is set, but holds spaces, line breaks or other characters that no token has.")
    return value


def publish(folder: Path, files: Sequence[Stored], *, repo: str, message: str, progress: bool) -> Published:
    """Make the repository unless it exists, and commit exactly these files to it, in one commit.

    Args:
        folder: where the files lie.
        files: what to upload; each must still have its recorded hash.
        repo: ORG/NAME.
        message: of the commit.
        progress: whether huggingface_hub may show its progress bars.

    Raises:
        UsageError: no token, or a name or address that cannot be one.
        Unavailable: huggingface_hub is not installed.
        InputError: a file changed since it was written.
        HubError: the hub refused or did not answer; says what to type next.
    """
    check_repo(repo)
    address, secret = endpoint(), token()
    for file in files:
        if sha256_file(folder / file.name) != file.sha256:
            raise InputError(f"{folder / file.name}: changed since it was prepared. Type the same command again.")
    api, operation, foreign = _client(address, secret, progress)
    stage = f"make {repo}"
    try:
        with _without_debug_logs():
            api.create_repo(repo_id=repo, repo_type="model", exist_ok=True)
            stage = f"upload to {repo}"
            done = api.create_commit(
                repo_id=repo,
                repo_type="model",
                operations=[operation(path_in_repo=f.name, path_or_fileobj=str(folder / f.name)) for f in files],
                commit_message=message,
            )
    except foreign as error:
        # no chain: its messages, requests and headers may hold the token
        raise HubError(_explain(error, stage, repo, address, folder, secret)) from None
    return Published(url=f"{address}/{repo}", commit=str(getattr(done, "oid", "")))


def _client(address: str, secret: str, progress: bool) -> tuple[Any, Any, tuple[type[Exception], ...]]:
    """huggingface_hub's client, its operation, and what it raises."""
    try:
        import huggingface_hub
        from huggingface_hub import utils
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise Unavailable(
            f"--hf-repo needs huggingface_hub 1.0 or later ({error.name} is missing). Type: pip install "
            "'backend-parity[hub]'"
        ) from None
    tools: Any = utils
    (tools.enable_progress_bars if progress else tools.disable_progress_bars)()
    default = tools.get_session()

    def patient() -> Any:
        return type(default)(event_hooks=default.event_hooks, follow_redirects=True, timeout=TIMEOUT_S)

    huggingface_hub.set_client_factory(patient)  # its own waits for ever
    # The HTTP library below it changed its name from one major version to the next; its root error did not.
    transport = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    # RuntimeError: a failed upload of one large file; ValueError and LookupError: an answer that is not a hub's
    foreign = (transport, OSError, RuntimeError, ValueError, LookupError)
    return huggingface_hub.HfApi(endpoint=address, token=secret), huggingface_hub.CommitOperationAdd, foreign


@contextmanager
def _without_debug_logs() -> Iterator[None]:
    """Keep the HTTP libraries from writing headers into a debug log: a hub may repeat the token in one of its own."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def _explain(error: BaseException, stage: str, repo: str, address: str, folder: Path, secret: str) -> str:
    """What happened, what is kept, and what to type next."""
    organisation = repo.partition("/")[0]
    again = f"{folder} is complete and kept. "
    status = _status(error)
    remedies: Mapping[int, str] = {
        401: f"the hub does not accept the token (401). Make one that may write at {address}/settings/tokens, type "
        f"export {TOKEN}=... and then the same command again.",
        403: f"the token may not write to {repo} (403). Give it write access to {organisation} at "
        f"{address}/settings/tokens, or choose a repository of your own: --hf-repo NAME/{repo.partition('/')[2]}",
        404: f"the hub knows no {repo} (404): {organisation} does not exist, or the token may not see it. Check the "
        "spelling and type --hf-repo ORG/NAME",
        409: "the repository was changed at the same time (409). Type the same command again.",
        413: "a file is larger than the hub takes (413).",
        429: "the hub asks to slow down (429). Wait some minutes, then type the same command again.",
    }
    if status is None:
        reason = redact(str(_root(error)) or type(error).__name__, secret)
        what = f"{address} cannot be reached or did not answer as a hub does ({reason[:300]}). Type the same command "
        what += "again when it can: nothing is made anew."
    elif status in remedies:
        what = remedies[status]
    else:
        detail = redact(str(getattr(error, "server_message", None) or ""), secret)[:300]
        what = f"the hub answered HTTP {status}{': ' + detail if detail else ''}. Type the same command again later."
    return f"{stage}: {what} {again}Without the hub: --skip-upload"


def _status(error: BaseException | None) -> int | None:
    """HTTP status of an error or of what caused it."""
    while error is not None:
        answer = getattr(error, "response", None)
        if answer is not None and isinstance(getattr(answer, "status_code", None), int):
            return int(answer.status_code)
        if found := _XET_STATUS.search(str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def redact(text: str, secret: str) -> str:
    """``text`` on one line, without the token."""
    return " ".join(text.replace(secret, _HIDDEN).split())
