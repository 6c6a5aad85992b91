"""Stored detections of two runs of one cell, scored and paired over the same resamples of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bench.accuracy import judge_delta
from bench.across.comparison import AccuracyChange, Note
from bench.across.notes import fixtures_of
from bench.errors import BenchError, UsageError
from bench.files import sha256_file
from bench.fixtures import resolve
from bench.predictions import read_predictions
from bench.scoring import KEYPOINT_STAT_NAMES, match, paired_bootstrap
from bench.verdicts import margin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.across.baselines import Side
    from bench.scoring import Matched
    from bench.types import FixtureSet

_SETTINGS = ("score_floor", "max_detections", "image_hw", "preprocess")
_SAME_AP = 1e-6
"""Scoring a run's stored file again gives its own AP bit for bit; more than this is another run's file."""


class GroundTruth:
    """Fixture sets by the name that cells carry: those given, else the registered ones; each opened once."""

    def __init__(self, given: Sequence[FixtureSet] = ()) -> None:
        self._sets: dict[str, FixtureSet] = {f.name: f for f in given}
        self._reasons: dict[str, str] = {}

    def find(self, name: str) -> FixtureSet | str:
        """The set, or the reason why there is none and what to type."""
        if name not in self._sets and name not in self._reasons:
            try:
                self._sets[name] = resolve(name)
            except UsageError:
                self._reasons[name] = f"The images '{name}' are no registered set. Type: --fixtures DIR"
            except BenchError as error:
                self._reasons[name] = f"The images '{name}' cannot be opened: {error}"
        return self._sets.get(name) or self._reasons[name]


class PairedAccuracy:
    """Compares cells; keeps no detections between them."""

    def __init__(
        self,
        truth: GroundTruth,
        *,
        margins: Mapping[str, float],
        resamples: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._truth, self._margins = truth, margins
        self._resamples, self._seed, self._progress = resamples, seed, progress
        self.notes: dict[str, Note] = {}
        """Settings that the detections' files state and that changed."""

    def compare(self, base: Side, cand: Side, cell: str) -> AccuracyChange | None:
        """Compare one cell that is in both runs; None when one of them has no accuracy.

        Raises:
            InputError: a stored file cannot be read.
        """
        old, new = base.cells()[cell]["accuracy"], cand.cells()[cell]["accuracy"]
        if old is None or new is None:
            return None
        where = cand.cells()[cell]["cell"]
        aps = (old["stats"]["AP"], new["stats"]["AP"])
        blocked = _other_images(base, cand, where["fixtures"], old, new)
        if blocked is not None:
            return _open(aps, blocked)
        files = (base.predictions_of(cell), cand.predictions_of(cell))
        for word, path in zip(("base", "candidate"), files, strict=True):
            if not path.is_file():
                return _open(aps, f"The {word}'s detections ({path}) are not there: nothing to pair.")
        margin = None if aps[0] is None else margin_of(where["precision"], aps[0], self._margins)
        if aps[0] == aps[1] and sha256_file(files[0]) == sha256_file(files[1]):
            return AccuracyChange(
                base_ap=aps[0], cand_ap=aps[1], delta=0.0, ci95=(0.0, 0.0), margin=margin, verdict="passed", reason=None
            )
        if margin is None or aps[1] is None:
            return _open(aps, "AP is undefined: these images hold no ground truth.")
        return self._score(files, aps, margin, where["fixtures"], new)

    def _score(
        self, files: Sequence[Any], aps: tuple[Any, Any], margin: float, fixtures: str, new: Mapping[str, Any]
    ) -> AccuracyChange:
        found = self._truth.find(fixtures)
        if isinstance(found, str):
            return _open(aps, found)
        truth, task = found.take(new["images"]), _task_of(new["stats"])
        matched: list[Matched] = []
        metas: list[Mapping[str, Any]] = []
        for word, path, ap in zip(("base", "candidate"), files, aps, strict=True):
            read = read_predictions(path, truth)
            given = read.meta.get("fixtures_sha256", truth.sha256)
            if given != truth.sha256:
                text = f"not comparable: other images: the {word}'s have hash {given[:12]}, '{fixtures}' here"
                return _open(aps, f"{text} has {truth.sha256[:12]}.")
            metas.append(read.meta)
            matched.append(match(truth, read.detections, task=task))
            scored = matched[-1].stats["AP"]
            if scored is None or not abs(scored - ap) <= _SAME_AP:
                return _open(
                    aps, f"not comparable: the {word}'s stored detections score AP {scored}, its suite says {ap}."
                )
        self._note_settings(metas)
        paired = paired_bootstrap(
            matched[0],
            matched[1],
            resamples=self._resamples,
            seed=self._seed,
            area_ranges=False,
            progress=self._progress,
        )
        delta = aps[1] - aps[0]
        ci95 = paired.deltas["AP"].ci95
        judged = judge_delta(delta, ci95, margin, paired.standard_errors.get("AP"), len(truth.samples))
        return AccuracyChange(
            base_ap=aps[0],
            cand_ap=aps[1],
            delta=delta,
            ci95=ci95,
            margin=margin,
            verdict=judged.verdict,
            reason=judged.reason,
        )

    def _note_settings(self, metas: Sequence[Mapping[str, Any]]) -> None:
        for name in _SETTINGS:
            old, new = (meta.get(name) for meta in metas)
            if old != new:
                text = f"{name} of {metas[1].get('model', 'the model')}: {old} → {new}"
                self.notes[text] = Note(kind="protocol", text=text)


def _other_images(base: Side, cand: Side, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Why the two runs of a cell saw other images, or None."""
    hashes = [fixtures_of(side.suite, name).get("sha256") for side in (base, cand)]
    if hashes[0] != hashes[1]:
        return f"not comparable: other images: the hash of '{name}' changed."
    if old["images"] != new["images"]:
        return f"not comparable: other images: {old['images']} in the base, {new['images']} in the candidate."
    return None


def _task_of(stats: Mapping[str, Any]) -> Literal["detect", "pose"]:
    """Which of COCO's two sets of numbers a run states."""
    return "pose" if set(stats) == set(KEYPOINT_STAT_NAMES) else "detect"


def _open(aps: tuple[Any, Any], reason: str) -> AccuracyChange:
    return AccuracyChange(
        base_ap=aps[0], cand_ap=aps[1], delta=None, ci95=None, margin=None, verdict="undecided", reason=reason
    )
