"""Which runtime disagrees with which: raw outputs of one file in several runtimes and in its own arithmetic. Pure.

An int8 file that loses its accuracy may be a bad file, or a right file that one runtime computes wrongly. The file's
own arithmetic (``bench.precision.simulate``) and the other runtimes that ran the same bytes tell the two apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from bench.results import AgreementResult, AgreementRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Array

Verdict: TypeAlias = Literal["agrees", "apart", "undecided"]
Images: TypeAlias = "Sequence[Mapping[str, Array]]"
"""Output -> array, one mapping per image."""

LIMITS_DB = {"fp32": 40.0, "tf32": 20.0, "fp16": 20.0, "bf16": 10.0, "int8": 4.0}
"""Two results of one file of this precision do not agree below it: far below what is healthy, above what is broken.
Against the file's own arithmetic, the worst output in groups of four images, 32 images (onnxruntime 1.31.1, openvino
2026.4.1, AVX512-VNNI): fp32 110 dB and more, fp16 57 dB, bf16 47 dB (yolov10n, one group), int8 yolov10n 15 dB and
FastestDet 9.4 dB at the least; openvino on an int8 file of FastestDet with zero point 0, which it computes wrongly (AP
0.000): -2.9 dB at the most. tf32 was not measured."""
NOISY = 0.01
"""An output whose repeat noise exceeds this share of its rms tells nothing."""
OWN = "the file’s own arithmetic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one runtime made of the file."""

    name: str
    """For sentences, for example ``openvino``."""
    outputs: Images
    repeat_noise: Mapping[str, float] = field(default_factory=dict)
    """Output -> largest absolute difference when the same batches are run again."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One runtime against everything else: worst decibels over the outputs that can be compared."""

    own: float | None
    own_output: str
    pairs: dict[str, float]


def sqnr_db(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Signal to difference of one output over several images: 10 log10(sum expected^2 / sum (found - expected)^2).

    Returns:
        Infinite when they are equal; NaN, which agrees with nothing, when anything is not finite, another shape or
        missing, or when there is nothing to compare.
    """
    if len(expected) != len(found) or not expected:
        return math.nan
    signal = difference = 0.0
    for want, got in zip(expected, found, strict=True):
        if np.shape(want) != np.shape(got):
            return math.nan
        w, g = (np.asarray(side, np.float64).ravel() for side in (want, got))
        if not (np.isfinite(w).all() and np.isfinite(g).all()):
            return math.nan
        signal += float(w @ w)
        difference += float((g - w) @ (g - w))
    if difference == 0.0:
        return math.inf
    return 10.0 * (math.log10(signal) - math.log10(difference)) if signal > 0.0 else -math.inf


def agree(own: Images | None, ran: Mapping[str, Ran], *, precision: str, told: str) -> dict[str, AgreementResult]:
    """Compare every runtime with the file's own arithmetic and with every other runtime.

    A runtime is *apart* when it is below the limit of its precision against the file's own arithmetic, no other runtime
    is close to it, and one that is close to the file's own arithmetic shows that the file can be computed. Where the
    file's own arithmetic could not be run, it is apart when it alone is far from at least two that agree.

    Args:
        own: raw outputs of the file's own arithmetic, or None where it could not be run.
        ran: cell id -> what its runtime gave for the same images.
        precision: of the file; chooses the limit.
        told: what ran the file's own arithmetic, or why nothing did.

    Returns:
        Cell id -> result. Not finite agrees with nothing.
    """
    limit = LIMITS_DB.get(precision, LIMITS_DB["int8"])
    outputs = sorted({name for r in ran.values() for image in r.outputs for name in image})
    rows: dict[str, list[AgreementRow]] = {cell: [] for cell in ran}
    sides: dict[str, _Side] = {}
    for cell, mine in ran.items():
        quiet = [name for name in outputs if not _noisy(mine, name)]
        against: dict[str, tuple[float, str]] = {}
        others: dict[str, Images] = {} if own is None else {"": own}
        others.update({other: r.outputs for other, r in ran.items() if other != cell})
        for other, theirs in others.items():
            found = {
                name: _compared(theirs, mine.outputs, name, symmetric=other != "")
                for name in (quiet if other == "" else [n for n in quiet if not _noisy(ran[other], n)])
            }
            rows[cell] += [AgreementRow(output=n, against=other, sqnr_db=value) for n, value in found.items()]
            if found:
                worst = min(found, key=lambda n: -math.inf if math.isnan(found[n]) else found[n])
                against[other] = found[worst], worst
        mine_own, where = against.pop("", (None, ""))
        sides[cell] = _Side(mine_own, where, {other: value for other, (value, _) in against.items()})
    return {
        cell: AgreementResult(
            verdict=verdict,
            worst_db=sides[cell].own,
            limit_db=limit,
            own=told,
            rows=tuple(rows[cell]),
            sentence=sentence,
        )
        for cell in ran
        for verdict, sentence in [_judge(cell, sides, ran, limit, has_own=own is not None)]
    }


def _judge(
    cell: str, sides: Mapping[str, _Side], ran: Mapping[str, Ran], limit: float, *, has_own: bool
) -> tuple[Verdict, str]:
    """Verdict and sentence of one cell."""
    side, name = sides[cell], ran[cell].name
    near = [ran[o].name for o, value in side.pairs.items() if value >= limit]
    far = [o for o, value in side.pairs.items() if not value >= limit]
    if side.own is None and not side.pairs:
        why = "its outputs differ from run to run" if has_own else "the file’s own arithmetic could not be run"
        return "undecided", f"Nothing tells whether {name} computes what the file says: {why}."
    if side.own is None:
        return _judge_by_peers(cell, sides, ran, limit, near, far)
    words = f"{decibels(side.own)} on {side.own_output}" if side.own_output else decibels(side.own)
    if side.own >= limit:
        also = f" and with {_words(near)}" if near else ""
        at_least = "" if math.isinf(side.own) else f" (at least {decibels(side.own)})"
        return "agrees", f"{name} agrees with {OWN}{at_least}{also}."
    right = [o for o in far if _near(sides[o].own, limit)]
    if near:
        return "undecided", (
            f"{name} and {_words(near)} agree with each other and not with {OWN} ({words}): nothing tells who is wrong."
        )
    if right:
        theirs = ", ".join(f"{ran[o].name} {decibels(sides[o].own or 0.0)}" for o in right)
        return "apart", (
            f"{name} disagrees with {_words([ran[o].name for o in right])} and with {OWN} ({words}; {theirs}): the "
            "runtime is wrong, not the file."
        )
    others = f", and {_words([ran[o].name for o in far])} neither" if far else "; no other runtime ran this file"
    return "undecided", f"{name} disagrees with {OWN} ({words}){others}."


def _judge_by_peers(
    cell: str, sides: Mapping[str, _Side], ran: Mapping[str, Ran], limit: float, near: list[str], far: list[str]
) -> tuple[Verdict, str]:
    """Without the file's own arithmetic: one against several that agree."""
    name = ran[cell].name
    names = [ran[o].name for o in far]
    if not far:
        return "agrees", f"{name} agrees with {_words(near)}; the file’s own arithmetic could not be run."
    united = all(_near(sides[a].pairs.get(b), limit) for a in far for b in far if a != b)
    worst = decibels(min((sides[cell].pairs[o] for o in far), key=lambda v: -math.inf if math.isnan(v) else v))
    if not near and len(far) > 1 and united:
        return "apart", f"{name} disagrees with {_words(names)} ({worst}), which agree with each other: it is wrong."
    also = f" and agrees with {_words(near)}" if near else ""
    return "undecided", (
        f"{name} disagrees with {_words(names)} ({worst}){also}; {OWN} could not be run, so nothing tells who is wrong."
    )


def decibels(value: float) -> str:
    """``2.1 dB``, ``41 dB``; words for what is no number."""
    if math.isnan(value):
        return "not finite"
    if math.isinf(value):
        return "equal" if value > 0 else "nothing in common"
    text = f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"
    return f"{'0.0' if float(text) == 0 else text} dB".replace("-", "−")


def _near(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit  # False for NaN


def _noisy(ran: Ran, output: str) -> bool:
    """True when two runs of this runtime differ so much that a comparison tells nothing; NaN noise is no excuse."""
    noise = ran.repeat_noise.get(output, 0.0)
    values = [np.asarray(image[output], np.float64).ravel() for image in ran.outputs if output in image]
    flat = np.concatenate([np.zeros(0), *values])
    return bool(flat.size and noise > NOISY * float(np.sqrt(np.mean(flat**2))))


def _compared(expected: Images, found: Images, output: str, *, symmetric: bool) -> float:
    """Decibels of one output; between two runtimes neither is the truth: the smaller of both directions."""
    want = [image[output] for image in expected if output in image]
    got = [image[output] for image in found if output in image]
    value = sqnr_db(want, got)
    return value if not symmetric or math.isnan(value) else min(value, sqnr_db(got, want))


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
