"""A module ``tensorrt`` whose surface is that of a real version, and whose every answer can be scripted.

Classes, methods, properties, enum members and numbers of arguments come from ``tensorrt_names.json``, which was read
out of NVIDIA's binding wheels: a name or an arity that the version does not have raises, as there. What the calls do is
plain numpy (``bench.testing.trt_behaviour``): an "engine" runs its ONNX file with onnx's reference evaluator on a
``FakeDevice``. Nothing measured with it says anything about TensorRT.

    world = fake_tensorrt("11.4.0.106")
    world.answer("IExecutionContext.execute_async_v3", False)     # the next call returns False
    trt = world.module
"""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from bench.testing.cuda_fake import FakeDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MANIFEST = Path(__file__).with_name("tensorrt_names.json")
NULL_FACTORY = "pybind11::init(): factory function returned nullptr"
_SUBCLASSES = {"Logger": "ILogger"}


def manifest(version: str) -> dict[str, Any]:
    """Names of one version: ``enums``, ``classes`` and ``functions``."""
    found: dict[str, Any] = json.loads(MANIFEST.read_text("utf-8"))["versions"][version]
    return found


def versions() -> list[str]:
    """Versions whose names are known, oldest first."""
    known = json.loads(MANIFEST.read_text("utf-8"))["versions"]
    return sorted(known, key=lambda text: [int(part) for part in text.split(".")])


class World:
    """One fake TensorRT with the GPU it runs on.

    Args:
        version: a version of the manifest.
        device: the GPU.
        gpu: name of the GPU, part of every engine; an engine of another one is not loaded.
    """

    def __init__(self, version: str, *, device: FakeDevice | None = None, gpu: str = "Fake GPU") -> None:
        from bench.testing.trt_behaviour import BEHAVIOUR

        self.version = version
        self.gpu = gpu
        self.device = device or FakeDevice()
        self.calls: list[str] = []
        """``Class.method`` of every call, in order."""
        self.destroyed: list[str] = []
        """Class names in the order in which their objects ended."""
        self.builds = 0
        self.logger: Any = None
        """The logger that was given last."""
        self.behaviour: dict[str, Callable[..., Any]] = dict(BEHAVIOUR)
        self._script: dict[str, list[tuple[bool, Any]]] = {}
        self.module = _module(self, manifest(version))

    def answer(self, call: str, value: Any, *, after: int = 0) -> None:
        """Let the call that follows ``after`` ordinary ones return ``value`` (an exception is raised).

        Args:
            call: ``Class.method``, or ``Class`` for its constructor (None there is the bindings' TypeError).
            value: what it returns.
            after: ordinary calls before it.

        Raises:
            AttributeError: this version has no such call.
        """
        owner, _, name = call.partition(".")
        known = getattr(self.module, owner)
        if name:
            getattr(known, name)
        self._script.setdefault(call, []).extend([*([(False, None)] * after), (True, value)])

    def made(self, kind: str, **state: Any) -> Any:
        """Create an object that no caller may construct (an engine, a context)."""
        cls = getattr(self.module, kind)
        made = cls.__new__(cls)
        begin(made, self, kind, state)
        return made

    def log(self, severity: str, text: str) -> None:
        """Say something to the logger that was given last."""
        if self.logger is not None:
            self.logger.log(getattr(self.module.ILogger.Severity, severity), text)

    def hear(self, arguments: Sequence[Any]) -> None:
        """Log to the logger among these arguments from now on."""
        self.logger = next((a for a in arguments if isinstance(a, self.module.ILogger)), self.logger)

    def called(self, call: str, ordinary: Callable[[], Any]) -> Any:
        """Record a call, and return what the script or the ordinary behaviour says."""
        self.calls.append(call)
        queue = self._script.get(call)
        scripted, value = queue.pop(0) if queue else (False, None)
        if not scripted:
            return ordinary()
        self.log("ERROR", f"[fake] {call} fails as scripted")
        if isinstance(value, BaseException):
            raise value
        return value


def fake_tensorrt(version: str, *, device: FakeDevice | None = None, gpu: str = "Fake GPU") -> World:
    """Make a fake TensorRT; its module is ``.module``."""
    return World(version, device=device, gpu=gpu)


class Member:
    """A member of an enum of the bindings: equal only to itself, converts to int on request, has a name."""

    def __init__(self, name: str, value: int) -> None:
        self.name = name
        self._value = value

    def __int__(self) -> int:
        return self._value

    def __index__(self) -> int:
        return self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self._value}>"


def begin(thing: Any, world: World, kind: str, state: Mapping[str, Any]) -> None:
    """Give an object its state and note its end."""
    object.__setattr__(thing, "_state", SimpleNamespace(world=world, **state))
    weakref.finalize(thing, world.destroyed.append, kind).atexit = False


def arranged(call: str, signatures: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Put arguments in the order of the first signature that takes them.

    Raises:
        TypeError: none does; as the bindings word it.
    """
    for low, high, names in signatures:
        rest = names[len(args) :]
        if len(args) <= high and set(kwargs) <= set(rest) and len(args) + len(kwargs) >= low:
            given = [kwargs[name] for name in rest if name in kwargs]
            if [name for name in rest if name in kwargs] == rest[: len(kwargs)]:
                return [*args, *given]
    raise TypeError(
        f"{call}(): incompatible function arguments: {len(args)} positional, keywords {sorted(kwargs)}; "
        f"it takes {' or '.join(str(names) for _, _, names in signatures)}"
    )


def _module(world: World, names: Mapping[str, Any]) -> ModuleType:
    module = ModuleType("tensorrt")
    module.__dict__["__version__"] = world.version
    module.__dict__["__fake__"] = world
    for name, members in names["enums"].items():
        if "." not in name:
            setattr(module, name, _enum(name, members))
    for name in sorted(names["classes"], key=lambda one: one in _SUBCLASSES):
        base = getattr(module, _SUBCLASSES[name]) if name in _SUBCLASSES else object
        setattr(module, name, _class(world, name, names["classes"][name], base))
    for name, members in names["enums"].items():
        owner, _, nested = name.partition(".")
        if nested:
            made = _enum(nested, members)
            for cls in [getattr(module, owner), *(getattr(module, s) for s, b in _SUBCLASSES.items() if b == owner)]:
                setattr(cls, nested, made)
                for member in members:
                    setattr(cls, member, getattr(made, member))
    for name, signatures in names["functions"].items():
        setattr(module, name, _function(world, name, signatures))
    return module


def _enum(name: str, members: Sequence[str]) -> type:
    made = type(name, (Member,), {})
    made.__members__ = {member: made(member, number) for number, member in enumerate(members)}  # type: ignore[attr-defined]
    for member, value in made.__members__.items():  # type: ignore[attr-defined]
        setattr(made, member, value)
    return made


def _class(world: World, name: str, attributes: Mapping[str, Any], base: type) -> type:
    if name == "IHostMemory":  # the real one has the buffer protocol, which a Python class cannot have
        return type(name, (bytes,), {"nbytes": property(len), "dtype": property(lambda self: None)})
    space: dict[str, Any] = {"_generated": True, "__setattr__": _guarded_setattr}
    for attribute, kind in attributes.items():
        call = f"{name}.{attribute}"
        if attribute == "__init__":
            space[attribute] = _constructor(world, name, kind)
        elif kind in ("ro", "rw"):
            space[attribute] = _property(world, call, writable=kind == "rw")
        elif isinstance(kind, list) and not attribute[0].isupper():
            space[attribute] = _method(world, call, kind)
    return type(name, (base,), space)


def _guarded_setattr(self: Any, name: str, value: Any) -> None:
    """An object of the bindings takes no attribute that it does not have; a Python subclass does."""
    if "_generated" in type(self).__dict__ and not isinstance(getattr(type(self), name, None), property):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    object.__setattr__(self, name, value)


def _constructor(world: World, name: str, signatures: Any) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if not signatures:
            raise TypeError(f"tensorrt.{name}: No constructor defined!")
        given = arranged(name, signatures, args, kwargs)
        begin(self, world, name, {})
        world.hear(given)
        if world.called(name, lambda: self) is None:
            raise TypeError(NULL_FACTORY)
        behave = world.behaviour.get(name)
        if behave is not None:
            behave(self, *given)

    return __init__


def _method(world: World, call: str, signatures: Any) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = arranged(call, signatures, args, kwargs) if signatures else list(args)
        behave = world.behaviour.get(call)
        if behave is None and call not in world._script:
            raise NotImplementedError(f"the fake has no behaviour for {call}; script an answer")
        return world.called(call, lambda: behave(self, *given) if behave else None)

    method.__name__ = call.rpartition(".")[2]
    return method


def _property(world: World, call: str, *, writable: bool) -> property:
    name = call.rpartition(".")[2]

    def read(self: Any) -> Any:
        behave = world.behaviour.get(call)
        if behave is not None:
            return world.called(call, lambda: behave(self))
        if writable:
            return getattr(self._state, name, None)
        raise NotImplementedError(f"the fake has no behaviour for {call}; script an answer")

    def write(self: Any, value: Any) -> None:
        setattr(self._state, name, value)

    return property(read, write if writable else None)


def _function(world: World, name: str, signatures: Any) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        given = arranged(name, signatures, args, kwargs) if signatures else list(args)
        world.hear(given)
        behave = world.behaviour.get(name)
        if behave is None:
            raise NotImplementedError(f"the fake has no behaviour for {name}")
        return world.called(name, lambda: behave(world, *given))

    return function
