"""Which classes weights have: those that the file names, else those of a known model with as many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.errors import InputError

_RECIPE = (
    'python -c "import json; from safetensors.torch import load_file, save_file; '
    "save_file(load_file('IN.safetensors'), 'OUT.safetensors', metadata={{'parity': json.dumps("
    "{{'class_names': ['first', 'second'], 'image_size': [{height}, {width}]}})}})\""
)


def class_names_of(
    facts: Mapping[str, Any],
    count: int,
    *,
    known: Mapping[str, tuple[str, ...]],
    image_hw: tuple[int, int],
    source: str,
) -> tuple[str, ...]:
    """Name of label 0, 1, ...

    Args:
        facts: stored with the weights (``checkpoints.read_facts``).
        count: classes of the weights' head.
        known: model -> its classes, the preferred one first; taken where the weights name none.
        image_hw: input size in the example of how names are written into a file.
        source: the weights, for messages.

    Raises:
        InputError: other names than the head has outputs, or none and no known model has as many classes.
    """
    names = tuple(facts.get("class_names", ()))
    if names:
        if len(names) != count:
            raise InputError(f"{source} name {len(names)} classes and have {count}")
        return names
    for theirs in known.values():
        if len(theirs) == count:
            return theirs
    others = ", ".join(f"{model} has {len(theirs)}" for model, theirs in known.items())
    recipe = _RECIPE.format(height=image_hw[0], width=image_hw[1])
    raise InputError(
        f"{source} have {count} classes and do not say which: {others}. Checkpoints of parity train name them; write "
        f"them into others once: {recipe}"
    )
