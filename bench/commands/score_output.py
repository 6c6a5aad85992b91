"""What ``parity score`` writes: the lines for a person and the ``score_result/1`` document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.commands.score_poses import pose_lines
from bench.results import StatDelta
from bench.schema import to_json
from bench.scoring import scorer_name
from bench.verdicts import signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rich.console import Console

    from bench.protocols import Protocol
    from bench.results import AccuracyResult, ClassDelta, CrossCheck, PoseResult
    from bench.scoring import Matched
    from bench.scoring.protocol import Task

_STYLES = {"passed": "green", "failed": "red", "suspicious": "magenta", "undecided": "yellow"}
_LARGEST_CLASSES = 5
_SHOWN_AP = 0.00005
"""Smaller is shown as 0.0000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One file, or a candidate and its reference in this order."""

    fixtures: str
    task: Task
    task_reason: str | None
    paths: tuple[Path, ...]
    detections: tuple[int, ...]
    matched: tuple[Matched, ...]
    checks: tuple[CrossCheck | None, ...]
    checked: str
    """``all``, ``one`` or ``none``: which files were to be cross-checked."""
    accuracy: AccuracyResult | None
    """None for one file alone."""
    precision: str | None
    """Whose rule gave the margin; None when the margin was given."""
    resamples: int
    seed: int
    warnings: tuple[str, ...]
    pose: PoseResult | None = None
    """None where there are no poses."""
    protocol: Protocol | None = None
    """That both files follow, or were allowed not to."""

    @property
    def names(self) -> tuple[str, ...]:
        """COCO's numbers of this task."""
        return tuple(self.matched[0].stats)

    def delta(self, name: str) -> StatDelta:
        """Difference of one number; without an interval where none was computed."""
        if self.accuracy is not None and name in self.accuracy.deltas:
            return self.accuracy.deltas[name]
        ours, theirs = (side.stats[name] for side in self.matched)
        return StatDelta(value=None if ours is None or theirs is None else ours - theirs)


def document_of(scored: Scored) -> dict[str, Any]:
    """Return the ``score_result/1`` document, before non-finite numbers are put into words."""
    return {
        "schema": "score_result/1",
        "images": len(scored.matched[0].images),
        "scorer": scorer_name(),
        "task": scored.task,
        "detections": scored.detections[0],
        "stats": dict(scored.matched[0].stats),
        "cross_check": _check(scored.checks[0]),
        "warnings": list(scored.warnings),
        "protocol": None if scored.protocol is None else {"id": scored.protocol.id, "hash": scored.protocol.hash},
        "pose": to_json(scored.pose),
        "against": None if scored.accuracy is None else _against(scored, scored.accuracy),
    }


def _against(scored: Scored, accuracy: AccuracyResult) -> dict[str, Any]:
    intervals = any(scored.delta(name).ci95 is not None for name in scored.names)
    return {
        "images": len(scored.matched[1].images),
        "detections": scored.detections[1],
        "stats": dict(scored.matched[1].stats),
        "delta": {name: _delta(scored.delta(name), accuracy if name == "AP" else None) for name in scored.names},
        "per_class": [
            {
                "name": row.name,
                "objects": row.objects,
                "ap": row.ap,
                "reference_ap": row.reference_ap,
                "delta": row.delta,
                "ci95": _pair(row.ci95),
                "p_value": row.p_value,
                "significant": row.significant,
            }
            for row in accuracy.per_class
        ],
        "resamples": scored.resamples if intervals else 0,
        "seed": scored.seed,
        "precision": scored.precision,
        "verdict": accuracy.verdict,
        "reason": accuracy.reason,
        "images_to_decide": accuracy.images_to_decide,
        "cross_check": _check(scored.checks[1]),
    }


def _delta(delta: StatDelta, judged: AccuracyResult | None) -> dict[str, Any]:
    return {
        "value": delta.value,
        "ci95": _pair(delta.ci95),
        "margin": None if judged is None else judged.margin,
        "resolvable": None if judged is None else judged.resolvable,
        "verdict": "not judged" if judged is None else judged.verdict,
    }


def _pair(ci95: tuple[float, float] | None) -> list[float] | None:
    return None if ci95 is None else list(ci95)


def _check(check: CrossCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {"scorer": check.scorer, "max_abs_difference": check.max_abs_difference, "agrees": check.agrees}


def print_scored(console: Console, scored: Scored, *, verbose: bool) -> None:
    """Print the numbers, and against another file the differences, the verdict and the classes."""
    for line in _lines(scored, verbose=verbose):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in () if scored.pose is None else pose_lines(scored.pose):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    accuracy = scored.accuracy
    if accuracy is None:
        return
    style = _STYLES[accuracy.verdict]
    console.print(
        f"\n{accuracy.verdict}: {_sentence(scored, accuracy)}",
        style=style,
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _lines(scored: Scored, *, verbose: bool) -> Iterable[str]:
    files = " against ".join(
        f"{path.name} ({count:,} detections)" for path, count in zip(scored.paths, scored.detections, strict=True)
    )
    yield f"{files} on {scored.fixtures}: {len(scored.matched[0].images):,} images"
    if scored.task_reason:
        yield f"Scored: {scored.task_reason}."
    yield f"Scorer: {scorer_name()}; cross-check: {_checks(scored)}."
    if scored.protocol is not None:
        yield f"Protocol: {scored.protocol.label}."
    yield ""
    if scored.accuracy is None:
        half = (len(scored.names) + 1) // 2
        for names in (scored.names[:half], scored.names[half:]):
            yield "  ".join(f"{name:>6}" for name in names)
            yield "  ".join(f"{_share(scored.matched[0].stats[name]):>6}" for name in names)
        return
    rows = [("", "A", "B", "A - B", "95 % interval")]
    for name in scored.names:
        delta = scored.delta(name)
        ours, theirs = (side.stats[name] for side in scored.matched)
        rows.append((name, _share(ours), _share(theirs), _signed(delta.value), _interval(delta.ci95)))
    yield from _aligned(rows)
    yield from _class_lines(scored.accuracy.per_class, verbose=verbose)


def _class_lines(classes: Sequence[ClassDelta], *, verbose: bool) -> Iterable[str]:
    known = [row for row in classes if row.delta is not None]
    if not known:
        return
    ranked = sorted(known, key=lambda row: -abs(row.delta or 0.0))
    moved = [row for i, row in enumerate(ranked) if row.significant or (i < _LARGEST_CLASSES and row.delta != 0)]
    chosen = ranked if verbose else moved
    significant = sum(row.significant for row in known)
    left = len(known) - len(chosen)
    yield ""
    yield (
        f"Classes: {significant} of {len(known)} differ significantly (Holm-adjusted p at most 0.05)"
        + (f"; {left} more with --verbose or --json" if left else "")
    )
    if not chosen:
        return
    rows = [("", "objects", "A", "B", "A - B", "95 % interval", "p")]
    rows += [
        (
            f"{row.name:.40}" + (" *" if row.significant else ""),
            f"{row.objects:,}",
            _share(row.ap),
            _share(row.reference_ap),
            _signed(row.delta),
            _interval(row.ci95),
            "n/a" if row.p_value is None else f"{row.p_value:.3f}",
        )
        for row in chosen
    ]
    yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """Names to the left, numbers to the right, in columns as wide as their widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()


def _sentence(scored: Scored, accuracy: AccuracyResult) -> str:
    if accuracy.reason is not None:
        told = accuracy.reason
    else:
        told = (
            f"ΔAP {_signed(accuracy.delta)} {_interval(accuracy.ci95)} loses no more than the margin of "
            f"{accuracy.margin:.4f}."
        )
    rule = "given" if scored.precision is None else f"the rule of {scored.precision}"
    margin = "" if accuracy.margin is None else f" Margin: {rule}."
    resolvable = (
        ""
        if accuracy.resolvable is None or accuracy.resolvable < _SHOWN_AP
        else f" A true loss of {accuracy.resolvable:.4f} AP would show on these images in 4 of 5 cases."
    )
    return told + margin + resolvable


def _checks(scored: Scored) -> str:
    if scored.checked == "none":
        return "none (--cross-check none)"
    told = []
    wanted = scored.checks[: 1 if scored.checked == "one" else None]
    for path, check in zip(scored.paths, wanted, strict=False):
        name = f"{path.name}: " if len(scored.paths) > 1 else ""
        if check is None:
            told.append(f"{name}none, there are no detections")
        else:
            word = "agrees" if check.agrees else "DISAGREES"
            told.append(f"{name}{check.scorer} {word} (largest difference {check.max_abs_difference:.1g})")
    return "; ".join(told)


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "n/a" if value is None else signed(value)


def _interval(ci95: tuple[float, float] | None) -> str:
    return "none" if ci95 is None else f"[{signed(ci95[0])}, {signed(ci95[1])}]"
