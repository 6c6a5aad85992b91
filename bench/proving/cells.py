"""The cells into which ``parity doctor --prove`` plants its faults, and which pass without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bench.errors import BenchError
from bench.fixtures import category_ids, resolve
from bench.lanes import Limits
from bench.making import Maker
from bench.matrix import ModelPlan
from bench.probe import probe
from bench.proving.files import Files
from bench.proving.prover import Stage
from bench.registry import Reference, load_adapter
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.probe import BackendFacts
    from bench.proving.prover import Elsewhere
    from bench.types import Adapter, FixtureSet

IMAGES = 40
GRAPH_IMAGES = 48


def stages(folder: Path, names: set[str]) -> dict[str, Stage | Elsewhere | str]:
    """The cells: a fake detector, a fake pose model, and yolov10n in ONNX Runtime where that can be made.

    Args:
        folder: for images and logs.
        names: ``detector``, ``pose``, ``files``, ``graph``; the last two are made when they are named.
    """
    from bench.testing import proof

    fixtures = proof.proof_fixtures(folder / "images", IMAGES)
    targets = ["bench.testing:fake_backend", *(["onnxrt", "openvino"] if "graph" in names else [])]
    fake, *real = probe(targets, asked=[], devices=["cpu"], precisions=PRECISIONS, logs=folder / "logs")
    detector = Stage(
        name="fake detector",
        adapter="bench.testing.proof:adapter",
        spec=proof.adapter.spec,
        weights=Path(proof.__file__),
        fixtures=fixtures,
        labels_to_categories=(1, 2, 3),
        reference=fake,
        candidates="bench.testing.faults",
        other_images=lambda run: proof.proof_fixtures(folder / f"images-{run}", IMAGES, first=run * IMAGES + 1),
    )
    pose = replace(
        detector,
        name="fake pose model",
        adapter="bench.testing.proof:pose_adapter",
        spec=proof.pose_adapter.spec,
    )
    made: dict[str, Stage | Elsewhere | str] = {"detector": detector, "pose": pose}
    if "files" in names:
        made["files"] = Files(cast("Adapter", proof.adapter), fixtures, folder)
    if real:
        made["graph"] = _graph(folder, *real)
    return made


def _graph(folder: Path, onnxrt: BackendFacts, openvino: BackendFacts) -> Stage | str:
    """yolov10n as one ONNX file; in words, why there is none."""
    if reason := _why_not(onnxrt, ("fp32", "int8")):
        return reason
    try:
        from bench.testing.graphs import DOUBLED_MARGIN

        adapter = load_adapter("yolov10n")
        fixtures = resolve("shapes")
        calibration = resolve("shapes", split="calibration")
        spec = adapter.spec
        if spec.default_weights is None:
            return f"{spec.name} ships no weights."
        plan = ModelPlan(
            adapter=Reference(name=spec.name, target="yolov10n"),
            spec=spec,
            weights=spec.default_weights,
            fixtures=fixtures,
            labels_to_categories=category_ids(spec.class_names, fixtures),
            calibration=calibration,
            calibration_label="shapes calibration split",
            cells=(),
            golden=None,
        )
        file = Maker(plan, logs=folder / "logs", limits=Limits()).artifact("onnx", "fp32")
    except BenchError as error:
        return f"yolov10n cannot be exported here: {error}"
    return Stage(
        name="yolov10n in ONNX Runtime",
        adapter="yolov10n",
        spec=spec,
        weights=file.path,
        fixtures=fixtures.take(GRAPH_IMAGES),
        labels_to_categories=plan.labels_to_categories,
        reference=onnxrt,
        candidates="bench.testing.graphs",
        calibration=calibration,
        calibration_label=plan.calibration_label,
        margins={"int8": DOUBLED_MARGIN},
        other_images=lambda run: _window(fixtures, run),
        absent=_absent({"openvino": openvino}),
    )


def _window(fixtures: FixtureSet, run: int) -> FixtureSet:
    """The next ``GRAPH_IMAGES`` images, from the front again at the end."""
    start = run % (len(fixtures.samples) // GRAPH_IMAGES) * GRAPH_IMAGES
    samples = fixtures.samples[start : start + GRAPH_IMAGES]
    ids = {s.image_id for s in samples}
    return replace(
        fixtures, samples=samples, annotations=tuple(a for a in fixtures.annotations if a["image_id"] in ids)
    )


def _absent(facts: Mapping[str, BackendFacts]) -> dict[str, str]:
    return {name: reason for name, f in facts.items() if (reason := _why_not(f, ("fp32",)))}


def _why_not(facts: BackendFacts, precisions: tuple[str, ...]) -> str | None:
    """Reason of the first precision that does not run on the CPU."""
    blocked = [s.reason for p in precisions if (s := facts.support[("cpu", p)]).mode is None]
    return blocked[0] if blocked else None
