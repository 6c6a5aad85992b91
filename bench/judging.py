"""From what was measured of one model to the result of each of its cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.compare import compare_preprocess, compare_tensors, tensor_budget, tensor_rms
from bench.errors import InputError
from bench.matching import ImageDifference, compare_predictions
from bench.results import AccuracyResult, ArtifactRecord, CellResult, Observed, ParityResult, SpeedResult
from bench.scoring import score, scorer_name
from bench.scoring.table import from_predictions
from bench.thumbs import worst_flips
from bench.timing import MAX_SAMPLES_KEPT, latency_stats, speed_ratio
from bench.verdicts import GATED_PREDICTIONS, GATED_TENSORS, findings, judge_accuracy
from bench.waivers import find_waiver

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping

    from bench.matrix import Request
    from bench.modelrun import ModelRun, Record

INCLUDES = (
    "one whole-graph step on resident inputs, then wait; not decoding, pre-processing, host copies or post-processing"
)
_FLIPS_FOR = ("accuracy", "parity", "min-ap")


@dataclass(frozen=True, slots=True)
class _Reference:
    record: Record | None
    stats: Mapping[str, float | None] | None


def judge_model(run: ModelRun, request: Request, *, today: datetime.date) -> list[CellResult]:
    """Judge every cell; works on unfinished runs too, whose missing cells say so."""
    reference = next(r for r in run.records if r.planned.role == "reference")
    failed_scores: dict[str, str] = {}
    stats = {str(r.cell): _stats(run, r, failed_scores) for r in run.records if r.accuracy is not None}
    base = _Reference(reference if reference.accuracy is not None else None, stats.get(str(reference.cell)))
    return [
        _judge(run, request, r, base, stats.get(str(r.cell)), failed_scores.get(str(r.cell)), today)
        for r in run.records
    ]


def _stats(run: ModelRun, record: Record, failed: dict[str, str]) -> dict[str, float | None] | None:
    if record.accuracy is None:
        return None
    try:
        detections = from_predictions(record.accuracy.predictions, run.plan.labels_to_categories)
    except InputError as error:
        failed[str(record.cell)] = f"Its detections cannot be scored: {error}"
        return None
    return score(run.plan.fixtures, detections)


def _judge(
    run: ModelRun,
    request: Request,
    record: Record,
    base: _Reference,
    stats: Mapping[str, float | None] | None,
    unscored: str | None,
    today: datetime.date,
) -> CellResult:
    planned = record.planned
    result = CellResult(
        cell=planned.cell,
        role=planned.role,
        status="skipped",
        duration_s=round(record.duration_s, 3),
        artifact=_artifact(record),
        observed=_observed(record),
        startup=record.startup,
        failure=record.failure,
        memory=None if record.peak_rss_mb is None else {"peak_rss_mb": round(record.peak_rss_mb, 1), "device_mb": None},
    )
    if record.blocked is not None:
        status, reason, short = record.blocked
        done = replace(result, status=status, reason=reason, reason_short=short[:22])  # type: ignore[arg-type]
        return _waive(done, "error", request, today) if status in ("error", "failed") else done
    if record.accuracy is None:
        return replace(result, reason="The run ended before this cell finished.", reason_short="run ended early")
    parity, differences = _parity(run, record, base)
    if unscored is not None:
        parity = (
            *parity,
            ParityResult(
                level="prediction",
                name="scoring",
                total=len(record.accuracy.predictions),
                mismatched=1,
                passed=False,
                explain=unscored,
            ),
        )
    accuracy = None
    if stats is not None:
        is_reference = planned.role == "reference"
        if not is_reference and base.stats is None:
            accuracy = AccuracyResult(
                metric="AP",
                images=len(run.plan.fixtures.samples),
                stats=stats,
                scorer=scorer_name(),
                verdict="undecided",
                reason="The reference cell has no result to compare with.",
            )
        else:
            accuracy = judge_accuracy(
                planned.cell.precision,
                stats,
                None if is_reference else base.stats,
                images=len(run.plan.fixtures.samples),
                scorer=scorer_name(),
                margins=request.margins,
            )
    emulated = planned.mode == "emulated"
    speed = _speed(
        record,
        base,
        emulated=emulated,
        wrong=any(p.passed is False for p in parity) or (accuracy is not None and accuracy.verdict == "failed"),
        load_average=run.load_average,
    )
    found = findings(
        attestation=record.attestation,
        parity=parity,
        accuracy=accuracy,
        speed=speed,
        emulated=emulated,
        min_ap=request.min_ap,
        max_latency_ms=request.max_latency_ms,
    )
    result = replace(result, parity=parity, accuracy=accuracy, speed=speed, findings=tuple(found))
    if not found:
        return replace(result, status="passed")
    first = found[0]
    if first.check in _FLIPS_FOR and first.status == "failed" and base.record is not None and base.record.accuracy:
        result = replace(
            result,
            flips=worst_flips(
                differences,
                run.plan.fixtures,
                base.record.accuracy.predictions,
                record.accuracy.predictions,
                run.plan.spec.class_names,
            ),
        )
    reason = " ".join(f.reason for f in found if f.status == first.status)
    done = replace(result, status=first.status, reason=reason, reason_short=first.short)
    return _waive(done, first.check, request, today)


def _waive(result: CellResult, check: str, request: Request, today: datetime.date) -> CellResult:
    waiver = find_waiver(request.waivers, result.cell.id, check, today)
    if waiver is None:
        return result
    return replace(
        result,
        status="waived",
        reason=f"Waived until {waiver.expires}: {waiver.reason} ({result.reason})",
        waiver={"check": check, "reason": waiver.reason, "expires": waiver.expires.isoformat()},
    )


def _parity(
    run: ModelRun, record: Record, base: _Reference
) -> tuple[tuple[ParityResult, ...], tuple[ImageDifference, ...]]:
    rows: list[ParityResult] = []
    differences: tuple[ImageDifference, ...] = ()
    precision = record.cell.precision
    is_reference = record.planned.role == "reference"
    if record.accuracy is not None and base.record is not None and base.record.accuracy and not is_reference:
        rows.append(compare_preprocess(base.record.accuracy.feed_hashes, record.accuracy.feed_hashes))
    rows.extend(_tensors(run, record, base))
    if record.accuracy is not None and base.record is not None and base.record.accuracy and not is_reference:
        row, differences = compare_predictions(
            base.record.accuracy.predictions,
            record.accuracy.predictions,
            class_names=run.plan.spec.class_names,
            gate=precision in GATED_PREDICTIONS,
            max_detections=run.plan.spec.max_detections,
            emission_floor=run.plan.spec.score_floor,
        )
        rows.append(row)
    return tuple(rows), differences


def _tensors(run: ModelRun, record: Record, base: _Reference) -> list[ParityResult]:
    """Each raw output against the golden, or against the reference when there is no golden."""
    precision = record.cell.precision
    yardstick = run.yardsticks.get(precision)
    if run.golden_raw is not None:
        golden, against = run.golden_raw, "fp64 golden"
    elif base.record is not None and base.record is not record and base.record.raw is not None:
        golden, against = base.record.raw, "reference (there is no golden)"
    else:
        return []
    rows = []
    gated = precision in GATED_TENSORS or (precision in ("fp16", "bf16") and yardstick is not None)
    if yardstick is not None and record.raw is yardstick:
        gated = False  # it would be measured by its own error, which cannot fail
    for spec in run.plan.spec.outputs:
        candidate = [s[spec.name] for s in record.raw or [] if spec.name in s]
        expected = [s[spec.name] for s in golden]
        budget = None
        if gated:
            own = 0.0
            if yardstick is not None:
                own = tensor_rms([y[spec.name] - g for y, g in zip(yardstick, expected, strict=True)])
            budget = tensor_budget(tensor_rms(expected), own)
        rows.append(compare_tensors(f"{spec.name} against the {against}", candidate, expected, budget=budget))
    return rows


def _speed(
    record: Record, base: _Reference, *, emulated: bool, wrong: bool, load_average: tuple[float, float] | None
) -> SpeedResult | None:
    if not record.rounds or record.accuracy is None:
        return None
    samples_ms = [v for r in record.rounds for v in r["samples_ms"]]
    latency = latency_stats(samples_ms)
    p50 = latency["p50"] or 0.0
    passes = record.accuracy
    end_to_end = [a + b + c for a, b, c in zip(passes.pre_ms, passes.run_ms, passes.post_ms, strict=True)]
    speed = SpeedResult(
        latency_ms=latency,
        fps=record.cell.batch * 1000.0 / p50 if p50 else 0.0,
        samples=len(samples_ms),
        includes=INCLUDES,
        end_to_end_ms=latency_stats(end_to_end),
        verdict="not judged",
        noise={}
        if load_average is None
        else {"load_average_before": round(load_average[0], 2), "load_average_after": round(load_average[1], 2)},
        rounds=tuple(record.rounds[: MAX_SAMPLES_KEPT // max(len(record.rounds[0]["samples_ms"]), 1)]),
    )
    if record.planned.role == "reference":
        return replace(speed, ratio=1.0, verdict="reference")
    if emulated:
        return replace(speed, verdict="emulated")
    reference = base.record
    same_device = reference is not None and reference.cell.device == record.cell.device
    if reference is None or not same_device or len(reference.rounds) != len(record.rounds) or wrong:
        return speed
    return replace(
        speed, ratio=speed_ratio([r["samples_ms"] for r in reference.rounds], [r["samples_ms"] for r in record.rounds])
    )


def _artifact(record: Record) -> ArtifactRecord | None:
    made = record.artifact
    if made is None:
        return None
    size = made.path.stat().st_size if made.path.is_file() else sum(p.stat().st_size for p in made.path.glob("*"))
    return ArtifactRecord(
        kind=made.kind, sha256=made.sha256, bytes=size, made_from=made.made_from, recipe=dict(made.recipe)
    )


def _observed(record: Record) -> Observed | None:
    seen = record.evidence
    if seen is None:
        return None
    return Observed(
        precision=seen.precision,
        provider=seen.provider,
        emulated=seen.emulated,
        evidence={**seen.details, "runtime": record.version},
    )
