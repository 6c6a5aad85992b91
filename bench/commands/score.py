"""``parity score``: numbers of a predictions file, alone or against another one, without any runtime."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from bench.accuracy import judge_accuracy
from bench.commands.score_output import Scored, document_of, print_scored
from bench.commands.score_poses import judge_poses
from bench.datasets import read_coco
from bench.errors import InputError, UsageError, did_you_mean
from bench.files import write_atomic
from bench.fixtures import resolve
from bench.options import CROSS_CHECKS, MIN_RESAMPLES, split
from bench.predictions import read_predictions
from bench.predictions.agreement import (
    Side,
    check_images,
    contradictions,
    doubts,
    intersect,
    protocol_differences,
    refuse_other_fixtures,
)
from bench.predictions.points import keypoint_categories
from bench.protocols import between, load_protocol, mismatches, pin_of_meta, refuse, settings_of_meta
from bench.schema import dumps, validate
from bench.scoring import cross_check, match
from bench.scoring.oracle import SLOW_S, estimate_pycocotools_s
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.protocols import Protocol
    from bench.results import AccuracyResult, CrossCheck
    from bench.scoring import Matched
    from bench.scoring.protocol import Task
    from bench.types import FixtureSet

_EXIT_CODES = {"passed": 0, "failed": 1, "suspicious": 1, "undecided": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """What was typed, already of the right kind."""

    fixtures: str | None = None
    annotations: Path | None = None
    against: Path | None = None
    bbox_formats: tuple[str, ...] = ()
    """One for both files, or one for each."""
    task: Task | None = None
    """None: by what the files and the set hold."""
    bootstrap: int = 1000
    seed: int = 0
    precision: str = "fp32"
    margin: float | None = None
    intersect: bool = False
    cross_check: str = "one"
    protocol: Protocol | None = None
    allow_protocol_mismatch: bool = False
    verbose: bool = False
    json_out: Path | None = None


def make_options(
    *,
    fixtures: str | None,
    annotations: Path | None,
    against: Path | None,
    bbox_format: str | None,
    task: str | None,
    bootstrap: int | None,
    seed: int | None,
    precision: str | None,
    margin: str | None,
    intersect: bool,
    cross_check: str | None,
    protocol: str | None = None,
    allow_protocol_mismatch: bool = False,
    verbose: bool,
    json_out: Path | None,
) -> ScoreOptions:
    """Check the words of the command line; UsageError names the one that does not fit."""
    if (fixtures is None) == (annotations is None):
        raise UsageError("give the ground truth: either --fixtures NAME|DIR or --annotations FILE.json")
    alone = {"--intersect": intersect, "--margin": margin, "--precision": precision, "--bootstrap": bootstrap}
    for name, value in alone.items():
        if against is None and value not in (None, False):
            raise UsageError(f"{name} is about a difference: give the other file by --against B.json")
    if bootstrap is not None and bootstrap < MIN_RESAMPLES:
        raise UsageError(f"--bootstrap {bootstrap}: must be at least {MIN_RESAMPLES}.")
    if seed is not None and seed < 0:
        raise UsageError(f"--seed {seed}: must be at least 0.")
    for name, given, known in (
        ("--precision", precision, PRECISIONS),
        ("--cross-check", cross_check, CROSS_CHECKS),
        ("--task", task, ("detect", "pose")),
    ):
        if given is not None and given not in known:
            raise UsageError(f"{name} {given}: unknown.{did_you_mean(given, known)}")
    formats = split(bbox_format)
    if len(formats) > (1 if against is None else 2):
        raise UsageError(f"--bbox-format {bbox_format}: one for both files, or one for each, comma separated.")
    return ScoreOptions(
        fixtures=fixtures,
        annotations=annotations,
        against=against,
        bbox_formats=formats,
        task=task,  # type: ignore[arg-type]
        bootstrap=1000 if bootstrap is None else bootstrap,
        seed=seed or 0,
        precision=precision or "fp32",
        margin=None if margin is None else _margin(margin),
        intersect=intersect,
        cross_check=cross_check or "one",
        protocol=None if protocol is None else load_protocol(protocol),
        allow_protocol_mismatch=allow_protocol_mismatch,
        verbose=verbose,
        json_out=json_out,
    )


def score_command(predictions: Path, options: ScoreOptions) -> int:
    """Read, check, score, judge, print.

    Returns:
        Alone 0, also for AP 0, but 1 where a matched object's pose is not finite. Against another file the worse of AP
        and poses: 0 passed, 1 failed or suspicious, 3 undecided. 1 when an independent scorer disagrees.
    """
    errors = Console(stderr=True)
    truth = _ground_truth(options)
    paths = (predictions,) if options.against is None else (predictions, options.against)
    formats = (*options.bbox_formats, *options.bbox_formats[:1], None, None)[: len(paths)]
    sides = [
        Side(
            path=path,
            read=read_predictions(path, truth, bbox_format=bbox_format, keypoints=options.task != "detect"),
        )
        for path, bbox_format in zip(paths, formats, strict=True)
    ]
    warnings = [f"{side.path.name}: {text}" for side in sides for text in side.read.warnings]
    warnings += _check_protocol(options, sides, formats, truth)
    if len(sides) == 2:
        sides, truth, found = _paired(options, sides[0], sides[1], truth)
        warnings += found
    for warning in warnings:
        errors.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    task, why = _task(options, sides, truth)
    matched = [match(truth, side.read.detections, task=task) for side in sides]
    checks = _cross_checks(options, sides, matched, truth, errors)
    accuracy = None
    if len(sides) == 2:
        with errors.status(f"{options.bootstrap:,} paired resamples of {len(truth.samples):,} images"):
            accuracy = _judged(options, sides, matched)
    pose = judge_poses(
        [side.read.detections for side in sides],
        truth,
        precision=options.precision,
        margins={} if options.margin is None else {options.precision: options.margin},
        resamples=options.bootstrap,
        seed=options.seed,
    )
    scored = Scored(
        fixtures=truth.name,
        task=task,
        task_reason=why,
        paths=paths,
        detections=tuple(len(side.read.detections) for side in sides),
        matched=tuple(matched),
        checks=checks,
        checked=options.cross_check,
        accuracy=accuracy,
        precision=None if options.margin is not None else options.precision,
        resamples=options.bootstrap,
        seed=options.seed,
        warnings=tuple(warnings),
        protocol=options.protocol,
        pose=pose,
    )
    document = document_of(scored)
    validate(document, "score_result", where="score result")
    if options.json_out is not None:
        write_atomic(options.json_out, dumps(document))
    print_scored(Console(), scored, verbose=options.verbose)
    wrong = [check for check in checks if check is not None and not check.agrees]
    if wrong:
        errors.print(
            f"error: {wrong[0].scorer} finds other numbers (by up to {wrong[0].max_abs_difference:g}): believe "
            "neither, and report these files as a defect of the scorer",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return 1
    return _exit_code([verdict.verdict for verdict in (accuracy, pose) if verdict is not None])


def _exit_code(words: Sequence[str]) -> int:
    """1 before 3 before 0."""
    codes = [_EXIT_CODES[word] for word in words if word != "reference"]
    return 1 if 1 in codes else max(codes, default=0)


def _check_protocol(
    options: ScoreOptions, sides: Sequence[Side], formats: Sequence[str | None], truth: FixtureSet
) -> list[str]:
    """Refuse files that do not follow the protocol, or that were pinned to two; warnings where that is allowed."""
    allow, warnings = options.allow_protocol_mismatch, list[str]()
    if options.protocol is None:
        if len(sides) == 2:
            pins = [pin_of_meta(side.read.meta) for side in sides]
            warnings += refuse(str(sides[0].path), f"of {sides[1].path}", between(pins[0], pins[1]), allow=allow)
        return warnings
    for side, bbox_format in zip(sides, formats, strict=True):
        stated = bbox_format or side.read.meta.get("bbox_format")
        settings = settings_of_meta(side.read.meta, truth, bbox_format=stated)
        found = [*mismatches(options.protocol, settings), *contradictions(options.protocol, side.read.detections)]
        warnings += refuse(str(side.path), options.protocol.label, found, allow=allow)
    return warnings


def _paired(
    options: ScoreOptions, candidate: Side, reference: Side, truth: FixtureSet
) -> tuple[list[Side], FixtureSet, list[str]]:
    """The pair on the images that are scored, those images, and what to warn of."""
    refuse_other_fixtures(candidate, reference)
    if options.intersect:
        every = len(truth.samples)
        candidate, reference, truth = intersect(candidate, reference, truth)
        warnings = [f"{len(truth.samples)} of {every} images are in both files: only those are scored"]
        unlisted = ", ".join(side.path.name for side in (candidate, reference) if side.read.listed is None)
        if unlisted:
            warnings.append(f"an image without detections is not in {unlisted}: a results list lists none")
    else:
        warnings = list(check_images(candidate, reference, truth))
    return [candidate, reference], truth, [*warnings, *doubts(candidate, reference)]


def _margin(text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        raise UsageError(
            f"--margin {text!r}: give the allowed AP loss as a number, for example 0.002; --precision P chooses a rule."
        ) from None
    if not 0 <= margin < math.inf:
        raise UsageError(f"--margin {text}: must be a finite number of at least 0.")
    return margin


def _ground_truth(options: ScoreOptions) -> FixtureSet:
    if options.annotations is not None:
        return read_coco(options.annotations, None, name=options.annotations.stem, split="val")
    return resolve(str(options.fixtures))


def _task(options: ScoreOptions, sides: Sequence[Side], truth: FixtureSet) -> tuple[Task, str | None]:
    """The task, and a word on why where it was not asked for and might surprise."""
    found = [side for side in sides if len(side.read.detections)]
    pointed = [side for side in found if side.read.detections.keypoints_xyv is not None]
    if options.task == "detect":
        return "detect", None
    if options.task == "pose":
        if len(pointed) < len(found):
            lacking = next(side for side in found if side.read.detections.keypoints_xyv is None)
            raise InputError(
                f"{lacking.path}: no keypoints to score against '{truth.name}'"
                + ("" if keypoint_categories(truth) else ", whose categories name none")
                + "; say --task detect to score the boxes"
            )
        return "pose", None
    if not pointed:
        return "detect", None
    if len(pointed) < len(found):
        lacking = next(side for side in found if side.read.detections.keypoints_xyv is None)
        raise InputError(
            f"{pointed[0].path} has keypoints and {lacking.path} has none: say --task detect to compare the boxes"
        )
    return "pose", "keypoints by OKS, as the set and every file have some; --task detect scores the boxes"


def _cross_checks(
    options: ScoreOptions, sides: Sequence[Side], matched: Sequence[Matched], truth: FixtureSet, errors: Console
) -> tuple[CrossCheck | None, ...]:
    """By an independent scorer, of the candidate or of both; None where it was not asked for or nothing was found."""
    count = {"none": 0, "one": 1, "all": len(sides)}[options.cross_check]
    done: list[CrossCheck | None] = []
    for side, own in list(zip(sides, matched, strict=True))[:count]:
        expected_s = estimate_pycocotools_s(own.truth, side.read.detections)
        if expected_s > SLOW_S and importlib.util.find_spec("hotcoco") is None:
            errors.print(
                f"{side.path.name}: cross-check by pycocotools takes about {expected_s:.0f} s; --cross-check none "
                "leaves it out, hotcoco (pip install hotcoco) makes it fast",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        with errors.status(f"cross-check of {side.path.name}"):
            done.append(cross_check(truth, side.read.detections, own.stats, task=own.task))
    return (*done, *[None] * (len(sides) - count))


def _judged(options: ScoreOptions, sides: Sequence[Side], matched: Sequence[Matched]) -> AccuracyResult:
    judged = judge_accuracy(
        options.precision,
        matched[0],
        matched[1],
        margins={} if options.margin is None else {options.precision: options.margin},
        resamples=options.bootstrap,
        seed=options.seed,
    )
    other = protocol_differences(sides[0], sides[1])
    if not other:
        return judged
    found = "" if judged.verdict == "undecided" else f" Taken as it stands it would be {judged.verdict}."
    reason = f"Made by another protocol ({'; '.join(other)}): the difference is not the backend's alone.{found}"
    return replace(judged, verdict="undecided", reason=reason, images_to_decide=None)
