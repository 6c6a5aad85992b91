"""Where a session's time goes: onnxruntime's own profiler, its trace read back as times of nodes."""

from __future__ import annotations

import json
import re
import tempfile
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.backends.onnx_evidence import QUANTISED_COMPUTE
from bench.errors import ArtifactError
from bench.runner_base import PROFILE_RUNS, PROFILE_WARMUP, first_line
from bench.types import CONVERSION, NodeTime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.types import Array

_CONVERSIONS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "ReorderInput", "ReorderOutput"}
)
_TYPES = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "int8": "int8", "uint8": "int8",
}  # fmt: skip
_KERNEL = "_kernel_time"
_SUFFIXES = re.compile(r"(_nchwc|_token_\d+)+$")
"""What the optimiser appends to the names of nodes that it makes."""


def profile(path: Path, options: Any, feeds: Mapping[str, Array], outputs: Sequence[str]) -> tuple[NodeTime, ...]:
    """Run ``path`` on the CPU in a session of its own and return the median time of every node.

    Args:
        path: ONNX file.
        options: session options as the timed session has them; profiling is switched on here.
        feeds: inputs.
        outputs: names to compute.

    Raises:
        ArtifactError: the trace cannot be read.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="parity-profile-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/trace"
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(PROFILE_WARMUP + PROFILE_RUNS):
            session.run(list(outputs), dict(feeds))
        trace = session.end_profiling()
        try:
            with open(trace, encoding="utf-8") as stream:  # noqa: PTH123 - a name that onnxruntime gives
                events = json.load(stream)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: the profile of onnxruntime cannot be read: {first_line(error)}") from error
    return node_times(events, skip=PROFILE_WARMUP)


def node_times(events: Sequence[Mapping[str, Any]], *, skip: int) -> tuple[NodeTime, ...]:
    """Times from a trace, in the order of the first run.

    Args:
        events: ``{cat, name, ts, dur, args}``, times in microseconds; a ``model_run`` event spans each run, and a node
            has one ``<name>_kernel_time`` event each time it is run.
        skip: first runs that do not count.

    Raises:
        ArtifactError: the trace does not hold more runs than that.
    """
    runs = sorted((float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in events if e.get("name") == "model_run")
    if len(runs) <= skip:
        raise ArtifactError(f"a profile of {len(runs)} runs; more than {skip} are needed")
    totals: dict[tuple[str, str], list[float]] = {}
    seen: dict[tuple[str, str], NodeTime] = {}
    for event in events:
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith(_KERNEL):
            continue
        start = float(event["ts"])
        number = next((i for i, (begin, end) in enumerate(runs) if begin <= start <= end), None)
        if number is None or number < skip:
            continue
        name, arguments = _SUFFIXES.sub("", str(event["name"]).removesuffix(_KERNEL)), event.get("args", {})
        operator = str(arguments.get("op_name", ""))
        key = (name, str(arguments.get("node_index", "")))
        totals.setdefault(key, [0.0] * (len(runs) - skip))[number - skip] += float(event["dur"]) / 1000.0
        seen.setdefault(key, NodeTime(name=name, operator=operator, ms=0.0, precision=_precision(operator, arguments)))
    return tuple(
        NodeTime(name=node.name, operator=node.operator, ms=median(totals[key]), precision=node.precision)
        for key, node in seen.items()
    )


def _precision(operator: str, arguments: Mapping[str, Any]) -> str:
    """By the operator where it is a conversion or quantised, else by the first input's type."""
    if operator in _CONVERSIONS:
        return CONVERSION
    if operator in QUANTISED_COMPUTE or operator.startswith("QLinear"):
        return "int8"
    inputs = arguments.get("input_type_shape") or [{}]
    return _TYPES.get(next(iter(inputs[0]), ""), "")
