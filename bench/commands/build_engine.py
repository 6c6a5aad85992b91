"""``parity build-engine``: an engine from a model or an ONNX file, what it computes in, and how builds differ."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.console import ConsoleEvents
from bench.errors import ArtifactError, Unavailable, UsageError, did_you_mean
from bench.making import Maker
from bench.options import make_request
from bench.planning import make_plans
from bench.schema import dumps
from bench.trt.enginefile import summary
from bench.trt.graphfile import read_graph_file
from bench.trt.job import require_tensorrt
from bench.trt.options import BuildOptions
from bench.trt.rebuilds import precision_table, spread_of
from bench.trt.target import PRECISIONS_TO_ASK, build_and_write, check_cache_fits

if TYPE_CHECKING:
    from collections.abc import Mapping

ELSEWHERE = (
    "On the machine with the GPU: copy build_engine.py (in the repository) and the ONNX file there and type "
    "python build_engine.py --onnx M.onnx --out F.engine. The ONNX file is made here: parity export MODEL "
    "--precision P --out M.onnx"
)


def build_engine_command(
    options: Mapping[str, Any],
    build: BuildOptions,
    *,
    model: str | None,
    onnx: Path | None,
    precision: str | None,
    out: Path,
    rebuilds: int,
    device: int,
    quiet: bool,
    as_json: bool,
) -> int:
    """Build ``rebuilds`` engines and say what they are; 1 when a label is not borne out or a build failed.

    Raises:
        UsageError, InputError: what was given cannot be used.
        Unavailable: no TensorRT, driver or GPU, with what to type elsewhere.
    """
    if (model is None) == (onnx is None):
        raise UsageError("parity build-engine takes one of a model and --onnx FILE.")
    if precision is not None and precision not in PRECISIONS_TO_ASK:
        raise UsageError(f"--precision {precision}: no engine has it.{did_you_mean(precision, PRECISIONS_TO_ASK)}")
    if rebuilds < 1:
        raise UsageError(f"--rebuilds {rebuilds}: at least 1")
    if onnx is not None:
        check_cache_fits(read_graph_file(onnx), build, onnx)
    try:
        require_tensorrt(device)
    except Unavailable as error:
        raise Unavailable(f"parity build-engine: {error}. {ELSEWHERE}") from error
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch, ConsoleEvents(console, quiet=quiet or as_json) as events:
        source = onnx or _made(options, precision, Path(scratch), events)
        graph = read_graph_file(source)
        check_cache_fits(graph, build, source)
        records = []
        for number in range(rebuilds):
            engine = out if number == 0 else out.with_name(f"{out.stem}.b{number}{out.suffix}")
            events.stage(f"build {engine.name} ({number + 1} of {rebuilds})")
            try:
                _, record = build_and_write(source, engine, build, label=precision, graph=graph, device=device)
            except ArtifactError as error:
                console.print(f"parity build-engine: {error}", markup=False, highlight=False, soft_wrap=True)
                return 1
            records.append((engine, record))
    _tell(records, as_json=as_json)
    return 1 if any(record["precision"]["problem"] for _, record in records) else 0


def _tell(built: list[tuple[Path, dict[str, Any]]], *, as_json: bool) -> None:
    console = Console()
    records = [record for _, record in built]
    spread = spread_of(records) if len(records) > 1 else None
    if as_json:
        document = {
            "engines": records,
            "spread": None if spread is None else dataclasses.asdict(spread),
            "compute_layers": precision_table(records),
        }
        console.print(dumps(document), markup=False, highlight=False, soft_wrap=True, end="")
        return
    lines = [summary(engine, record) for engine, record in built]
    if spread is not None:
        lines += spread.lines()
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _made(options: Mapping[str, Any], precision: str | None, logs: Path, events: ConsoleEvents) -> Path:
    """The model's ONNX file of this precision, from the store; tf32 runs the fp32 file."""
    request = make_request(
        {**options, "precisions": precision or "fp32", "backends": None, "max_images": 1}, command="parity build-engine"
    )
    if len(request.precisions) != 1:
        raise UsageError("parity build-engine makes one engine: one --precision.")
    plan = make_plans(request, logs=logs, events=events)[0]
    maker = Maker(plan, logs=logs, limits=request.limits, options=request.conversion, progress=events.progress)
    return maker.artifact("onnx", request.precisions[0]).path
