"""Records of cells that nobody ran."""

from pathlib import Path

from bench.matrix import PlannedCell
from bench.record import Record
from bench.registry import Reference
from bench.types import Artifact, Cell, NodeTime

TIMES = (NodeTime(name="a", operator="Conv", ms=1.0, precision="fp32"),)


def record(precision, backend="onnxrt", *, mode="native", profiles=True, rounds=True, sha="1" * 64, raw=True):
    """One cell of an ONNX file; ``profiles``: its runtime says where its time goes."""
    cell = Cell(model="m", backend=backend, device="cpu", precision=precision, fixtures="f")
    planned = PlannedCell(
        cell=cell, role="candidate", backend=Reference(name=backend, target=backend), artifact_kind="onnx",
        measures_speed=True, mode=mode,
    )  # fmt: skip
    artifact = Artifact(
        kind="onnx", path=Path(f"{sha[:4]}.onnx"), sha256=sha, precision=precision, inputs=(), outputs=()
    )
    return Record(planned=planned, artifact=artifact, profiles=profiles, rounds=[{}] if rounds else [],
                  raw=[{}] if raw else None)  # fmt: skip
