"""A suite with one of everything: statuses, emulation, flips, rounds, hostile text. Plain mappings, no file needed."""

from __future__ import annotations

import copy
import hashlib
import random
from typing import Any

from bench.results import STAT_NAMES
from bench.tests.sample_flips import sample_flips
from bench.tests.sample_intervals import add_intervals

HOSTILE = "<script>alert('x')</script>\"&amp;$\\frac{1}{2}$"
REFERENCE_AP = {"yolov10n": 0.7118, "fastestdet": 0.2837}
REFERENCE_MS = {"yolov10n": 41.8, "fastestdet": 9.84}
MARGIN_SHARE = {"fp32": 0.001, "bf16": 0.005, "fp16": 0.005, "int8": 0.01}
FLOOR = {"fp32": 0.0002, "bf16": 0.001, "fp16": 0.001, "int8": 0.003}


def sample_suite(*, intervals: bool = False, hostile: bool = False) -> dict[str, Any]:
    """Two models, every status, emulated cells. Without ``intervals`` as the first version wrote it: fields absent."""
    text = (
        HOSTILE
        if hostile
        else "No CUDA device on this host (driver not found). Needs an NVIDIA GPU and the [trt] extra."
    )
    yolo = "yolov10n" + (f" {HOSTILE}" if hostile else "")
    cells = [*_yolo(yolo, text), *_fastest("fastestdet", text)]
    if hostile:
        for cell in cells:
            cell["cell"]["fixtures"] += HOSTILE
    if intervals:
        add_intervals(cells)
    references = {c["cell"]["model"]: cell_id(c) for c in cells if c["role"] == "reference"}
    return {
        "schema": "suite_result/1",
        "run_id": "20260814-0210-3f9c1ab",
        "started_at": "2026-08-14T02:10:04+00:00",
        "finished_at": "2026-08-14T02:51:09+00:00",
        "command": "parity run --models yolov10n,fastestdet --backends torch,onnxrt,openvino,trt "
        f"--precisions fp32,bf16,fp16,int8{' ' + HOSTILE if hostile else ''}",
        "host": {
            "name": "bench-a",
            "cpu": "Xeon 6",
            "cores": 16,
            "memory_gb": 64.0,
            "gpu": None,
            "os": "Linux 6.12",
            "python": "3.11.7",
            "versions": {"torch": "2.13.0", "onnxruntime": "1.31.0", "openvino": "2026.4.0", "backend-parity": "0.1.0"},
        },
        "git": {"commit": "3f9c1ab" + "0" * 33, "branch": "main", "dirty": False},
        "protocol": {
            "Latency includes": "one whole-graph step on resident inputs, then wait. Not: decode, "
            "pre-processing, host copies, post-processing",
            "Rounds": 12,
            "Steps per round": 8,
            "Seed": 20260814,
            "Threads": 8,
            "Margins": {"fp32": "0.1 % or 0.0002", "int8": "1 % or 0.003"},
            "Accuracy": "COCO AP at IoU .50:.95, 100 detections",
        },
        "reference": {"asked": "torch:fp32:cpu", "cells": references},
        "cells": cells,
        "exit_code": 1,
        "interrupted": False,
    }


def cell_id(record: dict[str, Any]) -> str:
    """Identity as ``bench.types.Cell`` writes it."""
    c = record["cell"]
    return f"{c['model']}-{c['backend']}-{c['device'].replace(':', '')}-{c['precision']}-{c['fixtures']}-b{c['batch']}"


def make_cell(
    model: str,
    backend: str,
    precision: str,
    status: str = "passed",
    *,
    delta: float | None = None,
    ratio: float | None = None,
    fixtures: str = "shapes",
    images: int = 600,
    **changes: Any,
) -> dict[str, Any]:
    """One record; with a delta it has accuracy, with a ratio it has speed. ``changes`` replace top-level fields."""
    name = model.split(" ")[0]
    ap, ms = REFERENCE_AP.get(name, 0.5), REFERENCE_MS.get(name, 20.0)
    ran = delta is not None or ratio is not None
    record: dict[str, Any] = {
        "cell": {
            "model": model,
            "backend": backend,
            "device": "cuda:0" if backend == "trt" else "cpu",
            "precision": precision,
            "fixtures": fixtures,
            "batch": 1,
        },
        "role": "candidate",
        "status": status,
        "reason": None,
        "reason_short": None,
        "artifact": _artifact(model, backend, precision) if ran else None,
        "observed": {
            "precision": precision,
            "provider": "CPUExecutionProvider",
            "emulated": False,
            "evidence": {"compute nodes": 214},
        }
        if ran
        else None,
        "parity": [],
        "accuracy": None,
        "speed": None,
        "memory": None,
        "startup": None,
        "duration_s": 61.5 if ran else None,
        "flips": [],
        "failure": None,
        "waiver": None,
    }
    if delta is not None:
        record["accuracy"] = _accuracy(ap, delta, precision, images, status)
        record["parity"] = [
            _parity("preprocess", "sha256 of input tensor", total=images, passed=True),
            _parity(
                "tensor",
                "output0",
                total=2_142_000,
                rms=2.1e-6,
                budget=3.4e-5,
                sqnr_db=104.2,
                passed=True if precision == "fp32" else None,
            ),
        ]
    if ratio is not None:
        record["speed"] = _speed(ms / ratio, ratio, seed=f"{model}{backend}{precision}")
        record["memory"] = {"peak_rss_mb": 612.4 / ratio**0.5, "device_mb": None}
        record["startup"] = {"load_s": 1.9 / ratio, "build_s": None, "first_inference_ms": 210.0 / ratio}
    for key, value in changes.items():
        record[key] = value
    return record


def as_reference(record: dict[str, Any]) -> dict[str, Any]:
    """Mark a record as the reference."""
    record["role"] = "reference"
    record["accuracy"].update(delta=0.0, verdict="reference", margin=None)
    record["speed"].update(ratio=1.0, verdict="reference")
    return record


def _yolo(model: str, skipped: str) -> list[dict[str, Any]]:
    make = lambda *args, **more: make_cell(model, *args, **more)  # noqa: E731
    unjudged = "Shown, not judged: a lower precision needs an interval over images."
    int8 = make(
        "onnxrt",
        "int8",
        "failed",
        delta=-0.0186,
        ratio=0.62,
        reason_short="prediction parity",
        reason="Non-finite scores in 3 of 600 images; the worst image misses 3 of 5 boxes.",
        flips=sample_flips(),
    )
    int8["parity"].append(
        _parity(
            "prediction",
            "boxes at IoU 0.99",
            total=3120,
            mismatched=312,
            passed=False,
            nonfinite=9,
            max_abs="inf",
            worst="(0, 117, 2): expected 0.4131, got nan",
            explain="312 of 3,120 boxes have no partner; 9 scores are not finite.",
        )
    )
    fp16 = make("onnxrt", "fp16", "passed", delta=-0.0004, ratio=0.91)
    fp16["observed"].update(
        precision="fp32", emulated=True, evidence={"fp16 nodes": 3, "fp32 nodes": 211, "casts": 131}
    )
    fp16["speed"].update(verdict="emulated", ratio=None)
    fp16["accuracy"].update(verdict="not judged", reason=unjudged)
    fp16.update(status="undecided", reason=unjudged, reason_short="not judged")
    bf16 = make("torch", "bf16", "undecided", delta=-0.0005, ratio=1.21, reason=unjudged, reason_short="not judged")
    ov16 = copy.deepcopy(fp16)
    ov16["cell"]["backend"] = "openvino"
    ov8 = make("openvino", "int8", "undecided", delta=-0.0024, ratio=2.31, reason=unjudged, reason_short="not judged")
    for cell in (bf16, ov8):
        cell["accuracy"]["reason"] = unjudged
    return [
        as_reference(make("torch", "fp32", delta=0.0, ratio=1.0)),
        bf16,
        make("onnxrt", "fp32", delta=0.0, ratio=1.42),
        fp16,
        int8,
        make("openvino", "fp32", delta=0.0001, ratio=1.54),
        ov16,
        ov8,
        make("trt", "fp16", "skipped", reason=skipped, reason_short="no GPU on host"),
    ]


def _fastest(model: str, skipped: str) -> list[dict[str, Any]]:
    make = lambda *args, **more: make_cell(model, *args, fixtures="coco128-val", images=128, **more)  # noqa: E731
    tail = "Traceback: lane\n" + (HOSTILE if "script" in skipped else "infer_request: executing\nnode /fuse/Resize_f16")
    waived = make(
        "onnxrt",
        "int8",
        "waived",
        delta=-0.0061,
        ratio=0.48,
        reason="Loses 0.0061 AP against 0.0030.",
        reason_short="outside margin",
        waiver={"check": "accuracy", "expires": "2026-12-01", "reason": "The head is re-trained in the next release."},
    )
    failed = make(
        "openvino",
        "bf16",
        "failed",
        delta=-0.0004,
        ratio=1.1,
        reason_short="ran in fp32",
        reason="Requested bf16, observed fp32: this processor has no bf16 kernels.",
    )
    failed["observed"].update(precision="fp32")
    return [
        as_reference(make("torch", "fp32", delta=0.0, ratio=1.0)),
        make("onnxrt", "fp32", delta=0.0, ratio=1.01),
        make(
            "onnxrt",
            "fp16",
            "unsupported",
            reason="Declared by the backend: no half-precision Resize on CPU.",
            reason_short="no fp16 Resize",
        ),
        waived,
        make("openvino", "fp32", delta=0.0, ratio=0.97),
        failed,
        make(
            "openvino",
            "fp16",
            "error",
            reason_short="SIGSEGV",
            reason="Killed by SIGSEGV (signal 11) in the first inference, 0.6 s after load.",
            failure={"stage": "first inference", "signal": "11 (SIGSEGV)", "after_s": 0.6, "stderr_tail": tail},
        ),
        make(
            "openvino",
            "int8",
            "undecided",
            delta=0.0003,
            ratio=1.02,
            reason_short="not judged",
            reason="128 images cannot decide a margin of 0.0030.",
        ),
        make("trt", "fp16", "skipped", reason=skipped, reason_short="no GPU on host"),
    ]


def _artifact(model: str, backend: str, precision: str) -> dict[str, Any]:
    kind = "weights" if backend == "torch" else "onnx"
    name = f"{model} {kind} {'fp32' if kind == 'weights' else precision}"
    sizes = {"fp32": 9_112_004, "fp16": 4_604_871, "bf16": 4_604_871, "int8": 2_702_993}
    source = None if kind == "weights" else f"{model} weights fp32" if precision == "fp32" else f"{model} onnx fp32"
    recipe = {"tool": "torch.onnx", "opset": 17} if precision == "fp32" else {"tool": "onnxruntime", "calibration": 256}
    return {
        "kind": kind,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "bytes": sizes[precision],
        "made_from": source and hashlib.sha256(source.encode()).hexdigest(),
        "recipe": {} if kind == "weights" else recipe,
    }


def _accuracy(ap: float, delta: float, precision: str, images: int, status: str) -> dict[str, Any]:
    verdict = {"passed": "passed", "failed": "failed", "waived": "failed"}.get(status, "not judged")
    return {
        "metric": "bbox AP",
        "images": images,
        "stats": {name: round(ap + delta, 6) for name in STAT_NAMES},
        "delta": delta,
        "ci95": None,
        "margin": max(MARGIN_SHARE[precision] * ap, FLOOR[precision]),
        "resolvable": None,
        "verdict": verdict,
        "scorer": "pycocotools 2.0.11",
        "reason": None,
    }


def _parity(level: str, name: str, *, total: int, passed: bool | None, **values: Any) -> dict[str, Any]:
    empty = {
        "mismatched": 0,
        "max_abs": None,
        "rms": None,
        "sqnr_db": None,
        "cosine": None,
        "nonfinite": 0,
        "budget": None,
        "worst": None,
        "explain": None,
    }
    return {"level": level, "name": name, "total": total, "passed": passed, **empty, **values}


def _speed(p50_ms: float, ratio: float, *, seed: str) -> dict[str, Any]:
    noise = random.Random(seed)
    rounds = []
    for index in range(12):
        slow = 1.05 if index == 2 else 1.0
        samples = [p50_ms * slow * (1 + abs(noise.gauss(0, 0.02)) + (noise.random() < 0.06) * 0.2) for _ in range(8)]
        rounds.append({"order": noise.randrange(8), "samples_ms": [round(s, 4) for s in samples]})
    latency = {"p50": p50_ms, "p90": p50_ms * 1.05, "p99": None, "mean": p50_ms * 1.01}
    return {
        "latency_ms": latency,
        "fps": 1000 / p50_ms,
        "samples": 96,
        "includes": "one whole-graph step on resident inputs",
        "end_to_end_ms": {"p50": p50_ms + 6.4},
        "ratio": ratio,
        "ratio_ci95": None,
        "verdict": "not judged",
        "noise": {"load_average_before": 0.7, "load_average_after": 1.9},
        "rounds": rounds,
    }
