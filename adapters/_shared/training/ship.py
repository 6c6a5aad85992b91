"""A finished run as the weights that a model ships, with the record of how they were made.

``python -m adapters._shared.training.ship MODEL RUN [RUN_OF_ANOTHER_SEED ...]`` replaces the model's default weights.

The shipped file is float16 and leaves out what only training needs, so that it stays small; the loader upcasts it. Its
AP is measured from the file itself, after rounding, with the network computing in float32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapters._shared.checkpoints import FACTS_KEY, read_facts, read_state_dict
from adapters._shared.trained import Trained
from adapters._shared.training.checkpoint import BEST_FILE
from adapters._shared.training.evaluate import Judge
from adapters._shared.training.runfolder import METRICS_FILE, RECORD_FILE
from bench.errors import BenchError, InputError, UsageError
from bench.files import sha256_file, write_atomic
from bench.host import describe_host

if TYPE_CHECKING:
    from bench.types import Adapter, FixtureSet, Prediction


def ship(
    adapter: Adapter, run: Path, val: FixtureSet, weights_out: Path, *, seeds: Sequence[Path] = ()
) -> dict[str, Any]:
    """Write ``weights_out`` and, beside it, its record as JSON.

    Args:
        adapter: of the model, fitted to the run's weights; one that this repository trains.
        run: folder of the run that ships.
        val: images that the AP is measured on.
        weights_out: ``.safetensors`` file to write.
        seeds: runs with other seeds and otherwise the same options; only their APs are recorded.

    Returns:
        The record.

    Raises:
        InputError: a folder that holds no finished run, or a run of ``seeds`` with other options.
        UsageError: a model without training code.
    """
    from safetensors.torch import save

    if not isinstance(adapter, Trained):
        raise UsageError(
            f"{adapter.spec.name}: its training code is not in this repository, so there is no run to ship"
        )
    unshipped = adapter.recipe().unshipped
    record = _record(run)
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in read_state_dict(run / BEST_FILE).items()
        if not key.startswith(unshipped)
    }
    facts = read_facts(run / BEST_FILE)
    kept = {name: facts[name] for name in ("format", "model", "class_names", "image_size", "epoch", "step")}
    write_atomic(weights_out, save(state, metadata={"format": "pt", FACTS_KEY: json.dumps(kept)}))
    stats = measure(adapter, weights_out, val)
    written = {
        "model": adapter.spec.name,
        "weights": weights_out.name,
        "sha256": sha256_file(weights_out),
        "stored": "float16, without what only training needs; loaded as float32",
        "licence": "Apache-2.0",
        "val": {"fixtures": val.name, "split": val.split, "images": len(val.samples), "sha256": val.sha256},
        "stats": {name: None if value is None else round(value, 5) for name, value in stats.items()},
        "cpu": describe_host()["cpu"],
        "run": {name: value for name, value in record.items() if name not in ("host", "command")},
        "seeds": [_seed(record, other) for other in (run, *seeds)],
        "epochs": [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()],
    }
    write_atomic(weights_out.with_suffix(".json"), _compact(written))
    return written


def measure(adapter: Adapter, weights: Path, val: FixtureSet) -> dict[str, float | None]:
    """COCO's numbers of a weights file on ``val``, image by image as the harness does it."""
    judge = Judge(adapter, val)
    network = adapter.build(weights)
    found: dict[int, Prediction] = {}
    for index in range(len(judge)):
        found |= judge.detect(network, [judge[index]], torch.device("cpu"))
    return judge.score(found)


def _record(run: Path) -> dict[str, Any]:
    try:
        found = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run}: holds no {RECORD_FILE} of a run ({error}).") from error
    if not isinstance(found, dict) or found.get("finished_at") is None:
        raise InputError(f"{run}: the run is not finished. Go on with: parity train --resume {run}")
    return found


def _seed(shipped: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Seed and best AP of a run whose other options are those of the shipped one.

    Raises:
        InputError: they are not.
    """
    record = _record(run)
    ours, theirs = ({k: v for k, v in r["config"].items() if k not in ("seed", "resume")} for r in (shipped, record))
    changed = sorted(name for name in ours if ours[name] != theirs.get(name))
    if changed:
        raise InputError(f"{run}: was trained with another {', '.join(changed)}, so it says nothing about the seed.")
    return {"seed": record["config"]["seed"], "AP": round(record["best"]["AP"], 5)}


def _compact(record: dict[str, Any]) -> str:
    """JSON with one line per epoch."""
    text = json.dumps({**record, "epochs": "EPOCHS"}, indent=2, allow_nan=False)
    rows = ",\n".join("    " + json.dumps(line, allow_nan=False) for line in record["epochs"])
    return text.replace('"EPOCHS"', f"[\n{rows}\n  ]") + "\n"


def main() -> None:
    """Ship the run named on the command line."""
    from bench.fixtures import resolve
    from bench.registry import load_adapter

    if len(sys.argv) < 3:
        sys.exit(f"usage: python -m {__spec__.name} MODEL RUN [RUN_OF_ANOTHER_SEED ...]")
    name, run, *seeds = sys.argv[1], *map(Path, sys.argv[2:])
    weights = load_adapter(name).spec.default_weights
    if weights is None:
        sys.exit(f"{name}: its spec names no default_weights, the file to write")
    adapter = load_adapter(f"{name}::{run / BEST_FILE}")
    val = resolve(adapter.spec.default_fixtures, split="val")
    record = ship(adapter, run, val, weights, seeds=seeds)
    sys.stdout.write(f"{record['weights']} {record['sha256']} AP {record['stats']['AP']:.4f} {record['seeds']}\n")


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"ship: {error}")
