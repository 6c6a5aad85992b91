"""Ranges of activations over calibration images: the value, and the ``calibration/1`` document."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.errors import InputError
from bench.files import write_atomic
from bench.schema import dumps, read_json, schema_of, validate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INT8_MAX = 127
"""Symmetric int8: scale = amax / 127 (TensorRT's cache and onnxruntime's symmetric QInt8 agree on it)."""
SCHEMA = "calibration/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRange:
    """What one activation held, and the magnitude that its 8-bit grid will cover."""

    low: float
    """Smallest value seen."""
    high: float
    """Largest value seen."""
    amax: float
    """Largest magnitude that is represented; what lies beyond saturates."""

    @property
    def scale(self) -> float:
        """Step of the symmetric int8 grid."""
        return self.amax / INT8_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationImage:
    """One image that was read."""

    name: str
    """File name without its folder."""
    sha256: str
    """Of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Ranges of one graph on one ordered list of images."""

    method: str
    """``minmax``, ``entropy``, ``percentile 99.999`` or ``migrated <header of the cache>``."""
    ranges: Mapping[str, TensorRange]
    """ONNX tensor -> range."""
    onnx_sha256: str
    """The fp32 file that was calibrated."""
    images: int
    images_sha256: str
    """Hash over the preprocessed tensors, in the order in which they were read."""
    set_name: str
    seed: int | None = None
    """Of the choice of images; None: the first ones of the set."""
    evaluation_images: int = 0
    """Images that are also in the evaluation set (only when forced)."""
    evaluation_sets: tuple[str, ...] = ()
    """Sets that the images were compared with, by content."""
    model: str = ""
    """Registered name."""
    set_split: str = ""
    set_sha256: str = ""
    """Hash of the set's manifest: names and hashes of all its files."""
    files: tuple[CalibrationImage, ...] = ()
    """In the order in which they were read."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version of what computed the ranges."""


def write_calibration(path: Path, calibration: Calibration) -> dict[str, Any]:
    """Validate and write the document; a reader never sees half of it. Returns what was written.

    Raises:
        InputError: the values are not those of a calibration, or the file cannot be written.
    """
    document = {
        "schema": SCHEMA,
        "model": calibration.model,
        "method": calibration.method,
        "onnx_sha256": calibration.onnx_sha256,
        "set": {"name": calibration.set_name, "split": calibration.set_split, "sha256": calibration.set_sha256},
        "seed": calibration.seed,
        "images": calibration.images,
        "images_sha256": calibration.images_sha256,
        "evaluation_images": calibration.evaluation_images,
        "evaluation_sets": list(calibration.evaluation_sets),
        "versions": dict(calibration.versions),
        "files": [{"name": f.name, "sha256": f.sha256} for f in calibration.files],
        "ranges": {n: {"low": r.low, "high": r.high, "amax": r.amax} for n, r in calibration.ranges.items()},
    }
    _check(document, where=str(path))
    write_atomic(path, dumps(document))
    return document


def read_calibration(path: Path) -> Calibration:
    """Read and check a ``calibration/1`` document.

    Raises:
        InputError: not such a document, or one that contradicts itself, with the place.
    """
    document = read_json(path)
    if schema_of(document) != SCHEMA:
        raise InputError(
            f"{path}: not a calibration: field 'schema' must be {SCHEMA!r}. Make one with: parity calibrate MODEL "
            "--out calibration.json"
        )
    _check(document, where=str(path))
    return Calibration(
        method=document["method"],
        ranges={n: TensorRange(low=r["low"], high=r["high"], amax=r["amax"]) for n, r in document["ranges"].items()},
        onnx_sha256=document["onnx_sha256"],
        images=document["images"],
        images_sha256=document["images_sha256"],
        set_name=document["set"]["name"],
        seed=document["seed"],
        evaluation_images=document["evaluation_images"],
        evaluation_sets=tuple(document["evaluation_sets"]),
        model=document["model"],
        set_split=document["set"]["split"],
        set_sha256=document["set"]["sha256"],
        files=tuple(CalibrationImage(name=f["name"], sha256=f["sha256"]) for f in document["files"]),
        versions=document["versions"],
    )


def _check(document: dict[str, Any], *, where: str) -> None:
    validate(document, "calibration", where=where)
    for name, found in document["ranges"].items():
        if not all(map(math.isfinite, (found["low"], found["high"], found["amax"]))):
            raise InputError(f"{where}: at ranges/{name}: a number is not finite.")
        if not found["low"] <= found["high"]:
            raise InputError(f"{where}: at ranges/{name}: low {found['low']} is above high {found['high']}.")
    if document["files"] and len(document["files"]) != document["images"]:
        raise InputError(f"{where}: at files: {len(document['files'])} names for {document['images']} images.")
