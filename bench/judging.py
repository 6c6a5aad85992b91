"""From what was measured of one model to the result of each of its cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from bench.accuracy import judge_accuracy
from bench.compare import compare_preprocess, compare_tensors, parts_of, tensor_budget, tensor_rms
from bench.explaining import agreements, kept_agreement, set_beside_fp32
from bench.goldens import committed_row
from bench.matching import ImageDifference, compare_predictions
from bench.posing import judge_pose
from bench.record import artifact_record, observed
from bench.results import AccuracyResult, CellResult, ParityResult, PoseResult, SpeedResult, TimingCheck
from bench.scored import Scored, score_cells
from bench.scoring import scorer_name
from bench.speed import check_repeated_input, check_timed_outputs, judge_speed, output_limits
from bench.thumbs import worst_flips
from bench.timing import MAX_SAMPLES_KEPT, latency_stats
from bench.verdicts import GATED_PREDICTIONS, GATED_TENSORS, findings, is_wrong
from bench.waivers import find_waiver

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping, Sequence

    from bench.matrix import Request
    from bench.modelrun import ModelRun, Record
    from bench.results import AgreementResult

INCLUDES = (
    "one whole-graph step on resident inputs, then wait; not decoding, pre-processing, host copies or post-processing"
)
_FLIPS_FOR = ("accuracy", "agreement", "parity", "min-ap", "pose")


@dataclass(frozen=True, slots=True)
class _Reference:
    record: Record | None
    scored: Scored | None


def judge_model(run: ModelRun, request: Request, *, today: datetime.date) -> list[CellResult]:
    """Judge every cell; works on unfinished runs too, whose missing cells say so."""
    reference = next(r for r in run.records if r.planned.role == "reference")
    scored = score_cells(run, request.cross_check)
    base = _Reference(reference if reference.accuracy is not None else None, scored.get(str(reference.cell)))
    ap = {name: None if s.matched is None else s.matched.stats["AP"] for name, s in scored.items()}
    agreed = agreements(run.records, run.own_arithmetic, ap)
    results = [
        _judge(run, request, r, base, scored.get(str(r.cell)), agreed.get(str(r.cell)), today) for r in run.records
    ]
    return set_beside_fp32(results, run.records)


def _judge(
    run: ModelRun,
    request: Request,
    record: Record,
    base: _Reference,
    scored: Scored | None,
    agreement: AgreementResult | None,
    today: datetime.date,
) -> CellResult:
    planned = record.planned
    result = CellResult(
        cell=planned.cell,
        role=planned.role,
        status="skipped",
        duration_s=round(record.duration_s, 3),
        artifact=artifact_record(record),
        observed=observed(record),
        startup=record.startup,
        failure=record.failure,
        memory=None if record.peak_rss_mb is None else {"peak_rss_mb": round(record.peak_rss_mb, 1), "device_mb": None},
    )
    if record.accuracy is None and record.blocked is None:
        return replace(result, reason="The run ended before this cell finished.", reason_short="run ended early")
    if record.accuracy is None:
        return _blocked(result, record, request, today)
    parity, differences = _parity(run, record, base)
    if scored is not None and scored.fault is not None:
        parity = (
            *parity,
            ParityResult(
                level="prediction",
                name="scoring",
                total=len(record.accuracy.predictions),
                mismatched=1,
                passed=False,
                explain=scored.fault,
            ),
        )
    accuracy = _accuracy(request, record, base, scored)
    pose = _pose(request, record, base, scored)
    if record.blocked is not None:  # it ended while it was timed: what was found before stays in the row
        return _blocked(replace(result, parity=parity, accuracy=accuracy, pose=pose), record, request, today)
    agreement = kept_agreement(agreement, parity, accuracy)
    emulated = planned.mode == "emulated"
    speed = _speed(
        record,
        base,
        emulated=emulated,
        wrong=is_wrong(agreement, accuracy)
        or any(p.passed is False for p in parity)
        or (accuracy is not None and accuracy.verdict in ("failed", "suspicious"))
        or (pose is not None and pose.verdict in ("failed", "suspicious")),
        noise=run.noise,
    )
    found = findings(
        attestation=record.attestation,
        parity=parity,
        agreement=agreement,
        accuracy=accuracy,
        pose=pose,
        speed=speed,
        emulated=emulated,
        min_ap=request.min_ap,
        max_latency_ms=request.max_latency_ms,
    )
    result = replace(
        result,
        parity=parity,
        accuracy=accuracy,
        pose=pose,
        agreement=agreement,
        speed=speed,
        findings=tuple(found),
    )
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
    return _waive(done, [f.check for f in found if f.status == first.status], request, today)


def _blocked(result: CellResult, record: Record, request: Request, today: datetime.date) -> CellResult:
    """A cell that did not run, or did not finish."""
    status, reason, short = record.blocked or ("error", "", "")
    done = replace(result, status=status, reason=reason, reason_short=short[:22])  # type: ignore[arg-type]
    return _waive(done, ["error"], request, today) if status in ("error", "failed") else done


def _accuracy(request: Request, record: Record, base: _Reference, scored: Scored | None) -> AccuracyResult | None:
    if scored is None or scored.matched is None:
        return None
    is_reference = record.planned.role == "reference"
    if not is_reference and (base.scored is None or base.scored.matched is None):
        return AccuracyResult(
            metric="AP",
            images=len(scored.matched.images),
            stats=scored.matched.stats,
            scorer=scorer_name(),
            cross_check=scored.cross_check,
            verdict="undecided",
            reason="The reference cell has no result to compare with.",
        )
    return judge_accuracy(
        record.cell.precision,
        scored.matched,
        None if is_reference or base.scored is None else base.scored.matched,
        margins=request.margins,
        resamples=request.resamples,
        seed=request.seed,
        cross_check=scored.cross_check,
    )


def _pose(request: Request, record: Record, base: _Reference, scored: Scored | None) -> PoseResult | None:
    if scored is None or scored.posed is None:
        return None
    is_reference = record.planned.role == "reference"
    reference = None if is_reference or base.scored is None else base.scored.posed
    judged = judge_pose(
        record.cell.precision,
        scored.posed,
        reference,
        margins=request.margins,
        resamples=request.resamples,
        seed=request.seed,
    )
    if reference is None and not is_reference and judged.verdict == "reference":
        return replace(judged, verdict="undecided", reason="The reference cell has no poses to compare with.")
    return judged


def _waive(result: CellResult, checks: Sequence[str], request: Request, today: datetime.date) -> CellResult:
    """Waived only when every check that set the status is: a known failure must not hide a new one beside it."""
    waivers = [find_waiver(request.waivers, result.cell.id, check, today) for check in checks]
    if not all(waivers) or waivers[0] is None:
        return result
    expires = min(w.expires for w in waivers if w is not None)
    return replace(
        result,
        status="waived",
        reason=f"Waived until {expires}: {waivers[0].reason} ({result.reason})",
        waiver={"check": ", ".join(checks), "reason": waivers[0].reason, "expires": expires.isoformat()},
    )


def _parity(
    run: ModelRun, record: Record, base: _Reference
) -> tuple[tuple[ParityResult, ...], tuple[ImageDifference, ...]]:
    rows: list[ParityResult] = []
    differences: tuple[ImageDifference, ...] = ()
    precision = record.cell.precision
    is_reference = record.planned.role == "reference"
    if record.accuracy is not None:
        committed = committed_row(run.plan.spec, run.plan.fixtures, record.accuracy.feed_hashes)
        rows.extend([] if committed is None else [committed])
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
            oks_sigmas=run.plan.spec.oks_sigmas,
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
        own = None if yardstick is None else [s[spec.name] for s in yardstick]
        for label, take in parts_of(spec.name, run.plan.spec.background.get(spec.name), candidate, expected):
            found, wanted = (list(map(take, side)) for side in (candidate, expected))
            budget = None
            if gated:
                errors = [] if own is None else [take(o) - w for o, w in zip(own, wanted, strict=True)]
                scale = run.plan.spec.full_scale.get(spec.name, 0.0)
                budget = tensor_budget(tensor_rms(wanted), tensor_rms(errors), full_scale=scale)
            rows.append(compare_tensors(f"{label} against the {against}", found, wanted, budget=budget))
    return rows


def _speed(
    record: Record, base: _Reference, *, emulated: bool, wrong: bool, noise: Mapping[str, Any]
) -> SpeedResult | None:
    """Latency, checks and verdict of one cell; no ratio where the outputs or the timing are wrong, or emulated."""
    passes = record.accuracy
    if not record.rounds or passes is None:
        return None
    samples_ms = [v for r in record.rounds for v in r["samples_ms"]]
    ends = accumulate(len(r["samples_ms"]) for r in record.rounds)
    latency = latency_stats(samples_ms)
    p50 = latency["p50"] or 0.0
    end_to_end = [a + b + c for a, b, c in zip(passes.pre_ms, passes.run_ms, passes.post_ms, strict=True)]
    speed = SpeedResult(
        latency_ms=latency,
        fps=record.cell.batch * 1000.0 / p50 if p50 else 0.0,
        samples=len(samples_ms),
        includes=INCLUDES,
        end_to_end_ms=latency_stats(end_to_end),
        verdict="not judged",
        openings=len({r["opening"] for r in record.rounds}),
        rounds_run=len(record.rounds),
        stopped=record.stopped,
        checks=_checks(record),
        noise=noise,
        rounds=tuple(r for r, end in zip(record.rounds, ends, strict=True) if end <= MAX_SAMPLES_KEPT),
    )
    reference = base.record
    if record.planned.role == "reference":
        return replace(speed, ratio=1.0, verdict="reference")
    if emulated:
        return replace(speed, verdict="emulated", reason="Emulated: its latency is not this precision's speed.")
    if wrong:
        return replace(speed, reason="Its outputs failed: the speed of wrong outputs is not compared.")
    if reference is None or not reference.rounds:
        return replace(speed, reason="The reference was not timed.")
    if reference.cell.device != record.cell.device:
        return replace(
            speed, reason=f"The reference ran on {reference.cell.device}, this cell on {record.cell.device}."
        )
    if record.attestation:
        return replace(speed, reason="Its label is not borne out: this is not that precision's speed.")
    if (failed := next((c for c in speed.checks if c.passed is False), None)) is not None:
        return replace(speed, reason=failed.explain)
    if (failed := next((c for c in _checks(reference) if c.passed is False), None)) is not None:
        return replace(speed, reason=f"The reference's timing is not to be trusted: {failed.explain}")
    judged = judge_speed(reference.rounds, record.rounds)
    speed = replace(speed, ratio=judged.ratio, ratio_ci95=judged.ci95, verdict=judged.verdict, reason=judged.reason)
    if speed.checks[0].passed is None:
        return replace(speed, verdict="undecided", reason=speed.checks[0].explain)
    return speed


def _checks(record: Record) -> tuple[TimingCheck, ...]:
    """Whether what was timed is what was scored."""
    passes = record.accuracy
    limits = {} if passes is None else output_limits(passes.kept, passes.repeat_noise)
    return check_timed_outputs(record.fetched, limits), check_repeated_input(record.rounds)
