"""The engine on disk and the JSON beside it: hashes, versions, GPU, flags, layers, and whether its label holds."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from bench.files import sha256_file, write_atomic
from bench.trt.inspector import Observed, label_problem, layer_of_record, observed_precision

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.trt.graphfile import GraphFile
    from bench.trt.options import BuildOptions

RECORD_SCHEMA = "engine/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What an engine was to be, and what it is."""

    requested: str
    observed: Observed
    problem: str | None
    """Why the label is not borne out, or None."""


def onnx_sha256(path: Path, external: tuple[str, ...]) -> str:
    """Hash of an ONNX file and its external data in the order of their names (as the store of artefacts has it).

    Raises:
        InputError: a file cannot be read.
    """
    # The parts' own hashes go in, so that a file of several GB is never held in memory.
    digest = hashlib.sha256(path.read_bytes())
    for name in sorted(external):
        digest.update(name.encode() + b"\0" + bytes.fromhex(sha256_file(path.parent / name)))
    return digest.hexdigest()


def judge_engine(facts: Mapping[str, Any], requested: str, graph: GraphFile, options: BuildOptions) -> Judged:
    """Hold the layers of an engine against its label, and against the ONNX file that it was built from.

    With a legacy precision the file says nothing about the engine: there the builder chose.
    """
    layers = [layer_of_record(entry) for entry in facts["layers"]]
    observed = observed_precision(layers)
    in_graph = None if options.legacy_precision is not None else graph.compute
    return Judged(requested=requested, observed=observed, problem=label_problem(requested, observed, in_graph=in_graph))


def requested_precision(label: str | None, graph: GraphFile, options: BuildOptions) -> str:
    """The label to hold the engine to: the one given, else what file and options say."""
    found = label or options.legacy_precision or graph.precision
    return "tf32" if found == "fp32" and options.tf32 else found


def engine_record(
    *, engine: Path, plan: bytes, onnx: Path, graph: GraphFile, options: BuildOptions, facts: Mapping[str, Any],
    judged: Judged,
) -> dict[str, Any]:  # fmt: skip
    """The JSON document that lies beside an engine (schema ``engine/1``)."""
    observed = judged.observed
    return {
        "schema": RECORD_SCHEMA,
        "finished_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),  # noqa: UP017 - Python 3.8 runs this
        "engine": {"file": engine.name, "sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)},
        "onnx": {
            "file": onnx.name,
            "sha256": onnx_sha256(onnx, graph.external),
            "external": list(graph.external),
            "opset": graph.opset,
            "compute_nodes": dict(graph.compute),
        },
        "host": {**facts["host"], "python": platform.python_version()},
        "options": options.identity(),
        "flags": list(facts["flags"]),
        "creation_flags": list(facts["creation_flags"]),
        "timing_cache": facts["timing_cache"],
        "precision": {
            "requested": judged.requested,
            "observed": observed.precision,
            "share": observed.share,
            "compute_layers": dict(observed.counts),
            "problem": judged.problem,
        },
        "inputs": _specs(facts, "input"),
        "outputs": _specs(facts, "output"),
        "ranges": facts["ranges"],
        "layers": facts["layers"],
        "trtexec": facts["trtexec"],
        "build_s": facts["seconds"],
        "warnings": facts["warnings"],
        "notes": facts["notes"],
    }


def write_engine(engine: Path, plan: bytes, record: Mapping[str, Any]) -> Path:
    """Write the engine and its record, each atomically; return the path of the record.

    Raises:
        InputError: the folder is full or read-only.
    """
    write_atomic(engine, plan)
    return write_atomic(record_path(engine), json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def record_path(engine: Path) -> Path:
    """``model.engine`` -> ``model.engine.json``."""
    return engine.with_name(engine.name + ".json")


def summary(engine: Path, record: Mapping[str, Any]) -> str:
    """A few lines for a person."""
    host, precision, size = record["host"], record["precision"], record["engine"]["bytes"]
    total = sum(precision["compute_layers"].values())
    table = ", ".join(f"{name} {count}" for name, count in precision["compute_layers"].items()) or "none"
    lines = [
        f"{engine}: {size / 1e6:.1f} MB, sha256 {record['engine']['sha256']}",
        f"  built in {record['build_s']:.0f} s by TensorRT {host['tensorrt']} on {host['gpu']} "
        f"({host['compute_capability']}), driver {host['driver']}; good for this combination only",
        f"  precision: requested {precision['requested']}, observed {precision['observed']} "
        f"({precision['share']:.0%} of {total} compute layers; {table}); TF32 "
        f"{'allowed' if record['options']['tf32'] else 'off'}",
        f"  repeat with: {record['trtexec']['build']}",
    ]
    lines += [f"  note: {note}" for note in record["notes"]]
    if precision["problem"]:
        lines += ["", "WARNING: THIS ENGINE IS NOT WHAT ITS LABEL SAYS.", f"WARNING: {precision['problem']}."]
        lines += [f"WARNING: the record says so too: {record_path(engine)}"]
    return "\n".join(lines)


def _specs(facts: Mapping[str, Any], mode: str) -> list[dict[str, Any]]:
    """Tensors of one direction; a dynamic axis is called ``batch``, as everywhere in this project."""
    return [
        {"name": name, "shape": ["batch" if size < 0 else size for size in shape], "dtype": dtype}
        for name, way, dtype, shape in facts["io"]
        if way == mode
    ]
