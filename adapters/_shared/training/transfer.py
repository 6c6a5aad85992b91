"""Weights into a network of other classes, and parts of a network that do not learn.

Loading is strict but for what the number of classes changes: the modules that the model declares as class-dependent.
Whatever is not taken over is said in the note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapters._shared.checkpoints import load_strict
from bench.errors import ContractError, InputError, UsageError, did_you_mean

LISTED_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What became of the weights."""

    note: str
    """For the user; one sentence."""
    reinitialised: tuple[str, ...]
    """Entries that keep, wholly or in some rows, the values the network was made with."""
    copied_classes: tuple[str, ...]
    """Classes whose rows were taken over by name."""
    copied: tuple[str, ...]
    """Entries that the weights lack and that start from others."""
    missing: tuple[str, ...]
    """Prefixes and suffixes that the weights lack and that keep the network's values."""


def load_weights(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    class_dependent: Sequence[str] = (),
    copies: Mapping[str, str] | None = None,
    allow_missing_prefixes: tuple[str, ...] = (),
    allow_missing_suffixes: tuple[str, ...] = (),
    class_names_from: Sequence[str] = (),
    class_names_to: Sequence[str] = (),
) -> Loaded:
    """Copy ``state`` into ``network``.

    Class rows are the weights and biases of those convolutions and linear layers below a class-dependent prefix that
    have a bias and one output per class. Where names are known on both sides, rows of equal names are taken over and
    the others keep the network's values; without names an equal number of classes is taken in order. Where other
    entries of a prefix change their shape with the number of classes, all of the prefix keeps the network's values.

    Args:
        network: Receives the values; what it holds before is the initialisation of what is not taken over.
        state: Key -> tensor.
        source: Where it came from, beginning with ``weights``, for messages.
        class_dependent: Prefixes of the modules whose shape depends on the number of classes.
        copies: Prefix that ``state`` may lack altogether -> prefix whose values it then starts from.
        allow_missing_prefixes: As of ``load_strict``.
        allow_missing_suffixes: As of ``load_strict``.
        class_names_from: Classes of ``state`` by label; empty: unknown.
        class_names_to: Classes of ``network`` by label; empty: unknown.

    Raises:
        InputError: Keys or shapes that differ for another reason than the classes, or names that are not as many as
            the rows.
        ContractError: The network's own class rows do not agree with each other or with ``class_names_to``.
    """
    own = network.state_dict()
    filled, started = _fill_absent(state, own, copies or {})
    fitted = _fit_classes(network, own, filled, source, class_dependent, class_names_from, class_names_to)
    missing = load_strict(
        network,
        fitted.state,
        allow_missing_prefixes=allow_missing_prefixes,
        allow_missing_suffixes=allow_missing_suffixes,
        source=source,
    )
    copied = tuple(key for keys in started.values() for key in keys if key not in fitted.fresh)
    notes = [
        fitted.note,
        *(
            f"{prefix} absent, started from {(copies or {})[prefix]}"
            for prefix, keys in started.items()
            if set(keys) & set(copied)
        ),
        *(f"{part} absent, initial values kept" for part in missing),
    ]
    return Loaded(
        note="; ".join(filter(None, notes)) or f"all {len(own)} entries taken over",
        reinitialised=fitted.fresh,
        copied_classes=fitted.copied_classes,
        copied=copied,
        missing=missing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """A state dict whose class-dependent entries have the shapes of the network."""

    state: Mapping[str, Tensor]
    fresh: tuple[str, ...] = ()
    copied_classes: tuple[str, ...] = ()
    note: str = ""


def _fill_absent(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], copies: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Add the entries of absent prefixes from their counterparts; returns also prefix -> entries added."""
    filled, started = dict(state), {}
    for prefix, counterpart in copies.items():
        if any(key.startswith(prefix) for key in state):
            continue
        pairs = {key: counterpart + key.removeprefix(prefix) for key in own if key.startswith(prefix)}
        found = {key: state[old] for key, old in pairs.items() if old in state}
        filled |= found
        if found:
            started[prefix] = list(found)
    return filled, started


def _fit_classes(
    network: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str,
    prefixes: Sequence[str],
    names_from: Sequence[str],
    names_to: Sequence[str],
) -> _Fitted:
    rows = [key for key in _class_rows(network, tuple(prefixes), names_to) if key in state]
    counts = {len(state[key]) for key in rows}
    if len(counts) != 1:  # no head, or one at odds with itself: the strict loading lists what is wrong
        return _Fitted(state=state)
    (known,), to = counts, len(own[rows[0]])
    if names_from and len(names_from) != known:
        raise InputError(
            f"{source} name {len(names_from)} classes and have a head of {known}; correct class_names in the file"
        )
    if known == to and (not (names_from and names_to) or tuple(names_from) == tuple(names_to)):
        in_order = names_to and not names_from
        return _Fitted(state=state, note=f"{to} classes taken in order (the weights name none)" if in_order else "")
    rebuilt = _rebuilt_prefixes(own, state, rows, prefixes) if known != to else ()
    fresh = {key: own[key] for key in state if rebuilt and key.startswith(rebuilt) and key in own}
    pairs = [(target, list(names_from).index(name)) for target, name in enumerate(names_to) if name in names_from]
    mixed = {key: _mix(own[key], state[key], pairs) for key in rows if key not in fresh}
    copied = tuple(names_to[target] for target, _ in pairs) if mixed else ()
    reinitialised = (*fresh, *(mixed if len(copied) < to else ()))
    note = _head_note(known, to, len(reinitialised), copied, lost=bool(pairs) and not mixed)
    return _Fitted(state={**state, **fresh, **mixed}, fresh=reinitialised, copied_classes=copied, note=note)


def _class_rows(network: nn.Module, prefixes: tuple[str, ...], names_to: Sequence[str]) -> list[str]:
    """Entries with one row per class: weight and bias of biased layers below the prefixes."""
    if not prefixes:
        return []
    outputs: dict[str, int] = {}
    for name, module in network.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if (
            isinstance(weight, Tensor)
            and isinstance(bias, Tensor)
            and weight.ndim > 1
            and f"{name}.".startswith(prefixes)
        ):
            outputs[name] = len(weight)
    classes = {len(names_to)} if names_to else set(outputs.values())
    layers = [name for name, count in outputs.items() if {count} == classes]
    if not layers:
        wanted = f"{len(names_to)} outputs" if names_to else "an equal number of outputs"
        raise ContractError(
            f"{type(network).__name__}: below {', '.join(prefixes)} are no biased layers of {wanted}, but of "
            f"{sorted(set(outputs.values())) or 'none'}; declare the modules of its class head"
        )
    return [f"{name}.{part}" for name in layers for part in ("weight", "bias")]


def _rebuilt_prefixes(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], rows: Sequence[str], prefixes: Sequence[str]
) -> tuple[str, ...]:
    """Prefixes below which more than the class rows changes its shape."""

    def beyond_rows(key: str) -> bool:
        skipped = 1 if key in rows else 0
        return own[key].shape[skipped:] != state[key].shape[skipped:]

    return tuple(
        prefix for prefix in prefixes if any(k.startswith(prefix) and k in state and beyond_rows(k) for k in own)
    )


def _mix(own: Tensor, given: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Rows of ``given`` where names agree, of ``own`` elsewhere."""
    mixed = own.detach().clone()
    for target, origin in pairs:
        mixed[target] = given[origin]
    return mixed


def _head_note(known: int, to: int, tensors: int, copied: Sequence[str], *, lost: bool) -> str:
    if not tensors:
        return f"head: {known} -> {to} classes, the rows of all {to} taken over by name"
    note = f"head re-initialised: {known} -> {to} classes, {tensors} tensors"
    if copied:
        more = f" and {len(copied) - LISTED_NAMES} more" if len(copied) > LISTED_NAMES else ""
        note += f"; rows of {len(copied)} classes of equal name kept ({', '.join(copied[:LISTED_NAMES])}{more})"
    elif lost:
        note += "; rows of equal names could not be kept, its inner layers change with the number of classes"
    return note


def freeze(network: nn.Module, pattern: str, groups: Mapping[str, tuple[str, ...]]) -> str:
    """Let parts of a network keep their weights: no gradient, and batch norms that keep their statistics.

    A batch norm all of whose parameters are frozen goes into evaluation mode before each forward pass, whoever called
    ``train()``; copies of the network do the same.

    Args:
        network: Changed in place.
        pattern: Name of a group, several with commas, or a regular expression that is searched in parameter names.
        groups: Name -> prefixes of parameter names.

    Returns:
        What was frozen, in words.

    Raises:
        UsageError: Nothing is called so, or nothing would be left to learn.
    """
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    chosen = _choice(pattern, groups)
    frozen = {name for name in learning if chosen(name)}
    if not frozen:
        raise UsageError(f"--freeze {pattern}: no parameter that learns is called so.{did_you_mean(pattern, groups)}")
    if len(frozen) == len(learning):
        raise UsageError(
            f"--freeze {pattern}: takes all {len(learning)} parameters, nothing is left to learn."
            f"{' Groups: ' + ', '.join(groups) + '.' if groups else ''}"
        )
    for name in frozen:
        learning[name].requires_grad_(False)
    held = [m for name, m in network.named_modules() if isinstance(m, _BatchNorm) and _is_frozen(name, m, chosen)]
    for module in held:
        module.eval()
        module.register_forward_pre_hook(_hold_in_eval)
    values = sum(learning[name].numel() for name in frozen)
    total = sum(p.numel() for p in learning.values())
    return (
        f"frozen by {pattern!r}: {values:,} of {total:,} parameters ({len(frozen)} tensors), statistics of "
        f"{len(held)} batch norms fixed"
    )


def _choice(pattern: str, groups: Mapping[str, tuple[str, ...]]) -> Callable[[str], bool]:
    """Whether a parameter's name is meant by a list of groups or by a regular expression."""
    words = [word.strip() for word in pattern.split(",")]
    strangers = [word for word in words if word not in groups]
    if not strangers:
        prefixes = tuple(prefix for word in words for prefix in groups[word])
        return lambda name: name.startswith(prefixes)
    if len(strangers) < len(words):
        raise UsageError(
            f"--freeze {pattern}: no group is called {strangers[0]!r}.{did_you_mean(strangers[0], groups)}"
        )
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--freeze {pattern}: neither a group nor a regular expression ({error}).{did_you_mean(pattern, groups)}"
        ) from error
    return lambda name: expression.search(name) is not None


def _is_frozen(name: str, norm: _BatchNorm, chosen: Callable[[str], bool]) -> bool:
    """Whether all parameters of a batch norm are meant; of one without parameters, its statistics."""
    parts = [part for part, _ in norm.named_parameters(recurse=False)] or ["running_mean"]
    return all(chosen(f"{name}.{part}" if name else part) for part in parts)


def _hold_in_eval(module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
    """A module-level function, so that deep copies and pickles of a network carry it."""
    if module.training:
        module.eval()
