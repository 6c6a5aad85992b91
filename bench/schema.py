"""Values to JSON and back: validation, the non-finite policy, atomic writes.

JSON has no NaN. Non-finite numbers travel as the strings ``"nan"``, ``"inf"`` and ``"-inf"``: null would read as
"not measured" and a bare ``NaN`` is not JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bench.errors import InputError
from bench.files import write_atomic
from bench.results import SuiteResult

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_NAMES = {
    "suite_result/1": "suite_result",
    "predictions/1": "predictions",
    "score_result/1": "score_result",
    "artifact/1": "artifact",
    "fixture_manifest/1": "fixture_manifest",
    "compare_result/1": "compare_result",
    "baseline/1": "baseline",
    "history/1": "history",
    "preprocess_goldens/1": "preprocess_goldens",
    "calibration/1": "calibration",
    "prepared/1": "prepared",
    "engine/1": "engine",
    "protocol/1": "protocol",
    "export_meta/1": "export_meta",
    "training_run/1": "training_run",
    "scenarios/1": "scenarios",
    "scenario_result/1": "scenario_result",
}
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def to_json(value: Any) -> Any:
    """Turn dataclasses, mappings, numpy values and paths into plain JSON values; non-finite floats into strings."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_number(value: Any) -> Any:
    """Read a number field back: ``"nan"`` and its kin become floats, anything else stays."""
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def dumps(value: Any) -> str:
    """JSON text with stable key order as given, one space of indent, no bare NaN."""
    return json.dumps(to_json(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def validate(document: Any, name: str, *, where: str) -> None:
    """Check ``document`` against ``schemas/<name>.json``; InputError names the first wrong place."""
    import jsonschema

    schema = json.loads(resources.files("schemas").joinpath(f"{name}.json").read_text("utf-8"))
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(document), key=lambda e: len(list(e.path)))
    if errors:
        worst = jsonschema.exceptions.best_match(errors)
        place = "/".join(str(p) for p in worst.absolute_path) or "top level"
        raise InputError(f"{where}: at {place}: {worst.message[:300]} ({len(errors)} problem(s), schema {name}).")


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError names file, line and column."""
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON at line {error.lineno} column {error.colno}: {error.msg}.") from error
    except RecursionError as error:
        raise InputError(f"{path}: JSON is nested too deeply to be one of ours.") from error


def read_suite(path: Path) -> dict[str, Any]:
    """Read and validate a ``suite.json``."""
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != "suite_result/1":
        raise InputError(f"{path}: not a suite result: field 'schema' must be 'suite_result/1'.")
    validate(document, "suite_result", where=str(path))
    return cast("dict[str, Any]", document)


def write_suite(suite: SuiteResult, path: Path) -> dict[str, Any]:
    """Validate, then write; return the JSON form that was written."""
    document = cast("dict[str, Any]", to_json(suite))
    validate(document, "suite_result", where=str(path))
    write_atomic(path, dumps(document))
    return document


def validate_file(path: Path) -> str:
    """Validate any of our JSON files by its ``schema`` field; return the schema's name."""
    document = read_json(path)
    label = schema_of(document)
    if label is None:
        raise InputError(f"{path}: no field 'schema' that names one of: {', '.join(sorted(SCHEMA_NAMES))}.")
    validate(document, SCHEMA_NAMES[label], where=str(path))
    return label


def schema_of(document: Any) -> str | None:
    """Name of the schema that a document claims; predictions are recognised by their form."""
    if isinstance(document, dict):
        meta = document.get("meta")
        label = document.get("schema") or (meta.get("schema") if isinstance(meta, dict) else None)
        if isinstance(label, str) and label in SCHEMA_NAMES:
            return label
        if "predictions" in document:
            return "predictions/1"
        if "protocol_schema_version" in document and "fixed_conditions" in document:
            return "protocol/1"
    return "predictions/1" if isinstance(document, list) else None


def canonical(document: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces, for hashing."""
    return json.dumps(to_json(document), sort_keys=True, separators=(",", ":"), allow_nan=False)
