"""Any JSON file of this project: which schema it is of, and everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from bench.collector import collector_paused
from bench.errors import UsageError, did_you_mean
from bench.predictions.document import read_document
from bench.predictions.fields import BOX_KEYS
from bench.schema import SCHEMA_NAMES, schema_of
from bench.violations.boxes import check_boxes
from bench.violations.joined import check_against
from bench.violations.predictions import misspelt_predictions, walk
from bench.violations.schemas import load_schema, schema_violations
from bench.violations.syntax import NOTHING, oddities, parse
from bench.violations.violation import Collected, Violation, describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.types import FixtureSet

LIMIT = 20
PREDICTIONS = "predictions/1"
_DETECTION_FIELDS = {"score", "bbox", "class_id", "category_id", "keypoints"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a file is, and what is wrong with it."""

    label: str | None
    """Schema, such as ``predictions/1``; None where the file says none and resembles none."""
    form: str | None
    """Of predictions: ``coco``, ``entries``, ``wrapped`` or ``map``."""
    bbox_format: str | None
    """How the boxes of predictions were read."""
    violations: tuple[Violation, ...]
    more: int
    """Violations beyond the limit."""
    notes: tuple[str, ...]
    """What is allowed and probably not meant."""

    @property
    def total(self) -> int:
        """Number of all violations."""
        return len(self.violations) + self.more


def explain_file(
    path: Path, *, fixtures: FixtureSet | None = None, bbox_format: str | None = None, limit: int = LIMIT
) -> Explanation:
    """Check a file against its schema and, for predictions, what scoring asks beyond it.

    Args:
        path: JSON in UTF-8, at most 1 GiB.
        fixtures: set whose images and classes predictions must mean; None leaves both unchecked.
        bbox_format: of predictions, as for ``read_predictions``.
        limit: violations that are explained; further ones are counted.

    Raises:
        UsageError: an unknown ``bbox_format``, or an option for another kind of file.
        InputError: the file cannot be read at all.
    """
    if bbox_format is not None and bbox_format not in BOX_KEYS:
        raise UsageError(f"--bbox-format {bbox_format!r} does not exist.{did_you_mean(bbox_format, BOX_KEYS)}")
    parsed = parse(read_document(path))
    found = Collected(limit=limit)
    if parsed.violation is not None:
        found.add(parsed.violation)
    if parsed.document is NOTHING:
        return _explanation(None, found)
    label = _label_of(parsed.document, found)
    if label == PREDICTIONS:
        with collector_paused():  # a million boxes are kept until all of them can be judged
            walked = walk(parsed.document, bbox_format, found)
            check_boxes(walked, found)
        if fixtures is not None:
            check_against(fixtures, walked, found)
        else:
            walked.notes.append("images and classes were not looked up: give the set with --fixtures")
        return _explanation(label, found, walked.form, walked.bbox_format, tuple(walked.notes))
    if label is not None and (fixtures is not None or bbox_format is not None):
        raise UsageError(f"{path}: --fixtures and --bbox-format are for predictions; this is {label}")
    for violation in oddities(parsed.document):
        found.add(violation)
    told = {violation.path for violation in found.violations}
    if label is not None:
        for violation in schema_violations(parsed.document, SCHEMA_NAMES[label]):
            if violation.path != "$.schema" or violation.path not in told:
                found.add(violation)
    return _explanation(label, found)


def _explanation(
    label: str | None,
    found: Collected,
    form: str | None = None,
    bbox_format: str | None = None,
    notes: tuple[str, ...] = (),
) -> Explanation:
    return Explanation(
        label=label,
        form=form,
        bbox_format=bbox_format,
        violations=tuple(found.violations),
        more=found.more,
        notes=tuple(dict.fromkeys(notes)),
    )


def _label_of(document: Any, found: Collected) -> str | None:
    """The schema that a document claims, or else resembles; what its claim lacks is a violation."""
    label = schema_of(document)
    if label is not None:
        return label
    claimed = document.get("schema")
    if claimed is None and "annotations" in document and "images" in document:
        problem, fix = "is COCO ground truth, not a file of this project", "give it to parity score as --annotations"
        found.add(Violation(path="$", problem=problem, found=describe(document), fix=fix))
        return None
    if claimed is None and (misspelt_predictions(document) is not None or _is_map(document)):
        return PREDICTIONS
    near = _nearest_label(claimed) if isinstance(claimed, str) else _resembled(document)
    known = ", ".join(sorted(SCHEMA_NAMES))
    problem = "is missing: it names the schema" if claimed is None else "must name a schema that is known here"
    fix = f'write "schema": "{near}"' if near else f"give a file of this project; known: {known}"
    if isinstance(claimed, str) and near is not None and claimed.partition("/")[0] == near.partition("/")[0]:
        fix = f'this version knows "{near}": read the file with the version that wrote it, or write it again'
    found.add(Violation(path="$.schema", problem=problem, found="" if claimed is None else describe(claimed), fix=fix))
    return near


def _is_map(document: Mapping[str, Any]) -> bool:
    """Whether an object maps images to lists of detections."""
    alike = sum(_is_image(name, value) for name, value in document.items())
    return bool(document) and alike * 2 > len(document)


def _is_image(name: str, value: Any) -> bool:
    if isinstance(value, list) and value:
        return isinstance(value[0], dict) and bool(_DETECTION_FIELDS & value[0].keys())
    return "." in name or "/" in name or "\\" in name or name.isdecimal()


def _nearest_label(claimed: str) -> str | None:
    name = claimed.partition("/")[0]
    same = [label for label in SCHEMA_NAMES if label.partition("/")[0] == name]
    near = same or get_close_matches(claimed, SCHEMA_NAMES, n=1, cutoff=0.7)
    return near[0] if near else None


def _resembled(document: Mapping[str, Any]) -> str | None:
    """The schema of whose required fields a document has most, and at least half."""
    shares = {}
    for label, name in SCHEMA_NAMES.items():
        required = set(load_schema(name).get("required", ())) - {"schema"}
        if required:
            shares[label] = len(required & document.keys()) / len(required)
    best = max(shares, key=lambda label: shares[label])
    return best if shares[best] >= 0.5 else None
