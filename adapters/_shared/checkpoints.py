"""Read weights, and the facts stored beside them, without executing anything; load weights strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError

if TYPE_CHECKING:
    import torch

LISTED_KEYS = 10
FACTS_KEY = "parity"
"""Where a file tells what its weights are: entry of a torch file, metadata of a safetensors or an ONNX file."""
WRAPPERS = ("model", "state_dict")
"""Entries that may hold the state dict, the preferred one first: a checkpoint of the training engine has both, and only
``model`` is under official keys."""
CONVERSION_RECIPE = (
    'convert it where it was trained, once: python -c "import torch; from safetensors.torch import save_file; '
    "model = torch.load('IN.pt', weights_only=False)['model']; "
    "save_file({k: v.contiguous() for k, v in model.float().state_dict().items()}, 'OUT.safetensors')\""
)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read ``.safetensors``, or a ``.pt``/``.pth`` file that holds a plain state dict.

    Floating tensors stored in half precision are upcast to float32. A dictionary that holds a state dict under
    ``model`` or ``state_dict`` (in this order) is unwrapped. Pickled modules are refused, never executed.

    Args:
        path: weights file.

    Returns:
        Key -> CPU tensor, in the order of the file.

    Raises:
        InputError: the file is absent, truncated, of another kind, or needs code to be read.
    """
    path = _existing(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _state_of(_read_torch(path), path)
    import torch

    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in state.items()}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the keys and shapes of a weights file; for safetensors without torch and without the values.

    Raises:
        InputError: as `read_state_dict`.
    """
    path = _existing(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)[1]
    return {key: tuple(value.shape) for key, value in _state_of(_read_torch(path, map_file=True), path).items()}


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a file tells about its weights: ``class_names``, ``image_size`` ([height, width]) and more.

    They are the dictionary under ``parity`` of a torch file, or the JSON text under ``parity`` in the metadata of a
    safetensors or an ONNX file. No weights are copied.

    Returns:
        The facts as they are in the file; empty when it has none.

    Raises:
        InputError: as `read_state_dict`, or facts that are not of that form.
    """
    path = _existing(path, ".onnx")
    if path.suffix == ".onnx":
        found: Any = _onnx_metadata(path).get(FACTS_KEY)
    elif path.suffix == ".safetensors":
        found = _open_safetensors(path)[0].get(FACTS_KEY)
    else:
        content = _read_torch(path, map_file=True)
        found = content.get(FACTS_KEY) if isinstance(content, Mapping) else None
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except json.JSONDecodeError as error:
            raise InputError(f"weights {path}: its entry {FACTS_KEY!r} is not JSON ({error})") from error
    return {} if found is None else _checked_facts(found, path)


def _checked_facts(found: Any, path: Path) -> dict[str, Any]:
    """Facts whose two binding entries have the right form."""
    if not isinstance(found, Mapping):
        raise InputError(f"weights {path}: its entry {FACTS_KEY!r} is {type(found).__name__}, not a dictionary")
    names, size = found.get("class_names"), found.get("image_size")
    if names is not None and not (
        isinstance(names, list | tuple) and names and all(isinstance(n, str) and n for n in names)
    ):
        raise InputError(f"weights {path}: {FACTS_KEY}.class_names must be a list of names, got {str(names)[:80]}")
    if names is not None and len(set(names)) != len(names):
        twice = next(n for n in names if list(names).count(n) > 1)
        raise InputError(f"weights {path}: {FACTS_KEY}.class_names names {twice!r} twice")
    whole = isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    if size is not None and not whole:
        raise InputError(f"weights {path}: {FACTS_KEY}.image_size must be [height, width] in pixels, got {size!r}")
    return {str(key): value for key, value in found.items()}


def load_strict(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    allow_missing_prefixes: tuple[str, ...] = (),
    allow_missing_suffixes: tuple[str, ...] = (),
    source: str = "weights",
) -> tuple[str, ...]:
    """Copy ``state`` into ``module``; every key and shape must match.

    Args:
        module: network that receives the values.
        state: key -> tensor.
        allow_missing_prefixes: groups of keys that may be absent; each group is either complete or absent as a whole.
        allow_missing_suffixes: the same for keys that end so; those that are absent keep the module's own values.
        source: where the state came from, for the error message.

    Returns:
        The prefixes and suffixes that were absent.

    Raises:
        InputError: missing or unexpected keys, or different shapes; lists the first ten of each with their counts.
    """
    own = module.state_dict()
    absent = tuple(p for p in allow_missing_prefixes if not any(key.startswith(p) for key in state))
    dropped = tuple(e for e in allow_missing_suffixes if not any(key.endswith(e) for key in state))
    missing = [
        key
        for key in own
        if key not in state
        and not any(key.startswith(prefix) for prefix in absent)
        and not any(key.endswith(suffix) for suffix in dropped)
    ]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = [
        _listing(title, found)
        for title, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise InputError(f"{source} do not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(dict(state), strict=not (absent or dropped))
    return absent + dropped


def _listing(title: str, found: list[str]) -> str:
    rest = f", and {len(found) - LISTED_KEYS} more" if len(found) > LISTED_KEYS else ""
    return f"{len(found)} {title}: {', '.join(found[:LISTED_KEYS])}{rest}"


def _existing(path: Path, *more_suffixes: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    if path.suffix not in (".safetensors", ".pt", ".pth", *more_suffixes):
        raise InputError(
            f"weights {path}: suffix {path.suffix!r} is not .safetensors, .pt or .pth; {CONVERSION_RECIPE}"
        )
    return path


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _incomplete(path, "safetensors", error) from error


def _open_safetensors(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Metadata, and key -> shape, from the header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            keys = list(file.keys())  # the file object is no iterable
            return dict(file.metadata() or {}), {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise _incomplete(path, "safetensors", error) from error


def _incomplete(path: Path, kind: str, error: Exception) -> InputError:
    return InputError(f"weights {path}: not a complete {kind} file ({error}); download or export it again")


def _onnx_metadata(path: Path) -> dict[str, str]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError(f"weights {path}: reading an .onnx needs `onnx`: pip install -e '.[onnxrt]'") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise _incomplete(path, "ONNX", error) from error
    return {entry.key: entry.value for entry in model.metadata_props}


def _read_torch(path: Path, *, map_file: bool = False) -> Any:
    """Content of a torch file; ``map_file`` leaves the values on disk until somebody reads them."""
    import pickle
    import warnings
    import zipfile

    import torch

    try:
        with warnings.catch_warnings():
            # of a pickle that is about to be refused; the message below says more
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=map_file and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights {path}: needs code to be read (a pickled module, or a damaged file), never executed here; "
            f"{CONVERSION_RECIPE}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _incomplete(path, "torch", error) from error


def _state_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict that a torch file holds."""
    import torch

    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"weights {path}: holds {type(content).__name__}, not a state dict (key -> tensor)")
    strangers = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise InputError(
            f"weights {path}: {_listing('entries that are not tensors', strangers)}; save a plain state dict"
        )
    return dict(content)
