"""Read weights without executing anything, and load them strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError

if TYPE_CHECKING:
    import torch

LISTED_KEYS = 10
CONVERSION_RECIPE = (
    'convert it where it was trained, once: python -c "import torch; from safetensors.torch import save_file; '
    "model = torch.load('IN.pt', weights_only=False)['model']; "
    "save_file({k: v.contiguous() for k, v in model.float().state_dict().items()}, 'OUT.safetensors')\""
)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read ``.safetensors``, or a ``.pt``/``.pth`` file that holds a plain state dict.

    Floating tensors stored in half precision are upcast to float32. A dictionary that wraps one state dict under
    ``state_dict`` or ``model`` is unwrapped. Pickled modules are refused, never executed.

    Args:
        path: weights file.

    Returns:
        Key -> CPU tensor, in the order of the file.

    Raises:
        InputError: the file is absent, truncated, of another kind, or needs code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        state = _read_torch(path)
    else:
        raise InputError(
            f"weights {path}: suffix {path.suffix!r} is not .safetensors, .pt or .pth; {CONVERSION_RECIPE}"
        )
    import torch

    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in state.items()}


def load_strict(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    allow_missing_prefixes: tuple[str, ...] = (),
    source: str = "weights",
) -> tuple[str, ...]:
    """Copy ``state`` into ``module``; every key and shape must match.

    Args:
        module: network that receives the values.
        state: key -> tensor.
        allow_missing_prefixes: groups of keys that may be absent; each group is either complete or absent as a whole.
        source: where the state came from, for the error message.

    Returns:
        The prefixes of ``allow_missing_prefixes`` that were absent.

    Raises:
        InputError: missing or unexpected keys, or different shapes; lists the first ten of each with their counts.
    """
    own = module.state_dict()
    absent = tuple(p for p in allow_missing_prefixes if not any(key.startswith(p) for key in state))
    missing = (
        [key for key in own if key not in state and not key.startswith(absent)]
        if absent
        else [key for key in own if key not in state]
    )
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
    module.load_state_dict(dict(state), strict=not absent)
    return absent


def _listing(title: str, found: list[str]) -> str:
    rest = f", and {len(found) - LISTED_KEYS} more" if len(found) > LISTED_KEYS else ""
    return f"{len(found)} {title}: {', '.join(found[:LISTED_KEYS])}{rest}"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"weights {path}: not a complete safetensors file ({error}); download or export it again"
        ) from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights {path}: needs code to be read (a pickled module, or a damaged file), never executed here; "
            f"{CONVERSION_RECIPE}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"weights {path}: not a complete torch file ({error}); download or export it again") from error
    for wrapper in ("state_dict", "model"):
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
