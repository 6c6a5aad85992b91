"""The faults that ``parity doctor --prove`` plants, and the changes that are none: one table each."""

from __future__ import annotations

from bench.lanes import Limits
from bench.proving.prover import Fault

_FAULTS = "bench.testing.faults"


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
        name="letterbox off by half a pixel",
        planted="yolov10n on shapes, every lane alike",
        stage="graph",
        adapter="bench.testing.graphs:half_pixel_adapter",
        expected=("committed hashes",),
    ),
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
