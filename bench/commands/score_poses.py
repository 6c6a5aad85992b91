"""Poses of the files that ``parity score`` was given: measured, judged against the other file, and in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.numerals import fixed, signed
from bench.posing import judge_pose, measure, pose_truth
from bench.posing.wording import WORDS, in_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.results import PoseNumber, PoseResult
    from bench.scoring import Detections
    from bench.types import FixtureSet


def judge_poses(
    detections: Sequence[Detections],
    truth: FixtureSet,
    *,
    precision: str,
    margins: Mapping[str, float],
    resamples: int,
    seed: int,
) -> PoseResult | None:
    """Measure one file, or judge a candidate against its reference.

    Args:
        detections: of the candidate, then of the reference if there is one.
        truth: the set that they are scored on.
        precision: whose margins judge.
        margins: precision -> allowed loss of a share, instead of the rule.
        resamples: of the paired bootstrap, those that AP is judged by.
        seed: of the bootstrap.

    Returns:
        None where the set has no true poses or neither file has any.
    """
    if not any(d.attributes for d in detections):
        return None
    poses = pose_truth(truth)
    if poses is None:
        return None
    reference = measure(poses, detections[1]) if len(detections) > 1 else None
    candidate = measure(poses, detections[0], like=reference)
    if candidate is None:
        return None
    judged = judge_pose(precision, candidate, reference, margins=margins, resamples=resamples, seed=seed)
    if len(detections) > 1 and reference is None and judged.verdict == "reference":
        return replace(judged, verdict="undecided", reason="The other file has no poses.")
    return judged


def pose_lines(pose: PoseResult) -> Iterator[str]:
    """One line of what was matched, then one per number."""
    yield ""
    yield f"Poses: {pose.matched:,} of {pose.objects:,} objects matched at IoU {pose.iou:g}"
    width = max(len(WORDS[number.name]) for number in pose.numbers)
    for number in pose.numbers:
        yield f"{WORDS[number.name]:<{width}}  {_line(number)}".rstrip()
    if pose.verdict != "reference":
        yield f"Poses {pose.verdict}{f': {pose.reason}' if pose.reason else '.'}"
    elif pose.reason:
        yield pose.reason


def _line(number: PoseNumber) -> str:
    value = "n/a" if number.value is None else _text(number, number.value, fixed)
    if number.delta is None:
        return f"{value:>10}"
    ends = "" if number.ci95 is None else f" [{', '.join(_text(number, end, signed) for end in number.ci95)}]"
    word = "" if number.verdict == "not judged" else f"  {number.verdict}"
    return f"{value:>10}  {_text(number, number.delta, signed)}{ends}{word}"


def _text(number: PoseNumber, value: float, write: Callable[[float, int], str]) -> str:
    return in_unit(number.name, number.unit, value, write)
