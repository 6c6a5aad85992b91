"""Fetch an ONNX file from a Hugging Face repository. The token comes from the environment and is never shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bench.errors import InputError, Unavailable, UsageError
from bench.files import sha256_file
from bench.trt.graphfile import is_inside

if TYPE_CHECKING:
    from collections.abc import Sequence

_MEANING = {
    401: "the token is missing or wrong. Set HF_TOKEN to a token that may read it",
    403: "access is refused. Ask its owner for access, or set HF_TOKEN to a token that has it",
    404: "no such repository, revision or file (or it is private and HF_TOKEN is not set)",
}
_HUB_MANIFEST = "manifest.json"
"""What ``parity prepare`` uploads beside the model: a list ``files`` of name and sha256."""
_PRECISION_WORDS = ("fp16", "bf16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Files from a repository."""

    onnx: Path
    cache: Path | None
    notes: tuple[str, ...]
    """Where they come from and whether their hashes were checked."""


def fetch_from_hub(
    repo: str, *, revision: str | None, file: str | None, precision: str | None, cache: str | None = None
) -> Fetched:
    """Download one ONNX file with its external data, and a calibration cache when one is named.

    Args:
        repo: ``ORG/NAME``.
        revision: branch, tag or commit; None: the default branch.
        file: name in the repository; None: the one that fits.
        precision: word that the name of the file should have; ``fp32`` and ``tf32``: none of the others.
        cache: name of a calibration cache in the repository, or None.

    Raises:
        Unavailable: huggingface_hub is not installed.
        InputError: the hub cannot be reached, refuses, has no such file, or a file is not the one in its manifest.
        UsageError: several files fit.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise Unavailable(
            "--hf-repo needs huggingface_hub. Type: pip install huggingface_hub, or give --onnx"
        ) from error
    where = repo + (f" at {revision}" if revision else "")

    def download(name: str) -> Path:
        return Path(_asked(where, lambda: huggingface_hub.hf_hub_download(repo, name, revision=info.sha)))

    info = _asked(where, lambda: huggingface_hub.model_info(repo, revision=revision))
    names = [sibling.rfilename for sibling in info.siblings or ()]
    where = f"{repo} at {info.sha}"  # a branch may move between two downloads, a commit does not
    chosen = choose_file(names, file=file, precision=precision, where=where)
    if cache is not None and cache not in names:
        raise InputError(f"{where}: no calibration cache {cache!r}, and no such local file. Give the path of a cache.")
    # Weights outside the ONNX file carry its name, whole (m.onnx.data, m.onnx_data) or without the ending (m.data).
    stem = chosen[: -len(".onnx")]
    beside = [name for name in (f"{chosen}.data", f"{chosen}_data", f"{stem}.data") if name in names]
    wanted = [chosen, *beside, *([cache] if cache is not None else [])]
    listed = _listed(download(_HUB_MANIFEST), where) if _HUB_MANIFEST in names else {}
    paths, notes = {}, []
    for name in wanted:
        if not is_inside(name):
            raise InputError(f"{where}: the name {name!r} leaves the folder of the repository; refused.")
        paths[name] = download(name)
        if name not in listed:
            notes.append(f"{name} of {where}: in no manifest, its hash was not checked")
        elif sha256_file(paths[name]) != listed[name]:
            raise InputError(f"{where}: {name} does not have the hash in {_HUB_MANIFEST}. Ask whoever uploaded it.")
        else:
            notes.append(f"{name} of {where}: as its manifest says")
    return Fetched(onnx=paths[chosen], cache=paths[cache] if cache is not None else None, notes=tuple(notes))


def choose_file(names: Sequence[str], *, file: str | None, precision: str | None, where: str) -> str:
    """Choose the ONNX file of a repository: the one named, the one of that precision, the only one, the int8 one.

    Raises:
        InputError: there is none, or not the one named; UsageError: several fit.
    """
    files = [name for name in names if name.endswith(".onnx") and is_inside(name)]
    if file is not None:
        if file not in files:
            raise InputError(f"{where}: no ONNX file {file!r}. It has: {', '.join(files) or 'none'}.")
        return file
    if not files:
        raise InputError(f"{where}: no .onnx file in this repository.")
    of_word = {name: _word_of(name) for name in files}
    word = "fp32" if precision == "tf32" else precision
    fitting = files if len(files) == 1 and word is None else [n for n in files if of_word[n] == (word or "int8")]
    if len(fitting) != 1:
        kind = f" of precision {word}" if word else ""
        raise UsageError(
            f"{where} has {len(fitting)} ONNX files{kind} of {', '.join(files)}. Choose one with --hf-file NAME"
        )
    return fitting[0]


def _word_of(name: str) -> str:
    """``a/model.int8.onnx`` -> ``int8``; a name without such a word is fp32."""
    words = PurePosixPath(name).name.split(".")
    return next((word for word in _PRECISION_WORDS if word in words), "fp32")


def _listed(path: Path, where: str) -> dict[str, str]:
    """File name -> sha256 in the manifest."""
    try:
        entries = json.loads(path.read_text("utf-8"))["files"]
        return {entry["name"]: entry["sha256"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: {_HUB_MANIFEST} is not a list of files with their hashes ({error}).") from error


def _asked(where: str, call: Any) -> Any:
    """Call the hub; every way in which it fails becomes a sentence of our own, since an address may carry a secret."""
    try:
        return call()
    except _hub_errors() as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in _MEANING:
            raise InputError(f"{where}: {_MEANING[status]}.") from None
        kind = type(error).__name__ + (f", status {status}" if status else "")
        raise InputError(
            f"{where}: the hub did not answer as expected ({kind}). Check the network, or download the file and give "
            "it with --onnx."
        ) from None


def _hub_errors() -> tuple[type[BaseException], ...]:
    """What huggingface_hub raises: its own errors, and those of the HTTP library that its version is built on.

    That library was requests, then httpx, then httpx2 (2.4); its base class is an ancestor of the hub's HTTP error.
    """
    try:
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:  # before 0.22: all of them are OSErrors there
        return (OSError, ValueError)
    family = [kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception]
    return (OSError, ValueError, *family)
