"""The faults that ``parity doctor --prove`` plants, the changes that are none, and the cells they go into."""

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
from bench.proving import Fault, Stage
from bench.proving_files import Files
from bench.registry import Reference, load_adapter
from bench.types import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.probe import BackendFacts
    from bench.proving import Elsewhere
    from bench.types import Adapter, FixtureSet

IMAGES = 40
GRAPH_IMAGES = 48
_FAULTS = "bench.testing_faults"
_GRAPHS = "bench.testing_graphs"


def _adapter(name: str) -> str:
    return f"{_FAULTS}:{name}_adapter"


def _runtime(name: str, planted: str, backend: str, *expected: str) -> Fault:
    """A fault of the candidate's runtime, in the fp32 cell."""
    return Fault(name=name, planted=planted, backend=backend, expected=expected)


def _around(name: str, planted: str, adapter: str, *expected: str) -> Fault:
    """A fault around the network."""
    return Fault(name=name, planted=planted, adapter=_adapter(adapter), expected=expected)


_ANYWHERE = (
    _runtime("NaN in outputs", "left edges of all boxes", "nan", "tensors", "predictions"),
    _runtime("NaN in one image", "image 21 of 40 only, fp64 golden covers 4", "one_nan", "predictions"),
    _runtime("infinity in outputs", "all scores", "inf", "tensors", "predictions"),
    _runtime("wrong shape", "3 numbers per box", "shape", "contract"),
    _runtime("extra boxes", "a sure box of every class in every image", "extra", "predictions"),
    _runtime("missing boxes", "none of the class blue", "missing", "predictions"),
    _runtime("swapped classes", "red for green", "classes", "predictions"),
    _runtime("scores shifted by 0.01", "all scores", "scores", "predictions"),
    _runtime("boxes in another format", "xywh where xyxy is declared", "xywh", "predictions"),
    _runtime("own pre-processing in the runtime", "blurs its input after it was hashed", "own_resize", "tensors"),
)
_PREPROCESSING = (
    ("RGB/BGR swap", "channels reversed", "rgb"),
    ("missing normalisation", "0..255 instead of 0..1", "unnormalised"),
    ("letterbox off by half a pixel", "image half a network pixel lower", "half_pixel"),
    ("resize with another interpolation", "area instead of linear", "interpolation"),
)
_ACCURACY_ALONE = (
    ("extra boxes", "a sure box of every class in every image", "extra"),
    ("missing boxes", "none of the class blue", "missing"),
    ("swapped classes", "red for green", "classes"),
    ("predictions for the wrong image", "those of the image before", "late"),
)

_IN_FILES = (
    ("NaN in outputs", "one score", "nan", "reader"),
    ("a dropped image", "one entry is not there", "drop", "reader"),
    ("predictions for the wrong image", "those of the next image", "shift", "accuracy"),
    ("ground truth leaked", "in the place of predictions", "leak", "accuracy"),
)

FAULTS: tuple[Fault, ...] = (
    *_ANYWHERE,
    *[_around(n, f"{how}, candidate's lane", f"{a}_lane", "input hashes") for n, how, a in _PREPROCESSING],
    *[_around(n, f"{how}, every lane alike", a, "committed hashes") for n, how, a in _PREPROCESSING],
    Fault(
        name="transposed keypoints",
        planted="x for y, boxes right",
        stage="pose",
        backend="transposed",
        expected=("predictions",),
    ),
    Fault(
        name="left-right swapped keypoints",
        planted="left for right, boxes right",
        stage="pose",
        backend="mirrored",
        expected=("predictions", "accuracy"),
    ),
    Fault(
        name="fp16 overflow",
        planted="activations times 1024 and back: fp32 is exact",
        adapter=_adapter("overflowing"),
        precision="fp16",
        expected=("tensors", "predictions"),
    ),
    _runtime("wrong provider", "evidence of another device", "provider", "attestation"),
    Fault(
        name="wrong precision",
        planted="fp32 opened under the label int8",
        backend="precision",
        precision="int8",
        expected=("attestation",),
    ),
    _runtime("random weights", "drawn anew", "random", "tensors", "predictions", "accuracy"),
    _runtime("stale artefact", "weights that differ by 1 %", "stale", "tensors"),
    Fault(
        name="cached outputs",
        planted="timed steps give an earlier image's outputs",
        backend="cached",
        expected=("timed outputs",),
        timed=True,
    ),
    Fault(
        name="slow, then fast",
        planted="steps stop working after 100 runs",
        backend="tiring",
        expected=("timed outputs",),
        timed=True,
    ),
    Fault(
        name="faster on repeated input",
        planted="results cached by the input's hash",
        backend="remembering",
        expected=("repeated input",),
        timed=True,
    ),
    _around("a dropped image", "no detections on image 21", "dropped", "predictions"),
    _runtime("predictions for the wrong image", "those of the image before", "late", "predictions"),
    _around("ground truth leaked", "in the place of predictions", "leaking", "predictions", "accuracy"),
    *[
        Fault(name=n, planted=f"{how}; int8: accuracy alone", backend=b, precision="int8", expected=("accuracy",))
        for n, how, b in _ACCURACY_ALONE
    ],
    Fault(
        name="boxes in another format",
        planted="xywh where xyxy is declared; int8: negative widths",
        backend="xywh",
        precision="int8",
        expected=("scoring",),
    ),
    Fault(
        name="ground truth leaked",
        planted="in the place of predictions; int8: accuracy alone",
        adapter=_adapter("leaking"),
        precision="int8",
        expected=("accuracy",),
    ),
    Fault(
        name="left-right swapped keypoints",
        planted="left for right; int8: accuracy alone",
        stage="pose",
        backend="mirrored",
        precision="int8",
        expected=("accuracy",),
    ),
    Fault(
        name="random weights",
        planted="yolov10n in ONNX Runtime, weights shuffled",
        stage="graph",
        backend="random",
        expected=("tensors", "predictions", "accuracy"),
    ),
    Fault(
        name="stale artefact",
        planted="yolov10n in ONNX Runtime, 1 % noise on all weights",
        stage="graph",
        backend="stale",
        expected=("tensors", "predictions"),
    ),
    Fault(
        name="int8 scale of one layer doubled",
        planted="yolov10n in ONNX Runtime, weights of model.16.cv2",
        stage="graph",
        backend="doubled",
        precision="int8",
        expected=("accuracy",),
    ),
    *[
        Fault(name=n, planted=f"{how}; predictions file", stage="files", backend=edit, expected=(check,))
        for n, how, edit, check in _IN_FILES
    ],
    _runtime("crash", "SIGSEGV after the first inference", "bench.testing:segfault_backend", "lane"),
    Fault(
        name="hang",
        planted="sleeps, limit 1.5 s",
        backend="bench.testing:hanging_backend",
        expected=("lane",),
        limits=Limits(silence_s=1.5),
    ),
    Fault(
        name="out of memory",
        planted="grows, limit 0.6 GB",
        backend="bench.testing:hungry_backend",
        expected=("lane",),
        limits=Limits(silence_s=60, memory_gb=0.6),
    ),
)

BENIGN: tuple[Fault, ...] = (
    Fault(
        name="another kernel order", planted="sums from the last pixel to the first", backend="backwards", expected=()
    ),
    Fault(name="another batch size", planted="the candidate runs batches of 4", backend="batched", expected=()),
    Fault(name="ties in another order", planted="pairs of equal scores swapped", adapter=_adapter("ties"), expected=()),
    Fault(
        name="another thread count",
        planted="yolov10n in ONNX Runtime, 2 threads against 1",
        stage="graph",
        backend="threads",
        expected=(),
    ),
    Fault(
        name="another batch size",
        planted="yolov10n in ONNX Runtime, batches of 4",
        stage="graph",
        backend="batched",
        expected=(),
    ),
    Fault(
        name="another runtime's kernels",
        planted="yolov10n in OpenVINO against ONNX Runtime",
        stage="graph",
        backend="bench.backends.openvino:backend",
        requires="openvino",
        expected=(),
    ),
)


def stages(folder: Path, names: set[str]) -> dict[str, Stage | Elsewhere | str]:
    """The cells: a fake detector, a fake pose model, and yolov10n in ONNX Runtime where that can be made.

    Args:
        folder: for images and logs.
        names: ``detector``, ``pose``, ``files``, ``graph``; the last two are made when they are named.
    """
    from bench import testing_proof

    fixtures = testing_proof.proof_fixtures(folder / "images", IMAGES)
    targets = ["bench.testing:fake_backend", *(["onnxrt", "openvino"] if "graph" in names else [])]
    fake, *real = probe(targets, asked=[], devices=["cpu"], precisions=PRECISIONS, logs=folder / "logs")
    detector = Stage(
        name="fake detector",
        adapter="bench.testing_proof:adapter",
        spec=testing_proof.adapter.spec,
        weights=Path(testing_proof.__file__),
        fixtures=fixtures,
        labels_to_categories=(1, 2, 3),
        reference=fake,
        candidates=_FAULTS,
        other_images=lambda run: testing_proof.proof_fixtures(folder / f"images-{run}", IMAGES, first=run * IMAGES + 1),
    )
    pose = replace(
        detector,
        name="fake pose model",
        adapter="bench.testing_proof:pose_adapter",
        spec=testing_proof.pose_adapter.spec,
    )
    made: dict[str, Stage | Elsewhere | str] = {"detector": detector, "pose": pose}
    if "files" in names:
        made["files"] = Files(cast("Adapter", testing_proof.adapter), fixtures, folder)
    if real:
        made["graph"] = _graph(folder, *real)
    return made


def _graph(folder: Path, onnxrt: BackendFacts, openvino: BackendFacts) -> Stage | str:
    """yolov10n as one ONNX file; in words, why there is none."""
    from bench.testing_graphs import DOUBLED_MARGIN

    if reason := _why_not(onnxrt, ("fp32", "int8")):
        return reason
    try:
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
        candidates=_GRAPHS,
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
