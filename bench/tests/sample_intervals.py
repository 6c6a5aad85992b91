"""What a version with intervals adds to the cells of the sample suite: every field of ``bench/results.py`` filled."""

from __future__ import annotations

import random
from typing import Any

from bench.accuracy import RESOLVED_ERRORS, judge_delta
from bench.results import STAT_NAMES

SHAPES = ("washer", "ring", "notched disc", "figure", "hexagon", "cross", "plate", "star")
ROUNDS, OPENINGS, STEPS = 20, 4, 5
TAGS = {3: ["other load 31 %"], 12: ["cpu steal 7 %", "low clock 2210 MHz"]}
"""Round (from 1) -> why its samples are tagged."""
# Halves of intervals in margins where 0.4 would not show what the cell is there to show.
_HALF_MARGINS = {"fastestdet openvino int8": 1.9, "yolov10n openvino fp16": 0.4}
_DELTAS = {
    "fastestdet openvino int8": -0.0021,  # more images would decide
    "yolov10n openvino fp16": -0.0035,  # at the margin: more images would not
    "yolov10n torch bf16": 0.0061,  # gains more than bf16 may: suspicious
}


def add_intervals(cells: list[dict[str, Any]]) -> None:
    """Fill in place; accuracy verdicts and reasons come from ``bench.accuracy``."""
    checked: set[str] = set()
    for cell in cells:
        name = f"{cell['cell']['model'].split(' ')[0]} {cell['cell']['backend']} {cell['cell']['precision']}"
        if cell["speed"]:
            _time(cell, name)
        if cell["accuracy"]:
            _judge(cell, name)
            model = name.split(" ")[0]
            if cell["role"] == "candidate" and model not in checked:
                checked.add(model)
                difference = 0.0 if model == "yolov10n" else 1.1e-16
                cell["accuracy"]["cross_check"] = {
                    "scorer": "pycocotools 2.0.11", "max_abs_difference": difference, "agrees": True,
                }  # fmt: skip


def class_deltas(delta: float, half: float, names: tuple[str, ...], *, moved: int = 0) -> list[dict[str, Any]]:
    """One record per class whose mean is ``delta``; the first ``moved`` carry nine tenths of it, significantly."""
    noise = random.Random(f"{delta}{len(names)}")
    wiggle = [noise.uniform(-1, 1) * half for _ in names]
    mean = sum(wiggle[moved:]) / max(len(names) - moved, 1)
    rows = []
    for index, name in enumerate(names):
        heavy = index < moved
        share = 0.9 * delta * len(names) / moved * (1.4 - 0.4 * index) if heavy else wiggle[index] - mean
        if not heavy:
            share += (0.1 if moved else 1.0) * delta * len(names) / (len(names) - moved)
        width = abs(share) * 0.3 if heavy else half * 3 + abs(share)
        rows.append({
            "name": name, "objects": 702 - 7 * index, "ap": 0.7 + share, "reference_ap": 0.7, "delta": share,
            "ci95": [share - width, share + width], "p_value": 0.004 if heavy else 1.0, "significant": heavy,
        })  # fmt: skip
    return rows


def _judge(cell: dict[str, Any], name: str) -> None:
    accuracy = cell["accuracy"]
    accuracy.update(images_to_decide=None, deltas={}, per_class=[], cross_check=None)
    if cell["role"] == "reference":
        return
    margin, images = accuracy["margin"], accuracy["images"]
    if name in _DELTAS:
        ap = accuracy["stats"]["AP"] - accuracy["delta"] + _DELTAS[name]
        accuracy.update(delta=_DELTAS[name], stats=dict.fromkeys(STAT_NAMES, round(ap, 6)))
    delta, half = accuracy["delta"], _HALF_MARGINS.get(name, 0.4) * margin
    error = half / 1.96
    judged = judge_delta(delta, (delta - half, delta + half), margin, error, images)
    accuracy.update(
        ci95=[delta - half, delta + half], resolvable=RESOLVED_ERRORS * error, verdict=judged.verdict,
        images_to_decide=judged.images_to_decide, reason=judged.reason,
        deltas={stat: {"value": delta, "ci95": [delta - half, delta + half]} for stat in STAT_NAMES},
    )  # fmt: skip
    names = SHAPES if images == 600 else tuple(f"class {number:02d}" for number in range(1, 81))
    accuracy["per_class"] = class_deltas(delta, half, names, moved=3 if name == "yolov10n onnxrt int8" else 0)
    if accuracy["per_class"] and images == 128:
        accuracy["per_class"][-1].update(ap=None, reference_ap=None, delta=None, ci95=None, p_value=None, objects=0)
    if cell["status"] in ("passed", "undecided"):
        status = {"suspicious": "failed"}.get(judged.verdict, judged.verdict)
        short = {"passed": None, "undecided": "undecided", "failed": f"gains {delta:.3f} AP"}[status]
        cell.update(status=status, reason=judged.reason, reason_short=short)


def _time(cell: dict[str, Any], name: str) -> None:
    speed = cell["speed"]
    p50, noise = speed["latency_ms"]["p50"], random.Random(name)
    rounds = []
    for number in range(1, ROUNDS + 1):
        slow = 1.28 if number == 12 else 1.05 if number == 3 else 1.0
        samples = [p50 * slow * (1 + abs(noise.gauss(0, 0.02)) + (noise.random() < 0.06) * 0.2) for _ in range(STEPS)]
        rounds.append({
            "round": number, "opening": 1 + (number - 1) * OPENINGS // ROUNDS, "order": noise.randrange(8),
            "samples_ms": [round(s, 4) for s in samples], "tags": TAGS.get(number, []),
        })  # fmt: skip
    speed.update(
        rounds=rounds, rounds_run=ROUNDS, openings=OPENINGS, samples=ROUNDS * STEPS, reason=None,
        stopped="The interval lies outside the band.",
        noise={
            "load_average_before": 0.7, "load_average_after": 1.9, "cpu_steal_percent": 0.4, "other_cpu_percent": 2.1,
            "cpu_mhz": {"min": 2210.0, "max": 2900.0} if name.startswith("yolov10n") else "not readable here",
            "rounds": ROUNDS, "tagged_rounds": len(TAGS),
        },
        checks=[
            {"name": "timed outputs", "passed": True, "value": 0.0, "limit": 1e-5,
             "explain": "Outputs of 3 timed steps equal the accuracy pass."},
            {"name": "repeated input", "passed": True, "value": 1.0, "limit": 1.1,
             "explain": "An input seen before runs at 1.00 times the speed of a fresh one."},
        ],
    )  # fmt: skip
    if name == "fastestdet openvino int8":
        speed["checks"][1].update(passed=None, value=None, explain="One image only: there is no other input.")
    if cell["role"] == "reference" or not speed["ratio"]:
        return
    half = 0.005 if name == "fastestdet onnxrt fp32" else 0.022
    low, high = speed["ratio"] * (1 - half), speed["ratio"] * (1 + half)
    verdict = "faster" if low > 1.03 else "slower" if high < 0.97 else "undecided"
    if low > 0.97 and high < 1.03:
        verdict = "same"
    stopped = {"undecided": f"The limit of {ROUNDS} rounds was reached.", "same": "The interval lies inside the band."}
    reason = f"{ROUNDS} rounds leave the interval across the edge of the band." if verdict == "undecided" else None
    speed.update(ratio_ci95=[low, high], verdict=verdict, reason=reason)
    speed["stopped"] = stopped.get(verdict, speed["stopped"])
