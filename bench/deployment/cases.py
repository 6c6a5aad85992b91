"""What torch makes of the images that a file for deployment is compared on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.deployment.options import ExportOptions, Reference, ReferencePrecision
    from bench.types import Array, Outputs

BATCHES = (1, 4, 8)
_HALF_IMAGES = 1
"""Images that torch computes in fp16, for the scale of its error: on a CPU it takes ten times as long as float32."""
_CHUNK = 3 * 2 * 320 * 320
"""Input values that torch computes at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """Feeds of eight images and what torch makes of them."""

    images: str
    feeds: Mapping[str, Array]
    torch: Outputs
    """fp32."""
    golden: Outputs
    """fp64."""
    own: Outputs | None
    """torch at the precision of the file, for the first images only; None where torch cannot compute it."""


class Steps:
    """Counts towards an estimate."""

    def __init__(self, progress: Callable[[int, int], None], *, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def next(self) -> None:
        """One step is done."""
        self._done += 1
        self._progress(min(self._done, self._total), self._total)


def compute_cases(
    reference: Reference,
    options: ExportOptions,
    images: Mapping[str, Sequence[Array]],
    notes: list[str],
    steps: Steps,
) -> list[Case]:
    """Compute eight synthetic images, and eight of every set, at the precisions that a file is judged by.

    Args:
        reference: the network in torch.
        options: of the file.
        images: name of a set -> RGB images; fewer than eight are repeated.
        notes: gets what a person should know.
        steps: told of every chunk.
    """
    most = max(BATCHES)
    batches = {"synthetic": reference.synthetic(most)}
    for name, pictures in images.items():
        feeds = [reference.feeds(pictures[i % len(pictures)]) for i in range(most)]
        batches[name] = {key: np.concatenate([f[key] for f in feeds]) for key in feeds[0]}
        if len(pictures) < most:
            notes.append(f"{name}: {len(pictures)} images, repeated to fill a batch of {most}")
    cases = []
    for name, feeds_of in batches.items():
        own = None
        first = {key: value[: most if options.precision == "fp32" else _HALF_IMAGES] for key, value in feeds_of.items()}
        try:
            own = _in_chunks(reference, first, options.precision, steps)
        except Unsupported as error:
            notes.append(f"no budget relative to the golden: {error}; the tolerance is meant against torch fp32")
        torch32 = (
            own if options.precision == "fp32" and own is not None else _in_chunks(reference, feeds_of, "fp32", steps)
        )
        golden = _in_chunks(reference, feeds_of, "fp64", steps)
        cases.append(Case(images=name, feeds=feeds_of, torch=torch32, golden=golden, own=own))
    return cases


def _in_chunks(
    reference: Reference, feeds: Mapping[str, Array], precision: ReferencePrecision, steps: Steps
) -> Outputs:
    """Few large images at a time: torch at fp64 would need eight times the memory for a batch, and say nothing long."""
    first = next(iter(feeds.values()))
    chunk = max(_CHUNK // first[0].size, 1)
    found = []
    for start in range(0, len(first), chunk):
        found.append(reference.outputs({name: v[start : start + chunk] for name, v in feeds.items()}, precision))
        steps.next()
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}
