"""The sentences about detections that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.matching import ImageDifference
    from bench.matching_pairs import Likeness, MatchRules, Side
    from bench.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """P pairs of one image that are the same object and not alike enough."""

    rows: Array
    """(P,) in the reference."""
    columns: Array
    """(P,) in the candidate."""
    strayed: Array
    """(P,) how far each moved, as a share of its score."""
    like: Likeness


def explain(
    images: int,
    total: int,
    count: Mapping[str, int],
    differing: Sequence[ImageDifference],
    worst: str | None,
    rules: MatchRules,
) -> str:
    """One sentence about all images.

    Args:
        images: number compared.
        total: pairs and boxes without partner.
        count: kind of difference -> how many.
        differing: images with unexplained differences.
        worst: clause about the worst image.
        rules: what counted as the same.
    """
    if not images:
        return "detections: no image was compared"
    flips = f"; {count['explained']} explained flips" if count["explained"] else ""
    if not differing:
        oks = f"OKS >= {rules.min_oks:g}, " if rules.oks_sigmas else ""
        agree = f"IoU >= {rules.min_iou:g}, {oks}score difference <= {rules.max_score_difference:g}"
        return f"detections: all {total} on {images} images agree ({agree}){flips}"
    kinds = [f"{count[name]} {name}" for name in ("missing", "extra", "moved") if count[name]]
    kinds += [f"{count['nonfinite']} not finite"] if count["nonfinite"] else []
    absent = sum(d.absent is not None for d in differing)
    kinds += [f"{absent} images on one side only"] if absent else []
    share = f"{count['unexplained']}/{total} differ on {len(differing)} of {images} images"
    return f"detections: {share} ({', '.join(kinds)}){flips}" + (f"; worst {worst}" if worst else "")


def describe_worst(
    ref: Side,
    cand: Side,
    missing: Array,
    extra: Array,
    moved: Moved,
    names: Sequence[str],
) -> str | None:
    """One clause about the difference that weighs most in an image."""
    clauses = []
    for side, rows, word in ((ref, missing, "is missing"), (cand, extra, "is extra")):
        if len(rows):
            row = rows[np.argmax(side.scores[rows])]
            clauses.append((float(side.scores[row]), f"{_box(side, row, names)} {word}"))
    if len(moved.rows):
        at = int(np.argmax(moved.strayed))
        r, c = moved.rows[at], moved.columns[at]
        alike = f"IoU {moved.like.iou[r, c]:.4f}"
        if ref.keypoints_xys.shape[1]:
            alike += f" and OKS {moved.like.oks[r, c]:.4f}"
        expected = f"{_box(ref, r, names)} has {alike}, expected score {ref.scores[r]:.4f}, got {cand.scores[c]:.4f}"
        clauses.append((float(moved.strayed[at]), expected))
    return max(clauses)[1] if clauses else None


def _box(side: Side, row: int, names: Sequence[str]) -> str:
    label = int(side.labels[row])
    name = names[label] if 0 <= label < len(names) else f"label {label}"
    corners = ", ".join(f"{value:.1f}" for value in side.boxes_xyxy[row])
    return f"'{name}' {side.scores[row]:.4f} at ({corners})"
