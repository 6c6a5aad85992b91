"""Hold the source of the TensorRT code against the names of real bindings: every attribute, member and arity.

A variable is mapped to a class of the bindings by module and name (``VARIABLES``). What is not mapped and still looks
like a call into TensorRT is a finding too, so that new code cannot slip past. Names that only some versions have stand
in ``GATES``: a gate holds for the versions it names, must be wrong for the others, and is a finding when nothing uses
it.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.paths import REPOSITORY
from bench.testing.trt_fake import arranged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VARIABLES: Mapping[str, Mapping[str, str]] = {
    "bench/trt/build.py": {
        "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "parser": "OnnxParser",
        "runtime": "Runtime", "engine": "ICudaEngine", "error": "ParserError", "profile": "IOptimizationProfile",
    },
    "bench/trt/profiles.py": {
        "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "tensor": "ITensor",
        "profile": "IOptimizationProfile",
    },
    "bench/trt/timingcache.py": {"config": "IBuilderConfig", "cache": "ITimingCache"},
    "bench/trt/legacy.py": {"config": "IBuilderConfig"},
    "bench/trt/inspector.py": {"engine": "ICudaEngine", "context": "IExecutionContext", "inspector": "EngineInspector"},
    "bench/trt/execute.py": {"engine": "ICudaEngine", "context": "IExecutionContext", "runtime": "Runtime"},
    "bench/trt/guard.py": {"logger": "Logger", "runtime": "Runtime"},
    "bench/trt/log.py": {}, "bench/trt/names.py": {}, "bench/trt/outputs.py": {}, "bench/trt/runner.py": {},
    "bench/backends/trt.py": {},
}  # fmt: skip
"""Module -> variable (leading underscores dropped, ``self.`` too) -> class."""
DYNAMIC: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("bench/trt/build.py", "BuilderFlag"): (
        "TF32", "VERSION_COMPATIBLE", "STRICT_NANS", "EDITABLE_TIMING_CACHE", "ERROR_ON_TIMING_CACHE_MISS"),
    ("bench/trt/build.py", "NetworkDefinitionCreationFlag"): ("STRONGLY_TYPED",),
    ("bench/trt/build.py", "HardwareCompatibilityLevel"): ("NONE",),
    ("bench/trt/legacy.py", "BuilderFlag"): ("FP16", "BF16", "INT8"),
    ("bench/trt/legacy.py", ""): ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "IInt8EntropyCalibrator"),
}  # fmt: skip
"""Where a name is not a literal at the call: the names that it can be, each a literal of that module or of options."""
GATES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("BuilderFlag.FP16", "BuilderFlag.BF16", "BuilderFlag.INT8"), (10,)),
    **dict.fromkeys(DYNAMIC["bench/trt/legacy.py", ""], (10,)),
    "IBuilderConfig.int8_calibrator": (10,),
    "IBuilderConfig.set_calibration_profile": (10,),
}
"""Name -> major versions that have it; only ``legacy.py`` may use them, behind ``refuse_legacy``."""
GATED_MODULES = ("bench/trt/legacy.py",)
_COMMON = {"name", "shape", "dtype", "type", "flags", "logger", "log", "code", "desc", "get_error", "parse", "reset",
           "node", "line", "file", "func", "num_errors", "serialize", "mode", "metadata", "precision", "update",
           "nbytes", "engine"}  # fmt: skip
"""Attribute names too ordinary to betray a call into TensorRT."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a version does not have."""

    place: str
    name: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.name}: {self.problem}"


def sources() -> dict[str, str]:
    """Path -> text of everything that may call TensorRT, the generated stand-alone file by its sections."""
    paths = [*sorted((REPOSITORY / "bench" / "trt").glob("*.py")), REPOSITORY / "bench" / "backends" / "trt.py"]
    return {str(path.relative_to(REPOSITORY)): path.read_text("utf-8") for path in paths}


def standalone_sections() -> dict[str, str]:
    """Sections of ``build_engine.py`` under the names of the modules that they come from."""
    path = REPOSITORY / "build_engine.py"
    marker = f"# {'-' * 20} "
    parts = path.read_text("utf-8").split(marker)[1:]
    return {head.strip(): body for head, _, body in (part.partition("\n") for part in parts)}


def findings(text: str, module: str, names: Mapping[str, Any], major: int) -> list[Finding]:
    """What this source uses that a version does not have.

    Args:
        text: Python source.
        module: its path in the repository, a key of ``VARIABLES`` or not.
        names: enums, classes and functions of the version.
        major: its major version.
    """
    return list(_Check(module, names, major).run(ast.parse(text)))


def used_gates(text: str, module: str) -> set[str]:
    """Entries of ``GATES`` that this source refers to."""
    used = {name for (where, enum), listed in DYNAMIC.items() if where == module for one in listed
            if (name := f"{enum}.{one}" if enum else one) in GATES}  # fmt: skip
    table = VARIABLES.get(module, {})
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and (owner := table.get(_variable(node.value))) is not None:
            used |= {f"{owner}.{node.attr}"} & set(GATES)
    return used


class _Check:
    def __init__(self, module: str, names: Mapping[str, Any], major: int) -> None:
        self._module, self._names, self._major = module, names, major
        self._table = VARIABLES.get(module, {})
        self._members = {a for attributes in names["classes"].values() for a in attributes} - _COMMON - {"__init__"}

    def run(self, tree: ast.Module) -> Iterator[Finding]:
        if self._module not in VARIABLES and any(isinstance(n, ast.Name) and n.id == "trt" for n in ast.walk(tree)):
            yield Finding(self._module, "trt", "a module that uses TensorRT must stand in VARIABLES")
        written = {id(target) for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets}
        for node in ast.walk(tree):
            place = f"{self._module}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute):
                yield from self._attribute(node, place, written=id(node) in written)
            elif isinstance(node, ast.Call):
                yield from self._call(node, place)

    def _attribute(self, node: ast.Attribute, place: str, *, written: bool) -> Iterator[Finding]:
        base = node.value
        if _variable(base) == "trt":
            yield from self._module_name(node.attr, place)
        elif isinstance(base, ast.Attribute) and _variable(base.value) == "trt":
            yield from self._nested(base.attr, node.attr, place)
        elif (owner := self._table.get(_variable(base))) is not None:
            yield from self._member(owner, node.attr, place, written=written)
        elif node.attr in self._members and not (isinstance(base, ast.Name) and base.id == "self"):
            yield Finding(place, f"{ast.unparse(base)}.{node.attr}", "looks like TensorRT and is not mapped to a class")

    def _call(self, node: ast.Call, place: str) -> Iterator[Finding]:
        for function in [node.func.body, node.func.orelse] if isinstance(node.func, ast.IfExp) else [node.func]:
            if isinstance(function, ast.Attribute):
                owner = self._table.get(_variable(function.value))
                if owner is not None:
                    yield from self._arity(owner, function.attr, node.args, node.keywords, place)
                elif _variable(function.value) == "trt":
                    yield from self._arity(function.attr, "__init__", node.args, node.keywords, place)
            elif isinstance(function, ast.Name):
                yield from self._helper(function.id, node, place)

    def _helper(self, function: str, node: ast.Call, place: str) -> Iterator[Finding]:
        """``member(trt, "Enum", "NAME")``, ``has(...)``, ``getattr(trt, "name", None)``, ``_made(trt.Class, ...)``."""
        first = node.args[0] if node.args else None
        if function in ("member", "has") and len(node.args) == 3 and _variable(node.args[0]) == "trt":
            enum, name = (_literal(arg) for arg in node.args[1:])
            if enum is None:
                yield Finding(place, ast.unparse(node), "the enum must be a literal")
            elif name is not None:
                yield from self._nested(enum, name, place)
            else:
                yield from self._dynamic(enum, place)
        elif function == "getattr" and first is not None and _variable(first) == "trt":
            name = _literal(node.args[1])
            yield from self._dynamic("", place) if name is None else self._module_name(name, place)
        elif function == "_made" and isinstance(first, ast.Attribute) and _variable(first.value) == "trt":
            yield from self._arity(first.attr, "__init__", node.args[1:], [], place)

    def _dynamic(self, enum: str, place: str) -> Iterator[Finding]:
        if self._module in ("bench/trt/names.py",):  # the helpers themselves
            return
        listed = DYNAMIC.get((self._module, enum))
        if listed is None:
            yield Finding(place, enum or "trt", "a name that is no literal must be listed in DYNAMIC")
            return
        for name in listed:
            yield from self._nested(enum, name, place) if enum else self._module_name(name, place)

    def _module_name(self, name: str, place: str) -> Iterator[Finding]:
        known = {*self._names["enums"], *self._names["classes"], *self._names["functions"], "__version__"}
        yield from self._judged(name, name in known, place)

    def _nested(self, owner: str, name: str, place: str) -> Iterator[Finding]:
        if owner in self._names["enums"]:
            ok = name in self._names["enums"][owner] or name == "__members__"
        else:
            ok = name in self._names["classes"].get(owner, {}) or name in self._names["enums"].get(
                f"{owner}.{name}", ()
            )
        yield from self._judged(f"{owner}.{name}", ok, place)

    def _member(self, owner: str, name: str, place: str, *, written: bool) -> Iterator[Finding]:
        kind = self._names["classes"].get(owner, {}).get(name)
        yield from self._judged(f"{owner}.{name}", kind is not None, place)
        if written and kind is not None and kind != "rw":
            yield Finding(place, f"{owner}.{name}", "is assigned and cannot be written")

    def _arity(
        self, owner: str, name: str, args: Sequence[ast.expr], keywords: Sequence[ast.keyword], place: str
    ) -> Iterator[Finding]:
        kind = self._names["functions"].get(owner) if name == "__init__" else None
        kind = self._names["classes"].get(owner, {}).get(name) if kind is None else kind
        if not isinstance(kind, list) or not kind:
            return
        try:
            arranged(f"{owner}.{name}", kind, args, {word.arg or "**": None for word in keywords})
        except TypeError as error:
            yield Finding(place, f"{owner}.{name}", str(error))

    def _judged(self, name: str, there: bool, place: str) -> Iterator[Finding]:
        gate = GATES.get(name)
        if gate is not None and self._module not in GATED_MODULES:
            yield Finding(place, name, "is gated and may be used in legacy.py only")
        elif gate is not None and self._major not in gate:
            if there:
                yield Finding(place, name, f"the gate says that {self._major} lacks it, and it has it")
        elif not there:
            yield Finding(place, name, "this version does not have it")


def _variable(node: ast.expr) -> str:
    """``config``, ``self._config`` and ``batch.context`` -> the last word without underscores."""
    if isinstance(node, ast.Name):
        return node.id.lstrip("_")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr.lstrip("_") if node.value.id in ("self", "batch") else ""
    return ""


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
