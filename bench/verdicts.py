"""From judged measurements to a cell's status and a run's exit code: pure functions (the rules are DESIGN 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import numerals
from bench.results import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.results import AccuracyResult, AgreementResult, CellResult, ParityResult, PoseResult, SpeedResult

DEFAULT_MARGINS = {
    "fp32": (0.001, 0.0002),
    "tf32": (0.005, 0.001),
    "fp16": (0.005, 0.001),
    "bf16": (0.005, 0.001),
    "int8": (0.01, 0.003),
}
"""Precision -> (relative to the reference AP, floor in AP); the larger one is the allowed loss."""
GATED_TENSORS = ("fp32", "tf32")
GATED_PREDICTIONS = ("fp32", "tf32")


def margin_of(precision: str, reference_ap: float, override: Mapping[str, float]) -> float:
    """Allowed AP loss: the larger of the relative and the floor rule, or the value given by ``--margin``."""
    if precision in override:
        return override[precision]
    relative, floor = DEFAULT_MARGINS.get(precision, DEFAULT_MARGINS["fp32"])
    return max(relative * reference_ap, floor)


def findings(
    *,
    attestation: str | None,
    parity: Sequence[ParityResult],
    agreement: AgreementResult | None = None,
    accuracy: AccuracyResult | None,
    pose: PoseResult | None = None,
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
    if is_wrong(agreement, accuracy) and agreement is not None:
        found.append(Finding(check="agreement", status="failed", reason=agreement.sentence, short="runtime disagrees"))
    for check in speed.checks if speed is not None else ():
        if check.passed is False:
            found.append(Finding(check="timing", status="failed", reason=check.explain, short=check.name))
    if accuracy is not None and accuracy.cross_check is not None and not accuracy.cross_check.agrees:
        other = accuracy.cross_check
        reason = (
            f"{other.scorer} scores the same detections differently, by up to {other.max_abs_difference:.2g}: no AP "
            "of this run can be trusted. Please report it with the predictions file."
        )
        found.append(Finding(check="scorer", status="error", reason=reason, short="scorers disagree"))
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
        elif accuracy.verdict == "suspicious":
            short = f"gains {accuracy.delta or 0:.3f} AP"
            found.append(Finding(check="accuracy", status="failed", reason=accuracy.reason or "", short=short))
        elif accuracy.verdict in ("undecided", "not judged"):
            found.append(Finding(check="accuracy", status="undecided", reason=accuracy.reason or "", short="undecided"))
    if pose is not None and pose.verdict in ("failed", "suspicious"):
        short = "poses worse" if pose.verdict == "failed" else "poses better"
        short = "poses broken" if any(pose.broken.values()) else short
        found.append(Finding(check="pose", status="failed", reason=f"Poses: {pose.reason}", short=short))
    elif pose is not None and pose.verdict == "undecided":
        found.append(Finding(check="pose", status="undecided", reason=f"Poses: {pose.reason}", short="poses undecided"))
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
    rank = {"error": 0, "failed": 1, "undecided": 2}
    return sorted(found, key=lambda f: rank.get(f.status, 3))


def is_wrong(agreement: AgreementResult | None, accuracy: AccuracyResult | None) -> bool:
    """A runtime that is clearly apart is wrong, unless its accuracy passed: its rows may come in another order."""
    return agreement is not None and agreement.verdict == "apart" and (accuracy is None or accuracy.verdict != "passed")


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
    return numerals.signed(value, 4)


def _ap(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g} ms"
