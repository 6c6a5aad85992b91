"""The numbers that a person reads, of all images or of any resample of them.

Shares (``within``, ``recall``, ``oks_found``, ``pck``) are of all objects that have the truth, found or not: a model
cannot gain by detecting less. Medians and means are of the matched objects, and say how good a pose is once there is
one; they can gain by detecting less, which is why they are never judged without a share beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.posing.measuring import Posed, Quantity
    from bench.types import Array

_AT_ONCE = 64
"""Resamples whose medians are found together: 2,600 objects x 64 are 1.3 MB of running sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number and what it is made from."""

    name: str
    quantity: str
    """Key of ``Posed.quantities``."""
    kind: Literal["median", "mean", "within", "all", "pck"]
    """``within`` and ``pck``: share of the objects, or keypoints, that are right. ``all``: mean over all objects, 0 for
    those not found."""
    unit: Literal["deg", "m", "share"]
    judged: bool = False
    limit: float = np.inf
    """Of ``within``: largest error that is right."""

    @property
    def higher_is_better(self) -> bool:
        """Shares and similarities; errors are better when lower."""
        return self.kind in ("within", "all", "pck") or self.quantity == "oks"


NUMBERS: tuple[Number, ...] = (
    Number(name="rotation_median_deg", quantity="rotation", kind="median", unit="deg", judged=True),
    Number(name="rotation_mean_deg", quantity="rotation", kind="mean", unit="deg"),
    Number(name="rotation_within_10deg", quantity="rotation", kind="within", unit="share", judged=True, limit=10.0),
    Number(name="rotation_reversal_median_deg", quantity="rotation_reversal", kind="median", unit="deg"),
    Number(
        name="rotation_reversal_within_10deg", quantity="rotation_reversal", kind="within", unit="share", limit=10.0
    ),
    Number(name="depth_median_m", quantity="depth", kind="median", unit="m"),
    Number(name="depth_mean_m", quantity="depth", kind="mean", unit="m"),
    Number(name="depth_median_relative", quantity="depth_relative", kind="median", unit="share", judged=True),
    Number(
        name="depth_within_5_percent", quantity="depth_relative", kind="within", unit="share", judged=True, limit=0.05
    ),
    Number(name="translation_median_m", quantity="translation", kind="median", unit="m"),
    Number(name="translation_mean_m", quantity="translation", kind="mean", unit="m"),
    Number(
        name="translation_median_relative", quantity="translation_relative", kind="median", unit="share", judged=True
    ),
    Number(
        name="translation_within_5_percent",
        quantity="translation_relative",
        kind="within",
        unit="share",
        judged=True,
        limit=0.05,
    ),
    Number(name="oks_mean_matched", quantity="oks", kind="mean", unit="share"),
    Number(name="oks_mean_all", quantity="oks", kind="all", unit="share", judged=True),
    Number(name="pck_10_percent", quantity="oks", kind="pck", unit="share", judged=True),
)
"""In the order in which they are shown. Thresholds: a tenth of a right angle is about what a person sees; 5 % of the
distance is what a radius that is 5 % off in the picture gives."""
RECALL = Number(name="matched_share", quantity="", kind="within", unit="share")
"""Objects with a pose that were found, whatever their pose."""


def numbers_of(posed: Posed) -> tuple[Number, ...]:
    """Those whose quantity was measured, the share of matched objects first."""
    return (RECALL, *(number for number in NUMBERS if number.quantity in posed.quantities))


def evaluate(posed: Posed, weights: Iterable[Array]) -> dict[str, Array]:
    """Compute every number for each of B weightings of the images.

    Args:
        posed: of one system.
        weights: B times (I,) whole numbers: how often an image counts.

    Returns:
        Name -> (B,) float64; NaN where a number is of no object.
    """
    chosen = numbers_of(posed)
    makers = [_maker(number, posed) for number in chosen]
    parts: list[list[Array]] = [[] for _ in chosen]
    for chunk in _chunks(weights):
        for made, maker in zip(parts, makers, strict=True):
            made.append(maker(chunk))
    return {n.name: np.concatenate(made) if made else np.zeros(0) for n, made in zip(chosen, parts, strict=True)}


def _chunks(weights: Iterable[Array]) -> Iterable[Array]:
    held: list[Array] = []
    for row in weights:
        held.append(row)
        if len(held) == _AT_ONCE:
            yield np.stack(held).astype(np.float64)
            held = []
    if held:
        yield np.stack(held).astype(np.float64)


def _maker(number: Number, posed: Posed) -> Callable[[Array], Array]:
    """(B, I) weights -> (B,) values of one number."""
    image, images = posed.truth.image, len(posed.truth.image_ids)

    def per_image(values: Array) -> Array:
        return np.bincount(image, weights=values.astype(np.float64), minlength=images)

    if number is RECALL:
        return _share(per_image(posed.matched), per_image(posed.truth.posed))
    if number.kind == "pck":
        return _share(per_image(posed.keypoints_within), per_image(posed.keypoints_labelled))
    quantity = posed.quantities[number.quantity]
    if number.kind == "within":
        right = quantity.found & (quantity.value <= number.limit)  # a NaN is not
        return _share(per_image(right), per_image(quantity.counts))
    if number.kind == "median":
        return _median(quantity, image)
    finite = quantity.found & np.isfinite(quantity.value)
    total = per_image(np.where(finite, quantity.value, 0.0))
    if number.kind == "all":
        return _share(total, per_image(quantity.counts))
    infinite = per_image(quantity.found & ~finite)
    plain = _share(total, per_image(quantity.found))
    return lambda weights: np.where(weights @ infinite > 0, np.inf, plain(weights))


def _share(part: Array, whole: Array) -> Callable[[Array], Array]:
    """(I,) sums of each image -> their ratio over weighted images."""

    def ratio(weights: Array) -> Array:
        objects = weights @ whole
        filled = np.full(len(objects), np.nan)
        np.divide(weights @ part, objects, out=filled, where=objects > 0)
        return filled

    return ratio


def _median(quantity: Quantity, image: Array) -> Callable[[Array], Array]:
    """Median over matched objects, each as often as its image counts; the mean of the middle two, as numpy's."""
    rows = np.flatnonzero(quantity.found)
    order = rows[np.argsort(quantity.value[rows], kind="stable")]
    values, images = quantity.value[order], image[order]

    def middle(weights: Array) -> Array:
        running = np.cumsum(weights[:, images], axis=1)
        found = np.full(len(weights), np.nan)
        for b, sums in enumerate(running):
            count = int(sums[-1]) if len(sums) else 0
            if count:
                low, high = np.searchsorted(sums, [(count - 1) // 2, count // 2], side="right")
                found[b] = (values[low] + values[high]) / 2
        return found

    return middle
