"""A file for deployment and what it says of itself: exported, converted, described, validated. Runs inside a lane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.deployment.check import validate
from bench.errors import ArtifactError
from bench.files import sha256_file
from bench.fixtures import read_image_rgb
from bench.host import package_versions
from bench.schema import to_json
from bench.types import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.deployment.options import Deployable, ExportOptions
    from bench.types import Array, Sample

SCHEMA = "export_meta/1"
PROPERTY = "parity"
"""Key in the ONNX metadata; the value is the document as JSON, without what is only known later."""
LATER = ("file", "created_at", "validation")
_TOOLS = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
_SCANNED = 4
"""Synthetic images of the overflow scan of an fp16 file, besides those of the validation."""


def read_images(samples: Sequence[Sample]) -> list[Array]:
    """Decode images, (H, W, 3) uint8 RGB."""
    return [read_image_rgb(sample.path, (sample.height, sample.width)) for sample in samples]


def export_file(
    model: Deployable, weights: Path, out: Path, options: ExportOptions, *, images: Sequence[Array] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write ``out`` and describe it.

    Args:
        model: the adapter.
        weights: of the network.
        out: ONNX file to write.
        options: head, size, opset, precision, thresholds.
        images: RGB images that an fp16 file is scanned on for overflow, besides synthetic ones.

    Returns:
        The document (schema ``export_meta/1``, ``validation`` null and ``created_at`` empty), and what `check_file`
        needs besides.

    Raises:
        UsageError, InputError: what was given cannot be used.
        ArtifactError: the graph cannot be made, converted or run.
    """
    import onnx

    from bench.precision import gate, onnxfile
    from bench.precision.fp16 import convert_fp16

    recipe: dict[str, Any]
    made = model.export_deployment(weights, out, options)
    recipe = dict(made["recipe"])
    if options.half:
        reference = model.deployment_reference(weights, options)
        full = out.with_name(f"{out.name}.fp32")
        out.replace(full)
        feeds = [{n: v[i : i + 1] for n, v in reference.synthetic(_SCANNED).items()} for i in range(_SCANNED)]
        feeds += [reference.feeds(image) for image in images]
        recipe["half"] = convert_fp16(full, out, feeds=lambda: feeds, exclude=made["float_nodes"])
        full.unlink()
    inputs, _ = onnxfile.inspect(out)
    gates = gate.accept(out, {t.name: _zeros(t) for t in inputs})
    stored = onnx.load(str(out))
    spec = model.spec
    document = to_json(
        {
            "schema": SCHEMA,
            "created_at": "",
            "model": spec.name,
            "task": spec.task,
            "head": options.head,
            "precision": options.precision,
            "half": options.half,
            "file": {},
            "checkpoint": {"file": weights.name, "sha256": sha256_file(weights)},
            "opset": options.opset,
            "ir_version": stored.ir_version,
            "image_size": list(options.image_hw),
            "inputs": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "dtype": t.dtype,
                    "convention": _input_words(spec.preprocessing),
                }
                for t in inputs
            ],
            "outputs": made["outputs"],
            "thresholds": {name: getattr(options, name) for name in model.export_heads[options.head]},
            "class_names": list(spec.class_names),
            "preprocessing": {**spec.preprocessing, "input_size": list(options.image_hw)},
            "recipe": recipe,
            "gates": gates,
            "versions": {"parity": __version__, **package_versions(_TOOLS)},
            "licence": spec.licence,
            "validation": None,
        }
    )
    entry = stored.metadata_props.add()
    entry.key, entry.value = PROPERTY, json.dumps({k: v for k, v in document.items() if k not in LATER})
    onnx.save(stored, str(out))
    document["file"] = {"name": out.name, "sha256": sha256_file(out), "bytes": out.stat().st_size}
    return document, {"selects_from": made["selects_from"]}


def check_file(
    model: Deployable,
    weights: Path,
    path: Path,
    options: ExportOptions,
    document: Mapping[str, Any],
    details: Mapping[str, Any],
    *,
    images: Mapping[str, Sequence[Array]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare the file with the network and return the ``validation`` of its document.

    Args:
        model: the adapter.
        weights: of the network.
        path: the file, as it will be delivered.
        options: of the file.
        document: first result of `export_file`.
        details: second result of `export_file`.
        images: name of a set -> RGB images.
        progress: told of every step and how many there are at most.
    """
    reference = model.deployment_reference(weights, options)
    found = validate(
        path,
        reference,
        options,
        inputs=_specs(document["inputs"]),
        outputs=_specs(document["outputs"]),
        selects_from=details["selects_from"],
        images=images,
        progress=progress,
    )
    first = found.first_failure
    result: dict[str, Any] = to_json(
        {
            "passed": first is None,
            "file_sha256": sha256_file(path),
            "first_failure": None if first is None else first,
            "devices": found.devices,
            "notes": found.notes,
            "checks": found.checks,
        }
    )
    return result


def require_unchanged(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse to deliver another file than the one that was described.

    Raises:
        ArtifactError: the hash is another one.
    """
    if sha256_file(path) != document["file"]["sha256"]:
        raise ArtifactError(f"{path.name}: changed after it was exported. Export it again.")


def _input_words(preprocessing: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in preprocessing.items())


def _specs(entries: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=e["name"], shape=tuple(e["shape"]), dtype=e["dtype"]) for e in entries)


def _zeros(spec: TensorSpec) -> Array:
    import numpy as np

    return np.zeros([d if isinstance(d, int) else 1 for d in spec.shape], spec.dtype)
