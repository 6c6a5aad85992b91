"""What every runner shares: the one place where feeds are checked, and the life cycle.

A backend's runner derives from ``RunnerBase`` and fills in ``_run``, ``_bind``, ``_attest`` and ``_close``, and
``_profile`` where its runtime can; it never sees a wrong name, dtype or shape, and never sees a call after ``close``.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import ArtifactError, ContractError, Unavailable, did_you_mean
from bench.types import Bound, expect_specs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType, TracebackType

    from bench.types import Array, Evidence, Feeds, NodeTime, Outputs, TensorSpec

PROFILE_WARMUP, PROFILE_RUNS = 3, 15
"""Runs of a profiled session: bounded, because slow models are profiled too."""


class RunnerBase(ABC):
    """A loaded artefact: checks, copies and closes; the runtime is the subclass's.

    Args:
        inputs: what the artefact takes.
        outputs: what it returns, in order.
        name: words for error messages, for example ``onnxrt model.onnx``.
    """

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, name: str) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.name = name
        self._closed = False

    def run(self, feeds: Feeds) -> Outputs:
        """Run once and return fresh arrays, floating ones as float32 (float64 stays).

        Raises:
            ContractError: wrong feeds, wrong outputs, or the runner is closed.
        """
        self._require_open("run")
        arrays = checked_feeds(feeds, self.inputs, where=self.name)
        return collected_outputs(self._run(arrays), self.outputs, axes=_axes(arrays, self.inputs), where=self.name)

    def bind(self, feeds: Feeds) -> Bound:
        """Make ``feeds`` resident; ``step`` of what is returned runs the whole graph once and waits for it.

        Raises:
            ContractError: wrong feeds, or the runner is closed (every part of the binding says so too); ``fetch``
                before ``step``; ``load`` of other shapes.
        """
        self._require_open("bind")
        arrays = checked_feeds(feeds, self.inputs, where=self.name)
        shapes = {name: value.shape for name, value in arrays.items()}
        axes = _axes(arrays, self.inputs)
        inner = self._bind(arrays)
        stepped = False

        def step() -> None:
            nonlocal stepped
            if self._closed:
                self._require_open("step")
            inner.step()
            stepped = True

        def fetch() -> Outputs:
            self._require_open("fetch")
            if not stepped:
                raise ContractError(f"{self.name}: fetch before step: there are no outputs of this input yet")
            return collected_outputs(inner.fetch(), self.outputs, axes=axes, where=self.name)

        def load(feeds: Feeds) -> None:
            nonlocal stepped
            self._require_open("load")
            fresh = checked_feeds(feeds, self.inputs, where=self.name)
            for name, value in fresh.items():
                if value.shape != shapes[name]:
                    raise ContractError(
                        f"{self.name}: {name!r} was bound as {_tuple(shapes[name])}, load got {_tuple(value.shape)}"
                    )
            stepped = False
            inner.load(fresh)

        return Bound(step, fetch, load)

    @property
    def profiles(self) -> bool:
        """True when this runtime can say which of its nodes take the time."""
        return type(self)._profile is not RunnerBase._profile

    def profile(self, feeds: Feeds) -> tuple[NodeTime, ...]:
        """Time of every node over a few runs, in a session of its own; empty when this runtime does not say.

        Raises:
            ContractError: wrong feeds, or the runner is closed.
            ArtifactError: the profiled session cannot be made or read.
        """
        self._require_open("profile")
        return self._profile(checked_feeds(feeds, self.inputs, where=self.name))

    def attest(self) -> Evidence:
        """Read back the precision and the provider that really run.

        Raises:
            ContractError: the runner is closed.
        """
        self._require_open("attest")
        return self._attest()

    def close(self) -> None:
        """Release the runtime; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> RunnerBase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _run(self, feeds: dict[str, Array]) -> Mapping[str, Array]:
        """Run on checked, C-contiguous feeds; the arrays may alias memory that the runtime reuses."""

    @abstractmethod
    def _bind(self, feeds: dict[str, Array]) -> Bound:
        """Make checked, C-contiguous feeds resident, in memory of their own: the caller's arrays may change.

        ``fetch`` may return memory that the runtime reuses; ``load`` gets checked feeds of the bound shapes.
        """

    @abstractmethod
    def _attest(self) -> Evidence:
        """Ask the runtime."""

    def _profile(self, feeds: dict[str, Array]) -> tuple[NodeTime, ...]:
        """Profile ``PROFILE_RUNS`` runs after ``PROFILE_WARMUP``, apart from the session that is timed."""
        return ()

    @abstractmethod
    def _close(self) -> None:
        """Drop the runtime; called once."""

    def _require_open(self, what: str) -> None:
        if self._closed:
            raise ContractError(f"{self.name}: {what} after close; open the artefact again")


def checked_feeds(feeds: Feeds, inputs: Sequence[TensorSpec], *, where: str) -> dict[str, Array]:
    """Return the feeds C-contiguous and in the order of ``inputs``.

    Axes of equal symbolic name must have equal length; a fixed batch axis is named in the message.

    Raises:
        ContractError: names the input, what was expected and what was given.
    """
    expected = [spec.name for spec in inputs]
    for name in feeds:
        if name not in expected:
            raise ContractError(
                f"{where}: there is no input {name!r}.{did_you_mean(name, expected)} Inputs: {expect_specs(inputs)}"
            )
    axes: dict[str, int] = {}
    arrays = {}
    for spec in inputs:
        if spec.name not in feeds:
            raise ContractError(f"{where}: input {spec.name!r} is missing. Inputs: {expect_specs(inputs)}")
        value = feeds[spec.name]
        reason = _misfit(value, spec, axes)
        if reason:
            shape = ", ".join(map(str, spec.shape))
            raise ContractError(f"{where}: input {spec.name!r} must be {spec.dtype} ({shape}), got {reason}")
        arrays[spec.name] = value if value.flags.c_contiguous else np.ascontiguousarray(value)
    return arrays


def collected_outputs(
    raw: Mapping[str, Array], outputs: Sequence[TensorSpec], *, axes: Mapping[str, int], where: str
) -> Outputs:
    """Copy what a runtime returned into fresh arrays in the order of ``outputs``, floating ones as float32.

    float64 stays float64: it is the golden. Fixed axes must have their length, and so must the symbolic ones in
    ``axes`` (name -> length in the feeds: the batch).

    Raises:
        ContractError: an output is missing or does not have its declared shape.
    """
    fresh = {}
    for spec in outputs:
        if spec.name not in raw:
            raise ContractError(
                f"{where}: output {spec.name!r} is missing; the runtime returned {', '.join(sorted(raw)) or 'nothing'}"
            )
        value = np.asarray(raw[spec.name])
        wanted = [axes.get(w, w) if isinstance(w, str) else w for w in spec.shape]
        if len(wanted) != value.ndim or any(
            isinstance(w, int) and w != n for w, n in zip(wanted, value.shape, strict=True)
        ):
            shape = ", ".join(map(str, wanted))
            raise ContractError(f"{where}: output {spec.name!r} must be ({shape}), got {_tuple(value.shape)}")
        keep = value.dtype == np.float64 or not np.issubdtype(value.dtype, np.floating)
        fresh[spec.name] = np.array(value, dtype=value.dtype if keep else np.float32, order="C", copy=True)
    return fresh


def feed_key(feeds: Feeds) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of a preprocessed image, inputs sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        value = np.asarray(feeds[name])
        digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def check_signature(
    found_inputs: Sequence[TensorSpec], found_outputs: Sequence[TensorSpec], inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec], *, where: str,
) -> None:  # fmt: skip
    """Compare what a runtime read in a file with what the artefact declares, before anything runs.

    Raises:
        ArtifactError: a tensor is absent, or has another dtype, rank or fixed axis.
    """
    for word, found, declared in (("input", found_inputs, inputs), ("output", found_outputs, outputs)):
        by_name = {spec.name: spec for spec in found}
        for spec in declared:
            other = by_name.get(spec.name)
            if other is None:
                raise ArtifactError(f"{where}: has no {word} {spec.name!r}; it has {expect_specs(found)}")
            same = len(other.shape) == len(spec.shape) and all(
                a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(other.shape, spec.shape, strict=True)
            )
            if not same or other.dtype != spec.dtype:
                raise ArtifactError(f"{where}: {word} {other} does not fit the declared {spec}")
        if word == "input" and len(found) != len(declared):
            extra = [spec for spec in found if spec.name not in {d.name for d in declared}]
            raise ArtifactError(f"{where}: needs inputs that nobody feeds: {expect_specs(extra)}")


def import_runtime(module: str, *, backend: str, package: str) -> ModuleType:
    """Import the library of a backend.

    Args:
        module: name to import.
        backend: name of the backend, which is also the name of the extra.
        package: name on the package index.

    Raises:
        Unavailable: it is not installed or cannot be loaded; with the install command.
    """
    remedy = f"Type: pip install 'backend-parity[{backend}]'"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Unavailable(f"{backend} needs the package {package}, which is not installed. {remedy}") from error
    except (ImportError, OSError) as error:  # a library that the package links to is missing
        raise Unavailable(f"{backend}: {package} is installed but cannot be loaded: {error}. {remedy}") from error


def first_line(error: BaseException) -> str:
    """First non-empty line of a runtime's message, which often continues with a C++ trace."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _misfit(value: Array, spec: TensorSpec, axes: dict[str, int]) -> str | None:
    """Say what is wrong with one feed, or None; remembers the length of symbolic axes in ``axes``."""
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__}, which is no numpy array"
    got = f"{value.dtype} {_tuple(value.shape)}"
    if value.dtype != np.dtype(spec.dtype) or value.ndim != len(spec.shape):
        return got
    for axis, (want, have) in enumerate(zip(spec.shape, value.shape, strict=True)):
        if isinstance(want, str):
            if axes.setdefault(want, have) != have:
                return f"{got}: axis {want!r} was {axes[want]} in another input"
            if have == 0:
                return f"{got}: an empty batch"
        elif want != have:
            fixed = f". This artefact fixes the batch at {want}" if axis == 0 else ""
            return got + fixed
    return None


def _axes(arrays: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Symbolic axis -> its length in these feeds."""
    return {
        name: length
        for spec in inputs
        for name, length in zip(spec.shape, arrays[spec.name].shape, strict=True)
        if isinstance(name, str)
    }


def _tuple(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
