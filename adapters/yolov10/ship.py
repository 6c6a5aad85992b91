"""Make the shipped checkpoint of yolov10n: ``python -m adapters.yolov10.ship RUN [RUN_OF_ANOTHER_SEED ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

from adapters.yolov10 import adapter
from adapters.yolov10.variants import ONE2MANY_PREFIXES
from bench.errors import UsageError


def main() -> None:
    """Ship the run named on the command line as the default weights."""
    from adapters._shared.training.ship import ship
    from bench.fixtures import resolve

    if len(sys.argv) < 2 or adapter.spec.default_weights is None:
        raise UsageError("type: python -m adapters.yolov10.ship RUN [RUN_OF_ANOTHER_SEED ...]")
    run, *seeds = (Path(folder) for folder in sys.argv[1:])
    val = resolve(adapter.spec.default_fixtures, split="val")
    record = ship(adapter, run, val, adapter.spec.default_weights, drop=ONE2MANY_PREFIXES, seeds=seeds)
    sys.stdout.write(f"{record['weights']} {record['sha256']} AP {record['stats']['AP']:.4f} {record['seeds']}\n")


if __name__ == "__main__":
    main()
