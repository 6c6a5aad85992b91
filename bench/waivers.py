"""Known failures, written down with a reason and an expiry date: shown as ``waived`` until then."""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHECKS = (
    "any",
    "attestation",
    "parity",
    "timing",
    "accuracy",
    "error",
    "pose",
    "min-ap",
    "max-latency",
    "baseline-accuracy",
    "baseline-speed",
)
_KEYS = ("cell", "check", "reason", "expires")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """One ``[[waiver]]`` table."""

    cell: str
    """Pattern over cell ids, for example ``yolov10n-openvino-*-int8-*``."""
    check: str
    """One of ``CHECKS``."""
    reason: str
    expires: datetime.date
    """Last day on which it holds."""


def read_waivers(path: Path) -> tuple[Waiver, ...]:
    """Read ``waivers.toml``; InputError names the table and the key that is wrong."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}.") from error
    tables = document.get("waiver", [])
    if not isinstance(tables, list) or set(document) - {"waiver"}:
        raise InputError(f"{path}: waivers are [[waiver]] tables with {', '.join(_KEYS)}.")
    return tuple(_waiver(path, index, table) for index, table in enumerate(tables, 1))


def _waiver(path: Path, index: int, table: object) -> Waiver:
    where = f"{path}: [[waiver]] number {index}"
    if not isinstance(table, dict) or set(table) != set(_KEYS):
        raise InputError(f"{where}: needs exactly {', '.join(_KEYS)}.")
    if not isinstance(table["expires"], datetime.date) or isinstance(table["expires"], datetime.datetime):
        raise InputError(f"{where}: expires must be a date, for example 2027-01-31, without quotes.")
    for key in ("cell", "check", "reason"):
        if not isinstance(table[key], str) or not table[key].strip():
            raise InputError(f"{where}: {key} must be a text that is not empty.")
    if table["check"] not in CHECKS:
        raise InputError(f"{where}: check must be one of {', '.join(CHECKS)}, got {table['check']!r}.")
    return Waiver(cell=table["cell"], check=table["check"], reason=table["reason"], expires=table["expires"])


def find_waiver(waivers: Sequence[Waiver], cell_id: str, check: str, today: datetime.date) -> Waiver | None:
    """Return the first waiver in force for this cell and check, or None."""
    for waiver in waivers:
        if waiver.expires >= today and waiver.check in ("any", check) and fnmatchcase(cell_id, waiver.cell):
            return waiver
    return None
