"""Were two runs evaluated by one protocol? Checked before anything is compared. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.protocols import Mismatch, between, mismatches, refuse
from bench.schema import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.protocols import Protocol


def check_pins(
    base: Mapping[str, Any],
    cand: Mapping[str, Any],
    models: Iterable[str],
    protocol: Protocol | None,
    *,
    allow: bool,
) -> tuple[str, ...]:
    """Refuse two runs of which one did not follow the protocol, or that were pinned to two.

    Two runs without a protocol are not refused: what differs between their own settings is among the comparison's
    notes.

    Args:
        base: ``evaluation`` of the base's suite: model -> pin; empty when it was written without.
        cand: the same of the candidate, as JSON values or as ``Evaluation``.
        models: names of the models that are in both.
        protocol: asked for by ``--protocol``, or None: the ones that the runs were pinned to.
        allow: go on all the same.

    Returns:
        Warnings, when it was allowed.

    Raises:
        InputError: a mismatch; names the model, the field, what was wanted and what was found.
    """
    sides = {"base": to_json(base), "candidate": to_json(cand)}
    warnings: list[str] = []
    for model in sorted(models):
        pins = {side: known.get(model) for side, known in sides.items()}
        for side, pin in pins.items():
            label, found = _of_one(pin, protocol)
            warnings += refuse(f"{model} of the {side}", label, found, allow=allow)
        if protocol is None:
            apart = between(pins["candidate"], pins["base"])
            warnings += refuse(f"{model} of the candidate", "of the base", apart, allow=allow)
    return tuple(warnings)


def _of_one(pin: Mapping[str, Any] | None, protocol: Protocol | None) -> tuple[str, tuple[Mismatch, ...]]:
    """Label of the protocol that one run's model is held to, and where it does not follow it."""
    if protocol is not None:
        return protocol.label, mismatches(protocol, {} if pin is None else pin["settings"])
    if pin is None:
        return "", ()
    return f"{pin['id']} {pin['hash'][:12]}", tuple(Mismatch(**found) for found in pin["mismatches"])
