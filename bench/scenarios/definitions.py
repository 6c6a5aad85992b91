"""Definitions of scenarios: the ones that come with the harness, and files that add to them or replace them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from bench.errors import InputError, UsageError, did_you_mean
from bench.paths import REPOSITORY
from bench.schema import canonical, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

CLEAN = "clean"
"""What every other scenario is compared with: all images and objects as they are."""
DEFAULTS = REPOSITORY / "fixtures" / "scenarios" / "default.json"
MOVING_OPS = frozenset(("rotate", "crop"))
"""Steps that move boxes; the others leave the truth as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario; either ``steps`` or what is selected is in force, never both."""

    name: str
    description: str
    definition: Mapping[str, Any] = field(default_factory=dict)
    """As in the file, valid under ``schemas/scenarios.json``."""

    @property
    def alters(self) -> bool:
        """Whether pixels change; otherwise images or objects are selected."""
        return "alter" in self.definition

    @property
    def steps(self) -> tuple[Mapping[str, Any], ...]:
        """Of an altering scenario, in their order."""
        return tuple(self.definition.get("alter", ()))

    @property
    def moves(self) -> bool:
        """Whether boxes move with the pixels."""
        return any(step["op"] in MOVING_OPS for step in self.steps)

    @property
    def object_area_px2(self) -> tuple[float, float] | None:
        """Smallest and largest area of objects that count, both inclusive; None: all."""
        limits = self.definition.get("select", {}).get("object_area_px2")
        return None if limits is None else (float(limits[0]), float(limits[1]))

    @property
    def objects_per_image(self) -> tuple[int, int | None] | None:
        """Fewest and most objects of an image that is scored; None: any number."""
        select = self.definition.get("select", {})
        if not {"min_objects", "max_objects"} & set(select):
            return None
        return int(select.get("min_objects", 0)), select.get("max_objects")

    @property
    def sha256(self) -> str:
        """Of its definition, as JSON with sorted keys; its description does not count."""
        plain = {key: value for key, value in self.definition.items() if key != "description"}
        return hashlib.sha256(canonical(plain).encode()).hexdigest()


def load_scenarios(extra: Path | None = None) -> dict[str, Scenario]:
    """Scenarios by name: the defaults, then those of a file, which replace defaults of the same name.

    Raises:
        InputError: the file is no valid definition; names the place in it, and the nearest word for an unknown one.
    """
    found = _read(DEFAULTS)
    if extra is not None:
        added = _read(extra)
        if CLEAN in added and added[CLEAN].definition.get("select") != {}:
            raise InputError(
                f"{extra}: at $.scenarios.{CLEAN}: every other scenario is compared with it, so it cannot be changed. "
                "Choose another name."
            )
        found |= added
    return found


def choose(scenarios: Mapping[str, Scenario], only: Sequence[str]) -> list[Scenario]:
    """Those asked for (all when none is), in the order of their definition and after ``clean``.

    Raises:
        UsageError: a name that is not defined; suggests the nearest.
    """
    for name in only:
        known_name("--only", name, scenarios)
    return [s for s in scenarios.values() if not only or s.name in only or s.name == CLEAN]


def known_name(option: str, name: str, scenarios: Iterable[str]) -> None:
    """Raise UsageError with the nearest name unless ``name`` is one of ``scenarios``."""
    if name not in set(scenarios):
        raise UsageError(f"{option} {name}: no such scenario.{did_you_mean(name, scenarios)}")


def definitions_sha256(scenarios: Iterable[Scenario]) -> str:
    """One hash over names and definitions."""
    return hashlib.sha256(canonical({s.name: s.sha256 for s in scenarios}).encode()).hexdigest()


def _read(path: Path) -> dict[str, Scenario]:
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != "scenarios/1":
        raise InputError(f'{path}: at $.schema: must be \'scenarios/1\'. Begin the file with {{"schema": "scenarios/1"')
    _check(path, document)
    found = {}
    for name, definition in document["scenarios"].items():
        scenario = Scenario(name=name, description=definition["description"], definition=definition)
        _check_meaning(path, scenario)
        found[name] = scenario
    return found


def _check(path: Path, document: Any) -> None:
    """Validate; InputError with the JSON path of every fault, up to five."""
    import jsonschema

    schema = json.loads(resources.files("schemas").joinpath("scenarios.json").read_text("utf-8"))
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(document), key=lambda e: e.json_path)
    if errors:
        told = list(dict.fromkeys(text for error in errors for text in _told(error)))
        more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
        raise InputError(f"{path}: {'; '.join(told[:5])}{more}.")


def _told(error: Any) -> list[str]:
    """``at $.scenarios.blur.alter[0].sigma: unknown key. Did you mean 'sigma_px'?`` of one fault, or of several."""
    known = list(error.schema.get("properties", {})) if isinstance(error.schema, dict) else []
    if error.validator == "additionalProperties" and known:
        unknown = sorted(set(error.instance) - set(known))
        free = [key for key in known if key not in error.instance]
        return [f"at {error.json_path}.{key}: unknown key.{did_you_mean(key, free or known)}" for key in unknown]
    if error.validator == "required":
        lacking = [key for key in error.validator_value if key not in error.instance]
        return [f"at {error.json_path}: has no {key!r}" for key in lacking]
    if error.validator == "enum":
        hint = did_you_mean(str(error.instance), error.validator_value)
        return [f"at {error.json_path}: {error.instance!r} is unknown.{hint}"]
    if error.validator == "pattern" and "propertyNames" in error.absolute_schema_path:
        return [f"at {error.json_path}: {error.instance!r}: a name is lower-case letters, digits and _, a letter first"]
    return [f"at {error.json_path}: {error.message[:200]}"]


def _check_meaning(path: Path, scenario: Scenario) -> None:
    """What the schema cannot say."""
    where = f"{path}: at $.scenarios.{scenario.name}"
    if ("select" in scenario.definition) == scenario.alters:
        raise InputError(f"{where}: give either 'select' or 'alter': a part of the images, or altered images.")
    area, count = scenario.object_area_px2, scenario.objects_per_image
    if area is not None and area[0] > area[1]:
        raise InputError(f"{where}.select.object_area_px2: {area[0]:g} is above {area[1]:g}; smallest first.")
    if count is not None and count[1] is not None and count[0] > count[1]:
        raise InputError(f"{where}.select: min_objects {count[0]} is above max_objects {count[1]}.")
