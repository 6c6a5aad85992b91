"""The model card: facts from the manifest in the words of a reader who wants to use the files. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.preparing.manifest import BUILDER, CACHE, INT8, MODEL, ROLES
from bench.report.mdtext import code, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TASKS = {"detect": "object-detection", "pose": "keypoint-detection"}
_LICENCES = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "bsd-3-clause": "bsd-3-clause",
    "bsd-2-clause": "bsd-2-clause",
    "gpl-3.0": "gpl-3.0",
    "agpl-3.0": "agpl-3.0",
    "cc-by-4.0": "cc-by-4.0",
}
"""Licence ids that the hub knows, by the SPDX id in lower case; anything else is ``other`` with its own words."""
_LONG = 240


def card(facts: Mapping[str, Any]) -> str:
    """Markdown with the hub's front matter.

    Args:
        facts: see ``manifest.facts_of``.
    """
    model = facts["model"]
    lines = [
        *_front_matter(model),
        f"# {escape(model['name'])}: fp32 and int8 ONNX, ready for TensorRT",
        "",
        *_table([("model", escape(_with_variant(model))), ("licence", escape(model["licence"]) or "not stated"),
                 ("origin", escape(model["origin"]) or "not stated"),
                 ("weights", f"{code(facts['weights']['name'])}, sha256 {code(facts['weights']['sha256'])}"),
                 ("input", "; ".join(map(_tensor, model["inputs"]))),
                 ("outputs", "; ".join(map(_tensor, model["outputs"]))),
                 ("made by", code(facts["command"]))]),
        "",
        "## Files",
        "",
        "| file | bytes | sha256 | what it is |",
        "|---|---|---|---|",
        *(f"| {code(f['name'])} | {f['bytes']} | {code(f['sha256'])} | {escape(f['role'])} |" for f in facts["files"]),
        "",
        f"{code('manifest.json')}: {ROLES['manifest.json']}.",
        "",
        *_engine(facts),
        *_executed(facts),
        *_input(model),
        *_calibration(facts),
        *_recipe(facts),
        *_classes(model["class_names"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _front_matter(model: Mapping[str, Any]) -> list[str]:
    licence = str(model["licence"])
    known = _LICENCES.get(licence.split(" ")[0].lower()) if licence else None
    lines = ["---"]
    if known is not None and licence.lower() == known:
        lines.append(f"license: {known}")
    elif licence:
        lines += ["license: other", f"license_name: {json.dumps(licence)}"]
    else:
        lines.append("license: unknown")
    return [
        *lines,
        f"pipeline_tag: {_TASKS[model['task']]}",
        "library_name: onnx",
        "tags: [onnx, tensorrt, int8, quantized]",
        "---",
        "",
    ]


def _engine(facts: Mapping[str, Any]) -> list[str]:
    repo, cache = facts["repo"] or "ORG/NAME", facts["cache"]
    return [
        "## Building an engine",
        "",
        f"{code(BUILDER)} is one file; it needs `tensorrt` on the target machine, and `huggingface_hub` for",
        "`--hf-repo`. An engine fits the GPU, the TensorRT version and the driver that it was built with.",
        "",
        "```bash",
        "# TensorRT 10 and 11: precision is in the graph",
        f"python {BUILDER} --onnx {INT8}",
        f"python {BUILDER} --hf-repo {repo} --hf-file {INT8}",
        "# TensorRT 10 only: implicit int8 by calibration cache",
        f"python {BUILDER} --onnx {MODEL} --cache {CACHE} --any-cache-version",
        "```",
        "",
        f"The cache starts with {code(cache['header'])} and holds the scales of {cache['tensors']} tensors of "
        f"{code(MODEL)}, from {code(cache['scales_from'])} (of {cache['quantised_in_int8']} that {code(INT8)} "
        "quantises). TensorRT 10 takes a cache of its own version only; `--any-cache-version` hands it over with the "
        "header that it expects. TensorRT 11 has no calibrator and reads no cache. Implicit int8 chooses by speed "
        "which layers run in int8: its accuracy is not that of the Q/DQ file.",
        "",
    ]


def _executed(facts: Mapping[str, Any]) -> list[str]:
    checks = facts["checks"]
    names = " and ".join(code(n) for n in checks["onnxruntime_cpu"])
    lines = [
        "## What was executed",
        "",
        f"- {names}: loaded in onnxruntime on the CPU and run.",
        f"- TensorRT: **not executed** here; no engine was built from these files, {code(BUILDER)} was not run.",
        f"- Accuracy and speed: not measured by this step. `parity run --models {facts['model']['name']} --precisions "
        "fp32,int8` measures them.",
    ]
    for name, found in checks["tensorrt_lint"].items():
        if found:
            lines += [f"- {code(name)} holds what TensorRT is known to refuse: {escape('; '.join(found))}"]
        else:
            lines += [f"- {code(name)}: nothing in it is on our list of what TensorRT refuses."]
    return [*lines, ""]


def _input(model: Mapping[str, Any]) -> list[str]:
    height, width = model["image_hw"]
    rows = [(escape(str(k)), escape(_plain(v))) for k, v in model["preprocessing"].items()]
    return [
        "## Input",
        "",
        f"Images of {width} x {height} pixels, float32 (batch, channel, height, width).",
        "",
        *(_table(rows) if rows else ["The model states no pre-processing."]),
        "",
    ]


def _calibration(facts: Mapping[str, Any]) -> list[str]:
    found = facts["calibration"]
    lines = [
        "## Calibration",
        "",
        *_table(
            [
                ("images", f"{found['images']} of {escape(found['set'])}, chosen by seed {found['seed']}"),
                ("sha256 of names and files", code(found["files_sha256"])),
                ("sha256 of the preprocessed tensors", code(found["tensors_sha256"])),
                ("compared with the evaluation set", escape(found["compared_with"])),
            ]
        ),
        "",
    ]
    if found["evaluation_images"]:
        lines += [
            f"**{found['evaluation_images']} of the images are in the evaluation set** (forced): accuracy measured on "
            "that set is better than it should be.",
            "",
        ]
    return lines


def _recipe(facts: Mapping[str, Any]) -> list[str]:
    rows = [(escape(str(k)), escape(_plain(v))) for k, v in facts["recipe"].items()]
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in facts["versions"].items())
    return [f"## Recipe of {INT8}", "", *_table(rows), "", f"Versions: {versions}.", ""]


def _classes(names: list[str]) -> list[str]:
    listed = ", ".join(f"{n} {escape(name)}" for n, name in enumerate(names))
    return [f"## Classes ({len(names)})", "", listed, ""]


def _with_variant(model: Mapping[str, Any]) -> str:
    return f"{model['name']} (variant {model['variant']})" if model["variant"] else str(model["name"])


def _tensor(spec: Mapping[str, Any]) -> str:
    return f"{code(spec['name'])} {spec['dtype']} ({', '.join(map(str, spec['shape']))})"


def _plain(value: Any) -> str:
    """A value of a recipe as text; what is long only by its length."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= _LONG:
        return text
    kind = f"{len(value)} entries" if isinstance(value, (list, dict)) else f"{len(text)} characters"
    return f"{kind}, in manifest.json"


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
