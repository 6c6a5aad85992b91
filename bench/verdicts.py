"""How a verdict is reached: pure functions from measurements to words (the rules are DESIGN 9).

Intervals are not measured by this version. Until they are, an fp32 delta is judged against its margin as it stands,
and a lower precision's delta is shown and not judged, with one exception: a cell that lost more than half of the
reference AP is failed outright, because no interval over these images could reach the margin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.results import AccuracyResult, Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.results import CellResult, ParityResult, SpeedResult

DEFAULT_MARGINS = {
    "fp32": (0.001, 0.0002),
    "tf32": (0.005, 0.001),
    "fp16": (0.005, 0.001),
    "bf16": (0.005, 0.001),
    "int8": (0.01, 0.003),
}
"""Precision -> (relative to the reference AP, floor in AP); the larger one is the allowed loss."""
MIN_IMAGES = 30
"""Fewer images give no accuracy verdict."""
JUDGED_AS_IT_STANDS = ("fp64", "fp32", "tf32")
COLLAPSE_SHARE = 0.5
GATED_TENSORS = ("fp32", "tf32")
GATED_PREDICTIONS = ("fp32", "tf32")


def margin_of(precision: str, reference_ap: float, override: Mapping[str, float]) -> float:
    """Allowed AP loss: the larger of the relative and the floor rule, or the value given by ``--margin``."""
    if precision in override:
        return override[precision]
    relative, floor = DEFAULT_MARGINS.get(precision, DEFAULT_MARGINS["fp32"])
    return max(relative * reference_ap, floor)


def judge_accuracy(
    precision: str,
    stats: Mapping[str, float | None],
    reference_stats: Mapping[str, float | None] | None,
    *,
    images: int,
    scorer: str,
    margins: Mapping[str, float],
) -> AccuracyResult:
    """Compare a cell's AP with its reference's; ``reference_stats`` None marks the reference itself."""
    plain = AccuracyResult(metric="AP", images=images, stats=stats, scorer=scorer, verdict="reference")
    if reference_stats is None:
        return plain
    ap, reference_ap = stats["AP"], reference_stats["AP"]
    if ap is None or reference_ap is None:
        return replace(plain, verdict="undecided", reason="AP is undefined: these images hold no ground truth.")
    delta, margin = ap - reference_ap, margin_of(precision, reference_ap, margins)
    judged = replace(plain, delta=delta, margin=margin)
    if images < MIN_IMAGES:
        reason = f"{images} images are too few for a verdict; at least {MIN_IMAGES} are needed."
        return replace(judged, verdict="undecided", reason=reason)
    if reference_ap > 0 and ap < COLLAPSE_SHARE * reference_ap:
        reason = f"Collapsed: AP {ap:.4f} is less than half of the reference's {reference_ap:.4f}."
        return replace(judged, verdict="failed", reason=reason)
    if precision not in JUDGED_AS_IT_STANDS:
        reason = (
            f"ΔAP {signed(delta)} against a margin of {margin:.4f} is shown, not judged: a lower precision needs an "
            "interval over images, which this version does not measure."
        )
        return replace(judged, verdict="not judged", reason=reason)
    if not delta >= -margin:
        reason = f"Loses {-delta:.4f} AP against a margin of {margin:.4f}."
        return replace(judged, verdict="failed", reason=reason)
    if delta > margin:
        reason = (
            f"Gains {delta:.4f} AP, more than the margin of {margin:.4f}: the same model does not gain. "
            "Look for other images or ground truth."
        )
        return replace(judged, verdict="undecided", reason=reason)
    return replace(judged, verdict="passed")


def findings(
    *,
    attestation: str | None,
    parity: Sequence[ParityResult],
    accuracy: AccuracyResult | None,
    speed: SpeedResult | None,
    emulated: bool,
    min_ap: float | None,
    max_latency_ms: float | None,
) -> list[Finding]:
    """Everything that keeps a cell from passing, in the order in which the status is chosen."""
    found = []
    if attestation:
        found.append(Finding(check="attestation", status="failed", reason=attestation, short="label not borne out"))
    for row in parity:
        if row.passed is False:
            found.append(
                Finding(
                    check="parity",
                    status="failed",
                    reason=row.explain or f"{row.level} {row.name} differs.",
                    short=f"{row.level} differs",
                )
            )
    if accuracy is not None:
        ap = accuracy.stats["AP"]
        if min_ap is not None and (ap is None or not ap >= min_ap):
            found.append(
                Finding(
                    check="min-ap",
                    status="failed",
                    reason=f"AP {_ap(ap)} is below --min-ap {min_ap:g}.",
                    short="AP below --min-ap",
                )
            )
        if accuracy.verdict == "failed":
            short = f"loses {-(accuracy.delta or 0):.3f} AP"
            found.append(Finding(check="accuracy", status="failed", reason=accuracy.reason or "", short=short))
        elif accuracy.verdict in ("undecided", "not judged"):
            short = "ΔAP not judged" if accuracy.verdict == "not judged" else "undecided"
            found.append(Finding(check="accuracy", status="undecided", reason=accuracy.reason or "", short=short))
    if max_latency_ms is not None and speed is not None:
        p50 = speed.latency_ms["p50"]
        if emulated:
            found.append(
                Finding(
                    check="max-latency",
                    status="undecided",
                    reason="Emulated: its latency is not this precision's speed, so --max-latency-ms cannot be judged.",
                    short="latency emulated",
                )
            )
        elif p50 is None or not p50 <= max_latency_ms:
            found.append(
                Finding(
                    check="max-latency",
                    status="failed",
                    reason=f"p50 {_ms(p50)} is above --max-latency-ms {max_latency_ms:g}.",
                    short="too slow",
                )
            )
    rank = {"failed": 0, "undecided": 1}
    return sorted(found, key=lambda f: rank.get(f.status, 2))


def exit_code(cells: Sequence[CellResult]) -> int:
    """0 all judged passed and a candidate ran; 1 something failed or errored; 3 undecided or no candidate ran."""
    statuses = [c.status for c in cells]
    if any(s in ("failed", "error") for s in statuses):
        return 1
    ran = [c for c in cells if c.role == "candidate" and c.status in ("passed", "undecided", "waived")]
    if not ran or any(s == "undecided" for s in statuses):
        return 3
    return 0


def signed(value: float) -> str:
    """Four decimals with a true minus; zero has no sign."""
    text = f"{abs(value):.4f}"
    if float(text) == 0.0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def _ap(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g} ms"
