"""The cells of a suite, named and ordered for a reader. Pure; input is the plain mapping of ``suite.json``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report.numbers import about, as_number
from bench.types import PRECISIONS, Cell

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKEND_ORDER = ("torch", "onnxrt", "openvino", "trt", "recorded")
NEEDS_A_PERSON = ("failed", "error", "undecided")
DID_NOT_RUN = ("skipped", "unsupported")
AT_THE_MARGIN = "the delta sits at the margin; more images are unlikely to decide"
SPEED_CHECKS = ("max-latency", "baseline-speed")
"""Findings about speed alone: they set a cell's status and say nothing about its being the same model."""
MEASURED_FASTER = 1.03
"""Edge of the ±3 % band: a ratio without an interval is called faster only above it, and slower below 1 / it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """One cell, read once: what is absent is None, what is not finite is a float."""

    raw: Mapping[str, Any]
    id: str
    anchor: str
    """Fragment identifier, unique on the page."""
    label: str
    """``onnxrt int8``; the device is added when the backend ran on several, the batch when the run has several."""
    runtime: str
    """The label without its precision."""
    model: str
    backend: str
    precision: str
    role: str
    status: str
    reason: str | None
    ap: float | None
    delta: float | None
    delta_ci95: tuple[float, float] | None
    margin: float | None
    resolvable: float | None
    images_to_decide: int | None
    accuracy_verdict: str | None
    p50_ms: float | None
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    speed_verdict: str | None
    observed: str | None
    emulated: bool

    @property
    def word(self) -> str:
        """``reference`` or the status: the name of the glyph and the word beside it."""
        return "reference" if self.role == "reference" and self.status == "passed" else self.status

    @property
    def ran(self) -> bool:
        """True when something was measured."""
        return self.raw["accuracy"] is not None or self.raw["speed"] is not None

    @property
    def failed_parity(self) -> tuple[Mapping[str, Any], ...]:
        """The comparisons that failed."""
        return tuple(row for row in self.raw["parity"] if row["passed"] is False)

    @property
    def same(self) -> bool:
        """Judged to be the same model, and not for lack of a judgement; too slow a cell can still be the same."""
        found = [f["check"] for f in self.raw.get("findings", ())]
        too_slow = self.status in ("failed", "undecided") and found and all(c in SPEED_CHECKS for c in found)
        if (self.status != "passed" and not too_slow) or self.failed_parity:
            return False
        if self.accuracy_verdict is None:
            return any(row["passed"] for row in self.raw["parity"])
        return self.accuracy_verdict == "passed"

    @property
    def suspicious(self) -> bool:
        """Gains more than the margin, beyond the interval: the same model does not."""
        return self.accuracy_verdict == "suspicious"

    @property
    def would_decide(self) -> str | None:
        """What would decide an undecided accuracy, in words; None when it is decided or has no interval."""
        if self.accuracy_verdict != "undecided" or self.delta_ci95 is None:
            return None
        if self.images_to_decide is None:
            return AT_THE_MARGIN
        return f"about {about(self.images_to_decide)} images would decide, if the delta holds"

    @property
    def faster(self) -> bool:
        """Faster than its reference: by verdict where an interval exists, by the band's edge where none does."""
        if self.ratio is None:  # an emulated cell has none
            return False
        return self.speed_verdict == "faster" if self.ratio_ci95 else self.ratio > MEASURED_FASTER

    @property
    def slower(self) -> bool:
        """Slower than its reference, by the same rule."""
        if self.ratio is None:  # an emulated cell has none
            return False
        return self.speed_verdict == "slower" if self.ratio_ci95 else self.ratio < 1 / MEASURED_FASTER

    @property
    def open_question(self) -> bool:
        """Ran and was not found wrong, but nobody may call it the same."""
        unjudged = self.status == "passed" and not self.same
        asked = self.status == "undecided" and not self.same
        return self.role == "candidate" and (asked or unjudged) and not self.failed_parity


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cells of one model on one fixture set."""

    model: str
    fixtures: str
    title: str
    """The model, and the fixture set where one model has several."""
    images: int | None
    cells: tuple[CellView, ...]

    @property
    def reference(self) -> CellView | None:
        """The cell that the others are compared with."""
        return next((cell for cell in self.cells if cell.role == "reference"), None)

    @property
    def candidates(self) -> tuple[CellView, ...]:
        """The cells under test."""
        return tuple(cell for cell in self.cells if cell.role == "candidate")

    @property
    def reference_label(self) -> str:
        """``torch fp32``, or ``the reference`` when it is not among the cells."""
        return self.reference.label if self.reference else "the reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A suite, sorted and named."""

    suite: Mapping[str, Any]
    groups: tuple[Group, ...]
    has_intervals: bool
    """True when the file is of a version that measures intervals of the AP difference."""
    has_ratio_intervals: bool
    """The same of the speed ratio."""

    @property
    def cells(self) -> tuple[CellView, ...]:
        """All cells in reading order."""
        return tuple(cell for group in self.groups for cell in group.cells)

    @property
    def candidates(self) -> tuple[CellView, ...]:
        """All cells under test."""
        return tuple(cell for cell in self.cells if cell.role == "candidate")

    @property
    def no_interval(self) -> str:
        """What stands where an interval of the AP difference is missing: an older file has none of them."""
        return "no interval" if self.has_intervals else "no interval yet"

    @property
    def no_ratio_interval(self) -> str:
        """What stands where an interval of the speed ratio is missing."""
        return "no interval" if self.has_ratio_intervals else "no interval yet"

    @property
    def reference_label(self) -> str:
        """The reference's label when all models share one, else ``reference``."""
        labels = {group.reference_label for group in self.groups if group.reference}
        return labels.pop() if len(labels) == 1 else "reference"

    def name(self, cell: CellView) -> str:
        """The cell's label, with its model where the run has several."""
        return f"{cell.model} {cell.label}" if len(self.groups) > 1 else cell.label


def read_run(suite: Mapping[str, Any]) -> Run:
    """Sort the cells of a suite (a mapping valid under ``suite_result/1``) by model, backend and precision."""
    records = suite["cells"]
    devices: dict[str, set[str]] = {}
    for record in records:
        devices.setdefault(record["cell"]["backend"], set()).add(record["cell"]["device"])
    batches = {record["cell"]["batch"] for record in records}
    taken: set[str] = set()
    grouped: dict[tuple[str, str], list[CellView]] = {}
    for record in sorted(records, key=_reading_order):
        cell = record["cell"]
        with_device = len(devices[cell["backend"]]) > 1
        view = _read_cell(record, with_device=with_device, with_batch=len(batches) > 1, taken=taken)
        grouped.setdefault((cell["model"], cell["fixtures"]), []).append(view)
    models = [model for model, _ in grouped]
    groups = tuple(
        Group(
            model=model, fixtures=fixtures, images=_images(cells), cells=tuple(cells),
            title=model if models.count(model) == 1 else f"{model} on {fixtures}",
        )
        for (model, fixtures), cells in grouped.items()
    )  # fmt: skip
    cells = [cell for group in groups for cell in group.cells]
    return Run(
        suite=suite,
        groups=groups,
        has_intervals=any(c.delta_ci95 or (c.raw["accuracy"] or {}).get("deltas") is not None for c in cells),
        has_ratio_intervals=any(c.ratio_ci95 or (c.raw["speed"] or {}).get("rounds_run") for c in cells),
    )


def backend_rank(backend: str) -> tuple[int, str]:
    """Sort key: the house's backends in their order, then others by name."""
    known = BACKEND_ORDER.index(backend) if backend in BACKEND_ORDER else len(BACKEND_ORDER)
    return known, backend


def _reading_order(record: Mapping[str, Any]) -> tuple[Any, ...]:
    cell = record["cell"]
    return (
        cell["model"], cell["fixtures"], backend_rank(cell["backend"]), cell["device"],
        PRECISIONS.index(cell["precision"]), cell["batch"],
    )  # fmt: skip


def _images(cells: list[CellView]) -> int | None:
    counts = [cell.raw["accuracy"]["images"] for cell in cells if cell.raw["accuracy"]]
    return max(counts, default=None)


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _anchor(cell_id: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", cell_id)
    anchor, count = base, 1
    while anchor in taken:
        count += 1
        anchor = f"{base}-{count}"
    taken.add(anchor)
    return anchor


def _read_cell(record: Mapping[str, Any], *, with_device: bool, with_batch: bool, taken: set[str]) -> CellView:
    cell = record["cell"]
    identity = Cell(**{k: cell[k] for k in ("model", "backend", "device", "precision", "fixtures", "batch")})
    accuracy, speed, observed = record["accuracy"] or {}, record["speed"] or {}, record["observed"] or {}
    runtime = f"{cell['backend']} {cell['device']}" if with_device else cell["backend"]
    label = f"{runtime} {cell['precision']}"
    emulated = bool(observed.get("emulated")) or speed.get("verdict") == "emulated"
    return CellView(
        raw=record,
        id=identity.id,
        anchor=_anchor(identity.id, taken),
        label=f"{label} b{cell['batch']}" if with_batch else label,
        runtime=runtime,
        model=cell["model"],
        backend=cell["backend"],
        precision=cell["precision"],
        role=record["role"],
        status=record["status"],
        reason=record["reason"],
        ap=as_number(accuracy.get("stats", {}).get("AP")),
        delta=as_number(accuracy.get("delta")),
        delta_ci95=_pair(accuracy.get("ci95")),
        margin=as_number(accuracy.get("margin")),
        resolvable=as_number(accuracy.get("resolvable")),
        images_to_decide=accuracy.get("images_to_decide"),
        accuracy_verdict=accuracy.get("verdict"),
        p50_ms=None if emulated else as_number(speed.get("latency_ms", {}).get("p50")),
        ratio=None if emulated else as_number(speed.get("ratio")),
        ratio_ci95=None if emulated else _pair(speed.get("ratio_ci95")),
        speed_verdict="emulated" if emulated else speed.get("verdict"),
        observed=observed.get("precision"),
        emulated=emulated,
    )
