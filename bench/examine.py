"""After the timing: which nodes take the time, and what each ONNX file says should come out.

Both explain results and change none: whatever goes wrong here is a note, never a failed cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import BenchError, LaneError
from bench.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.events import Events
    from bench.lanes import Limits
    from bench.record import OwnArithmetic, Record
    from bench.types import Artifact, Sample


def fp32_of(record: Record, records: Sequence[Record]) -> Record | None:
    """The fp32 cell of the same runtime, device and batch; None for fp32 itself, and where there is none."""
    cell = record.cell
    if cell.precision in ("fp32", "fp64"):
        return None
    identity = (cell.backend, cell.device, cell.batch)
    return next(
        (
            r
            for r in records
            if r.cell.precision == "fp32" and (r.cell.backend, r.cell.device, r.cell.batch) == identity
        ),
        None,
    )


def profile_cells(
    records: Sequence[Record],
    lanes: dict[str, Lane],
    *,
    open_lane: Callable[[Record], Lane],
    sample: Sample,
    events: Events,
    time_left: Callable[[], bool],
) -> None:
    """Ask the runtimes of lower precisions for the time of every node, and their own fp32 cells beside them.

    Emulated cells are left out: their latency is not that precision's speed, so there is nothing to explain.

    Args:
        records: of the model; ``node_times`` are filled in.
        lanes: cell name -> open lane; the timing has closed those that were decided early.
        open_lane: opens a lane for a record and enters it in ``lanes``.
        sample: image that is run.
        events: told of progress, and of every profile that there is not.
        time_left: asked before each cell.
    """
    wanted: dict[str, Record] = {}
    for record in records:
        fp32 = fp32_of(record, records)
        if fp32 is not None and record.planned.mode == "native" and _speaks(record):
            wanted[str(record.cell)] = record
            if _speaks(fp32):
                wanted[str(fp32.cell)] = fp32
    if wanted:
        events.stage(f"Profiling the nodes of {len(wanted)} cells")
    for done, (name, record) in enumerate(wanted.items()):
        if not time_left():
            events.note(f"No node times of {len(wanted) - done} cells: the time budget was used up.")
            return
        was_open = name in lanes
        try:
            lane = lanes[name] if was_open else open_lane(record)
            record.node_times = lane.call("profile", sample=sample, batch=record.cell.batch)
        except BenchError as error:
            events.note(f"No node times of {name}: {error}")
            broken = lanes.pop(name, None)
            if broken is not None:
                broken.kill()
        else:
            if not was_open:
                lanes.pop(name).close()
        events.progress("profiled cells", done + 1, len(wanted))


def simulate_files(
    records: Sequence[Record],
    *,
    adapter: str,
    samples: Sequence[Sample],
    log: Path,
    limits: Limits,
    events: Events,
    time_left: Callable[[], bool],
) -> dict[str, OwnArithmetic]:
    """Run the ONNX files of a model in their own arithmetic: those that several cells ran, and lower precisions.

    Args:
        records: of the model.
        adapter: target of the model's adapter.
        samples: the golden images.
        log: of the lane.
        limits: of the lane.
        events: told of progress, and of every file that could not be run so.
        time_left: asked before each file.

    Returns:
        sha256 of the file -> its outputs, or why there are none.
    """
    files: dict[str, list[Artifact]] = {}
    for record in records:
        artifact = record.artifact
        if artifact is not None and artifact.kind == "onnx" and record.raw is not None:
            files.setdefault(artifact.sha256, []).append(artifact)
    wanted = {sha: made[0] for sha, made in files.items() if len(made) > 1 or made[0].precision != "fp32"}
    found: dict[str, OwnArithmetic] = {}
    lane: Lane | None = None
    if wanted:
        events.stage("The files' own arithmetic on a few images")
    try:
        for sha, artifact in wanted.items():
            if not time_left():
                found[sha] = ("the time budget was used up", None)
                continue
            try:
                lane = lane or Lane(name="simulate", log=log, limits=limits)
                found[sha] = lane.call("simulate", adapter=adapter, path=artifact.path, samples=samples)
            except BenchError as error:
                found[sha] = (str(error), None)
                events.note(f"The {artifact.precision} file is not compared with its own arithmetic: {error}")
                if isinstance(error, LaneError) and lane is not None:
                    lane.kill()
                    lane = None
    except BaseException:
        if lane is not None:
            lane.kill()  # interrupted: it may be in the middle of a command
        raise
    if lane is not None:
        lane.close()
    return found


def _speaks(record: Record) -> bool:
    """Timed, and by a runtime that can say which of its nodes take the time."""
    return record.profiles and bool(record.rounds)
