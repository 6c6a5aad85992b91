"""The numbers of a pose in words and units, the same in a verdict's reason, on the terminal and on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = {
    "matched_share": "objects matched",
    "rotation_median_deg": "rotation, median",
    "rotation_mean_deg": "rotation, mean",
    "rotation_within_10deg": "rotation within 10°",
    "rotation_reversal_median_deg": "or tilted the other way",
    "rotation_reversal_within_10deg": "within 10° or tilted the other way",
    "depth_median_m": "depth, median",
    "depth_mean_m": "depth, mean",
    "depth_median_relative": "depth, median share",
    "depth_within_5_percent": "depth within 5 %",
    "translation_median_m": "translation, median",
    "translation_mean_m": "translation, mean",
    "translation_median_relative": "translation, median share",
    "translation_within_5_percent": "translation within 5 %",
    "oks_mean_matched": "OKS of the matched",
    "oks_mean_all": "OKS",
    "pck_10_percent": "keypoints within 10 %",
}
"""Name of a number -> its words."""


def in_unit(name: str, unit: str, value: float, write: Callable[[float, int], str]) -> str:
    """``4.21°``, ``0.0310 m``, ``71.30 %``, ``0.9120``.

    Args:
        name: of the number: OKS is no share of anything, and stays as it is.
        unit: ``deg``, ``m`` or ``share``.
        value: finite or not.
        write: value and decimals -> text, with or without a sign.
    """
    if unit == "deg":
        return f"{write(value, 2)}°"
    if unit == "m":
        return f"{write(value, 4)} m"
    if name.startswith("oks"):
        return write(value, 4)
    return f"{write(100 * value, 2)} %"


def joined(reasons: list[str]) -> str:
    """Make one of reasons that end alike: of ``A: few images.`` and ``B: few images.`` becomes ``A; B: few images``."""
    heads: dict[str, list[str]] = {}
    for reason in reasons:
        head, _, tail = reason.rpartition(": ")
        heads.setdefault(tail, []).append(head)
    return " ".join(f"{'; '.join(found)}: {tail}" if any(found) else tail for tail, found in heads.items())
