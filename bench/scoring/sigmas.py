"""How far off an annotator puts each keypoint: the sigmas of OKS, from the set itself or by its keypoint names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.types import Array, FixtureSet

# Source of both lists: the sets' own definitions (COCO keypoints; AP-10K as mmpose's dataset description holds it).
# Divided here as pycocotools divides, so that the last bit is its own.
_KNOWN: dict[str, Array] = {
    (
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
        "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
    ): np.array([0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89])
    / 10.0,
    (
        "l_eye r_eye nose neck root_of_tail l_shoulder l_elbow l_f_paw r_shoulder r_elbow r_f_paw l_hip l_knee l_b_paw "
        "r_hip r_knee r_b_paw"
    ): np.array(
        [
            *(0.025, 0.025, 0.026, 0.035, 0.035, 0.079, 0.072, 0.062, 0.079),
            *(0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089),
        ]
    ),
}


def keypoint_sigmas(fixtures: FixtureSet) -> tuple[tuple[Mapping[str, Any], ...], Array]:
    """Find the categories that have keypoints, and their common sigmas.

    Returns:
        The categories with ``keypoints`` or ``sigmas``, and (K,) float64. A category's own ``sigmas`` come before the
        list known by its keypoint names (COCO person, AP-10K).

    Raises:
        InputError: no category has keypoints; unknown names without sigmas; a count or a sign that cannot be; two
            categories that differ (an engine of COCO's kind has one list).
    """
    chosen = tuple(c for c in fixtures.categories if c.get("keypoints") or c.get("sigmas"))
    if not chosen:
        raise InputError(
            f"fixture set '{fixtures.name}': no category has keypoints; score it as detect, or add 'keypoints' (names) "
            "and 'sigmas' to its categories"
        )
    found = [(category, _of_category(fixtures.name, category)) for category in chosen]
    first, sigmas = found[0]
    for category, other in found[1:]:
        if not np.array_equal(sigmas, other):
            raise InputError(
                f"fixture set '{fixtures.name}': categories {first['id']} and {category['id']} have different sigmas; "
                "OKS takes one list per set: split the set by category"
            )
    return chosen, sigmas


def _of_category(name: str, category: Mapping[str, Any]) -> Array:
    where = f"fixture set '{name}': category {category['id']}"
    names = category.get("keypoints")
    given = category.get("sigmas")
    if given is None:
        known = _KNOWN.get(" ".join(str(n) for n in names or ()).lower())
        if known is None:
            raise InputError(
                f'{where}: no OKS sigmas are known for its {len(names or ())} keypoints; add "sigmas": one positive '
                "number per keypoint (COCO's nose 0.026, hip 0.107) to the category"
            )
        return known
    sigmas = np.array(given, np.float64)
    if names and len(sigmas) != len(names):
        raise InputError(f"{where}: {len(sigmas)} sigmas for {len(names)} keypoints; they must agree")
    if sigmas.ndim != 1 or not bool(np.isfinite(sigmas).all()) or not bool((sigmas > 0).all()):
        raise InputError(f"{where}: sigmas must be a list of positive numbers, got {given}")
    return sigmas
