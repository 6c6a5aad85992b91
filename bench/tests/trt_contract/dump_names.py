"""Print the names of an importable ``tensorrt_bindings`` as JSON: enums, classes, functions. No numbers of enums.

Run in a process of its own. The format is that of ``bench/testing/tensorrt_names.json``: a property is
``ro`` or ``rw``; a method is a list of signatures [least, most, parameter names]; [] is a callable that documents none.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any


def signatures(function: Any, name: str) -> list[list[Any]]:
    """Signatures that pybind11 wrote into a docstring; ``self`` is left out."""
    found: list[list[Any]] = []
    for line in (function.__doc__ or "").splitlines():
        match = re.match(rf"\s*(?:\d+\.\s*)?{re.escape(name)}\((.*)\)\s*->", line)
        if match is None or match.group(1).startswith("*args"):
            continue
        entry = _parameters(match.group(1))
        if entry not in found:
            found.append(entry)
    return found


def _parameters(text: str) -> list[Any]:
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    names = [part.strip() for part in parts if part.strip() and part.strip() not in ("/", "*")]
    names = [part for part in names if part.split(":")[0].strip() != "self"]
    optional = sum("=" in part for part in names)
    return [len(names) - optional, len(names), [re.split(r"[:=]", part)[0].strip() for part in names]]


def names_of(module: Any) -> dict[str, Any]:
    """Enums, classes and functions of the module."""
    enums: dict[str, list[str]] = {}
    classes: dict[str, dict[str, Any]] = {}
    functions: dict[str, list[Any]] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if inspect.isclass(value):
            if value.__module__.split(".")[0] != module.__name__:
                continue
            if hasattr(value, "__members__"):
                enums[name] = list(value.__members__)
                continue
            classes[name] = _attributes(value)
            for nested, inner in vars(value).items():
                if inspect.isclass(inner) and hasattr(inner, "__members__"):
                    enums[f"{name}.{nested}"] = list(inner.__members__)
        elif callable(value):
            functions[name] = signatures(value, name)
    return {"enums": enums, "classes": classes, "functions": functions}


def _attributes(cls: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"__init__": signatures(cls.__init__, "__init__")}
    for base in reversed(cls.__mro__):
        if base.__module__.split(".")[0] != cls.__module__.split(".")[0]:
            continue
        for name, value in vars(base).items():
            if name.startswith("_"):
                continue
            if isinstance(value, property) or inspect.isdatadescriptor(value):
                found[name] = "rw" if getattr(value, "fset", None) else "ro"
            elif callable(value) and not inspect.isclass(value):
                found[name] = signatures(value, name)
            elif not callable(value) and not isinstance(value, (str, staticmethod, classmethod)):
                found[name] = "ro"
    return dict(sorted(found.items()))


if __name__ == "__main__":
    import tensorrt_bindings

    json.dump(names_of(tensorrt_bindings), sys.stdout)
