"""Where detections come from: a model that runs, or files that were made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import Unsupported
from bench.scenarios.precomputed import ADAPTER, ReadFile, read_altered, read_clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.protocols import Protocol as EvaluationProtocol
    from bench.scenarios.definitions import Scenario
    from bench.scenarios.precomputed import Given
    from bench.scenarios.running import ModelUnderTest
    from bench.scoring import Detections
    from bench.types import FixtureSet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """Detections on one set of images."""

    detections: Detections
    times_ms: Mapping[int, tuple[float, float, float]] = field(default_factory=dict)
    """Image id -> pre-processing, inference, post-processing; empty when nothing ran."""
    warnings: tuple[str, ...] = ()
    predictions: Mapping[str, Any] | None = None
    """Of a given file."""


class Source(Protocol):
    """Gives the detections of the clean set once, and of altered sets."""

    no_latency: str | None
    """Why there are no times; None when there are."""

    def can(self, scenario: Scenario) -> None:
        """Raise Unsupported, before any image is altered, when it has nothing on this scenario's images."""

    def clean(self, fixtures: FixtureSet, progress: Callable[[int, int], None]) -> Found:
        """On the images as they are."""

    def altered(self, scenario: Scenario, fixtures: FixtureSet, progress: Callable[[int, int], None]) -> Found:
        """On altered images; after ``clean``."""

    def facts(self) -> Mapping[str, Any]:
        """What it is, for the result."""

    def protocol(self) -> Mapping[str, str] | None:
        """Id and hash of what it is pinned to."""


class ModelSource:
    """A model that runs."""

    def __init__(self, model: ModelUnderTest) -> None:
        self._model = model
        self.no_latency = model.no_latency

    def can(self, scenario: Scenario) -> None:
        """It runs on any image."""

    def clean(self, fixtures: FixtureSet, progress: Callable[[int, int], None]) -> Found:
        """Run it."""
        detections, times_ms = self._model.predict(fixtures.samples, progress=progress)
        return Found(detections=detections, times_ms=times_ms)

    def altered(self, scenario: Scenario, fixtures: FixtureSet, progress: Callable[[int, int], None]) -> Found:
        """Run it on the altered images."""
        return self.clean(fixtures, progress)

    def facts(self) -> Mapping[str, Any]:
        """Cell, artefact and evidence."""
        return self._model.facts()

    def protocol(self) -> Mapping[str, str] | None:
        """Of the plan."""
        return self._model.protocol()


class FileSource:
    """Predictions files.

    Args:
        given: the files.
        whole: the set that the clean file is about, of which a part may be scored.
        keypoints: read them too.
        protocol: that every file must follow, or None.
        allow: go on where one does not.
    """

    no_latency: str | None = "Precomputed: nothing is run."

    def __init__(
        self, given: Given, whole: FixtureSet, *, keypoints: bool, protocol: EvaluationProtocol | None, allow: bool
    ) -> None:
        self._given, self._whole = given, whole
        self._keypoints, self._protocol, self._allow = keypoints, protocol, allow
        self._part: FixtureSet | None = None
        self._clean: ReadFile | None = None

    def can(self, scenario: Scenario) -> None:
        """Only with a file of its own."""
        if scenario.name not in self._given.altered:
            raise Unsupported(
                "Changes the images, and precomputed detections are of the images as they are. Write the images with "
                "--write-images NAME DIR, predict them, and give --predictions NAME=FILE."
            )

    def clean(self, fixtures: FixtureSet, progress: Callable[[int, int], None]) -> Found:
        """Read the file of the images as they are."""
        self._part = fixtures
        self._clean = read_clean(
            self._given.clean,
            self._whole,
            fixtures,
            keypoints=self._keypoints,
            protocol=self._protocol,
            allow=self._allow,
        )
        return _found(self._clean)

    def altered(self, scenario: Scenario, fixtures: FixtureSet, progress: Callable[[int, int], None]) -> Found:
        """Read the scenario's own file."""
        assert self._clean is not None
        assert self._part is not None
        read = read_altered(
            self._given.altered[scenario.name],
            self._clean,
            self._part,
            fixtures,
            scenario,
            keypoints=self._keypoints,
            protocol=self._protocol,
            allow=self._allow,
        )
        return _found(read)

    def facts(self) -> Mapping[str, Any]:
        """Files are named by their scenarios."""
        return {"adapter": ADAPTER}

    def protocol(self) -> Mapping[str, str] | None:
        """That of the command line, else the one that the clean file states."""
        from bench.protocols import pin_of_meta

        if self._protocol is not None:
            return {"id": self._protocol.id, "hash": self._protocol.hash}
        return None if self._clean is None else pin_of_meta(self._clean.side.read.meta)


def _found(read: ReadFile) -> Found:
    return Found(detections=read.side.read.detections, warnings=read.warnings, predictions=read.facts)
