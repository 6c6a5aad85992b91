"""Evaluation protocols: what two results must have in common to be compared, pinned by a hash.

A protocol is a JSON file (``schemas/protocol.json``); what it does not state it leaves open. What a model or a
predictions file really used are its ``Settings``, by the words of the protocol (``imgsz``, ``score_threshold``,
``preprocess.method``, ...). A setting that nobody stated is a mismatch like one that differs: nothing is assumed.
A run without a protocol pins its own settings as the protocol ``as_run``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.errors import InputError, UsageError, did_you_mean
from bench.paths import REPOSITORY
from bench.schema import canonical, read_json, to_json, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.types import FixtureSet, ModelSpec

AS_RUN = "as_run"
FILE_FORMAT = "xyxy_abs"
"""Boxes of the files that this harness writes with their meta."""
_ALLOW = "--allow-protocol-mismatch"
Settings: TypeAlias = "Mapping[str, Any]"
"""Word of the protocol -> what was used; a word that is not there was not stated."""

_ALIASES = {
    "imgsz": ("image_hw", "imgsz", "image_size"),
    "score_threshold": ("score_floor", "score_threshold", "min_score", "conf"),
    "iou_threshold": ("nms_iou", "iou_threshold", "iou"),
    "max_detections": ("max_detections", "max_det", "topk"),
}
"""Word of the protocol -> names under which the meta of a predictions file states it, ours first."""
_INNER = ("export_settings", "run", "config_fingerprint")
"""Objects within a meta that may hold the settings instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One protocol file."""

    document: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its name."""
        return str(self.document["id"])

    @property
    def hash(self) -> str:
        """sha256 of its document as JSON with sorted keys and the separators ``,`` and ``:``."""
        return hashlib.sha256(canonical(self.document).encode()).hexdigest()

    @property
    def label(self) -> str:
        """Id and the first digits of the hash."""
        return f"{self.id} {self.hash[:12]}"

    @property
    def conditions(self) -> dict[str, Any]:
        """Word -> what is wanted, of everything that it states."""
        fixed = self.document["fixed_conditions"]
        wanted = {word: self.document[word] for word in ("task", "dataset", "split", "imgsz", "bbox_format")
                  if self.document.get(word) is not None}  # fmt: skip
        wanted |= {word: value for word, value in fixed.items() if word != "preprocess"}
        wanted |= {f"preprocess.{word}": value for word, value in fixed.get("preprocess", {}).items()}
        if "imgsz" in wanted:
            wanted["imgsz"] = _height_width(wanted["imgsz"])
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One setting that is not the protocol's."""

    field: str
    wanted: str
    found: str
    """``not stated`` where nobody said."""

    def __str__(self) -> str:
        """``imgsz: wanted [640, 640], found [320, 320]``."""
        return f"{self.field}: wanted {self.wanted}, found {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one model was evaluated by: written as ``evaluation`` of a suite, by the model's name."""

    id: str
    hash: str
    settings: Settings
    """Really used."""
    mismatches: tuple[Mismatch, ...]
    """With the protocol; empty unless they were allowed."""


def list_protocols() -> dict[str, Path]:
    """Name -> file of the protocols that come with the harness."""
    return {path.stem: path for path in sorted((REPOSITORY / "fixtures" / "protocols").glob("*.json"))}


def load_protocol(name_or_path: str) -> Protocol:
    """Open a protocol by its name or its file.

    Raises:
        UsageError: no protocol of that name.
        InputError: a file that is no protocol, or contradicts itself.
    """
    known = list_protocols()
    path = known.get(name_or_path, Path(name_or_path).expanduser())
    if name_or_path not in known and not path.is_file():
        if path.suffix == ".json" or len(path.parts) > 1:
            raise InputError(f"--protocol {name_or_path}: no such file")
        known_ones = did_you_mean(name_or_path, known)
        raise UsageError(f"--protocol {name_or_path}: unknown.{known_ones} A file is given by its path.")
    document = read_json(path)
    validate(document, "protocol", where=str(path))
    fixed = document["fixed_conditions"]
    for word in ("imgsz", "bbox_format"):
        outer, inner = document.get(word), fixed.get(word)
        if outer is not None and inner is not None and not _same(_plain(word, outer), _plain(word, inner)):
            raise InputError(f"{path}: {word} is {outer} and within fixed_conditions {inner}; they must agree")
    if document["id"] == AS_RUN:
        raise InputError(f"{path}: the id {AS_RUN!r} means that there was no protocol; choose another")
    return Protocol(document=document)


def settings_of_model(spec: ModelSpec, fixtures: FixtureSet, *, bbox_format: str = FILE_FORMAT) -> dict[str, Any]:
    """What a run of a model uses, as its adapter states it; ``bbox_format`` is of the file that keeps its boxes."""
    settings: dict[str, Any] = {
        "task": spec.task,
        "dataset": fixtures.name,
        "split": fixtures.split,
        "imgsz": list(spec.image_hw),
        "bbox_format": bbox_format,
        "score_threshold": spec.score_floor,
        "iou_threshold": spec.nms_iou,
        "max_detections": spec.max_detections,
    }
    settings |= {f"preprocess.{word}": to_json(value) for word, value in spec.preprocessing.items()}
    return settings


def settings_of_meta(meta: Mapping[str, Any], fixtures: FixtureSet, *, bbox_format: str | None) -> dict[str, Any]:
    """What a predictions file says it was made with; words that it does not state are left out.

    Args:
        meta: of the file; empty for a form that has none.
        fixtures: the set that it is scored against.
        bbox_format: of its boxes, where the file or the command line states it.
    """
    places = list(_places(meta))
    settings: dict[str, Any] = {"dataset": fixtures.name, "split": fixtures.split}
    if bbox_format is not None:
        settings["bbox_format"] = bbox_format
    for word, names in _ALIASES.items():
        for place, name in ((p, n) for p in places for n in names):
            if name in place and word not in settings:
                settings[word] = place[name]
    if "imgsz" in settings:
        settings["imgsz"] = _height_width(settings["imgsz"])
    for place in places:
        found = place.get("preprocess")
        if isinstance(found, dict):
            settings = {**{f"preprocess.{word}": value for word, value in found.items()}, **settings}
        if isinstance(place.get("task"), str):
            settings.setdefault("task", place["task"])
    return settings


def as_run(settings: Settings) -> Protocol:
    """The protocol of a run that was given none: its own settings."""
    fixed = {w: settings[w] for w in ("imgsz", "score_threshold", "iou_threshold", "max_detections", "bbox_format")}
    fixed["preprocess"] = {w.partition(".")[2]: v for w, v in settings.items() if w.startswith("preprocess.")}
    document = {
        "schema": "protocol/1",
        "protocol_schema_version": 1,
        "id": AS_RUN,
        **{word: settings[word] for word in ("task", "dataset", "split", "imgsz", "bbox_format")},
        "fixed_conditions": fixed,
        "metric_key": "map50_95",
    }
    return Protocol(document=document)


def evaluate(
    spec: ModelSpec, fixtures: FixtureSet, protocol: Protocol | None, *, bbox_format: str = FILE_FORMAT
) -> Evaluation:
    """What a run of a model is pinned to: the protocol, else its own settings."""
    settings = settings_of_model(spec, fixtures, bbox_format=bbox_format)
    pinned = protocol or as_run(settings)
    return Evaluation(
        id=pinned.id,
        hash=pinned.hash,
        settings=settings,
        mismatches=() if protocol is None else mismatches(protocol, settings),
    )


def mismatches(protocol: Protocol, settings: Settings) -> tuple[Mismatch, ...]:
    """Every condition that the settings do not meet, or do not state.

    An ``iou_threshold`` is for models that suppress; one that suppresses nothing meets it where the protocol says so by
    ``e2e.nms``.
    """
    found = []
    without_nms = protocol.document.get("e2e", {}).get("nms") == "none"
    for word, wanted in protocol.conditions.items():
        if word == "iou_threshold" and without_nms and word in settings and settings[word] is None:
            continue
        if word not in settings:
            found.append(Mismatch(field=word, wanted=_text(wanted), found="not stated"))
        elif not _same(settings[word], wanted):
            found.append(Mismatch(field=word, wanted=_text(wanted), found=_text(settings[word])))
    return tuple(found)


def refuse(where: str, protocol: str, found: Sequence[Mismatch], *, allow: bool) -> tuple[str, ...]:
    """Refuse what is not as the protocol says; where that is allowed, return it as warnings.

    Args:
        where: what was checked, for the message.
        protocol: its label.
        found: the mismatches.
        allow: ``--allow-protocol-mismatch`` was given.

    Raises:
        InputError: names field, wanted and found of each mismatch.
    """
    if not found:
        return ()
    told = f"{where} is not as the protocol {protocol} says: {'; '.join(map(str, found))}"
    if not allow:
        raise InputError(f"{told}. Evaluate it again as the protocol says, or say {_ALLOW} to go on all the same")
    return (f"{told} (allowed by {_ALLOW})",)


def between(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> tuple[Mismatch, ...]:
    """Whether two results were pinned to one protocol; without a named one on either side there is nothing to break.

    Args:
        ours: ``{id, hash}`` of the candidate's, None when it does not state any.
        theirs: the base's.
    """
    if all(pin is None or pin["id"] == AS_RUN for pin in (ours, theirs)):
        return ()
    if ours is not None and theirs is not None and ours["hash"] == theirs["hash"]:
        return ()
    return (Mismatch(field="protocol", wanted=_pin(theirs), found=_pin(ours)),)


def pin_of_meta(meta: Mapping[str, Any]) -> dict[str, str] | None:
    """``{id, hash}`` that a predictions file is pinned to, or None."""
    name, digest = meta.get("protocol_id"), meta.get("protocol_hash")
    return {"id": name, "hash": digest} if isinstance(name, str) and isinstance(digest, str) else None


def _places(meta: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The meta and the objects within it that may state settings."""
    yield meta
    for name in _INNER:
        if isinstance(meta.get(name), dict):
            yield from _places(meta[name])


def _pin(pin: Mapping[str, Any] | None) -> str:
    return "not stated" if pin is None else f"{pin['id']} {pin['hash'][:12]}"


def _plain(word: str, value: Any) -> Any:
    return _height_width(value) if word == "imgsz" else value


def _height_width(value: Any) -> Any:
    """A side, [height, width] or {width, height} to [height, width]; anything else stays, and equals nothing."""
    if type(value) is int:
        return [value, value]
    if isinstance(value, dict) and {"width", "height"} <= set(value):
        return [value["height"], value["width"]]
    return list(value) if isinstance(value, list | tuple) else value


def _same(found: Any, wanted: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and neither is true; a NaN equals nothing."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    return bool(found == wanted)


def _text(value: Any) -> str:
    return "none" if value is None else f"{value}"
