"""Turn a finished run into the shipped checkpoint: ``python -m adapters.yolov10.ship [EARLIER_RUN ...] RUN``.

The shipped file is float16 and holds the one-to-one head only, so that it stays small; the loader upcasts it. Its AP is
measured from the file itself, after rounding, with the network computing in float32.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.yolov10 import adapter

if TYPE_CHECKING:
    from bench.types import FixtureSet


def ship(runs: Sequence[Path], val: FixtureSet, weights_out: Path) -> dict[str, Any]:
    """Write ``weights_out`` and, beside it, the training record as JSON.

    Args:
        runs: folders that `train.fit` wrote; the last one ships, those before it are the runs that it continued.
        val: the set that the AP is measured on.
        weights_out: ``.safetensors`` file to write.

    Returns:
        The record.

    Raises:
        InputError: the run holds no usable weights.
    """
    from importlib.metadata import version

    from adapters._shared.checkpoints import load_strict, read_state_dict
    from adapters.yolov10.data import label_of_category
    from adapters.yolov10.evaluate import Evaluator
    from adapters.yolov10.model import YoloV10
    from adapters.yolov10.train import WEIGHTS_FILE
    from adapters.yolov10.weights import save_weights

    spec, run = adapter.spec, runs[-1]
    trained = YoloV10(adapter.variant, len(spec.class_names))
    load_strict(trained, read_state_dict(run / WEIGHTS_FILE), source=f"weights {run / WEIGHTS_FILE}")
    weights_out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(trained, weights_out, shipped=True)
    weights_out.chmod(0o644)  # safetensors writes owner-only files
    judge = Evaluator(val, label_of_category(val, spec.class_names), spec.image_hw[0])
    record = {
        "model": spec.name,
        "weights": weights_out.name,
        "sha256": hashlib.sha256(weights_out.read_bytes()).hexdigest(),
        "stored": "float16, one-to-many head left out; loaded as float32",
        "licence": "Apache-2.0",
        "val": {"fixtures": val.name, "split": val.split, "images": len(val.samples), "sha256": val.sha256},
        "stats": {name: round(value, 5) for name, value in judge(adapter.build(weights_out)).items()},
        "host": {"cpu": _cpu_name(), "machine": platform.machine(), "python": platform.python_version()},
        "versions": {
            name: version(name) for name in ("torch", "lightning", "numpy", "opencv-python-headless", "pycocotools")
        },
        "stages": [_stage(folder) for folder in runs],
    }
    weights_out.with_suffix(".json").write_text(_compact(record), encoding="utf-8")
    return record


def _stage(run: Path) -> dict[str, Any]:
    """Options and metrics of one run; of paths only the names, which mean the same on every machine."""
    from adapters.yolov10.train import METRICS_FILE

    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    for key in ("initial_weights", "resume"):
        config[key] = Path(config[key]).name if config.get(key) else None
    lines = (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return {"config": config, "epochs": [json.loads(line) for line in lines]}


def _compact(record: dict[str, Any]) -> str:
    """JSON with one line per epoch."""
    stages = [{**stage, "epochs": f"EPOCHS {number}"} for number, stage in enumerate(record["stages"])]
    text = json.dumps({**record, "stages": stages}, indent=2, allow_nan=False)
    for number, stage in enumerate(record["stages"]):
        rows = ",\n".join("        " + json.dumps(line, allow_nan=False) for line in stage["epochs"])
        text = text.replace(f'"EPOCHS {number}"', f"[\n{rows}\n      ]")
    return text + "\n"


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    """Ship the run named on the command line as the default weights."""
    from bench.errors import UsageError
    from bench.fixtures import resolve

    if len(sys.argv) < 2 or adapter.spec.default_weights is None:
        raise UsageError("type: python -m adapters.yolov10.ship [EARLIER_RUN ...] RUN")
    runs = [Path(folder) for folder in sys.argv[1:]]
    record = ship(runs, resolve(adapter.spec.default_fixtures, split="val"), adapter.spec.default_weights)
    sys.stdout.write(f"{record['weights']} {record['sha256']} AP {record['stats']['AP']:.4f}\n")


if __name__ == "__main__":
    main()
