"""``parity scenarios``: how the numbers change on harder images, or on part of the images."""

from __future__ import annotations

import datetime
import secrets
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.commands.run import command_line
from bench.console import ConsoleEvents
from bench.errors import InputError, UsageError, did_you_mean
from bench.files import write_atomic
from bench.fixtures import resolve
from bench.host import describe_git, describe_host
from bench.options import MIN_RESAMPLES, make_request, split
from bench.predictions.points import keypoint_categories
from bench.protocols import load_protocol
from bench.report import numbers
from bench.scenarios.altering import write_folder
from bench.scenarios.definitions import choose, definitions_sha256, known_name, load_scenarios
from bench.scenarios.precomputed import ADAPTER, parse_given
from bench.scenarios.results import ScenarioRun
from bench.scenarios.run import Settings, exit_code, run_scenarios
from bench.scenarios.sources import FileSource
from bench.schema import dumps, to_json, validate
from bench.scoring import scorer_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.events import Events
    from bench.scenarios.definitions import Scenario
    from bench.scenarios.sources import Source
    from bench.scoring.protocol import Task
    from bench.types import FixtureSet

RESULT_NAME, PAGE_NAME = "scenarios.json", "index.html"
_MODEL_OPTIONS = {
    "backends": "backend",
    "precisions": "precision",
    "devices": "device",
    "weights": "weights",
    "calibration": "calibration",
    "threads": "threads",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioOptions:
    """What was typed, beside the options that a run shares (``bench.options``)."""

    adapter: str | None = None
    predictions: tuple[str, ...] = ()
    scenarios: Path | None = None
    only: tuple[str, ...] = ()
    min_ap: tuple[str, ...] = ()
    task: str | None = None
    bootstrap: int | None = None
    seed: int | None = None
    write_images: tuple[str, Path] | None = None
    out: Path | None = None
    as_json: bool = False
    quiet: bool = False


def scenarios_command(shared: Mapping[str, Any], options: ScenarioOptions) -> int:
    """Score the scenarios, or write the images of one.

    Args:
        shared: options of ``bench.options``, None where not given.
        options: the others.

    Returns:
        See ``bench.scenarios.run.exit_code``; 0 after writing images.
    """
    defined = load_scenarios(options.scenarios)
    seed = _at_least("--seed", options.seed, 0, 0)
    if options.write_images is not None:
        return _write_images(shared, options, defined, seed)
    chosen = choose(defined, options.only)
    settings = Settings(
        seed=seed,
        resamples=_at_least("--bootstrap", options.bootstrap, 1000, MIN_RESAMPLES),
        min_ap=_min_ap(options.min_ap, chosen, defined),
    )
    if options.task not in (None, "detect", "pose"):
        raise UsageError(f"--task {options.task}: unknown.{did_you_mean(str(options.task), ('detect', 'pose'))}")
    started = datetime.datetime.now(datetime.UTC)
    folder = options.out or Path("reports") / f"scenarios-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    with ConsoleEvents(Console(stderr=True), quiet=options.quiet or options.as_json) as events:
        if options.adapter == ADAPTER:
            run = _run_files(shared, options, defined, chosen, settings, started, events)
        else:
            run = _run_model(shared, options, chosen, settings, started, events)
    document = to_json(run)
    validate(document, "scenario_result", where="scenario result")
    return _finish(document, folder, options)


def _run_files(
    shared: Mapping[str, Any],
    options: ScenarioOptions,
    defined: Mapping[str, Scenario],
    chosen: Sequence[Scenario],
    settings: Settings,
    started: datetime.datetime,
    events: Events,
) -> ScenarioRun:
    given = [name for name in _MODEL_OPTIONS if shared.get(name) is not None]
    if given:
        raise UsageError(f"--adapter {ADAPTER} runs nothing: leave out --{_MODEL_OPTIONS[given[0]]}.")
    files = parse_given(options.predictions, defined)
    whole = _images(shared, events)
    fixtures = _first(whole, shared)
    task: Task = "pose" if options.task == "pose" else "detect"
    if task == "pose" and not keypoint_categories(whole):
        raise UsageError(f"--task pose: no category of {whole.name} names keypoints.")
    protocol = shared.get("protocol")
    source = FileSource(
        files,
        whole,
        keypoints=task == "pose",
        protocol=None if protocol is None else load_protocol(str(protocol)),
        allow=bool(shared.get("allow_protocol_mismatch")),
    )
    return _run(source, fixtures, options, chosen, replace(settings, task=task), started, events, includes=None)


def _run_model(
    shared: Mapping[str, Any],
    options: ScenarioOptions,
    chosen: Sequence[Scenario],
    settings: Settings,
    started: datetime.datetime,
    events: Events,
) -> ScenarioRun:
    from bench.scenarios.running import INCLUDES, ModelUnderTest
    from bench.scenarios.sources import ModelSource

    if options.predictions:
        raise UsageError(
            f"--predictions are scored by --adapter {ADAPTER}; {options.adapter or 'a model'} makes its own."
        )
    if options.adapter is None:
        raise UsageError(f"give --adapter: a registered model, PATH.py, or {ADAPTER}.")
    _check_adapter(options.adapter)
    defaults = {"backends": "torch", "precisions": "fp32", "devices": "cpu"}
    values = {**defaults, **{k: v for k, v in shared.items() if v is not None}}
    request = make_request({**values, "models": options.adapter, "seed": settings.seed}, command=command_line())
    with tempfile.TemporaryDirectory() as logs, ModelUnderTest(request, logs=Path(logs), events=events) as model:
        task = options.task or model.plan.spec.task
        settings = replace(settings, task=task)  # type: ignore[arg-type]
        if task == "pose" and model.plan.spec.task != "pose":
            raise UsageError(f"--task pose: {model.plan.spec.name} finds no keypoints.")
        source = ModelSource(model)
        return _run(source, model.plan.fixtures, options, chosen, settings, started, events, includes=INCLUDES)


def _run(
    source: Source,
    fixtures: FixtureSet,
    options: ScenarioOptions,
    chosen: Sequence[Scenario],
    settings: Settings,
    started: datetime.datetime,
    events: Events,
    *,
    includes: str | None,
) -> ScenarioRun:
    results, interrupted = run_scenarios(source, fixtures, chosen, settings, events)
    return ScenarioRun(
        started_at=_utc(started),
        finished_at=_utc(datetime.datetime.now(datetime.UTC)),
        command=command_line(),
        host=describe_host(),
        git=describe_git(),
        model=source.facts(),
        fixtures={
            "name": fixtures.name,
            "split": fixtures.split,
            "sha256": fixtures.sha256,
            "images": len(fixtures.samples),
            "objects": sum(not a.get("iscrowd", 0) for a in fixtures.annotations),
        },
        protocol=source.protocol(),
        definitions={
            "sha256": definitions_sha256(chosen),
            "file": None if options.scenarios is None else options.scenarios.name,
        },
        task=settings.task,
        scorer=scorer_name(),
        seed=settings.seed,
        resamples=settings.resamples,
        latency_includes=includes if source.no_latency is None else None,
        scenarios=results,
        exit_code=exit_code(results, interrupted=interrupted),
    )


def _finish(document: Mapping[str, Any], folder: Path, options: ScenarioOptions) -> int:
    """Write the result and the page; print the table, the JSON, or the page's path."""
    from bench.report.scenarios import render_scenarios
    from bench.report.scenarioterminal import print_scenarios

    write_atomic(folder / RESULT_NAME, dumps(document))
    page = write_atomic(folder / PAGE_NAME, render_scenarios(document))
    if options.as_json:
        sys.stdout.write(dumps(document))
    elif options.quiet:
        Console().print(str(page), markup=False, highlight=False, soft_wrap=True)
    else:
        print_scenarios(document, Console(), page=str(page))
    return int(document["exit_code"])


def _write_images(
    shared: Mapping[str, Any], options: ScenarioOptions, defined: Mapping[str, Scenario], seed: int
) -> int:
    assert options.write_images is not None
    name, out = options.write_images
    known_name("--write-images", name, defined)
    with ConsoleEvents(Console(stderr=True), quiet=options.quiet) as events:
        fixtures = _first(_images(shared, events), shared)
        made = write_folder(
            fixtures,
            defined[name],
            seed=seed,
            out=out,
            progress=lambda done, total: events.progress(f"write {name}", done, total),
        )
    count = numbers.plural(len(made.fixtures.samples), "image")
    objects = numbers.plural(sum(not a.get("iscrowd", 0) for a in made.fixtures.annotations), "object")
    text = f"{out}: {count} with {objects}. Predict them, then add --predictions {name}=FILE."
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def _images(shared: Mapping[str, Any], events: Events) -> FixtureSet:
    name = shared.get("fixtures")
    if name is None:
        raise UsageError("give the images and their truth: --dataset NAME|DIR.")
    events.stage(f"Opening {name}")
    found = resolve(str(name), progress=lambda done, total: events.progress(f"render {name}", done, total))
    if not found.samples:
        raise InputError(f"--dataset {name}: holds no image.")
    return found


def _first(fixtures: FixtureSet, shared: Mapping[str, Any]) -> FixtureSet:
    return fixtures.take(make_request({"max_images": shared.get("max_images")}, command="").max_images)


def _check_adapter(adapter: str) -> None:
    """An unknown name; ``precomputed`` is one of the known."""
    from bench.registry import adapter_names

    known = [*adapter_names(), ADAPTER]
    if adapter not in known and not any(mark in adapter for mark in (":", "/", ".py")):
        raise UsageError(f"--adapter {adapter}: unknown.{did_you_mean(adapter, known)}")


def _min_ap(texts: Sequence[str], chosen: Sequence[Scenario], defined: Mapping[str, Scenario]) -> dict[str, float]:
    found = {}
    for text in split(texts):
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--min-ap {text}: give NAME=X, for example clean=0.4.")
        known_name("--min-ap", name, defined)
        if name not in {s.name for s in chosen}:
            raise UsageError(f"--min-ap {text}: {name} is not among --only.")
        try:
            number = float(value)
        except ValueError:
            raise UsageError(f"--min-ap {text}: {value!r} is not a number.") from None
        if not 0 <= number <= 1:
            raise UsageError(f"--min-ap {text}: AP is between 0 and 1.")
        found[name] = number
    return found


def _at_least(option: str, value: int | None, default: int, minimum: int) -> int:
    if value is None:
        return default
    if value < minimum:
        raise UsageError(f"{option} {value}: must be at least {minimum}.")
    return value


def _utc(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
