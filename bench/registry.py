"""Backends and adapters by entry point; both also as ``module:attribute``, adapters also by file path.

``TARGET::WEIGHTS`` is the adapter of ``TARGET`` fitted to a weights file: its classes and input size are the file's.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.errors import ContractError, UsageError, did_you_mean
from bench.types import Adapter, Backend, Fitting

BACKENDS = "backend_parity.backends"
ADAPTERS = "backend_parity.adapters"
_FITTED = re.compile(r"(?P<plain>[^/\\:]+(?::[^/\\:]+)?|.+?\.py)::(?P<weights>.+)", re.DOTALL)
"""A name or ``module:attribute`` holds no separator, a file ends in .py: paths may hold any colons, drives included."""
_HINT = " An entry point appears after `pip install -e .`; a model outside a package is given by --adapter PATH.py."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """How a lane finds a plug-in again: a registered name, ``module:attribute`` or an absolute file path.

    A model's target may end with ``::`` and the absolute path of the weights that it is fitted to.
    """

    name: str
    """The plug-in's own name, as it appears in a cell."""
    target: str


def backend_names() -> list[str]:
    """Names registered by entry points, sorted."""
    return sorted({e.name for e in metadata.entry_points(group=BACKENDS)})


def adapter_names() -> list[str]:
    """Names of the registered models, sorted."""
    return sorted({e.name for e in metadata.entry_points(group=ADAPTERS)})


def load_backend(target: str) -> Backend:
    """Load a backend by name, alias or ``module:attribute``.

    Raises:
        UsageError: the name is unknown (the nearest is suggested).
        ContractError: its module cannot be imported or is not a backend.
    """
    if ":" in target:
        return _as_backend(_import_attribute(target), target)
    entries = {e.name: e for e in metadata.entry_points(group=BACKENDS)}
    if target in entries:
        return _as_backend(_load(entries[target]), target)
    for entry in entries.values():
        backend = _as_backend(_load(entry), entry.name)
        if target in backend.aliases:
            return backend
    raise UsageError(f"unknown backend {target!r}.{did_you_mean(target, entries)}")


def load_adapter(target: str) -> Adapter:
    """Load a model's adapter by name, ``module:attribute`` or path of a .py file that defines ``adapter``.

    ``TARGET::WEIGHTS`` gives the adapter fitted to a weights file.

    Raises:
        UsageError: the name is unknown or the file does not exist.
        ContractError: the module raises while it is imported, or has no ``adapter``; or it cannot be fitted to weights.
        InputError: the weights do not fit the model.
    """
    fitted = _FITTED.fullmatch(target)
    if fitted is not None:
        return _fitted(load_adapter(fitted["plain"]), Path(fitted["weights"]), target)
    if target.endswith(".py") or "/" in target:
        return _as_adapter(_import_file(Path(target)), target)
    if ":" in target:
        return _as_adapter(_import_attribute(target), target)
    entries = {e.name: e for e in metadata.entry_points(group=ADAPTERS)}
    if target not in entries:
        raise UsageError(f"unknown model {target!r}.{did_you_mean(target, entries)}{_HINT}")
    return _as_adapter(_load(entries[target]), target)


def adapter_reference(target: str) -> Reference:
    """Resolve a model given on the command line to a reference that a lane can load."""
    adapter = load_adapter(target)
    is_path = target.endswith(".py") or "/" in target
    return Reference(name=adapter.spec.name, target=str(Path(target).resolve()) if is_path else target)


def fitted_reference(reference: Reference, weights: Path) -> Reference:
    """Resolve a model with given weights: fitted to them where the adapter can be, else (or if it ships them) as it is.

    Args:
        reference: of the plain adapter.
        weights: the file.

    Raises:
        InputError: the weights do not fit the model.
    """
    adapter = load_adapter(reference.target)
    shipped = adapter.spec.default_weights
    if not isinstance(adapter, Fitting) or (shipped is not None and weights.resolve() == shipped.resolve()):
        return reference
    fitted = replace(reference, target=f"{reference.target}::{weights.resolve()}")
    load_adapter(fitted.target)
    return fitted


def backend_reference(target: str) -> Reference:
    """Resolve a backend given on the command line, alias included."""
    backend = load_backend(target)
    return Reference(name=backend.name, target=target if ":" in target else backend.name)


def _load(entry: metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise ContractError(f"plug-in {entry.name!r} ({entry.value}) raises on import: {_why(error)}") from error


def _import_attribute(target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ContractError(f"{target}: cannot be loaded: {_why(error)}") from error


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"--adapter {path}: no such file. Give a registered model or the path of a .py file.")
    path = path.resolve()
    package = path.name == "__init__.py"
    name = f"_parity_adapter_{path.parent.name if package else path.stem}"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)] if package else None
    )
    if spec is None or spec.loader is None:
        raise UsageError(f"--adapter {path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ContractError(f"adapter {path} raises on import: {_why(error)}") from error
    if not hasattr(module, "adapter"):
        raise ContractError(f"adapter {path}: defines no `adapter`. Add `adapter = MyAdapter()` at the end.")
    return module.adapter


def _as_backend(plugin: Any, target: str) -> Backend:
    if not isinstance(plugin, Backend):
        raise ContractError(f"{target}: not a backend: it lacks {_missing(plugin, Backend)}.")
    return plugin


def _as_adapter(plugin: Any, target: str) -> Adapter:
    if not isinstance(plugin, Adapter):
        raise ContractError(f"{target}: not an adapter: it lacks {_missing(plugin, Adapter)}.")
    return plugin


def _fitted(adapter: Adapter, weights: Path, target: str) -> Adapter:
    if not isinstance(adapter, Fitting):
        raise ContractError(f"{target}: {adapter.spec.name} cannot be fitted to weights: it lacks fitted.")
    found = _as_adapter(adapter.fitted(weights), target)
    if found.spec.name != adapter.spec.name:
        raise ContractError(f"{target}: fitted to weights, {adapter.spec.name} calls itself {found.spec.name}.")
    return found


def _missing(plugin: Any, protocol: type) -> str:
    wanted = {m for m in dir(protocol) if not m.startswith("_")} | set(getattr(protocol, "__annotations__", {}))
    return ", ".join(sorted(m for m in wanted if not hasattr(plugin, m)))


def _why(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = f" ({Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno})" if last is not None else ""
    return f"{type(error).__name__}: {error}{place}"
