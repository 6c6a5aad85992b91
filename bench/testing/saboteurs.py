"""Saboteurs: wrap any backend or any model so that one thing is wrong, and see which check says so.

A gate that nobody has seen fail is no gate. To try one on a backend of your own, name the saboteur in a module that a
lane can import, and run it beside the honest one::

    # my_saboteurs.py
    from bench.registry import load_backend
    from bench.testing import sabotage

    drifting = sabotage(
        load_backend("onnxrt"),
        name="onnxrt-drifting",
        change=lambda outputs: {**outputs, "scores": outputs["scores"] * 0.99},
    )

    $ PYTHONPATH=. parity run --models yolov10n --backends onnxrt,my_saboteurs:drifting --precisions fp32

The honest cell passes and the sabotaged one fails, with the check and the tensor named. ``sabotage_adapter`` does the
same around a model's pre- and post-processing. Both leave the wrapped object alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.errors import Unavailable
from bench.runner_base import feed_key
from bench.types import Bound

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from bench.types import (
        Adapter,
        Array,
        Artifact,
        Backend,
        Cell,
        Evidence,
        Feeds,
        Mode,
        ModelSpec,
        Outputs,
        Prediction,
        Runner,
        TensorSpec,
    )

_open_here: set[str] = set()
"""Names of the sabotaged backends with an open runner in this process; a lane has one."""


def _same(value: Any) -> Any:
    return value


def _nothing(runs: int) -> None:
    pass


def _always(runs: int) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wrong with a backend; the defaults change nothing."""

    feed: Callable[[Feeds], Feeds] = _same
    """Rewrites what the runtime is fed, after its hash was taken."""
    change: Callable[[Outputs], Outputs] = _same
    """Rewrites the outputs of ``run``, and of ``fetch`` alike."""
    before: Callable[[int], None] = _nothing
    """Called with the number of earlier runs and steps, before each; run 0 is the lane's own first inference."""
    works: Callable[[int], bool] = _always
    """Asked before each bound step with the number of earlier runs and steps; False: the step does nothing, and
    ``fetch`` gives the outputs of the last step that did something."""
    remembers: bool = False
    """Steps on an input that was seen before do nothing; ``fetch`` gives the right outputs from a cache."""
    testify: Callable[[Evidence], Evidence] = _same
    """Rewrites the evidence."""
    artifact: Callable[[Artifact], Artifact] = _same
    """Replaces the file that is opened."""
    cell: Callable[[Cell], Cell] = _same
    """Replaces the cell that the file is opened as: its precision, its device."""
    threads: int | None = None
    """Opens with as many threads, whatever was asked for."""
    refusal: str | None = None
    """Reason for Unavailable, or None."""


@dataclass(slots=True)
class Saboteur:
    """A runner that follows a plan around an honest one."""

    inner: Runner
    plan: Plan
    name: str = ""
    runs: int = 0
    inputs: tuple[TensorSpec, ...] = field(init=False)
    outputs: tuple[TensorSpec, ...] = field(init=False)
    _cache: dict[str, Outputs] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs, self.outputs = self.inner.inputs, self.inner.outputs
        _open_here.add(self.name)

    def run(self, feeds: Feeds) -> Outputs:
        """Run, sabotaged."""
        self._count()
        return self.plan.change(self.inner.run(self.plan.feed(feeds)))

    def bind(self, feeds: Feeds) -> Bound:
        """Bind, sabotaged: a step counts as a run does; what is fetched is changed as the outputs of ``run`` are."""
        plan = self.plan
        inner = self.inner.bind(plan.feed(feeds))
        key = feed_key(feeds) if plan.remembers else ""
        old: Outputs = {}
        worked = False

        def step() -> None:
            nonlocal worked
            idle = bool(worked or old) and not plan.works(self.runs)
            self._count()
            if plan.remembers and key in self._cache:
                return
            if not idle:
                inner.step()
                worked = True
            if plan.remembers:
                self._cache[key] = inner.fetch()

        def fetch() -> Outputs:
            if plan.remembers and key in self._cache:
                return plan.change({name: value.copy() for name, value in self._cache[key].items()})
            return plan.change(dict(old) if old and not worked else inner.fetch())

        def load(feeds: Feeds) -> None:
            nonlocal worked, key
            if worked and not plan.remembers:
                old.update(inner.fetch())
            worked = False
            key = feed_key(feeds) if plan.remembers else ""
            inner.load(plan.feed(feeds))

        return Bound(step, fetch, load)

    def attest(self) -> Evidence:
        """Testify, sabotaged."""
        return self.plan.testify(self.inner.attest())

    def close(self) -> None:
        """Close the honest runner."""
        _open_here.discard(self.name)
        self.inner.close()

    def __enter__(self) -> Saboteur:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count(self) -> None:
        self.plan.before(self.runs)
        self.runs += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SabotagedBackend:
    """A backend with one thing wrong; made by ``sabotage``."""

    name: str
    inner: Backend
    plan: Plan
    aliases: tuple[str, ...] = ()

    @property
    def artifact_kind(self) -> str:
        """As the wrapped backend."""
        return self.inner.artifact_kind

    @property
    def precisions(self) -> tuple[str, ...]:
        """As the wrapped backend."""
        return self.inner.precisions

    @property
    def measures_speed(self) -> bool:
        """As the wrapped backend."""
        return self.inner.measures_speed

    def require(self, device: str, precision: str) -> Mode:
        """As the wrapped backend, unless the plan refuses."""
        if self.plan.refusal:
            raise Unavailable(self.plan.refusal)
        return self.inner.require(device, precision)

    def version(self) -> str:
        """As the wrapped backend."""
        return self.inner.version()

    def prepare(self, artifact: Artifact, cell: Cell, store: Any) -> Artifact:
        """As the wrapped backend, with the plan's file."""
        return self.inner.prepare(self.plan.artifact(artifact), self.plan.cell(cell), store)

    def open(self, artifact: Artifact, cell: Cell, *, threads: int) -> Runner:
        """Wrap the runner that the honest backend opens."""
        self.require(cell.device, cell.precision)
        plan = self.plan
        inner = self.inner.open(artifact, plan.cell(cell), threads=plan.threads or threads)
        return Saboteur(inner, plan, self.name)


def sabotage(backend: Backend, *, name: str | None = None, **faults: Any) -> SabotagedBackend:
    """Wrap a backend so that one thing is wrong.

    Args:
        backend: any backend; it stays as it is.
        name: of the new one, as it appears in cells (default: ``<name>-sabotaged``).
        faults: fields of ``Plan``: ``change``, ``feed``, ``before``, ``works``, ``remembers``, ``testify``,
            ``artifact``, ``cell``, ``threads``, ``refusal``.

    Raises:
        TypeError: a fault that ``Plan`` does not have.
    """
    return SabotagedBackend(name=name or f"{backend.name}-sabotaged", inner=backend, plan=Plan(**faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class SabotagedAdapter:
    """A model with something wrong around its network; made by ``sabotage_adapter``."""

    inner: Adapter
    change_preprocess: Callable[..., tuple[dict[str, Array], dict[str, Any]]] | None = None
    change_postprocess: Callable[..., Prediction] | None = None
    network: Callable[[Any], Any] = _same
    beside: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """Of the honest model: to everybody else it is the same one."""
        return self.inner.spec

    @property
    def _acts(self) -> bool:
        return self.beside is None or self.beside in _open_here

    def preprocess(self, image_rgb_u8: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """Preprocess, sabotaged."""
        if self.change_preprocess is None or not self._acts:
            return self.inner.preprocess(image_rgb_u8)
        return self.change_preprocess(image_rgb_u8, self.inner.preprocess)

    def postprocess(self, outputs: Mapping[str, Array], meta: Mapping[str, Any]) -> Prediction:
        """Postprocess, sabotaged."""
        if self.change_postprocess is None or not self._acts:
            return self.inner.postprocess(outputs, meta)
        return self.change_postprocess(outputs, meta, self.inner.postprocess)

    def build(self, weights: Path | None, seed: int = 0) -> Any:
        """As the honest model, then changed."""
        return self.network(self.inner.build(weights, seed))

    def export(self, weights: Path, out: Path, *, opset: int = 17) -> Mapping[str, Any]:
        """As the honest model."""
        return self.inner.export(weights, out, opset=opset)

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """As the honest model."""
        return self.inner.train(config, out)


def sabotage_adapter(
    adapter: Adapter,
    *,
    preprocess: Callable[..., tuple[dict[str, Array], dict[str, Any]]] | None = None,
    postprocess: Callable[..., Prediction] | None = None,
    network: Callable[[Any], Any] = _same,
    beside: str | None = None,
) -> SabotagedAdapter:
    """Wrap a model so that its pre- or post-processing is wrong.

    Args:
        adapter: any model; it stays as it is.
        preprocess: called with (image, honest preprocess) in place of the honest one.
        postprocess: called with (outputs, meta, honest postprocess) in place of the honest one.
        network: rewrites what ``build`` returns.
        beside: name of a sabotaged backend: the fault acts only in the lane that opened it, so that reference and
            candidate differ (``sabotage(backend, name=...)`` without any fault marks a lane). None: in every lane.
    """
    return SabotagedAdapter(
        inner=adapter, change_preprocess=preprocess, change_postprocess=postprocess, network=network, beside=beside
    )
