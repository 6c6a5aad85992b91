"""All scenarios of one source, one after the other: select or alter, detect, match; then intervals over all of them."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError, InputError, Unsupported, UsageError
from bench.scenarios.altering import alter_set
from bench.scenarios.definitions import CLEAN
from bench.scenarios.deltas import uncertainties
from bench.scenarios.examples import choose_image, example_of
from bench.scenarios.results import ScenarioResult
from bench.scenarios.selecting import counts, select
from bench.scoring import match

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.events import Events
    from bench.scenarios.definitions import Scenario
    from bench.scenarios.results import Comparison
    from bench.scenarios.sources import Found, Source
    from bench.scoring import Matched
    from bench.scoring.protocol import Task
    from bench.types import FixtureSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all scenarios share."""

    seed: int = 0
    resamples: int = 1000
    task: Task = "detect"
    min_ap: Mapping[str, float] = field(default_factory=dict)
    """Scenario -> AP below which it fails."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measured:
    """A result without its intervals, and what they are made from."""

    result: ScenarioResult
    matched: Matched | None = None


def run_scenarios(
    source: Source, fixtures: FixtureSet, scenarios: Sequence[Scenario], settings: Settings, events: Events
) -> tuple[tuple[ScenarioResult, ...], bool]:
    """Score every scenario; the failure of one keeps the others.

    Args:
        source: of detections.
        fixtures: the images as they are, already cut to those that are scored.
        scenarios: ``clean`` first.
        settings: see there.
        events: told about progress.

    Returns:
        Results in the given order, and whether somebody interrupted: then what was not finished is ``skipped``.

    Raises:
        InputError: an image or a predictions file cannot be used.
    """
    run = _Run(source, fixtures, settings, events)
    measured: list[_Measured] = []
    interrupted = False
    for number, scenario in enumerate(scenarios, start=1):
        label = f"{number}/{len(scenarios)} {scenario.name}"
        if interrupted:
            measured.append(_ended(scenario, settings, "skipped", "Interrupted before it began."))
            continue
        if scenario.name != CLEAN and not run.has_clean:
            measured.append(_ended(scenario, settings, "skipped", "Clean has no result to compare with."))
            continue
        events.stage(label)
        try:
            measured.append(run.measure(scenario, label))
        except KeyboardInterrupt:
            interrupted = True
            measured.append(_ended(scenario, settings, "skipped", "Interrupted."))
        except Unsupported as error:
            measured.append(_ended(scenario, settings, "unsupported", str(error)))
        except (InputError, UsageError):
            raise  # a bad file is a bad file for every scenario
        except BenchError as error:
            measured.append(_ended(scenario, settings, "error", str(error)))
    return tuple(_with_intervals(measured, settings, events)), interrupted


def exit_code(results: Sequence[ScenarioResult], *, interrupted: bool) -> int:
    """A report and no gate: without ``--min-ap`` no number fails.

    Returns:
        130 interrupted; 1 an error, or an AP below the one asked for; 3 a scenario with ``--min-ap`` has no result, or
        none but clean has one; else 0.
    """
    if interrupted:
        return 130
    if any(r.status == "error" or r.met is False for r in results):
        return 1
    unjudged = any(r.min_ap is not None and r.met is None for r in results)
    others = [r for r in results if r.name != CLEAN]
    nothing = bool(others) and not any(r.status == "scored" for r in others)
    return 3 if unjudged or nothing else 0


class _Run:
    def __init__(self, source: Source, fixtures: FixtureSet, settings: Settings, events: Events) -> None:
        self._source, self._fixtures, self._settings, self._events = source, fixtures, settings, events
        self._clean: Found | None = None

    @property
    def has_clean(self) -> bool:
        return self._clean is not None

    def measure(self, scenario: Scenario, label: str) -> _Measured:
        if scenario.alters:
            return self._altered(scenario, label)
        if self._clean is None:
            self._clean = self._source.clean(self._fixtures, self._progress(f"{label}: detect"))
        return self._selected(scenario, self._clean)

    def _progress(self, text: str) -> Callable[[int, int], None]:
        return lambda done, total: self._events.progress(text, done, total)

    def _selected(self, scenario: Scenario, clean: Found) -> _Measured:
        part = select(self._fixtures, scenario)
        ids = np.array([s.image_id for s in part.fixtures.samples], np.int64)
        found = replace(clean, detections=clean.detections.take(np.isin(clean.detections.image_ids, ids)))
        comparison: Comparison | None = None
        if scenario.name != CLEAN:
            comparison = "other_objects" if part.area_px2 is not None else "part_of_images"
            found = replace(found, warnings=(), predictions=None)  # they stand with clean
        return self._scored(scenario, part.fixtures, found, comparison, area_px2=part.area_px2)

    def _altered(self, scenario: Scenario, label: str) -> _Measured:
        self._source.can(scenario)
        with tempfile.TemporaryDirectory(prefix="parity-scenario-") as folder:
            made = alter_set(
                self._fixtures,
                scenario,
                seed=self._settings.seed,
                folder=Path(folder),
                progress=self._progress(f"{label}: alter"),
            )
            if not any(counts(a, None) for a in made.fixtures.annotations):
                raise Unsupported("No object that counts is left on the altered images.")
            found = self._source.altered(scenario, made.fixtures, self._progress(f"{label}: detect"))
            done = self._scored(
                scenario,
                made.fixtures,
                found,
                "moved_truth" if scenario.moves else "same_truth",
                example=choose_image(self._fixtures),
            )
        moved = asdict(made.moved) if scenario.moves else None
        return replace(done, result=replace(done.result, moved=moved))

    def _scored(
        self,
        scenario: Scenario,
        fixtures: FixtureSet,
        found: Found,
        comparison: Comparison | None,
        *,
        area_px2: tuple[float, float] | None = None,
        example: int | None = None,
    ) -> _Measured:
        from bench.scenarios.running import latency_of

        matched = match(fixtures, found.detections, task=self._settings.task, area_px2=area_px2)
        objects = sum(counts(a, area_px2) for a in fixtures.annotations)
        wanted, ap = self._settings.min_ap.get(scenario.name), matched.stats["AP"]
        latency = None
        if self._source.no_latency is None:
            latency = latency_of(found.times_ms, [s.image_id for s in fixtures.samples])
        result = ScenarioResult(
            name=scenario.name,
            description=scenario.description,
            kind="altering" if scenario.alters else "selecting",
            definition=scenario.definition,
            sha256=scenario.sha256,
            status="scored",
            images=len(fixtures.samples),
            objects=objects,
            ignored=len(fixtures.annotations) - objects,
            detections=matched.detections,
            stats=dict(matched.stats),
            comparison=comparison,
            latency_ms=latency,
            no_latency=self._source.no_latency,
            min_ap=wanted,
            met=None if wanted is None else ap is not None and ap >= wanted,
            warnings=found.warnings,
            predictions=found.predictions,
            example=example_of(
                fixtures,
                found.detections,
                choose_image(fixtures, area_px2) if example is None else example,
                area_px2,
            ),
        )
        return _Measured(result=result, matched=matched)


def _ended(scenario: Scenario, settings: Settings, status: str, reason: str) -> _Measured:
    return _Measured(
        result=ScenarioResult(
            name=scenario.name,
            description=scenario.description,
            kind="altering" if scenario.alters else "selecting",
            definition=scenario.definition,
            sha256=scenario.sha256,
            status=status,  # type: ignore[arg-type]
            reason=reason,
            min_ap=settings.min_ap.get(scenario.name),
        )
    )


def _with_intervals(measured: Sequence[_Measured], settings: Settings, events: Events) -> list[ScenarioResult]:
    matched = {m.result.name: m.matched for m in measured if m.matched is not None}
    clean = matched.get(CLEAN)
    if clean is None:
        return [m.result for m in measured]
    found = uncertainties(
        clean,
        matched,
        resamples=settings.resamples,
        seed=settings.seed,
        progress=lambda done, total: events.progress("intervals", done, total),
    )
    return [
        m.result
        if m.matched is None
        else replace(
            m.result,
            ap_ci95=found[m.result.name].ap_ci95,
            deltas=None if m.result.name == CLEAN else found[m.result.name].deltas,
            no_interval=found[m.result.name].reason,
        )
        for m in measured
    ]
