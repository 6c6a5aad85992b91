"""What each backend can do on this host, asked in a child process: a runtime may crash while it is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.errors import BenchError, LaneError
from bench.lanes import Lane, Limits, missing_lanes
from bench.registry import Reference, backend_reference, load_backend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.results import Status
    from bench.types import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """One backend, device and precision."""

    mode: Mode | None
    """``native`` or ``emulated``; None when it does not run."""
    status: Status = "skipped"
    reason: str = ""
    short: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFacts:
    """A backend on this host."""

    reference: Reference
    asked: bool
    """False when only the reference or the golden needs it."""
    artifact_kind: str
    measures_speed: bool
    version: str
    support: Mapping[tuple[str, str], Support] = field(default_factory=dict)
    """(device, precision) -> support."""

    @property
    def available(self) -> bool:
        """True when at least one combination runs."""
        return any(s.mode for s in self.support.values())


def probe(
    targets: Sequence[str],
    *,
    asked: Sequence[str],
    devices: Sequence[str],
    precisions: Sequence[str],
    logs: Path,
    limits: Limits | None = None,
) -> list[BackendFacts]:
    """Ask every backend, one child process each, all at once.

    Raises:
        UsageError: unknown backend.
        ContractError: a plug-in that cannot be imported.
    """
    references = [backend_reference(t) for t in targets]
    pairs = [(d, p) for d in devices for p in precisions]
    missing = missing_lanes()
    if missing is not None:
        nowhere = dict.fromkeys(pairs, Support(mode=None, reason=missing, short="not on this system"))
        return [_of(r, r.name in asked or r.target in asked, "", nowhere) for r in references]
    lanes = [Lane(name=f"probe {r.name}", log=logs / f"probe-{r.name}.log", limits=limits) for r in references]
    try:
        return [
            _facts(lane, r, r.name in asked or r.target in asked, pairs)
            for lane, r in zip(lanes, references, strict=True)
        ]
    finally:
        for lane in lanes:
            lane.kill()


def _facts(lane: Lane, reference: Reference, asked: bool, pairs: list[tuple[str, str]]) -> BackendFacts:
    try:
        version, answers = lane.call("probe", backend=reference.target, pairs=pairs)
    except BenchError as error:
        short = "crashed when probed" if isinstance(error, LaneError) else "cannot be probed"
        broken = Support(mode=None, status="error", reason=str(error), short=short)
        version, support = "", dict.fromkeys(pairs, broken)
    else:
        support = {pair: _support(answer) for pair, answer in answers.items()}
    return _of(reference, asked, version, support)


def _of(reference: Reference, asked: bool, version: str, support: Mapping[tuple[str, str], Support]) -> BackendFacts:
    backend = load_backend(reference.target)
    return BackendFacts(
        reference=reference,
        asked=asked,
        artifact_kind=backend.artifact_kind,
        measures_speed=backend.measures_speed,
        version=version,
        support=support,
    )


def _support(answer: tuple[str, str]) -> Support:
    kind, text = answer
    if kind in ("native", "emulated"):
        return Support(mode="native" if kind == "native" else "emulated")
    status: Status = "unsupported" if kind == "Unsupported" else "skipped"
    return Support(
        mode=None, status=status, reason=text, short="not supported" if kind == "Unsupported" else "not here"
    )
