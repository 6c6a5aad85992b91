"""What a version with node times and agreements adds to the sample suite."""

from __future__ import annotations

from typing import Any

from bench.tests.sample_suite import cell_id, sample_suite

FP32_NODES = [("Conv", "fp32", 84, 16.0), ("QuickGelu", "fp32", 69, 4.0), ("Concat", "fp32", 17, 1.0)]
INT8_NODES = [
    ("QLinearConv", "int8", 79, 30.0), ("Conv", "fp32", 5, 2.0), ("Sigmoid", "fp32", 57, 9.0), ("Mul", "fp32", 57, 6.0),
    ("QuantizeLinear", "conversion", 90, 8.0), ("DequantizeLinear", "conversion", 88, 7.0),
    ("Concat", "int8", 17, 0.5),
]  # fmt: skip
APART = (
    "openvino disagrees with onnxrt and with the file’s own arithmetic (2.1 dB on scores; onnxrt 41 dB): the runtime "
    "is wrong, not the file."
)


def profile(rows: list[tuple[str, str, int, float]], fp32: dict[str, float] | None = None) -> dict[str, Any]:
    """A profile whose nodes share the time of their operator evenly; ``fp32``: operator -> ms of each fp32 node."""
    operators = [{"operator": o, "precision": p, "nodes": n, "ms": ms} for o, p, n, ms in rows]
    slowest = [
        {"name": f"/{o}.{i}", "operator": o, "precision": p, "ms": ms / n, "fp32_ms": (fp32 or {}).get(o)}
        for o, p, n, ms in rows
        for i in range(min(n, 3))
    ]
    return {
        "total_ms": sum(row[3] for row in rows), "nodes": sum(row[2] for row in rows),
        "operators": sorted(operators, key=lambda r: -r["ms"]), "slowest": sorted(slowest, key=lambda r: -r["ms"]),
    }  # fmt: skip


def agreement(verdict: str, worst: Any, sentence: str, against: str, outputs: dict[str, Any]) -> dict[str, Any]:
    """A comparison of one cell: ``outputs`` gives its decibels against the file's own arithmetic and another cell."""
    return {
        "verdict": verdict, "worst_db": worst, "limit_db": 4.0,
        "own": "onnxruntime 1.31.1 on the CPU, graph optimisation off", "sentence": sentence,
        "rows": [
            {"output": name, "against": other, "sqnr_db": value}
            for other in ("", against) for name, value in outputs.items()
        ],
    }  # fmt: skip


def find(suite: dict[str, Any], model: str, backend: str, precision: str) -> dict[str, Any]:
    """The record of one cell."""
    (found,) = [
        c for c in suite["cells"]
        if c["cell"]["model"].startswith(model)
        and (c["cell"]["backend"], c["cell"]["precision"]) == (backend, precision)
    ]  # fmt: skip
    return found


def precision_suite(*, hostile: bool = False) -> dict[str, Any]:
    """The sample suite with intervals, node times of onnxrt, and an int8 file that openvino computes wrongly."""
    suite = sample_suite(intervals=True, hostile=hostile)
    for cell in suite["cells"]:
        if cell["observed"] and cell["cell"]["backend"] != "torch":
            own = 79 if cell["cell"]["precision"] == "int8" else 86
            counts = {cell["cell"]["precision"]: own, **({"fp32": 86 - own} if own < 86 else {})}
            if cell["observed"]["emulated"]:
                counts = {"fp32": 86}
            cell["observed"]["evidence"] = {
                "compute_nodes": counts, "placement": {"CPUExecutionProvider": {"Conv": 84, "Concat": 8}},
            }  # fmt: skip
    fp32, slow = find(suite, "fastestdet", "onnxrt", "fp32"), find(suite, "fastestdet", "onnxrt", "int8")
    fp32["nodes"], slow["nodes"] = profile(FP32_NODES), profile(INT8_NODES, {"QLinearConv": 0.19})
    slow["artifact"]["recipe"] = {"tool": "int8", "int8_compute": {"macs": 0.914, "nodes": 0.9186}}
    wrong = find(suite, "yolov10n", "openvino", "int8")
    right = find(suite, "yolov10n", "onnxrt", "int8")
    wrong.update(
        status="failed", reason=APART, reason_short="runtime disagrees",
        findings=[{"check": "agreement", "status": "failed", "reason": APART, "short": "runtime disagrees"}],
        agreement=agreement("apart", 2.1, APART, cell_id(right), {"boxes": 9.9, "scores": 2.1}),
    )  # fmt: skip
    wrong["speed"].update(ratio=None, ratio_ci95=None, verdict="not judged")
    right["findings"] = [{"check": "accuracy", "status": "failed", "reason": right["reason"], "short": "x"}]
    right["agreement"] = agreement(
        "agrees", 41.2, "onnxrt agrees with the file’s own arithmetic (at least 41 dB).", cell_id(wrong),
        {"boxes": 52.0, "scores": 41.2},
    )  # fmt: skip
    return suite
