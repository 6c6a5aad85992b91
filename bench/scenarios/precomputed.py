"""Detections that were made elsewhere: one file on the images as they are, and one per altered set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import InputError, UsageError
from bench.files import sha256_file
from bench.predictions import read_predictions
from bench.predictions.agreement import Side, contradictions, protocol_differences
from bench.protocols import between, mismatches, pin_of_meta, refuse, settings_of_meta
from bench.report.numbers import plural
from bench.scenarios.definitions import CLEAN, known_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.predictions.read import PredictionsFile
    from bench.protocols import Protocol
    from bench.scenarios.definitions import Scenario
    from bench.types import FixtureSet

ADAPTER = "precomputed"
_ABSENT = "images without an entry"
"""Beginning of the reader's warning, which counts over the whole set where only some images are scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The files of ``--predictions``."""

    clean: Path
    altered: Mapping[str, Path] = field(default_factory=dict)
    """Name of an altering scenario -> detections on its images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadFile:
    """One of them, joined to its images."""

    side: Side
    warnings: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """For the result: no folder of the user's is named."""
        return {"file": self.side.path.name, "sha256": sha256_file(self.side.path), "form": self.side.read.form}


def parse_given(texts: Sequence[str], scenarios: Mapping[str, Scenario]) -> Given:
    """Read ``P`` and ``NAME=FILE``; a text that names an existing file is that file, equals sign or not.

    Raises:
        UsageError: no file of the images as they are, two for one scenario, an unknown scenario, or one that selects.
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        named = bool(equals) and not Path(text).expanduser().is_file() and "/" not in name
        name, path = (name, Path(rest)) if named else (CLEAN, Path(text))
        known_name("--predictions", name, scenarios)
        if name != CLEAN and not scenarios[name].alters:
            raise UsageError(
                f"--predictions {text}: {name} selects among the detections on the images as they are and takes no "
                "file of its own. Leave it out."
            )
        if name in files:
            raise UsageError(f"--predictions {text}: {name} has two files, {files[name]} and {path}. Give one.")
        files[name] = path.expanduser()
    if CLEAN not in files:
        raise UsageError(
            f"--adapter {ADAPTER} needs detections on the images as they are. Type: --predictions FILE.json"
        )
    return Given(clean=files.pop(CLEAN), altered=files)


def read_clean(
    path: Path,
    whole: FixtureSet,
    part: FixtureSet,
    *,
    keypoints: bool,
    protocol: Protocol | None,
    allow: bool,
) -> ReadFile:
    """Read detections on the images as they are; the file may hold more of the set's images than are scored.

    Args:
        path: any form of predictions file.
        whole: the set.
        part: the images of it that are scored.
        keypoints: read them too.
        protocol: that the file must follow, or None.
        allow: go on where it does not.

    Raises:
        InputError: other images, values that cannot be scored, another protocol, or none of the images scored.
    """
    read = read_predictions(path, whole, keypoints=keypoints)
    warnings = list(_follows(path, read, whole, protocol, allow=allow))
    side = Side(path=path, read=read)
    ids = frozenset(s.image_id for s in part.samples)
    if len(part.samples) < len(whole.samples):
        side = side.keep(ids)
    if read.listed is not None and not read.listed & ids:
        raise InputError(
            f"{path}: lists none of the {plural(len(ids), 'image')} that are scored. Leave out --max-images, or "
            "predict these images."
        )
    told = [text for text in read.warnings if not text.startswith(_ABSENT)]
    if side.read.listed is not None and (absent := len(ids - side.read.listed)):
        told.append(f"{absent} of {plural(len(ids), 'image')} have no entry: they count as images without detections")
    return ReadFile(side=side, warnings=(*told, *warnings))


def read_altered(path: Path, clean: ReadFile, fixtures: FixtureSet, altered: FixtureSet, scenario: Scenario, *,
                 keypoints: bool, protocol: Protocol | None, allow: bool) -> ReadFile:  # fmt: skip
    """Read detections on the images of an altering scenario.

    Args:
        path: the file.
        clean: that of the images as they are.
        fixtures: the images as they are.
        altered: the altered ones, as ``--write-images`` writes them.
        scenario: the altering scenario.
        keypoints: read them too.
        protocol: that the file must follow, or None.
        allow: go on where it does not.

    Raises:
        InputError: other images, the unaltered images, values that cannot be scored, or another protocol than clean's.
    """
    advice = f"parity scenarios --write-images {scenario.name} DIR writes the images; predict those"
    if sha256_file(path) == sha256_file(clean.side.path):
        raise InputError(f"{path}: is the file of the images as they are, given for {scenario.name} again; {advice}")
    try:
        read = read_predictions(path, altered, keypoints=keypoints)
    except InputError as error:
        raise InputError(f"{error}. For {scenario.name}, {advice}") from error
    if read.meta.get("fixtures_sha256") == fixtures.sha256:
        raise InputError(f"{path}: says that it was made on the images as they are, not on {scenario.name}; {advice}")
    if scenario.moves and read.meta.get("fixtures_sha256", altered.sha256) != altered.sha256:
        raise InputError(
            f"{path}: says that it was made on other {scenario.name} images than these settings give here, and their "
            "boxes lie elsewhere. Use the --seed, --scenarios and --max-images of --write-images, and its OpenCV"
        )
    side = Side(path=path, read=read)
    warnings = [*read.warnings, *_follows(path, read, altered, protocol, allow=allow)]
    if protocol is None:
        pins = (pin_of_meta(read.meta), pin_of_meta(clean.side.read.meta))
        warnings += refuse(str(path), f"of {clean.side.path}", between(*pins), allow=allow)
    other = protocol_differences(side, clean.side)
    if other:
        warnings.append(f"made by another protocol than clean ({'; '.join(other)}): not the images alone differ")
    ours, theirs = side.read.detections, clean.side.read.detections
    if len(ours) == len(theirs) > 0 and np.array_equal(ours.scores, theirs.scores):
        warnings.append("every score is that of the images as they are: were these images altered?")
    return ReadFile(side=side, warnings=tuple(warnings))


def _follows(
    path: Path, read: PredictionsFile, fixtures: FixtureSet, protocol: Protocol | None, *, allow: bool
) -> tuple[str, ...]:
    if protocol is None:
        return ()
    settings = settings_of_meta(read.meta, fixtures, bbox_format=read.meta.get("bbox_format"))
    found = [*mismatches(protocol, settings), *contradictions(protocol, read.detections)]
    return refuse(str(path), protocol.label, found, allow=allow)
