"""One table of options for the command line, pytest and the config file, and how texts become a ``Request``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.across.speed import BAND
from bench.errors import InputError, UsageError, did_you_mean
from bench.lanes import Limits
from bench.matrix import DEFAULT_PRECISIONS, Request
from bench.precision.options import ACTIVATIONS, CALIBRATORS, Conversion
from bench.protocols import load_protocol
from bench.registry import load_backend
from bench.types import PRECISIONS
from bench.waivers import read_waivers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HELP = {
    "models": "Models, comma separated (default: those with shipped weights).",
    "backends": "Backends, comma separated (default: those this host can run).",
    "devices": "Devices, comma separated: cpu, cuda:0, tensorrt:0 (of onnxrt) (default: cpu).",
    "precisions": "Precisions, comma separated: fp64 fp32 tf32 fp16 bf16 int8 (default: fp32,fp16,int8).",
    "fixtures": "Fixture set by name, or a folder in COCO or YOLO layout (default: the model's own).",
    "weights": "[MODEL=]PATH of .safetensors, a plain state dict, or an .onnx file as it is; comma separated.",
    "calibration": "Images that int8 is calibrated on: a set or a folder.",
    "exclude": "Regular expression of nodes (name, output, weight) that lower precisions leave in float; repeatable.",
    "calibrator": "How int8 ranges are chosen: auto, entropy, percentile or minmax (default: auto, the best by SQNR).",
    "activations": "Storage of int8 activations: int8 (zero point 0, for every runtime) or uint8 (the same grid).",
    "tune": "yes: leave activations that cannot take 8 bits in float; no: quantise all that is allowed (default: yes).",
    "rebuilds": "Engines built per cell; the openings of its timing take turns with them (default: 1).",
    "max_images": "Use only the first N images.",
    "batch": "Batch size.",
    "threads": "Threads of each runtime.",
    "reference": "The cell that all others are compared with, BACKEND:PRECISION[:DEVICE].",
    "adapter": "A model outside the package: PATH.py that defines `adapter`, or a registered name.",
    "require_backends": "Backends that must run: a skipped cell of theirs fails.",
    "min_ap": "Fail every cell whose AP is below.",
    "max_latency_ms": "Fail every cell whose median latency is above.",
    "margin": "P=X, comma separated: allowed AP loss of a precision, for example int8=0.005.",
    "time_budget": "Seconds; cells that have not begun by then are skipped.",
    "rounds": "Timing rounds of 5 steps, at least (default: 20; more follow while a cell's speed is undecided).",
    "max_rounds": "Timing rounds at most (default: 60, or --rounds when that is fewer than 20).",
    "openings": "How often each lane is opened anew during the timing (default: 4).",
    "bootstrap": "Resamples of the paired bootstrap over images (default: 1000).",
    "cross_check": "Cells that an independent scorer scores again: all, one or none (default: one).",
    "band": "Percent that a cell's speed may change against the baseline and count as the same (default: 3).",
    "baseline": "Stored baseline (parity baseline) that every cell must not fall behind.",
    "seed": "Seed of the shuffles and of random weights.",
    "recording": "Folder with recorded outputs, for the backend `recorded`.",
    "waivers": "waivers.toml: known failures with reason and expiry date.",
    "lane_timeout": "Seconds of silence after which a lane is taken to hang.",
    "lane_memory": "GB of resident memory that a lane may use.",
    "out": "Folder for reports.",
    "protocol": "Evaluation protocol by name or file, which every model and file must follow (parity list protocols).",
    "allow_protocol_mismatch": "Go on where the protocol is not followed, and say so.",
    "resume": "Run id of an interrupted run: its finished cells are not measured again (timing is).",
}
CROSS_CHECKS = ("all", "one", "none")
MAX_IMAGES_OF_ONE_FILE = 50
"""Of a suite or a baseline in one file, where none are asked for: 30 and more give an interval of the accuracy."""
MIN_RESAMPLES = 100
"""A 2.5 % quantile needs a few dozen resamples beyond it to be worth printing."""
ALIASES = {
    "dataset": "fixtures",
    "dataset_root": "fixtures",
    "checkpoint": "weights",
    "output": "out",
    "model": "models",
    "backend": "backends",
    "precision": "precisions",
    "device": "devices",
}


def split(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """``"a,b"`` or ``["a", "b,c"]`` to a tuple of non-empty parts."""
    if text is None:
        return ()
    parts = text.split(",") if isinstance(text, str) else [p for item in text for p in str(item).split(",")]
    return tuple(p.strip() for p in parts if p.strip())


def split_weights(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """As ``split``, at commas before ``MODEL=`` only: a path may hold others."""
    items = [text] if isinstance(text, str) else [str(item) for item in text or ()]
    parts = [part for item in items for part in re.split(r",(?=[^,/\\=]+=)", item)]
    return tuple(p.strip() for p in parts if p.strip())


def read_config(path: Path) -> dict[str, Any]:
    """Read option values from a TOML file; keys are the long options (dashes or underscores), aliases included.

    Raises:
        InputError: not a readable TOML file.
        UsageError: an unknown key (the nearest is suggested).
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not TOML: {error}.") from error
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = ALIASES.get(key.replace("-", "_"), key.replace("-", "_"))
        if name not in HELP:
            raise UsageError(f"--config {path}: unknown option {key!r}.{did_you_mean(name, HELP)}")
        values[name] = value
    return values


def make_request(values: Mapping[str, Any], *, command: str) -> Request:
    """Turn option values (texts, numbers, lists; None = not given) into a request.

    Raises:
        UsageError: an unknown name or a value that does not fit.
    """
    given = {k: v for k, v in values.items() if v is not None}
    unknown = sorted(set(given) - set(HELP))
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}.{did_you_mean(unknown[0], HELP)}")
    models = (*split(given.get("models")), *split(given.get("adapter")))
    precisions = split(given.get("precisions")) or DEFAULT_PRECISIONS
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"unknown precision {precision!r}.{did_you_mean(precision, PRECISIONS)}")
    weights = {}
    for item in split_weights(given.get("weights")):
        name, equals, path = item.partition("=")
        named = bool(equals) and "/" not in name  # a path may hold an equals sign, a model's name no slash
        weights[name if named else "*"] = Path(path if named else item).expanduser()
    margins = {}
    for item in split(given.get("margin")):
        precision, _, text = item.partition("=")
        if precision not in PRECISIONS:
            raise UsageError(f"--margin {item}: {precision!r} is no precision.{did_you_mean(precision, PRECISIONS)}")
        margins[precision] = _number("margin", text, minimum=0.0)
    rounds = _integer(given, "rounds", 2) or 20
    max_rounds = _integer(given, "max_rounds", 2) or (60 if rounds >= 20 else rounds)
    if max_rounds < rounds:
        raise UsageError(f"--max-rounds {max_rounds} is below --rounds {rounds}.")
    defaults = {f.name: f.default for f in fields(Request)}
    return Request(
        models=models,
        backends=split(given.get("backends")),
        devices=split(given.get("devices")) or ("cpu",),
        precisions=precisions,
        fixtures=_text(given, "fixtures"),
        calibration=_text(given, "calibration"),
        weights=weights,
        recording=_path(given, "recording"),
        max_images=_integer(given, "max_images", 1),
        batch=_integer(given, "batch", 1) or 1,
        threads=_integer(given, "threads", 1) or 1,
        reference=_reference(given.get("reference"), defaults["reference"]),
        require_backends=tuple(load_backend(b).name for b in split(given.get("require_backends"))),
        min_ap=_optional(given, "min_ap"),
        max_latency_ms=_optional(given, "max_latency_ms"),
        margins=margins,
        time_budget_s=_optional(given, "time_budget"),
        rounds=rounds,
        max_rounds=max_rounds,
        openings=_integer(given, "openings", 1) or 4,
        rebuilds=_integer(given, "rebuilds", 1) or 1,
        conversion=_conversion(given),
        resamples=_resamples(given),
        cross_check=_choice(given, "cross_check", CROSS_CHECKS, "one"),
        band=_band(given),
        baseline=_path(given, "baseline"),
        seed=_integer(given, "seed", 0) or 0,
        limits=Limits(silence_s=_optional(given, "lane_timeout") or 300.0, memory_gb=_optional(given, "lane_memory")),
        out=_path(given, "out") or Path("reports"),
        resume=_text(given, "resume"),
        waivers=read_waivers(Path(given["waivers"])) if "waivers" in given else (),
        protocol=load_protocol(str(given["protocol"])) if "protocol" in given else None,
        allow_protocol_mismatch=_flag(given, "allow_protocol_mismatch"),
        command=command,
    )


def _reference(text: Any, default: Any) -> tuple[str, str, str]:
    if text is None:
        return tuple(default)  # type: ignore[return-value]
    parts = str(text).split(":")
    at = next((i for i, part in enumerate(parts) if i > 0 and part in PRECISIONS), None)
    if at is None and len(parts) == 1:
        return load_backend(parts[0]).name, "fp32", "cpu"
    if at is None:
        raise UsageError(
            f"--reference {text}: names no precision.{did_you_mean(parts[-1], PRECISIONS)} "
            "Form: BACKEND:PRECISION[:DEVICE], for example torch:fp32:cpu."
        )
    backend, precision, device = ":".join(parts[:at]), parts[at], ":".join(parts[at + 1 :])
    return load_backend(backend).name, precision, device or "cpu"


def _number(name: str, value: Any, *, minimum: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"--{name.replace('_', '-')} {value!r}: not a number.") from None
    if not number >= minimum or number == float("inf"):
        raise UsageError(f"--{name.replace('_', '-')} {value}: must be a finite number of at least {minimum:g}.")
    return number


def _optional(given: Mapping[str, Any], name: str) -> float | None:
    return _number(name, given[name], minimum=0.0) if name in given else None


def _integer(given: Mapping[str, Any], name: str, minimum: int) -> int | None:
    if name not in given:
        return None
    number = _number(name, given[name], minimum=minimum)
    if number != int(number):
        raise UsageError(f"--{name.replace('_', '-')} {given[name]}: must be a whole number.")
    return int(number)


def _band(given: Mapping[str, Any]) -> float:
    percent = _optional(given, "band")
    if percent is None:
        return BAND
    if not 0 < percent < 100:
        raise UsageError(f"--band {percent:g}: must be a percentage above 0 and below 100.")
    return percent / 100


def _resamples(given: Mapping[str, Any]) -> int:
    number = _integer(given, "bootstrap", MIN_RESAMPLES)
    return 1000 if number is None else number


def _choice(given: Mapping[str, Any], name: str, known: Sequence[str], default: str) -> str:
    value = str(given.get(name, default))
    if value not in known:
        raise UsageError(f"--{name.replace('_', '-')} {value}: unknown.{did_you_mean(value, known)}")
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise UsageError(f"--{name.replace('_', '-')} {value!r}: a flag; in a configuration file it is true or false.")
    return value


def _conversion(given: Mapping[str, Any]) -> Conversion:
    patterns = given.get("exclude", ())
    patterns = (patterns,) if isinstance(patterns, str) else tuple(map(str, patterns))  # a comma may be in one
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--exclude {pattern}: no regular expression ({error}).") from None
    return Conversion(
        exclude=patterns,
        calibrator=_choice(given, "calibrator", CALIBRATORS, "auto"),  # type: ignore[arg-type]
        activations=_choice(given, "activations", ACTIVATIONS, "int8"),  # type: ignore[arg-type]
        tune=_choice(given, "tune", ("yes", "no"), "yes") == "yes",
    )


def _text(given: Mapping[str, Any], name: str) -> str | None:
    return str(given[name]) if name in given else None


def _path(given: Mapping[str, Any], name: str) -> Path | None:
    return Path(str(given[name])).expanduser() if name in given else None
