"""A detector small enough to be written twice, in numpy and as an ONNX file, for tests of suites over two files.

It is named by its path on a command line; ``bench.testing:fake_backend`` runs its checkpoint (``.npz``), ONNX Runtime
its file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.errors import InputError, Unsupported
from bench.testing import CLASSES, SIDE, fake_fixtures, fake_image
from bench.types import ModelSpec, Prediction, TensorSpec

QUERIES = 6
HIDDEN = 24
POOLED = 8
HEADS = {"logits": len(CLASSES) + 1, "bbox": 4, "log_z": 1}
"""Output -> numbers per query; the last logit is the background."""
FEATURES = 3 * (SIDE // POOLED) ** 2


QUIET = (3, 4, 5)
"""Queries that find nothing."""


def make_weights(seed=0):
    """Random weights whose scores are spread, with ``QUIET`` queries: name -> float32 array."""
    generator = np.random.default_rng(seed)
    made = {"mix": generator.normal(0, 0.4, (FEATURES, HIDDEN))}
    for name, width in HEADS.items():
        made[f"{name}.weight"] = generator.normal(0, 0.7, (HIDDEN, QUERIES * width))
        made[f"{name}.bias"] = generator.normal(0, 1.0, QUERIES * width)
    made["logits.bias"].reshape(QUERIES, -1)[:, -1] -= 3
    return set_background({name: value.astype(np.float32) for name, value in made.items()}, 12.0)


def set_background(weights, logit):
    """Set how much the quiet queries are background."""
    weights["logits.bias"].reshape(QUERIES, -1)[list(QUIET), -1] = logit
    return weights


def forward(weights, images):
    """(B, 3, 32, 32) -> logits (B, Q, C + 1), bbox (B, Q, 4), log_z (B, Q, 1) in the dtype of the input."""
    kind, batch, cells = images.dtype, len(images), SIDE // POOLED
    pooled = images.reshape(batch, 3, cells, POOLED, cells, POOLED).mean(axis=(3, 5), dtype=kind)
    hidden = np.tanh(pooled.reshape(batch, -1) @ weights["mix"].astype(kind))
    return tuple(
        (hidden @ weights[f"{name}.weight"].astype(kind) + weights[f"{name}.bias"].astype(kind)).reshape(
            batch, QUERIES, width
        )
        for name, width in HEADS.items()
    )


class Network:
    """The checkpoint in numpy."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images):
        return forward(self.weights, images)


class SmallAdapter:
    """Softmax over classes and background, the best class of every query, sigmoid boxes."""

    spec: ClassVar[ModelSpec] = ModelSpec(
        name="small",
        task="detect",
        image_hw=(SIDE, SIDE),
        class_names=CLASSES,
        default_fixtures="fake",
        inputs=(TensorSpec(name="images", shape=("batch", 3, SIDE, SIDE), dtype="float32"),),
        outputs=tuple(
            TensorSpec(name=name, shape=("batch", QUERIES, width), dtype="float32") for name, width in HEADS.items()
        ),
        preprocessing={"method": "resize", "resize_interp": "nearest", "input_color": "RGB", "normalize": "0_1"},
        background={"logits": len(CLASSES)},
        max_detections=QUERIES,
    )

    def preprocess(self, image_rgb_u8) -> tuple[dict[str, Any], dict[str, Any]]:
        height, width = image_rgb_u8.shape[:2]
        rows, columns = np.arange(SIDE) * height // SIDE, np.arange(SIDE) * width // SIDE
        small = image_rgb_u8[rows][:, columns].astype(np.float32) / np.float32(255)
        return {"images": np.ascontiguousarray(small.transpose(2, 0, 1)[None])}, {"image_hw": (height, width)}

    def postprocess(self, outputs, meta) -> Prediction:
        height, width = meta["image_hw"]
        raised = np.exp(outputs["logits"][0] - outputs["logits"][0].max(axis=1, keepdims=True))
        scores = (raised / raised.sum(axis=1, keepdims=True))[:, :-1]
        cx, cy, w, h = (1 / (1 + np.exp(-outputs["bbox"][0]))).T
        boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
        boxes *= np.array([width, height, width, height], np.float32)
        order = np.argsort(-scores.max(axis=1), kind="stable")
        return Prediction(
            boxes_xyxy=boxes[order].astype(np.float32),
            scores=scores.max(axis=1)[order].astype(np.float32),
            labels=scores.argmax(axis=1)[order].astype(np.int64),
        )

    def build(self, weights, seed=0) -> Network:
        held = dict(np.load(weights, allow_pickle=False))
        lacking = sorted(make_weights().keys() ^ held.keys())
        if lacking:
            raise InputError(f"weights {weights}: unmatched keys: {', '.join(lacking)}")
        return Network(held)

    def export(self, weights, out, *, opset=17):
        raise Unsupported("the test writes its own file")

    def train(self, config, out) -> Path:
        raise Unsupported("nothing to train")


def save_checkpoint(path, weights):
    """Write a checkpoint; return its path."""
    np.savez(path, **weights)
    return path


def save_folder(folder, count=32):
    """Write the fake images with what the network of ``make_weights(0)`` finds as their truth; return the folder."""
    images = fake_fixtures(folder / "images", count)
    network, truths = Network(make_weights()), []
    for sample in images.samples:
        feeds, meta = adapter.preprocess(fake_image(sample.image_id)[0])
        found = adapter.postprocess(dict(zip(HEADS, network(feeds["images"]), strict=True)), meta)
        for box, score, label in zip(found.boxes_xyxy.tolist(), found.scores, found.labels, strict=True):
            if score >= 0.4:
                x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
                truth = {"image_id": sample.image_id, "category_id": int(label) + 1, "iscrowd": 0}
                truth |= {"bbox": [x, y, width, height], "area": width * height}
                truths.append({"id": len(truths) + 1, **truth})
    listed = [{"id": s.image_id, "file_name": s.path.name, "width": 64, "height": 64} for s in images.samples]
    document = {"images": listed, "annotations": truths, "categories": list(images.categories)}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(json.dumps(document), "utf-8")
    return folder


def save_onnx(path, weights, *, classes=3, after=None, declared=True):
    """Write the network as an ONNX file; return its path.

    Args:
        path: file.
        weights: as of ``make_weights``.
        classes: of the file; with others than 3 the logits are nonsense of that shape.
        after: output -> (operator, constant) that changes it at the end, for example an Add.
        declared: state the shapes of the outputs; otherwise every axis is symbolic.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save

    pool = {"kernel_shape": [POOLED] * 2, "strides": [POOLED] * 2}
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], "pool", **pool),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "mix"], ["mixed"], "mix_features"),
        helper.make_node("Tanh", ["mixed"], ["hidden"], "activate"),
    ]
    tensors, outputs = {"mix": weights["mix"]}, []
    for name, declared_width in HEADS.items():
        width = classes + 1 if name == "logits" else declared_width
        matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if width != declared_width:
            matrix, bias = np.resize(matrix, (HIDDEN, QUERIES * width)), np.resize(bias, QUERIES * width)
        tensors |= {f"{name}.weight": matrix, f"{name}.bias": bias, f"{name}.shape": np.array([-1, QUERIES, width])}
        operator, constant = (after or {}).get(name, ("", None))
        last = f"{name}_before" if operator else name
        nodes += [
            helper.make_node("Gemm", ["hidden", f"{name}.weight", f"{name}.bias"], [f"{name}_flat"], f"{name}_gemm"),
            helper.make_node("Reshape", [f"{name}_flat", f"{name}.shape"], [last], f"{name}_reshape"),
        ]
        if operator:
            tensors[f"{name}.after"] = constant
            nodes.append(helper.make_node(operator, [last, f"{name}.after"], [name], f"{name}_after"))
        shape = ["batch", QUERIES, width] if declared else ["batch", f"{name}_rows", f"{name}_width"]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        outputs,
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))
    return path


adapter = SmallAdapter()
