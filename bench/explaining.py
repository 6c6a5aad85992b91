"""What explains a cell's result: which runtime disagrees with which, and its own fp32 beside it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.agreement import Ran, agree
from bench.examine import fp32_of
from bench.nodetimes import summarise
from bench.results import PrecisionSpeed
from bench.speed import judge_speed
from bench.types import PRECISIONS
from bench.verdicts import margin_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.record import OwnArithmetic, Record
    from bench.results import AccuracyResult, AgreementResult, CellResult, ParityResult
    from bench.types import Cell


def agreements(
    records: Sequence[Record], own_arithmetic: Mapping[str, OwnArithmetic], ap: Mapping[str, float | None]
) -> dict[str, AgreementResult]:
    """Cell -> how its runtime compares with the others on the same file, and with the file's own arithmetic.

    Args:
        records: of one model.
        own_arithmetic: of ``bench.examine.simulate_files``; a file that is not in it was not run so.
        ap: cell -> AP; None where it is undefined.
    """
    files: dict[str, list[tuple[Record, str]]] = {}
    for record in records:
        if record.artifact is not None and record.artifact.kind == "onnx" and record.raw is not None:
            files.setdefault(record.artifact.sha256, []).append((record, record.artifact.precision))
    found: dict[str, AgreementResult] = {}
    for sha, users in files.items():
        told, own = own_arithmetic.get(sha, ("it was not asked for", None))
        if own is None and len(users) == 1:
            continue
        names = _short_names([record for record, _ in users])
        ran = {
            record.cell.id: Ran(
                name=names[record.cell.id],
                outputs=record.raw or (),
                repeat_noise={} if record.accuracy is None else record.accuracy.repeat_noise,
            )
            for record, _ in users
        }
        least_exact = max((precision for _, precision in users), key=PRECISIONS.index)  # tf32 runs the fp32 file
        results = agree(own, ran, precision=least_exact, told=told)
        cells = {str(record.cell): results[record.cell.id] for record, _ in users}
        found.update({cell: _as_a_set(cell, cells, ap, least_exact) for cell in cells})
    return found


def _as_a_set(
    cell: str, results: Mapping[str, AgreementResult], ap: Mapping[str, float | None], precision: str
) -> AgreementResult:
    """A runtime whose detections score as those of a right one is not called wrong: rows may come in another order.

    A model that ends in a top-k gives its rows by score, and a rounding swaps them. Rolling all anchors of yolov10n by
    seven gives -3 dB and the AP of before.
    """
    result, mine = results[cell], ap.get(cell)
    right = [value for other, r in results.items() if r.verdict == "agrees" and (value := ap.get(other)) is not None]
    if result.verdict != "apart" or mine is None or not right:
        return result
    if not mine >= min(right) - margin_of(precision, min(right), {}):
        return result
    words = (
        f"{result.sentence.rsplit(':', 1)[0]}; yet its detections score as well, AP {mine:.4f} against {min(right):.4f}"
    )
    return replace(result, verdict="undecided", sentence=f"{words}. Its rows may come in another order.")


def kept_agreement(
    agreement: AgreementResult | None, parity: Sequence[ParityResult], accuracy: AccuracyResult | None
) -> AgreementResult | None:
    """A file that one cell ran needs no comparison unless that cell failed."""
    if agreement is None or any(row.against for row in agreement.rows):
        return agreement
    failed = any(row.passed is False for row in parity) or (
        accuracy is not None and accuracy.verdict in ("failed", "suspicious")
    )
    return agreement if failed else None


def set_beside_fp32(results: Sequence[CellResult], records: Sequence[Record]) -> list[CellResult]:
    """Add where the time of the nodes goes, and the speed against the fp32 cell of the same runtime.

    The comparison has its own interval, from the rounds that both took part in. It is left out where a latency is not
    that of its label (emulated, another precision observed, a timing check that failed); of wrong outputs it is kept
    only where they are slower: nobody may take the speed of wrong outputs for a gain.
    """
    by_cell = {result.cell: result for result in results}
    return [_beside_fp32(result, record, records, by_cell) for result, record in zip(results, records, strict=True)]


def _beside_fp32(
    result: CellResult, record: Record, records: Sequence[Record], by_cell: Mapping[Cell, CellResult]
) -> CellResult:
    fp32 = fp32_of(record, records)
    if record.node_times:
        result = replace(result, nodes=summarise(record.node_times, fp32.node_times if fp32 else ()))
    if (
        fp32 is None
        or result.speed is None
        or not (_was_timed(result, record) and _was_timed(by_cell[fp32.cell], fp32))
    ):
        return result
    judged = judge_speed(fp32.rounds, record.rounds)
    if judged.verdict != "slower" and (result.speed.ratio is None or _ratio_of(by_cell[fp32.cell]) is None):
        return result
    against = PrecisionSpeed(
        cell=fp32.cell.id, ratio=judged.ratio, ratio_ci95=judged.ci95, verdict=judged.verdict, reason=judged.reason
    )
    return replace(result, speed=replace(result.speed, against_fp32=against))


def _was_timed(result: CellResult, record: Record) -> bool:
    """True when its latency is that of its precision, whatever its outputs are worth."""
    return (
        result.speed is not None
        and record.planned.mode == "native"
        and record.attestation is None
        and all(check.passed is not False for check in result.speed.checks)
    )


def _ratio_of(result: CellResult) -> float | None:
    return None if result.speed is None else result.speed.ratio


def _short_names(records: Sequence[Record]) -> dict[str, str]:
    """Cell id -> the fewest words that tell the cells of one file apart."""
    names: dict[str, str] = {}
    for words in (("backend",), ("backend", "device"), ("backend", "device", "precision", "batch")):
        names = {r.cell.id: " ".join(str(getattr(r.cell, word)) for word in words) for r in records}
        if len(set(names.values())) == len(records):
            break
    return names
