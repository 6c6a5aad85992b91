"""``manifest.json`` of a prepared folder (schema ``prepared/1``): every file with its hash, and how it was made."""

from __future__ import annotations

import datetime
import platform
from typing import TYPE_CHECKING, Any

from bench.files import write_atomic
from bench.host import package_versions
from bench.schema import dumps, read_json, to_json, validate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.precision.options import Conversion
    from bench.preparing.images import Images
    from bench.preparing.steps import Stored
    from bench.types import ModelSpec, TensorSpec

MANIFEST = "manifest.json"
CARD = "README.md"
MODEL = "model.onnx"
INT8 = "model.int8.onnx"
CALIBRATION = "calibration.json"
CACHE = "calibration.cache"
BUILDER = "build_engine.py"
FILES = (MODEL, INT8, CALIBRATION, CACHE, BUILDER, CARD, MANIFEST)
"""In the order in which they are made."""
ROLES = {
    MODEL: "ONNX, fp32: what everything else is made from",
    INT8: "ONNX, int8 with explicit Q/DQ nodes, float32 inputs and outputs: TensorRT 10 and 11, onnxruntime, openvino",
    CALIBRATION: "ranges of the activations of model.onnx over the calibration images",
    CACHE: "scales of the int8 file as a legacy INT8 calibration cache, for TensorRT 10 with model.onnx",
    BUILDER: "stand-alone script that builds an engine on the target machine",
    CARD: "this model card",
    MANIFEST: "hashes, versions and recipe",
}
_PACKAGES = (
    "backend-parity",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
    "huggingface_hub",
)


def facts_of(
    *,
    spec: ModelSpec,
    variant: str | None,
    command: str,
    weights: Mapping[str, Any],
    images: Images,
    images_sha256: str,
    conversion: Conversion,
    export: Mapping[str, Any],
    recipe: Mapping[str, Any],
    cache: Mapping[str, Any],
    objections: Mapping[str, Sequence[str]],
    files: Sequence[Stored],
    repo: str | None,
) -> dict[str, Any]:
    """Collect what card and manifest state; plain JSON values.

    Args:
        spec: the model.
        variant: as given on the command line.
        command: what was typed, paths shortened to names.
        weights: name, sha256 and bytes of the weights.
        images: the calibration images.
        images_sha256: hash over the preprocessed tensors.
        conversion: options of the int8 conversion.
        export: recipe of the fp32 file.
        recipe: recipe of the int8 file.
        cache: header, number of tensors, and how they compare with the graphs.
        objections: file -> reasons why TensorRT would refuse it, by our own lint.
        files: what was written, the card and the manifest not included.
        repo: ORG/NAME on the hub, if one was named.
    """
    document = {
        "schema": "prepared/1",
        "model": {
            "name": spec.name,
            "variant": variant,
            "task": spec.task,
            "licence": spec.licence,
            "origin": spec.origin,
            "class_names": list(spec.class_names),
            "image_hw": list(spec.image_hw),
            "inputs": _specs(spec.inputs),
            "outputs": _specs(spec.outputs),
            "preprocessing": dict(spec.preprocessing),
        },
        "command": command,
        "repo": repo,
        "weights": dict(weights),
        "calibration": {
            "set": images.label,
            "seed": images.seed,
            "images": len(images.hashes),
            "files_sha256": images.chosen.sha256,
            "tensors_sha256": images_sha256,
            "evaluation_images": images.evaluation_images,
            "compared_with": images.compared_with,
            "files": [{"name": name, "sha256": sha} for name, sha in images.hashes],
        },
        "conversion": conversion.identity(),
        "export": dict(export),
        "recipe": dict(recipe),
        "cache": dict(cache),
        "checks": {
            "onnxruntime_cpu": [MODEL, INT8],
            "tensorrt_executed": False,
            "tensorrt_lint": {name: list(found) for name, found in objections.items()},
        },
        "versions": {"python": platform.python_version(), **package_versions(_PACKAGES)},
        "files": [entry(f) for f in files],
    }
    plain: dict[str, Any] = to_json(document)
    return plain


def entry(file: Stored) -> dict[str, Any]:
    """One file as the manifest lists it."""
    return {"name": file.name, "sha256": file.sha256, "bytes": file.bytes, "role": ROLES[file.name]}


def write_manifest(folder: Path, facts: Mapping[str, Any], card: Stored) -> Path:
    """Add the card and the time, validate and write; an equal manifest keeps its time of making.

    Raises:
        InputError: a value that the schema does not allow, or a folder that cannot be written.
    """
    path = folder / MANIFEST
    document = {**facts, "files": [*facts["files"], entry(card)]}
    old = read_json(path) if path.is_file() else {}
    made = old.pop("created_at", None) if isinstance(old, dict) else None
    if made is None or old != document:
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document["created_at"] = made
    validate(document, "prepared", where=str(path))
    return write_atomic(path, dumps(document))


def _specs(items: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in items]
